# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook leases` and `vlhook who`: every lease file, and who holds one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..leases import overview
from ..leases.names import lease_name
from ..leases.overview import CLEARED, DAMAGED, FREE, HELD, LEASE_NAME, SHARED, UNREADABLE, LeaseView
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
from .hosts import Eyes

SCHEMA = 1
STATES = (FREE, HELD, SHARED, "claimed", CLEARED, DAMAGED, "unfinished", UNREADABLE)
WRONG = (DAMAGED, UNREADABLE, "unfinished")
COLUMNS = (
    Column("STATE"), Column("DISK OR LEASE", cut="start"), Column("GUEST", cut="end"), Column("HOST", cut="end"),
    Column("AGE", right=True),
)  # fmt: skip
_MEANING = {FREE: "dim", HELD: "good", SHARED: "good", "claimed": "good", CLEARED: "dim"}


class NothingFound(VlhookError):
    msg = "no lease, disk or guest {what} is known in {directory}"
    hint = "a disk gets its lease file when a guest with it first starts; 'vlhook leases' lists them all"
    code = "VLH-C142"


@click.command()
@directory_options
@click.option("--state", type=click.Choice(STATES), help="Only leases in this state.")
@click.option("--host", "host_id", type=click.IntRange(1, 2000), metavar="ID", help="Only those this host id holds.")
@click.option("--long", is_flag=True, help="Also each lease's name, version and file.")
@json_option
@watch_option
@click.pass_context
def leases_command(
    ctx: click.Context,
    place: Place,
    state: Optional[str],
    host_id: Optional[int],
    long: bool,
    as_json: bool,
    watch: Optional[float],
) -> None:
    """List the lease files: state, disk, guest, host, and since when.

    A lease file does not say which disk it is for; its name is an MD5. vlhook
    notes disk and guest beside the lease when it takes it. Leases of other
    programs (sanlock, libvirt's plugin) are listed by their name. A disk may
    have a second lease, on its identity; --long lists them all.

    \b
    States:
      free        nobody holds it; guest and disk are those of the last holder
      held        one host holds it for a guest
      shared      held by hosts that share it (<shareable/> disks)
      claimed     a guest is migrating in
      cleared     removed by a clean-up, and about to vanish
      unfinished  being made at this moment, or half made by a host that died
      damaged, unreadable   see 'vlhook dump'

    HOST tells what is known of the holder: alive, silent, dead (then the next
    start takes the lease over), or "?" if no keeper runs here to tell. Read
    only; works on any host. Exit status: 0, 1 a lease is damaged or cannot be
    read, 2 the directory cannot be read.

    \b
    Examples:
      vlhook leases --state held
      vlhook leases --host 7 --long
    """
    viewer = Viewer(place)

    def make() -> dict[str, Any]:
        report = viewer.report()
        rows = report["leases"]
        rows = [row for row in rows if state in (None, row["state"])]
        if host_id:
            rows = [row for row in rows if any(h["host_id"] == host_id and h["counts"] for h in row["holders"])]
        return {**report, "leases": rows}

    report = show(make, lambda found: lines(found, long), as_json, watch)
    wrong = any(row["state"] in WRONG for row in report.get("leases", [])) or report.get("unanswered")
    ctx.exit(1 if wrong else 0)


@click.command()
@click.argument("what")
@directory_options
@json_option
@click.pass_context
def who_command(ctx: click.Context, what: str, place: Place, as_json: bool) -> None:
    """Say who holds WHAT: a disk's path, a lease's name or file, or a guest's name or UUID.

    A path is taken as it stands in the domain XML, for its MD5 is the lease's
    name; if it is a link, or has another spelling here, that one is looked for
    as well. Read only; works on any host. Exit status: 0 it is held, 1 it is
    free, 2 nothing of that kind is known.

    \b
    Examples:
      vlhook who /var/lib/libvirt/images/demo.img
      vlhook who bfa0240911bc17753e0b473688822159
      vlhook who web1
    """
    viewer = Viewer(place)
    report = viewer.report(_names_of(what))
    rows = _matching(report["leases"], what)
    if not rows:
        raise NothingFound(what=what, directory=place.directory)
    report["leases"] = rows
    show(lambda: report, _told, as_json, None)
    held = any(holder["counts"] for row in rows for holder in row["holders"])
    ctx.exit(0 if held else 1)


def _names_of(what: str) -> Optional[list[str]]:
    """The names of the leases that can be meant, None if all must be looked at."""
    base = os.path.basename(what)
    if LEASE_NAME.fullmatch(base):
        return [base]
    if "/" not in what:
        return None
    spellings = {what, os.path.normpath(what), os.path.realpath(what)}
    return sorted({lease_name(os.fsencode(path)) for path in spellings})


