# SPDX-License-Identifier: LGPL-2.1-or-later
"""Removing a lease that nobody uses, safely beside every kind of host (safety rules, 14).

    take the lease → bar → look → write the cleared leader → unlink

A host of another kind may have opened the file before it is unlinked, and go on
with the old inode while others use a new file of the same name. So the old
inode must never be had again: its leader says 'cleared' for ever, and nothing
on it is released, for a host that waits would win there.

One way could undo that: a host that has read the leader before we took the
lease, and ballots for our version, may adopt our value and commit it late, over
the cleared leader. The bar shuts it: we begin the ballot of the *next* version
and do not go on with it. Whoever ballots for ours and reads our sector after
that aborts (format document, 7.2), reads the leader anew and finds 'cleared'.
Whoever read it before has left its own block, which the look finds; then the
lease is wanted, is given back in the ordinary way, and stays.

The caller keeps guests of its own host away, and holds the directory's clean-up
lease, so that no two hosts remove what a third one left cleared: the second
could hit a new file.
"""

from __future__ import annotations

from dataclasses import replace

from .area import Area, Identity, Lease, read_area, read_delta
from .ballot import first_mbal
from .directory import cleared_leader
from .effects import RESOURCE, Member, Remove, Sleep, Steps, guarded_write, now, read, seen
from .errors import Busy, LeaseError, NotMember, StorageError
from .geometry import FILE, HEADER, Geometry
from .holder import HolderRecord
from .owner import CLOCK_SLACK, dead_seconds, living
from .paxos import acquire
from .records import CLEARED_MAGIC, NO_MODE, Dblock, HostSector, Leader, Request, host_sector
from .release import Held, settle

RETRY_SECONDS = 2.0


class Wanted(Busy):
    """Somebody is about to take the lease, asks the owner for it, or has claimed it."""

    msg = "lease {name} stays: {why}"
    code = "VLH-L265"


class NotRemoved(LeaseError):
    """The leader is cleared; nobody can hold the lease any more, but its file is still there."""

    msg = "{where}: the lease was cleared, but its file cannot be removed: {why}"
    hint = "make the directory writable, then run 'vlhook cleanup' again"
    code = "VLH-L266"


def clean(
    lease: Lease, me: Identity, record: HolderRecord | None = None, guess: Geometry = FILE
) -> Steps[bool]:
    """Remove `lease`, if nobody holds it, waits for it or claims it. False: the name is another file's now.

    Raises Busy and its subclasses (it is used), Cleared (see `remove_cleared`),
    RecordError, StorageError, NotMember: nothing of ours is left on it. Raises
    NotRemoved when it was cleared and the file could not be removed.
    """
    area = yield from read_area(lease, guess, me.host_id)
    yield from _refuse_wanted(lease, me, area, area.leader.lver + 1)
    held = yield from acquire(lease, me, record=record, guess=area.geometry)
    geo = held.geometry
    try:
        wanted = yield from _bar_and_look(lease, me, held, record)
        if not wanted:
            yield from guarded_write(RESOURCE, 0, (yield from _cleared(me, held.leader)).sector(geo))
    except NotMember:
        raise
    except LeaseError:
        if not (yield from _is_cleared(geo)):
            yield from settle(lease, me, geo)
            raise
    else:
        if wanted:
            yield from settle(lease, me, geo)
            raise wanted
    return (yield from _remove(lease))


def _refuse_wanted(
    lease: Lease, me: Identity, area: Area, begun: int, given_up_counts: bool = False
) -> Steps[None]:
    """Raise Wanted if a live host may be deciding version `begun` or a later one, or asks for the lease."""
    for sector in area.sectors:
        if (yield from _ballots(lease, me, sector, begun, given_up_counts)):
            raise Wanted(name=lease.show(), where=lease.where, why=f"host {sector.host_id} is about to take it")
    data = yield from read(RESOURCE, area.geometry.request, area.geometry.sector)
    request = Request.decode(data)
    if request.force_mode and request.lver > area.leader.lver:
        raise Wanted(name=lease.show(), where=lease.where, why="another host asks for it")


