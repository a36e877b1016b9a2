# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one line that an administrator reads when a start is refused.

The most important words come first: libvirt puts its own in front, and a
screen cuts the end off.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..leases.engine import Refused, Want
from ..leases.errors import HeldByOther, HeldHere, LeaseError, SharedByOthers
from ..leases.owner import Holder
from ..leases.records import show_name


def refusal(guest: str, refused: Refused, directory: str) -> str:
    """What stands in the way of `guest`, and when it makes sense to try again."""
    return plain(guest, in_the_way(refused, directory))


def in_the_way(refused: Refused, directory: str) -> str:
    """The first obstacle in full; of others only the disks, as a rule the same guest has them."""
    named = {want.source for want, _ in refused.failures if want.kind != "identity"}
    shown = [(want, error) for want, error in refused.failures if want.kind != "identity" or want.source not in named]
    text = _one(*shown[0], directory)
    others = [_disk(want) for want, _ in shown[1:]]
    if others:
        text += f" (refused, too: {', '.join(others[:2])}{f' and {len(others) - 2} more' if len(others) > 2 else ''})"
    return one_line(text)


def journal_fields(refused: Refused) -> dict[str, list[object]]:
    """Which leases were refused, and the host ids of those who hold them."""
    errors = [error.__dict__ for _, error in refused.failures]
    holders = [held for error in errors for held in [error.get("holder"), *error.get("holders", ())] if held]
    return {
        "lease": [want.name for want, _ in refused.failures],
        "holder": sorted({held.host_id for held in holders}),
    }


def plain(guest: str, reason: str, operation: str = "start") -> str:
    what = "taken in" if operation == "migrate" else "started"
    return one_line(f"vlhook: guest {guest} is not {what}: {reason}")


def one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _one(want: Want, error: LeaseError, directory: str) -> str:
    disk = _disk(want)
    if want.kind == "identity":
        disk += ", under another name,"
    path = want.path or f"{directory}/{want.name}"
    if isinstance(error, HeldByOther):
        who = _holder(error.__dict__["holder"], "exclusively", want)
        return f"{disk} is in use by {who} [lease file {path}]"
    if isinstance(error, SharedByOthers):
        holders: Sequence[Holder] = error.__dict__["holders"]
        who = " and ".join(_holder(h, "shared", want) for h in holders)
        return f"{disk} is in use by {who} [lease file {path}]"
    if isinstance(error, HeldHere):
        return f"{disk} is in use by guest {error.__dict__['guest']} on this same host [lease file {path}]"
    return f"{disk}: {error} [lease file {path}]"


def _disk(want: Want) -> str:
    return f"disk {want.source}" if want.source else f"lease {want.name}"


def _holder(holder: Holder, mode: str, want: Want) -> str:
    name = show_name(holder.name).partition(".")[2] or show_name(holder.name)
    host = f"host {holder.host_id} ({name})"
    record = holder.record
    who = host
    if record:
        since = _clock(record.since)
        disk = f", as its disk {record.disk}," if want.kind == "identity" and record.disk != want.source else ""
        who = f"guest {record.guest} (UUID {record.uuid_text()}){disk} on {host} since {since}, {mode},"
    if holder.alive:
        return f"{who} which is alive; stop the guest there first"
    silence = f"silent for {holder.silent_for:.0f} s" if holder.silent_for is not None else "not seen alive yet"
    free = _clock(time.time() + holder.free_in)
    return f"{who} which is {silence}; if that host is dead the disk is free at {free} at the latest, try again then"


def _clock(at: float) -> str:
    """A time of the epoch for people; what another host wrote may be no time at all."""
    try:
        moment = time.localtime(at)
    except (OverflowError, ValueError, OSError):
        return f"second {at:.0f} of the epoch"
    today = time.localtime()
    if moment[:3] == today[:3]:
        return time.strftime("%H:%M:%S", moment)
    return time.strftime("%Y-%m-%d %H:%M:%S", moment)
