# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook status`: this host, its lease, its guests and what is wrong, on one page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click

from ..keeper.client import call
from .common import ago, coloured, json_option, node, run_dir_option, show, watch_option

IDENTITY = "identity"


@click.command()
@json_option
@watch_option
@run_dir_option
@click.pass_context
def status_command(ctx: click.Context, as_json: bool, watch: Optional[float], run_dir: Path) -> None:
    """Show what this host's keeper holds and whether all is well.

    The first line is the verdict. 'joined' means that this host's own lease is
    good: it is renewed every 2 io_timeouts, and after 8 without a renewal the
    guests are stopped, before another host may take their disks. The line
    'fencing' says who stops them, and what happens if they cannot be stopped.
    'aside' means that libvirt's sanlock plugin is to take the leases, and vlhook
    leaves them to it. Each guest is listed with who protects it. Exit status: 0
    all is well, 1 the host is not joined, there are alarms, or a guest runs that
    nobody protects, 2 no keeper.
    """
    report = show(lambda: call(run_dir, "status"), lines, as_json, watch)
    ctx.exit(0 if report and well(report) else 1)


def well(report: dict[str, Any]) -> bool:
    lonely = any(other["protector"] == "nobody" for other in report["others"])
    return report["membership"]["state"] in ("joined", "aside") and not report["alarms"] and not lonely


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as text, no line longer than 100 characters where the names allow it."""
    member = report["membership"]
    name = node(report["host_name"])
    yield f"host {report['host_id']} ({name}): {_member(member)}"
    yield f"leases    {report['lease_directory']}, engine {report['engine']}, io_timeout {report['io_timeout']} s"
    if member.get("sanlock"):
        yield f"sanlock   {_sanlock(member['sanlock'])}"
    if member["state"] == "joined":
        yield f"renewal   {_renewal(member)}"
    yield f"protects  lock_manager {report['lock_manager'] or 'UNKNOWN: see vlhook config show'}"
    yield f"fencing   {_fencing(report['fencing'])}"
    for text in report["alarms"]:
        yield coloured(f"ALARM     {text}", "bad")
    for io in report["pending_io"]:
        if io["seconds"] >= 1:
            yield coloured(f"waiting   {io['op']} of {io['where']}, unanswered for {io['seconds']:.0f} s", "warn")
    held = sum(len(guest["leases"]) for guest in report["guests"])
    yield f"guests    {len(report['guests'])}, with {held} leases" if held else "guests    none hold leases here"
    for guest in report["guests"]:
        yield from _guest(guest)
    if report["others_unknown"]:
        yield f"other guests are not known: {report['others_unknown']}"
    for other in report["others"]:
        yield _other(other)


def _guest(guest: dict[str, Any]) -> Iterator[str]:
    pid = f", pid {guest['pid']}" if guest["pid"] else ""
    policy = guest["on_lockfailure"]
    instead = f", on lease failure {policy['does']} instead of {policy['asked']}" if policy["why"] else ""
    life = f"{guest['phase']} for {ago(time.time() - guest['since'])}"
    yield f"  {guest['name']} ({guest['uuid']}): {life}{pid}, {_by(guest)}{instead}"
    disks = {(lease["mode"], lease["disk"]) for lease in guest["leases"] if lease["kind"] != IDENTITY}
    for lease in guest["leases"]:
        # A disk that has a lease by its name, too, is shown once.
        if lease["kind"] != IDENTITY or (lease["mode"], lease["disk"]) not in disks:
            kind = "" if lease["kind"] in ("disk", "lease") else f"  ({lease['kind']})"
            yield f"    {lease['mode']:<9}  {lease['disk'] or lease['lease']}{kind}"
    for lease in guest["deferred"]:
        held = "sanlock's" if lease["held"] else "sanlock's, NOT HELD"
        yield f"    {lease['mode']:<9}  {lease['disk'] or lease['file']}, {held}"


def _by(guest: dict[str, Any]) -> str:
    protector = guest["protector"]
    if protector is None:
        return "needs no leases"
    if protector == "nobody":
        return "nobody holds its leases now (libvirt's sanlock plugin has none while a guest starts or is suspended)"
    return f"protected by {protector}"


def _other(other: dict[str, Any]) -> str:
    who = f"guest {other['name']} ({other['uuid']}), pid {other['pid']}"
    if other["protector"] == "nobody":
        return f"NOT PROTECTED: {who} was not started through vlhook; run: vlhook adopt {other['name']}"
    return f"{who}: protected by {other['protector']}, unknown to vlhook"


def _watchdog(fencing: dict[str, Any]) -> str:
    kind, why = fencing["watchdog"], fencing["why"]
    if kind in ("none", "off"):
        because = "watchdog = off" if kind == "off" else why
        demand = "; no guest gets leases" if fencing["setting"] == "required" else ""
        return f"no watchdog: nothing resets this host if its guests cannot be stopped ({because}){demand}"
    if kind == "sanlock":
        return "sanlock's watchdog resets this host if guests cannot be stopped"
    name = "watchdog by wdmd" if kind == "wdmd" else "watchdog device"
    if not fencing["armed"]:
        return f"{name}, armed when guests hold leases"
    lost = "" if fencing["stored"] else "; it is not kept over a restart of vlhookd"
    return f"{name} armed{lost}"


def _member(member: dict[str, Any]) -> str:
    why = (member["why"] or "").replace("; see 'vlhook status'", "")
    if member["state"] == "aside":
        return f"stands aside: {why}"
    if member["state"] == "out":
        return coloured("NOT JOINED", "bad") + f": {why}"
    if member["state"] == "lost":
        return coloured("LOST", "bad") + f": {why}"
    return coloured("joined", "good") + f", generation {member['generation']}"


def _sanlock(daemon: dict[str, Any]) -> str:
    watchdog = "it uses the watchdog" if daemon["use_watchdog"] else "it uses no watchdog (-w 0)"
    return f"the daemon of this host takes the leases: version {daemon['version']}, {watchdog}"


def _renewal(member: dict[str, Any]) -> str:
    text = f"{member['last_ok_age']:.0f} s ago, guests are stopped at {member['limit']} s"
    if member["latency"] is not None:
        text += f"; the storage answered in {member['latency'] * 1000:.0f} ms"
    if member["error"]:
        text += coloured(f"; the last try failed: {member['error']}", "warn")
    return text


def _fencing(fencing: dict[str, Any]) -> str:
    guard = fencing["guard"]
    who = "the guard ends guests in time" if guard == "ready" else coloured(f"the guard is {guard.upper()}", "bad")
    return f"{who}; {_watchdog(fencing)}"
