# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook hosts`: every host of the lease directory, and whether it lives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..keeper.status import host_row
from ..leases import overview
from ..leases.errors import NotCreated
from ..leases.hosts import HostTable
from .common import (
    Cell,
    Column,
    Place,
    ago,
    directory_options,
    json_option,
    node,
    screen_width,
    show,
    table,
    watch_option,
)

SCHEMA = 1
COLUMNS = (
    Column("ID", right=True), Column("HOST", cut="end"), Column("STATE"), Column("LAST SEEN", right=True),
    Column("GENERATION", right=True), Column("IO_TIMEOUT", right=True), Column("", cut="end"),
)  # fmt: skip
_MEANING = {"live": "good", "fail": "warn", "dead": "bad", "unknown": "warn", "free": "dim", "damaged": "bad"}


class NoLockspace(VlhookError):
    msg = "{where} does not exist: no host has ever joined in this lease directory"
    hint = "check that the lease directory is mounted; the first vlhookd that starts makes the file"
    code = "VLH-C141"


@click.command()
@directory_options
@click.option(
    "--observe",
    type=click.FloatRange(0.1, 3600),
    metavar="SECONDS",
    help="Without a keeper: look twice, so long apart, to tell who lives. 2 io_timeouts and more tell.",
)
@json_option
@watch_option
@click.pass_context
def hosts_command(
    ctx: click.Context, place: Place, observe: Optional[float], as_json: bool, watch: Optional[float]
) -> None:
    """List every host id that was ever used in the lease directory: name, state, last seen.

    \b
    States:
      live      its record changes: it renews its lease every 2 io_timeouts
      fail      silent for more than 8 io_timeouts: it is stopping its guests, or was switched off
      dead      silent for 8 io_timeouts and 60 seconds: its disks are free for others
      left      it gave its id back, nothing is held under it
      unknown   nobody has seen its record change yet; it counts as alive
      damaged   the record does not check out; see 'vlhook dump'

    The keeper of this host knows these from its renewals. Without it the lease
    directory is read: one look tells who has left, two tell who lives, so use
    --observe or --watch. Exit status: 0 all are live or left, 1 otherwise,
    2 the lease directory cannot be read.

    \b
    Examples:
      vlhook hosts
      vlhook hosts --dir /mnt/leases --observe 25
    """
    eyes = Eyes(place)
    if observe and eyes.of_keeper() is None:
        eyes.look()
        time.sleep(observe)
    report = show(eyes.report, lines, as_json, watch)
    ctx.exit(0 if all(row["state"] in ("live", "free") for row in report.get("hosts", [])) else 1)


class Eyes:
    """Looks at the hosts, through the keeper or for itself; its own looks add up."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.table = HostTable()

    def of_keeper(self) -> Optional[dict[str, Any]]:
        report = self.place.ask("hosts")
        return report if report and report["hosts"] else None

    def look(self) -> overview.Overview:
        try:
            return overview.lockspace(self.place.directory, self.table)
        except NotCreated as error:
            raise NoLockspace(where=vars(error)["where"]) from error

    def report(self) -> dict[str, Any]:
        """The JSON of `vlhook hosts --json`."""
        told = self.of_keeper()
        if told:
            return {"schema": SCHEMA, "source": "keeper", **{k: v for k, v in told.items() if k != "schema"}}
        seen = self.look()
        now = time.monotonic()
        rows = []
        for host_id, record in sorted(seen.hosts.items()):
            view = seen.table.get(host_id)
            row = host_row(host_id, view, now) if view and record.ok else _damaged(host_id)
            if row["state"] == "unknown":
                row["silent"] = row["dead_in"] = None
            rows.append(row)
        return {
            "schema": SCHEMA,
            "source": "lease directory",
            "lease_directory": self.place.directory,
            "host_id": None,
            "hosts": rows,
        }


def _damaged(host_id: int) -> dict[str, Any]:
    nothing = dict.fromkeys(("generation", "silent", "io_timeout", "watched", "dead_in"))
    return {"host_id": host_id, "name": "", "state": "damaged", **nothing}


def lines(report: dict[str, Any]) -> Iterator[str]:
    if not report["hosts"]:
        yield f"no host id was ever used in {report['lease_directory']}"
        return
    rows = [_row(row, report) for row in report["hosts"]]
    yield from table(COLUMNS, rows, screen_width())
    if any(row["state"] == "unknown" for row in report["hosts"]) and report["source"] != "keeper":
        yield "one look does not tell who lives: the keeper of this host does not answer; use --observe or --watch"


def _row(row: dict[str, Any], report: dict[str, Any]) -> list[Any]:
    state = "left" if row["state"] == "free" else row["state"]
    silent = "-" if row["state"] in ("free", "unknown", "damaged") else f"{ago(row['silent'])} ago"
    note = ""
    if row["host_id"] == report["host_id"]:
        note = "this host"
    elif row["state"] in ("fail", "dead") and row["dead_in"] is not None:
        note = f"its disks are free in {row['dead_in']:.0f} s" if row["dead_in"] else "its disks are free"
    values = ["-" if row[name] is None else row[name] for name in ("generation", "io_timeout")]
    return [row["host_id"], node(row["name"]) or "?", Cell(state, _MEANING[row["state"]]), silent, *values, note]
