# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host whose leases the sanlock daemon takes, as the format is described: no code of theirs, nor a run of it.

What differs from `vlhook.leases.paxos`: phase 1 begins a blank block, without mode block and RELEASED; the
version is always one more than the leader's; a live sharer found after the commit makes it give the lease back.
That it takes a commit for its own by the host id alone is left out: that fault is known, and
not what is sought here.
"""

from __future__ import annotations

from dataclasses import replace

from vlhook.leases import claims
from vlhook.leases.area import Area, Identity, Lease, read_area, read_delta, read_host_sector, read_leader
from vlhook.leases.ballot import first_mbal
from vlhook.leases.effects import RESOURCE, Sleep, Steps, Write, now, read, seen
from vlhook.leases.errors import HeldByOther, LeaseError, SharedByOthers
from vlhook.leases.owner import living
from vlhook.leases.records import Dblock, HostSector, Leader, host_sector, host_sectors
from vlhook.leases.release import Held, release, settle

from .runs import TINY


def acquire(lease: Lease, me: Identity) -> Steps[Held]:
    """Exclusive, without waiting for an owner that is silent. Raises Busy; then nothing of it is left."""
    try:
        return (yield from _acquire(lease, me))
    except SharedByOthers:
        raise
    except LeaseError as error:
        yield from settle(lease, me, TINY)
        raise error


def hand_over(lease: Lease, me: Identity, held: Held) -> Steps[Held]:
    """The daemon acquires what this host owns already; nobody else writes its sector meanwhile."""
    yield from claims.reassert(lease, me, held)
    while True:
        try:
            return (yield from _acquire(lease, me))
        except HeldByOther:
            yield Sleep(1.0)


def trap(lease: Lease, me: Identity) -> Steps[Held | None]:
    """What must not be done: the daemon acquires what is only claimed. None: not yet."""
    try:
        return (yield from _acquire(lease, me))
    except (HeldByOther, SharedByOthers):
        return None


def _acquire(lease: Lease, me: Identity) -> Steps[Held]:
    noticed: tuple[HostSector, ...] = ()
    while True:
        area = yield from read_area(lease, TINY, me.host_id)
        cur = area.leader
        fresh = cur.free or (cur.owner_id == me.host_id and cur.owner_generation <= me.generation)
        if not fresh:
            yield from _judge_owner(lease, area)
        mbal = first_mbal(area.greatest_mbal(), cur.max_hosts, me.host_id)
        held, noticed = yield from _decide(lease, me, area, fresh, mbal, noticed)
        if held is None:
            continue
        alive = yield from living(lease, noticed, me)
        if alive:
            yield from release(lease, me, held)
            raise SharedByOthers(name=lease.show(), where=lease.where, hosts="", holders=())
        return held


def _refused(lease: Lease, cur: Leader) -> dict[str, object]:
    return {
        "name": lease.show(), "where": lease.where, "owner_id": cur.owner_id,
        "owner_generation": cur.owner_generation, "lver": cur.lver, "short_hold": False, "holder": None,
    }  # fmt: skip


def _judge_owner(lease: Lease, area: Area) -> Steps[None]:
    """Raises HeldByOther unless the owner has left, is dead, or has given up a leader that it did not write."""
    cur = area.leader
    view = yield from seen(cur.owner_id)
    delta = yield from read_delta(lease, cur.owner_id)
    if delta.free or delta.owner_id != cur.owner_id or delta.owner_generation > cur.owner_generation:
        return
    if view and view.last_live < view.last_check:
        return
    if cur.write_id != cur.owner_id:
        owner = yield from read_host_sector(lease, area.geometry, cur.owner_id)
        if owner.dblock.released:
            return
    raise HeldByOther(**_refused(lease, cur))


def _decide(
    lease: Lease, me: Identity, area: Area, fresh: bool, mbal: int, noticed: tuple[HostSector, ...]
) -> Steps[tuple[Held | None, tuple[HostSector, ...]]]:
    """One version more than the leader's. None: the leader has changed. And who showed SHARED in any phase 1."""
    cur, lver = area.leader, area.leader.lver + 1
    while True:
        if not fresh:
            leader = yield from read_leader(lease, TINY)
            if leader.lver == lver:
                if not me.owns(leader):
                    raise HeldByOther(**_refused(lease, leader))
                own = yield from read_host_sector(lease, TINY, me.host_id)
                return Held(lver, leader, own.dblock, TINY), noticed
            if leader != cur:
                return None, noticed
        fresh = False
        block, sharers = yield from _ballot(lease, me, cur, lver, mbal)
        noticed += tuple(s for s in sharers if s not in noticed)
        if block is None:
            mbal += cur.max_hosts
            yield Sleep(1.0)
            continue
        stamp = yield from now()
        leader = replace(
            cur, lver=lver, owner_id=block.inp, owner_generation=block.inp2, timestamp=block.inp3,
            write_id=me.host_id, write_generation=me.generation, write_timestamp=int(stamp),
        ).sealed()  # fmt: skip
        yield Write(RESOURCE, 0, leader.sector(TINY))
        if not me.owns(leader):
            raise HeldByOther(**_refused(lease, leader))
        return Held(lver, leader, block, TINY), noticed


def _ballot(
    lease: Lease, me: Identity, cur: Leader, lver: int, mbal: int
) -> Steps[tuple[Dblock | None, tuple[HostSector, ...]]]:
    block = Dblock(mbal=mbal, lver=lver)
    yield Write(RESOURCE, TINY.dblock(me.host_id), host_sector(TINY, block))
    sectors = yield from _sectors(lease, cur)
    sharers = tuple(s for s in sectors if s.mode.shared and s.host_id != me.host_id)
    if _overtaken(sectors, block):
        return None, sharers
    stamp = yield from now()
    accepted = [s.dblock for s in sectors if s.dblock.lver == lver and s.dblock.inp and s.dblock.bal]
    best = max(accepted, key=lambda b: b.bal, default=Dblock(inp=me.host_id, inp2=me.generation, inp3=int(stamp)))
    block = replace(block, bal=mbal, inp=best.inp, inp2=best.inp2, inp3=best.inp3)
    yield Write(RESOURCE, TINY.dblock(me.host_id), host_sector(TINY, block))
    again = yield from _sectors(lease, cur)
    if _overtaken(again, block):
        return None, sharers
    return block, sharers


def _sectors(lease: Lease, cur: Leader) -> Steps[tuple[HostSector, ...]]:
    data = yield from read(RESOURCE, 0, TINY.ballot_length(cur.num_hosts))
    return tuple(host_sectors(data, TINY, cur.num_hosts, lease.where))


def _overtaken(sectors: tuple[HostSector, ...], ours: Dblock) -> bool:
    later = [s.dblock for s in sectors if s.dblock.lver >= ours.lver]
    return any(b.lver > ours.lver or b.mbal > ours.mbal for b in later)
