# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking a lease: one decision of Disk Paxos per version (format document, 7.1 and 7.6).

    A  read the area            E  fix the version and the ballot number
    C  is it free or ours?      F  has the leader changed meanwhile?
    D  is the owner dead?       G  ballot            H  commit to the leader
                                I  was it our value? J  shared holders

The version is fixed for the attempt and is judged with the leader it comes
from; a changed leader means starting over. It is one more than the leader's,
or, if that is greater, the latest that any host has begun to decide: another
host that helped to decide an old version may commit it late, over newer ones
(format document, 7.4). Then the leader is behind, and whoever went on from it
would be turned away for ever by the blocks of later versions. Joining the
latest version is safe, because its first block was written by a host that had
judged the version before it to be over, which no version ceases to be; and it
puts the leader right, because what was decided for that version is in a block.

Success needs the committed (owner id, generation) to be ours: comparing the id
alone lets a host that came back own a lease under its dead generation, which
everybody else may take (two owners; reproduced with the reference). And it
needs our block not to say RELEASED: that version was given up by an earlier
attempt, so others may already have gone on to the next.

The brief way in (`brief`) reads leader and own sector instead of the whole
area, if the leader is free. The first read only chooses numbers; what is
decided rests on the reads after each phase of the ballot, which stay whole:

- The version may come out smaller than the latest one begun. Then phase 1
  meets a block of a later version, the ballot is lost before anything is
  accepted, and the next attempt reads everything. What phase 1 has overwritten
  is our own block of an earlier version or of this one, of which it keeps all
  but mbal, as ever; a later one of ours is seen, because our sector is read.
- The ballot number may be smaller than others': then phase 1 is lost to them.
  It is unique, and greater than what we used before, by our own sector.
- Sharers and claims: phase 1 sees all that were there before it and stops; of
  those that came later, each sees our phase 1 block (safety rules, 18).

