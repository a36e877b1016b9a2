# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook doctor`: is this host set up so that its disks are protected?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..leases.errors import LeaseError, one_line
from ..leases.parallel import Unanswered, within
from .checks import CHECKS, FAIL, GOOD, NOTE, WARN, Check, Finding, Host
from .common import coloured, json_option, run_dir_option, show
from .config import config_dir_option
from .hostid import state_dir_option

SCHEMA = 1
CHECK_SECONDS = 20.0
_MARKS = {GOOD: ("ok", "good"), NOTE: ("note", "dim"), WARN: ("WARN", "warn"), FAIL: ("FAIL", "bad")}


@click.command()
@click.argument("names", nargs=-1, metavar="[CHECK]...")
@click.option("--list", "list_only", is_flag=True, help="List the names of all checks.")
@click.option("--strict", is_flag=True, help="Warnings count as failures for the exit status.")
@click.option("--libvirt-run-dir", type=click.Path(path_type=Path), default=Path("/run/libvirt"), hidden=True)
@click.option("--proc-dir", default="/proc", hidden=True)
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@config_dir_option
@state_dir_option
@run_dir_option
@json_option
@click.pass_context
def doctor_command(
    ctx: click.Context,
    names: tuple[str, ...],
    list_only: bool,
    strict: bool,
    as_json: bool,
    root: Path,
    **places: Any,
) -> None:
    """Check this host from hook to storage; one verdict a line, with what mends it.

    \b
    Verdicts:
      ok     as it should be, with the evidence
      note   worth knowing
      WARN   works, but not in every case
      FAIL   disks are not protected, or guests will not start

    Below WARN and FAIL stands the command that mends it. Nothing is changed
    here, but for a file in the lease directory that is written, read and
    removed. Storage that does not answer within 20 seconds is a finding, not a
    reason to hang. With CHECK... only those. Exit status: 0 nothing failed,
    1 something failed, 2 the command could not be run.

    \b
    Examples:
      vlhook doctor
      vlhook doctor hook keeper
    """
    chosen = _choose(names)
    if list_only:
        for check in chosen:
            click.echo(check.name)
        return
    host = Host(root=root, **places)
    report = {"schema": SCHEMA, "checks": [{"check": check.name, "findings": examine(check, host)} for check in chosen]}
    show(lambda: report, _lines, as_json, None)
    verdicts = {finding["verdict"] for check in report["checks"] for finding in check["findings"]}  # type: ignore[attr-defined]
    ctx.exit(1 if FAIL in verdicts or (strict and WARN in verdicts) else 0)


def _choose(names: tuple[str, ...]) -> list[Check]:
    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            raise click.UsageError(f"there is no check {name!r}; 'vlhook doctor --list' lists them")
    return [known[name] for name in names] if names else list(CHECKS)


def examine(check: Check, host: Host) -> list[dict[str, Optional[str]]]:
    """The findings of one check; whatever goes wrong in it is a finding, too."""
    try:
        found = within(CHECK_SECONDS, lambda: list(check.run(host)))
    except Unanswered:
        found = [
            Finding(FAIL, f"{check.name}: no answer within {CHECK_SECONDS:.0f} s; the storage may hang", "dmesg | tail")
        ]
    except (VlhookError, LeaseError) as error:
        found = [Finding(FAIL, f"{check.name}: {one_line(error)}")]
    except (OSError, ValueError) as error:
        found = [Finding(WARN, f"{check.name} could not be checked: {one_line(error)}")]
    return [{"verdict": one.verdict, "what": one.what, "mend": one.mend or None} for one in found]


def _lines(report: dict[str, Any]) -> Iterator[str]:
    counts = dict.fromkeys(_MARKS, 0)
    for check in report["checks"]:
        for finding in check["findings"]:
            counts[finding["verdict"]] += 1
            mark, meaning = _MARKS[finding["verdict"]]
            first, *rest = wrap(finding["what"], 94) or [""]
            yield f"{coloured(f'{mark:<4}', meaning)}  {first}"
            yield from (f"      {line}" for line in rest)
            if finding["mend"]:
                yield f"      -> {finding['mend']}"
    yield f"{counts[FAIL]} failed, {counts[WARN]} warnings, {counts[GOOD]} ok"
