# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ending a dead host's membership early, on an administrator's word (safety rules, 13).

Others wait 8N+60 seconds before they take what a silent host held: 8N after
which its own keeper stops its guests, and 60 in which its watchdog resets it
if that failed. Somebody who knows that the host is off can spare them the 60:
its id is taken as a joining host takes one (format document, 6.1), after 8N of
silence, and released at once. This is the only write to another host's record.

If the word was false, two hosts write to one disk.
"""

from __future__ import annotations

from dataclasses import replace

from .delta import WATCH_POLL_SECONDS, Space, probe, read_own
from .effects import LOCKSPACE, Sleep, Steps, guarded_write, now, seen
from .errors import FenceRefused, HostIdInUse
from .geometry import Geometry
from .owner import CLOCK_SLACK, DEFAULT_IO_TIMEOUT, fail_seconds
from .records import Leader, pad_name, show_name


def end_membership(me: Space, host_id: int, name: bytes) -> Steps[Leader]:
    """Free everything that host `host_id` held, whose record must be of the host named `name`.

    `me` is this host's own place in the lockspace, good throughout. Returns the
    record as it was found. Raises FenceRefused before anything is written,
    HostIdInUse when somebody else took the id meanwhile, NotMember.
    """
    target = replace(me, host_id=host_id)
    if host_id == me.host_id:
        raise FenceRefused(where=me.where, host_id=host_id, why="it is this host's own")
    geo = yield from probe(target)
    found = yield from read_own(target, geo)
    if found.free:
        raise FenceRefused(where=me.where, host_id=host_id, why="it holds nothing, its record is free")
    if found.resource_name != pad_name(name):
        why = f"it is of host {show_name(found.resource_name)}"
        raise FenceRefused(where=me.where, host_id=host_id, why=why)
    stamp = yield from _wait_silent(target, geo, found)
    claim = replace(
        found,
        owner_generation=found.owner_generation + 1,
        resource_name=pad_name(me.host_name),
        timestamp=max(1, int(stamp)),
        io_timeout_raw=me.io_timeout,
        write_id=0,
        write_generation=0,
        write_timestamp=0,
    ).sealed()
    yield from guarded_write(LOCKSPACE, geo.delta(host_id), claim.sector(geo))
    yield Sleep(2 * (found.io_timeout or DEFAULT_IO_TIMEOUT))
    after = yield from read_own(target, geo)
    if after != claim:
        raise HostIdInUse(where=me.where, host_id=host_id, other=show_name(after.resource_name))
    yield from guarded_write(LOCKSPACE, geo.delta(host_id), replace(claim, timestamp=0).sealed().sector(geo))
    return found


def _wait_silent(target: Space, geo: Geometry, found: Leader) -> Steps[float]:
    """Until the record stood still for 8N of this host's own observation; returns the time for the claim."""
    view = yield from seen(target.host_id)
    start = yield from now()
    if view and (view.generation, view.timestamp) == (found.owner_generation, found.timestamp):
        start = min(start, view.last_live)
    while True:
        read_at = yield from now()
        current = yield from read_own(target, geo)
        if current != found:
            why = "it is alive: its record has just been renewed"
            raise FenceRefused(where=target.where, host_id=target.host_id, why=why)
        stamp = yield from now()
        fresh = stamp - read_at < (found.io_timeout or DEFAULT_IO_TIMEOUT)
        if fresh and read_at - start >= fail_seconds(found.io_timeout) + CLOCK_SLACK:
            return stamp
        yield Sleep(WATCH_POLL_SECONDS)