def _ballots(
    lease: Lease, me: Identity, sector: HostSector, begun: int, given_up_counts: bool
) -> Steps[bool]:
    """May that host still commit `begun` or a later version?

    One that gave up has said RELEASED; it says so still while it helps to decide that version in another attempt.
    """
    block = sector.dblock
    if sector.host_id == me.host_id or block.lver < begun or (block.released and not given_up_counts):
        return False
    return (yield from _may_live(lease, sector.host_id))


def _may_live(lease: Lease, host_id: int, generation: int | None = None) -> Steps[bool]:
    """Whether that host is not known to be gone or dead; of `generation`, or of whichever it is."""
    view = yield from seen(host_id)
    asked = yield from now()
    delta = yield from read_delta(lease, host_id)
    if delta.free or (generation is not None and delta.owner_generation > generation):
        return False
    if view and (view.generation, view.timestamp) == (delta.owner_generation, delta.timestamp):
        return asked - view.last_live < dead_seconds(delta.io_timeout) + CLOCK_SLACK
    return True


def _bar_and_look(lease: Lease, me: Identity, held: Held, record: HolderRecord | None) -> Steps[Wanted | None]:
    """Begin the next version, so that nobody completes ours; then whoever has begun ours is visible."""
    geo, lver = held.geometry, held.lver
    mbal = first_mbal(held.dblock.mbal, held.leader.max_hosts, me.host_id)
    tagged = record.tagged(me.host_id, me.generation, lver).encode() if record else b""
    bar = host_sector(geo, Dblock(mbal=mbal, lver=lver + 1), NO_MODE, tagged)
    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), bar)
    area = yield from read_area(lease, geo, me.host_id)
    if area.leader != held.leader:
        return Wanted(name=lease.show(), where=lease.where, why="another host wrote it at the same moment")
    holders = yield from living(lease, area.sharers(), me)
    if holders:
        return Wanted(name=lease.show(), where=lease.where, why=f"host {holders[0].host_id} has claimed it")
    try:
        yield from _refuse_wanted(lease, me, area, lver, given_up_counts=True)
    except Wanted as wanted:
        return wanted
    return None


def _cleared(me: Identity, leader: Leader) -> Steps[Leader]:
    """It names the host that clears, so that another one knows whose unlink may still be under way."""
    stamp = yield from now()
    blank = cleared_leader(leader, max(1, int(stamp)))
    return replace(blank, write_id=me.host_id, write_generation=me.generation).sealed()


def _is_cleared(geo: Geometry) -> Steps[bool]:
    """What a write that failed has left; asked for as long as it takes, for all depends on it."""
    while True:
        try:
            data = yield from read(RESOURCE, 0, geo.sector)
            return Leader.decode(data).magic == CLEARED_MAGIC
        except StorageError:
            yield Sleep(RETRY_SECONDS)


def remove_cleared(lease: Lease, me: Identity) -> Steps[bool]:
    """Remove the file of a lease that a clean-up cleared and did not come to remove. False: see `clean`.

    Raises Wanted while the host that cleared it may live, RecordError if it is not cleared.
    """
    leader = Leader.decode((yield from read(RESOURCE, 0, HEADER)))
    names = (leader.space_name.rstrip(b"\0"), leader.resource_name.rstrip(b"\0"))
    if leader.magic != CLEARED_MAGIC or names != (lease.space, lease.name):
        raise Wanted(name=lease.show(), where=lease.where, why="it was changed at this moment")
    by_other = leader.write_id not in (0, me.host_id)
    if by_other and (yield from _may_live(lease, leader.write_id, leader.write_generation)):
        raise Wanted(name=lease.show(), where=lease.where, why=f"host {leader.write_id} is just removing it")
    return (yield from _remove(lease))


def _remove(lease: Lease) -> Steps[bool]:
    yield Member()
    try:
        return bool((yield Remove(RESOURCE)))
    except StorageError as error:
        raise NotRemoved(where=lease.where, why=vars(error).get("why", error)) from error
