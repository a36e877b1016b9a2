# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook simulate`: the leases at work in a simulated network."""

from __future__ import annotations

import os
from typing import Optional

import click

from ..simulate import plan, run
from ..simulate.plan import Plan
from ..simulate.run import MOST_HOSTS, Figures, Result

MANY = 1 << 40
"""More runs than any time is enough for."""


@click.command("simulate")
@click.option("--seed", type=click.IntRange(0), default=None, help="Show the run of this seed, step by step.")
@click.option("--runs", type=click.IntRange(1), default=None, help="How many runs. [default: 1000]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Run after run, for so long.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first run.")
@click.option("--hosts", type=click.IntRange(2, MOST_HOSTS), default=None, help="Hosts in each run. [default: 2 to 4]")
@click.option(
    "--profile",
    type=click.Choice(plan.PROFILES),
    default=plan.CONTEND,
    show_default=True,
    help="What a run is like, see above.",
)
@click.option("--hours", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Length of a day.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processors to use.")
@click.option("--only", default=None, help="With --seed: only these of the run's actions, e.g. 0,3,7.")
def simulate_command(
    seed: Optional[int],
    runs: Optional[int],
    minutes: Optional[float],
    first: int,
    hosts: Optional[int],
    profile: str,
    hours: float,
    jobs: int,
    only: Optional[str],
) -> None:
    """Watch the leases at work in a simulated network of hosts.

    Hosts start guests that want the same disks, and everything that can go
    wrong goes wrong. The code that takes and gives back the leases is the code
    that vlhookd runs; clocks, hosts and storage are simulated, so hours pass in
    seconds. Nothing on this machine is touched.

    After every step it is checked that no two guests use one disk (unless both
    share it). When an hour's accidents are over, all must come to rest and every
    lease must be had again: at once if it is free, within 8 × io_timeout + 60 s
    if its host is dead.

    \b
    Profiles:
      contend    a few seconds; hosts want the same leases at once, starts are
                 given up, storage is slow, fails, repeats and tears I/O
      accidents  minutes; machines crash and boot, vlhookd is killed, stopped
                 and restarted, machines sleep, storage disappears
      day        hours of both
      moves      guests move from host to host, unused leases are removed, hosts
                 that crashed are confirmed to be off

    \b
    Try:
      vlhook simulate                                   a thousand short runs
      vlhook simulate --profile accidents --seed 7      one run, told step by step
      vlhook simulate --profile day --hosts 50 --hours 8 --runs 1
      vlhook simulate --profile accidents --minutes 60 --jobs 4

    A run is made from its seed: the same command shows the same run again. A
    run that fails is made as small as possible, and the command that repeats it
    is printed. Please report it.
    """
    if seed is not None:
        result = _show(seed, profile, hosts or 2 + seed % 3, hours, only)
        if result.wrong:
            raise SystemExit(1)
        return
    if only is not None:
        raise click.UsageError("--only needs --seed")
    if runs and minutes:
        raise click.UsageError("give --runs or --minutes, not both")
    count = MANY if minutes else runs or 1000
    figures = _many(first, count, profile, hosts or 0, hours, jobs, 60 * (minutes or 0))
    if figures.failed:
        raise SystemExit(1)


def _many(first: int, runs: int, profile: str, hosts: int, hours: float, jobs: int, seconds: float) -> Figures:
    figures = Figures()
    chunk = 1 if profile == plan.DAY else run.CHUNK
    live = os.isatty(2)
    for figures in run.many(first, runs, profile, hosts, hours, jobs, chunk):
        if live:
            click.echo(f"\r{figures}", err=True, nl=False)
        if figures.failed or 0 < seconds < figures.seconds:
            break
    if live:
        click.echo(err=True)
    click.echo(str(figures))
    if figures.failed:
        _explain(figures.failed[0], figures.wrong[0], hours)
    return figures


def _explain(failed: Plan, wrong: str, hours: float) -> None:
    click.echo(f"\nFAILED: {wrong}\nMaking the run as small as possible ...")
    small = run.shrink(failed)
    for _, action in small.chosen():
        click.echo(str(action))
    again = run.run(small, whole_areas=False)
    length = f" --hours {hours:g}" if failed.profile == plan.DAY else ""
    click.echo(f"\nwhich leads to: {again.wrong}\nSee it again: {small.command()}{length}")


def _show(seed: int, profile: str, hosts: int, hours: float, only: Optional[str]) -> Result:
    drawn = plan.draw(seed, profile, hosts, hours)
    if only is not None:
        drawn = drawn.keep(_numbers(only, len(drawn.actions)))
    click.echo(f"{hosts} hosts, io_timeout {drawn.io_timeout} s, leases {', '.join(drawn.leases)}. Planned:")
    for number, action in drawn.chosen():
        click.echo(f"{number:4} {action}")
    result = run.run(drawn, tell=True)
    click.echo("\nWhat happened:")
    for line in result.lines:
        click.echo(f"  {line}")
    end = f"FAILED: {result.wrong}" if result.wrong else "All is well: at no time did two guests use one disk."
    click.echo(f"\n{end}")
    click.echo(f"{result.grants} leases granted, {result.refusals} refused, {result.effects} protocol steps.")
    return result


def _numbers(only: str, actions: int) -> tuple[int, ...]:
    if only == "none":
        return ()
    try:
        numbers = tuple(int(part) for part in only.split(","))
    except ValueError:
        raise click.BadParameter("give numbers of actions, e.g. 0,3,7", param_hint="--only") from None
    if any(not 0 <= n < actions for n in numbers):
        raise click.BadParameter(f"the run has actions 0 to {actions - 1}", param_hint="--only")
    return numbers