def _matching(rows: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    if "/" in what or LEASE_NAME.fullmatch(what):
        return [row for row in rows if row["state"] != UNREADABLE or os.path.lexists(row["path"])]
    wanted = what.lower()
    return [row for row in rows if wanted in _guests(row)]


def _guests(row: dict[str, Any]) -> set[str]:
    found = {row["guest"].lower()}
    for holder in row["holders"]:
        found |= {holder["guest"].lower(), holder["uuid"].lower()}
    return found - {""}


class Viewer:
    """Reads leases, and knows from the keeper, if it answers, which hosts live and what this host holds."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._eyes = Eyes(place)

    def report(self, names: Optional[list[str]] = None) -> dict[str, Any]:
        """The JSON of `vlhook leases --json`."""
        seen = overview.whole(self.place.directory, names, self._eyes.table)
        told = self.place.ask("hosts") or {"hosts": []}
        states = {(row["host_id"], row["generation"]): (row["state"], row["dead_in"]) for row in told["hosts"]}
        now = time.time()
        return {
            "schema": SCHEMA,
            "lease_directory": self.place.directory,
            "leases": [_lease(view, states, now) for view in seen.leases],
            "unanswered": list(seen.unanswered),
        }


States = dict[tuple[int, int], tuple[str, Optional[float]]]
"""(host id, generation) → state, and seconds until its disks are free if it stays silent."""


def _lease(view: LeaseView, states: States, now: float) -> dict[str, Any]:
    holders = []
    for holder in view.holders:
        state, dead_in = states.get((holder.host_id, holder.generation), ("unknown", None))
        more = {"host_state": state, "dead_in": dead_in if state == "fail" else None, "counts": holder.counts}
        holders.append({**asdict(holder), "since": holder.since or None, **more})
    first = next((h["since"] for h in holders if h["counts"] and h["since"]), None)
    data = {**asdict(view), "identity": _is_identity(view), "holders": holders, "modified": view.modified or None}
    start = first or view.modified
    return {**data, "age": max(0.0, now - start) if start else None}


def _is_identity(view: LeaseView) -> bool:
    """All other leases of a path are named by it. One that was too long to be noted begins with …: not told."""
    by_md5 = LEASE_NAME.fullmatch(view.name) and view.disk.startswith("/")
    return bool(by_md5) and lease_name(os.fsencode(view.disk)) != view.name


# ---------------------------------------------------------------------------------------- text


def lines(report: dict[str, Any], long: bool) -> Iterator[str]:
    rows = report["leases"]
    if not rows:
        yield f"no such leases in {report['lease_directory']}"
    else:
        shown = rows if long else _once(rows)
        order = sorted(shown, key=lambda row: (row["state"] == FREE, row["disk"] or row["name"]))
        more = (Column("LEASE"), Column("VERSION", right=True)) if long else ()
        yield from table([*COLUMNS, *more], [_row(row, long) for row in order], screen_width())
        yield _sum(rows)
    for row in rows:
        if row["trouble"]:
            yield f"{row['path']}: {row['trouble']}"
    for name in report["unanswered"]:
        yield f"{report['lease_directory']}/{name}: the storage does not answer"


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the second leases of disks, on their identity, that say the same as the first."""

    def said(row: dict[str, Any]) -> tuple[object, ...]:
        holders = [(h["host_id"], h["generation"], h["mode"], h["guest"]) for h in row["holders"] if h["counts"]]
        return row["disk"], row["state"], row["guest"], row["wanted"], holders

    first = [said(row) for row in rows if not row["identity"]]
    return [row for row in rows if not row["identity"] or said(row) not in first]


def _row(row: dict[str, Any], long: bool) -> list[Any]:
    state = Cell(row["state"] + ("+" if row["wanted"] else ""), _MEANING.get(row["state"], "bad"))
    holders = [h for h in row["holders"] if h["counts"]]
    hosts = ", ".join(host_words(holder) for holder in holders) or "-"
    bad = any(h["host_state"] in ("dead", "fail") for h in holders)
    disk = (row["disk"] or row["name"]) + ("  (identity)" if row["identity"] else "")
    cells: list[Any] = [state, disk, row["guest"] or "-", Cell(hosts, "bad" if bad else "")]
    return [*cells, ago(row["age"]), *([row["name"], row["lver"]] if long else [])]


def host_words(holder: dict[str, Any]) -> str:
    name = node(holder["host_name"])
    words = {"live": "", "fail": " silent", "dead": " DEAD", "unknown": "?"}.get(holder["host_state"], "?")
    return f"{holder['host_id']} {name}{words}" if name else f"{holder['host_id']}{words}"


def _sum(rows: list[dict[str, Any]]) -> str:
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    seconds = sum(row["identity"] for row in rows)
    more = f", {seconds} of them on the identity of a disk" if seconds else ""
    return f"{len(rows)} leases{more}: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


_HOST_STATES = {
    "live": "which is alive",
    "fail": "which is silent",
    "dead": "which is dead: the next start takes the lease over",
    "unknown": "of which is not known whether it lives",
}


def _told(report: dict[str, Any]) -> Iterator[str]:
    for row in report["leases"]:
        yield f"{row['disk'] or 'lease ' + row['name']}: {row['state']}"
        for holder in row["holders"]:
            yield "    " + _sentence(holder)
        if row["state"] == FREE and row["guest"]:
            yield f"    last used by guest {row['guest']}"
        if row["wanted"]:
            yield "    another host is about to take it, or asks the owner to give way"
        if row["trouble"]:
            yield f"    {row['trouble']}"
        yield f"    lease file {row['path']}, version {row['lver']}"


def _sentence(holder: dict[str, Any]) -> str:
    host = f"host {holder['host_id']}" + (f" ({node(holder['host_name'])})" if holder["host_name"] else "")
    if not holder["counts"]:
        return f"no longer by {host}, which {'has left' if holder['membership'] == 'left' else 'was restarted'}"
    guest = f"guest {holder['guest']} (UUID {holder['uuid']})" if holder["guest"] else "a guest that is not known"
    since = ""
    if holder["since"]:
        since = time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    free = f"; if it is dead, the disk is free in {holder['dead_in']:.0f} s" if holder["dead_in"] is not None else ""
    return f"by {guest} on {host}{since}, {holder['mode']}, {_HOST_STATES.get(holder['host_state'], '')}{free}"
