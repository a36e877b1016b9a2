# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook drill`: take the storage away for real, and measure."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

TITLES = {
    "warned": "warned", "stopped": "stopped", "gone": "QEMU gone", "watchdog": "watchdog",
    "wrote": "last write", "granted": "other host",
}  # fmt: skip


@click.command()
@click.argument("names", nargs=-1, metavar="[SCENARIO]...")
@click.option("--all", "everything", is_flag=True, help="Every scenario; see --list.")
@click.option("--list", "listing", is_flag=True, help="Show the scenarios and leave.")
@click.option("--jobs", type=click.IntRange(1, 16), default=2, show_default=True, help="So many at the same time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; its field 'schema' numbers the shape.")
def drill_command(names: tuple[str, ...], everything: bool, listing: bool, jobs: int, as_json: bool) -> None:
    """Lose the storage under a test guest, and see what happens when.

    Nothing of this host is touched: two keepers run here as two hosts, with a
    lease directory, a disk, a guest and watchdog devices of their own, in /tmp.
    Their storage is a file system that can hang, fail or become read-only. One
    host loses it (SCENARIO says how; default: hang), and the other tries all
    the time to get the guest's disk.

    Times are seconds after the last good renewal, with an io_timeout N of 2 s;
    the promises stand in the second line. Whatever they are, the other host must get the disk
    after the last write of the guest on the first, which is judged beneath both. Needs root and FUSE, and takes about
    two minutes a scenario. Exit status: 0 all as promised, 1 something was late
    or wrong, 2 it could not be done.
    """
    from ..drill.scenarios import PROMISED, SCENARIOS, run

    if listing:
        for scenario in SCENARIOS.values():
            click.echo(f"{scenario.name:<15} {scenario.title}")
        return
    unknown = sorted(set(names) - set(SCENARIOS))
    if unknown:
        raise click.BadParameter(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    chosen = [SCENARIOS[name] for name in (SCENARIOS if everything else names or ("hang",))]
    if not as_json:
        click.echo("".join(f"{text:>11}" for text in TITLES.values()) + "  scenario")
        click.echo("".join(f"{PROMISED.get(key, ''):>11}" for key in TITLES) + "  promised")
    well = True
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(run, chosen):
            well = well and not (outcome.problems or outcome.late)
            if as_json:
                click.echo(json.dumps({"schema": 1, **asdict(outcome)}))
                continue
            cells = [outcome.times.get(key) for key in TITLES]
            click.echo("".join(f"{'-' if at is None else f'{at:.1f}':>11}" for at in cells) + f"  {outcome.title}")
            for text in (*outcome.problems, *outcome.late):
                click.echo(f"  !! {text}")
    sys.exit(0 if well else 1)