To other hosts all this is a host that was slow: it had read the area a while
ago. Only for exclusive leases; a lease that is not free is read whole.
"""

from __future__ import annotations

from dataclasses import replace

from .area import Area, Identity, Lease, read_area, read_beginning, read_host_sector, read_leader
from .ballot import Lost, Won, ballot, first_mbal
from .effects import RESOURCE, Sleep, Steps, guarded_write, now, random
from .errors import (
    Busy,
    ClaimedByOther,
    HeldByOther,
    LeaseError,
    NotMember,
    RecordError,
    SharedByOthers,
    ShortHoldsGoOn,
    VersionConditionFailed,
)
from .geometry import FILE, Geometry
from .holder import CLEANING, HolderRecord, decode_holder
from .owner import Holder, living, sharer_counts, wait_for_owner
from .records import MODE_SHARED, NO_MODE, SHORT_HOLD, Dblock, HostSector, Leader, ModeBlock
from .release import Held, become_shared, release, settle

SHORT_HOLD_RETRIES = 8


def acquire(
    lease: Lease,
    me: Identity,
    *,
    shared: bool = False,
    want_lver: int = 0,
    record: HolderRecord | None = None,
    wait: bool = False,
    guess: Geometry = FILE,
    brief: bool = False,
) -> Steps[Held]:
    """Take `lease` for this host; two guests of one host are the caller's to keep apart.

    `want_lver`: only if the lease is still at this version (0: any). `wait`:
    stay until a silent owner is dead instead of raising OwnerMaybeDead.
    `record` is written beside the ballot for people on other hosts. `brief`: if the lease
    is free, the first attempt reads no more of it than leader and own sector (see above).

    Raises Busy and its subclasses, RecordError and its subclasses,
    VersionConditionFailed, StorageError, Abandoned, NotMember. When anything
    but NotMember is raised, nothing of this attempt is left that holds the lease.
    """
    geo, balloted, met_short_holds = guess, False, 0
    brief = brief and not shared and not want_lver
    while True:
        try:
            area, alone = (yield from read_beginning(lease, geo, me)) if brief else None, brief
            brief, fresh = False, True
            if area is None:
                alone = False
                area = yield from read_area(lease, geo, me.host_id)
                geo = area.geometry
                _check_version(lease, area, want_lver)
                fresh = free_for_us(area.leader, me)
                if not fresh and not (yield from wait_for_owner(lease, area, me, wait)):
                    continue
                if not shared:
                    yield from _refuse_early(lease, area, me)
            balloted = True
            won = yield from decide(lease, me, area, fresh, shared, record, alone=alone)
            if won is None:
                continue
            outcome = yield from _settle_shares(lease, me, won, shared, record)
            if isinstance(outcome, Held):
                return outcome
            yield from release(lease, me, won[0])
            balloted = False
            raise outcome
        except NotMember:
            raise
        except LeaseError as error:
            if balloted:
                yield from settle(lease, me, geo)
                balloted = False
            if not (shared and getattr(error, "short_hold", False)):
                raise
            met_short_holds += 1
            if met_short_holds > SHORT_HOLD_RETRIES:
                raise ShortHoldsGoOn(name=lease.show(), where=lease.where) from error
        pause = yield from random()
        yield Sleep(pause)


def _check_version(lease: Lease, area: Area, want_lver: int) -> None:
    found = max(area.leader.lver, area.greatest_lver() - 1)
    if want_lver and found != want_lver:
        raise VersionConditionFailed(name=lease.show(), found=found, expected=want_lver)


def free_for_us(leader: Leader, me: Identity) -> bool:
    """Free, ours already, or left over from our own earlier incarnation."""
    own = leader.owner_id == me.host_id and leader.owner_generation <= me.generation
    return leader.free or own


def judge(lease: Lease, me: Identity, shared: bool, guess: Geometry = FILE) -> Steps[None]:
    """What `acquire` would meet before its ballot: raises as it does, reads only, and never waits."""
    area = yield from read_area(lease, guess, me.host_id)
    if not free_for_us(area.leader, me):
        yield from wait_for_owner(lease, area, me, wait=False)
    if shared:
        yield from _refuse_claimed(lease, area.sharers(), me)
    else:
        yield from _refuse_early(lease, area, me)


def _refuse_claimed(lease: Lease, sharers: tuple[HostSector, ...], me: Identity) -> Steps[None]:
    holders = yield from living(lease, tuple(s for s in sharers if s.mode.claim), me)
    if holders:
        raise ClaimedByOther(name=lease.show(), where=lease.where, owner_id=holders[0].host_id, holder=holders[0])


def _refuse_early(lease: Lease, area: Area, me: Identity) -> Steps[None]:
    """Do not disturb live sharers with a ballot that could only be given back."""
    holders = yield from living(lease, area.sharers(), me)
    if holders:
        raise _shared_by(lease, holders)


def _shared_by(lease: Lease, holders: list[Holder]) -> SharedByOthers:
    hosts = ", ".join(str(h.host_id) for h in holders)
    return SharedByOthers(name=lease.show(), where=lease.where, hosts=hosts, holders=tuple(holders))


def decide(
    lease: Lease,
    me: Identity,
    area: Area,
    fresh: bool,
    shared: bool,
    record: HolderRecord | None,
    mode: ModeBlock = NO_MODE,
    alone: bool = False,
) -> Steps[tuple[Held, tuple[HostSector, ...]] | None]:
    """E to I: decide the version after `area.leader`, which no longer counts; `mode` stays in our sector.

    `fresh`: nothing but the read of `area` has gone before. None: start over (the leader
    changed, another host's value was committed, or, with `alone`, another host is seen to
    hold the lease shared or to claim it). After any error `settle` must follow, or another try.
    """
    cur, geo = area.leader, area.geometry
    lver = max(cur.lver + 1, area.greatest_lver())
    if lver > cur.lver + 1:
        yield from _refuse_barred(lease, area, lver)
    mbal = first_mbal(area.greatest_mbal(), cur.max_hosts, me.host_id)
    own = area.sector_of(me.host_id)
    block = own.dblock if own else Dblock()
    given_up = block.released and block.lver == lver
    # A read of the whole area may show the leader as it was and a block as it has become since.
    unchanged = fresh and lver == cur.lver + 1
    while True:
        if not unchanged:
            leader = yield from read_leader(lease, geo, me.host_id)
            if leader.lver == lver and me.owns(leader) and not leader.free and not given_up:
                return (yield from _committed_by_other(lease, me, geo, leader))
            if leader != cur:
                return None
        unchanged = False
        _check_numbers(lease, lver, mbal)
        outcome = yield from ballot(lease, me, geo, cur.num_hosts, lver, mbal, block, record, mode, alone)
        if isinstance(outcome, Won):
            break
        block = outcome.block
        mbal = _next_mbal(outcome, mbal, cur.max_hosts, me.host_id)
        pause = yield from random()
        yield Sleep(pause)
        if outcome.later:
            return None
    leader = yield from _commit(me, cur, geo, outcome, shared)
    if not me.owns(leader) or given_up:
        return None
    return Held(lver, leader, outcome.block, geo), outcome.sharers


def _refuse_barred(lease: Lease, area: Area, lver: int) -> Steps[None]:
    """A clean-up begins the version after its own only to keep others out: it must not be joined.

    A write that another host left under way can put an old leader back over the
    cleared one; this is how the lease still cannot be had (see cleanup.py).
    """
    for sector in area.sectors:
        record = decode_holder(sector.holder_bytes) if sector.dblock.lver == lver else None
        if record is None or record.state != CLEANING or (record.host_id, record.lver) != (sector.host_id, lver - 1):
            continue
        cleaner = yield from sharer_counts(lease, replace(sector, mode=ModeBlock(MODE_SHARED, record.generation)))
        if cleaner:
            raise HeldByOther(
                name=lease.show(), where=lease.where, owner_id=cleaner.host_id, owner_generation=cleaner.generation,
                lver=lver - 1, short_hold=False, holder=replace(cleaner, shared=False),
            )  # fmt: skip


def _check_numbers(lease: Lease, lver: int, mbal: int) -> None:
    """No honest lease comes near 2^64 versions or ballots."""
    if max(lver, mbal) >= 1 << 64:
        raise RecordError(
            where=lease.where, what="ballot or version", found=max(lver, mbal), expected="< 2^64"
        )


def _next_mbal(lost: Lost, mbal: int, max_hosts: int, host_id: int) -> int:
    return max(mbal + max_hosts, first_mbal(lost.mbal, max_hosts, host_id))


def _committed_by_other(
    lease: Lease, me: Identity, geo: Geometry, leader: Leader
) -> Steps[tuple[Held, tuple[HostSector, ...]] | None]:
    """Another host finished a ballot with our value: we own this version.

    Our dblock is read back: a ballot of ours may have rewritten it since. The
    sharers were not seen by a read after a phase 1 write that won, so all
    sectors are read now; the lease is ours already, so none can be missed.
    """
    sector = yield from read_host_sector(lease, geo, me.host_id)
    area = yield from read_area(lease, geo, me.host_id)
    return Held(leader.lver, leader, sector.dblock, geo), area.sharers()


def _commit(me: Identity, cur: Leader, geo: Geometry, won: Won, shared: bool) -> Steps[Leader]:
    block = won.block
    flags = cur.flags
    if (block.inp, block.inp2) == (me.host_id, me.generation):
        flags = flags | SHORT_HOLD if shared else flags & ~SHORT_HOLD
    stamp = yield from now()
    leader = replace(
        cur,
        flags=flags,
        lver=block.lver,
        owner_id=block.inp,
        owner_generation=block.inp2,
        timestamp=block.inp3,
        write_id=me.host_id,
        write_generation=me.generation,
        write_timestamp=max(1, int(stamp)),
    ).sealed()
    yield from guarded_write(RESOURCE, 0, leader.sector(geo))
    return leader


def _settle_shares(
    lease: Lease,
    me: Identity,
    won: tuple[Held, tuple[HostSector, ...]],
    shared: bool,
    record: HolderRecord | None,
) -> Steps[Held | Busy]:
    """J: we own the version; now the shared holders count (format document, 7.6).

    Returns why the lease must be given back, if it must.
    """
    held, sharers = won
    if shared:
        try:
            yield from _refuse_claimed(lease, sharers, me)
        except ClaimedByOther as refusal:
            return refusal
        return (yield from become_shared(lease, me, held, record))
    holders = yield from clear_dead_sharers(lease, me, held, sharers)
    return _shared_by(lease, holders) if holders else held


def clear_dead_sharers(
    lease: Lease, me: Identity, held: Held, sharers: tuple[HostSector, ...]
) -> Steps[list[Holder]]:
    """The living sharers; the sectors of dead ones are zeroed once no living one is left."""
    alive: list[Holder] = []
    dead: list[HostSector] = []
    for noted in sharers:
        if noted.host_id == me.host_id:
            continue
        sector = yield from read_host_sector(lease, held.geometry, noted.host_id)
        if not sector.mode.shared:
            continue
        holder = yield from sharer_counts(lease, sector)
        if holder:
            alive.append(holder)
        else:
            dead.append(sector)
    if not alive:
        for sector in dead:
            offset = held.geometry.dblock(sector.host_id)
            yield from guarded_write(RESOURCE, offset, bytes(held.geometry.sector))
    return alive
