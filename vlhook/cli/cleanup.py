# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook cleanup`: removes the lease files that no guest uses."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..keeper.client import KeeperSays, call
from ..leases import overview
from ..leases.geometry import MIB
from ..leases.overview import CLEARED, FREE, LeaseView
from .common import Place, directory_options, json_option, show

SCHEMA = 1
AT_ONCE = 256
ANSWER_SECONDS = 120.0
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.new")
TEMPORARY_AGE = 86400.0
ELSEWHERE = ("VLH-K851", "VLH-K854")
_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}


class OtherDirectory(VlhookError):
    msg = "the keeper of this host serves {served}, not {asked}"
    hint = "run this on a host whose keeper serves that directory"
    code = "VLH-C144"


class Duration(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d|w|)", str(value))
        if not found:
            self.fail(f"{value!r} is no span of time such as 90min, 12h, 7d or 2w", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@click.command()
@directory_options
@click.option(
    "--older-than", type=Duration(), default="0", metavar="TIME", help="Only leases not used for TIME: 90min, 12h, 7d."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; needs no keeper.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something went wrong.")
@json_option
@click.pass_context
def cleanup_command(
    ctx: click.Context, place: Place, older_than: float, dry_run: bool, quiet: bool, as_json: bool
) -> None:
    """Remove the lease files that no guest uses. Safe at any time, beside any kind of host.

    A lease that somebody holds, waits for, asks for or has claimed stays. Each
    of the others is taken by the keeper of this host, marked as cleared, so
    that nobody who has the file open can ever take it, and then removed. A disk
    gets a new lease file when a guest with it starts again. Damaged and half
    made files stay, too; 'vlhook leases' shows them.

    A guest that libvirt's sanlock plugin has paused holds no lease; so use
    --older-than where hosts with that plugin share the directory. The weekly
    timer vlhook-cleanup.timer uses one day.

    Takes the place of virt-sanlock-cleanup, and can be called by that name.
    Exit status: 0 done, or it is left to another host; 1 some files could not be
    removed; 2 nothing could be done.

    \b
    Examples:
      vlhook cleanup --dry-run
      vlhook cleanup -q --older-than 7d
    """
    seen = overview.whole(place.directory)
    todo = [view for view in seen.leases if removable(view, older_than)]
    outcome = Outcome(place.directory, dry_run)
    if dry_run:
        outcome.removed = [view.name for view in todo]
    else:
        _remove(place, todo, outcome, bar=not (quiet or as_json))
        outcome.temporary = _remove_temporary(place.directory)
    outcome.failed += [{"name": name, "why": "the storage does not answer"} for name in seen.unanswered]
    if as_json or not quiet:
        show(outcome.report, lambda report: _lines(report, todo), as_json, None)
    else:
        for entry in outcome.failed:
            click.echo(f"vlhook cleanup: {entry['name']}: {entry['why']}", err=True)
    ctx.exit(1 if outcome.failed else 0)


class Outcome:
    """What is reported; the JSON of `vlhook cleanup --json`."""

    def __init__(self, directory: str, dry_run: bool) -> None:
        self.directory = directory
        self.dry_run = dry_run
        self.removed: list[str] = []
        self.kept: list[dict[str, str]] = []
        self.failed: list[dict[str, str]] = []
        self.temporary = 0
        self.elsewhere = ""

    def report(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "lease_directory": self.directory,
            "dry_run": self.dry_run,
            "removed": self.removed,
            "bytes": len(self.removed) * MIB,
            "kept": self.kept,
            "failed": self.failed,
            "temporary": self.temporary,
            "elsewhere": self.elsewhere or None,
        }


def removable(view: LeaseView, older_than: float) -> bool:
    """At a first look; the keeper decides, with the lease in its hand."""
    if view.state == CLEARED:
        return True
    return view.state == FREE and not view.wanted and time.time() - view.modified >= older_than


def _remove(place: Place, todo: list[LeaseView], outcome: Outcome, bar: bool) -> None:
    names = [view.name for view in todo]
    chunks = [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]
    if chunks:
        served = call(place.run_dir, "status")["lease_directory"]
        if os.path.realpath(served) != os.path.realpath(place.directory):
            raise OtherDirectory(served=served, asked=place.directory)
    for chunk in _progress(chunks, len(names), bar):
        try:
            answer = call(place.run_dir, "clean", ANSWER_SECONDS, names=chunk)
        except KeeperSays as error:
            if vars(error)["keeper_code"] not in ELSEWHERE:
                raise
            outcome.elsewhere = str(error)
            return
        for result in answer["results"]:
            if result["outcome"] == "removed":
                outcome.removed.append(result["name"])
            elif result["outcome"] in ("kept", "failed"):
                entry = {"name": result["name"], "why": result["why"]}
                (outcome.kept if result["outcome"] == "kept" else outcome.failed).append(entry)


def _progress(chunks: list[list[str]], total: int, bar: bool) -> Iterator[list[str]]:
    """The chunks, with a bar on a terminal."""
    if not bar or not click.get_text_stream("stdout").isatty():
        yield from chunks
        return
    with click.progressbar(length=total, label="removing") as shown:
        for chunk in chunks:
            yield chunk
            shown.update(len(chunk))


def _remove_temporary(directory: str) -> int:
    """Files that were to become leases, left by a host that died while it made them."""
    count = 0
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        try:
            if TEMPORARY.fullmatch(name) and time.time() - os.lstat(path).st_mtime > TEMPORARY_AGE:
                os.unlink(path)
                count += 1
        except OSError:
            continue
    return count


def _lines(report: dict[str, Any], todo: Iterable[LeaseView]) -> Iterator[str]:
    if report["dry_run"]:
        for view in todo:
            yield f"{view.name}  {view.disk or 'disk unknown'}"
    for kind in ("kept", "failed"):
        for entry in report[kind]:
            yield f"{'FAILED' if kind == 'failed' else kind}: {entry['name']}: {entry['why']}"
    if report["elsewhere"]:
        yield report["elsewhere"]
    verb = "would be removed" if report["dry_run"] else "removed"
    yield f"{len(report['removed'])} leases {verb}, {report['bytes'] // MIB} MB, in {report['lease_directory']}"
