# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claims: how a lease moves with a guest that migrates, without ever being free (safety rules, 16 to 21).

The host that the guest comes to writes a claim into its own sector while the
owner still holds the lease: a shared mode block with one bit more. When the
owner has given the lease up, every rival that wins a ballot sees a living
sharer and backs off; only the claimer goes on and takes the lease for itself.

Why nobody slips through: a rival owns a version later than the leader's only
after its phase 1 write, which its phase 1 read follows. If that read misses
the claim, the write came before the claim's write, and so before the second
read of `claim`, which finds a block of a later version and withdraws. If it
does not miss it, the rival judges the claim by a fresh read of our sector
after its commit (format document, 7.6), and our sector shows the claim until
this host owns a version itself: both ballot writes of the conversion carry it.

A claim gives no right to run anything: the guest's CPUs run on the word of the
host it comes from, which has stopped them there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Union

from . import paxos
from .area import Area, Identity, Lease, read_area, read_delta, read_host_sector, read_leader
from .effects import RESOURCE, Sleep, Steps, guarded_write, now, seen
from .errors import (
    Abandoned,
    ClaimDisturbed,
    ClaimLost,
    ClaimRefused,
    HeldByOther,
    LeaseError,
    NothingToClaim,
    NotMember,
)
from .geometry import FILE, Geometry
from .holder import INCOMING, RUNNING, HolderRecord, decode_holder
from .owner import Holder, fail_seconds, living, sharer_counts, wait_for_owner
from .records import MODE_CLAIM, MODE_SHARED, NO_MODE, Dblock, HostSector, Leader, ModeBlock, host_sector
from .release import Held, become_shared, settle

POLL_SECONDS = 0.5
CLAIM_FLAGS = MODE_SHARED | MODE_CLAIM


@dataclass(frozen=True)
class Claimed:
    """Proof that this host's claim stands on disk. `lver`: the version that was claimed."""

    lver: int
    geometry: Geometry


Standing = Union[Claimed, Held]


def claim(
    lease: Lease,
    me: Identity,
    record: HolderRecord,
    *,
    foreign: bool = False,
    guess: Geometry = FILE,
) -> Steps[Claimed]:
    """Claim `lease` for the guest of `record`, which another host runs.

    `foreign`: also from an owner that says nothing of its guest, such as libvirt's
    sanlock plugin. Raises NothingToClaim before anything is written, ClaimRefused, HeldByOther
    (that of another guest), RecordError, StorageError, Abandoned, NotMember.
    When anything but NotMember is raised, no claim is left.
    """
    area = yield from read_area(lease, guess, me.host_id)
    geo, cur = area.geometry, area.leader
    _check_owner(lease, me, area)
    yield from _check_guest(lease, me, area, record, foreign)
    own = area.sector_of(me.host_id)
    block = own.dblock.with_released() if own and own.dblock != Dblock() else Dblock()
    tagged = replace(record, state=INCOMING).tagged(me.host_id, me.generation, cur.lver)
    data = host_sector(geo, block, _mode(me), tagged.encode())
    try:
        yield from guarded_write(RESOURCE, geo.dblock(me.host_id), data)
        again = yield from read_area(lease, geo, me.host_id)
        yield from _check_again(lease, me, area, again)
        return Claimed(cur.lver, geo)
    except NotMember:
        raise
    except LeaseError:
        yield from settle(lease, me, geo)
        raise


def claimable(
    lease: Lease, me: Identity, record: HolderRecord, *, foreign: bool = False, guess: Geometry = FILE
) -> Steps[None]:
    """What `claim` would meet: raises as it does, reads only."""
    area = yield from read_area(lease, guess, me.host_id)
    _check_owner(lease, me, area)
    yield from _check_guest(lease, me, area, record, foreign)
    yield from _check_owner_lives(lease, area.leader)


def _mode(me: Identity) -> ModeBlock:
    return ModeBlock(CLAIM_FLAGS, me.generation)


def _refused(lease: Lease, why: str) -> ClaimRefused:
    return ClaimRefused(name=lease.show(), where=lease.where, why=why)


def _disturbed(lease: Lease, why: str) -> ClaimRefused:
    return ClaimDisturbed(name=lease.show(), where=lease.where, why=why)


def _given_up(area: Area) -> bool:
    """By format document, 7.9: the leader is free, or its owner, who did not write it, shows RELEASED."""
    cur = area.leader
    owner = area.sector_of(cur.owner_id)
    return cur.free or bool(cur.write_id != cur.owner_id and owner and owner.dblock.released)


def _check_owner(lease: Lease, me: Identity, area: Area) -> None:
    if _given_up(area) or area.leader.owner_id == me.host_id:
        raise NothingToClaim(name=lease.show(), where=lease.where, why="no other host holds it exclusively")
    if area.greatest_lver() > area.leader.lver:
        raise _disturbed(lease, "another host is taking it at this moment")


def _check_guest(
    lease: Lease, me: Identity, area: Area, record: HolderRecord, foreign: bool
) -> Steps[None]:
    cur = area.leader
    found = area.holder_record()
    if found is None:
        if not foreign:
            why = f"host {cur.owner_id}, which holds it, does not say for which guest"
            raise _refused(lease, f"{why} (see claim_foreign in qemu-vlhook.conf)")
    elif found.uuid != record.uuid:
        raise HeldByOther(
            name=lease.show(), where=lease.where, owner_id=cur.owner_id, owner_generation=cur.owner_generation,
            lver=cur.lver, short_hold=cur.short_hold, holder=(yield from _holder(lease, cur, found)),
        )  # fmt: skip
    elif found.state != RUNNING:
        raise _refused(lease, f"the guest is itself just coming to or leaving host {cur.owner_id}")
    others = yield from living(lease, area.sharers(), me)
    if others:
        raise _refused(lease, f"host {others[0].host_id} shares or claims it")


def _holder(lease: Lease, cur: Leader, record: HolderRecord) -> Steps[Holder]:
    """The owner of `cur`, for people. An owner that is gone is told as it was."""
    mode = ModeBlock(MODE_SHARED, cur.owner_generation)
    alive = yield from sharer_counts(lease, HostSector(cur.owner_id, Dblock(), mode, b""))
    gone = Holder(cur.owner_id, cur.owner_generation, b"", 0, False, None, 0.0)
    return replace(alive or gone, record=record, shared=False)


def _check_again(lease: Lease, me: Identity, before: Area, area: Area) -> Steps[None]:
    """With the claim on disk everything is judged anew (safety rules, 18)."""
    cur = before.leader
    if area.leader != cur:
        raise _disturbed(lease, "its leader changed at this moment")
    if _given_up(area):
        raise _disturbed(lease, "its owner gave it up at this moment")
    if area.greatest_lver() > cur.lver:
        raise _disturbed(lease, "another host is taking it at this moment")
    others = yield from living(lease, area.sharers(), me)
    if others:
        raise _refused(lease, f"host {others[0].host_id} shares or claims it")
    yield from _check_owner_lives(lease, cur)


def _check_owner_lives(lease: Lease, cur: Leader) -> Steps[None]:
    view = yield from seen(cur.owner_id)
    asked = yield from now()
    delta = yield from read_delta(lease, cur.owner_id)
    same = (delta.owner_id, delta.owner_generation) == (cur.owner_id, cur.owner_generation)
    if delta.free or not same:
        raise _refused(lease, f"host {cur.owner_id} generation {cur.owner_generation}, which held it, is gone")
    if view and (view.generation, view.timestamp) == (delta.owner_generation, delta.timestamp):
        silent = asked - view.last_live
        if silent > fail_seconds(delta.io_timeout):
            raise _refused(lease, f"host {cur.owner_id}, which held it, has been silent for {silent:.0f} s")


def held_elsewhere(lease: Lease, me: Identity, guess: Geometry = FILE) -> Steps[bool]:
    """Does another host hold the lease exclusively, so that it can be claimed and not just taken?"""
    area = yield from read_area(lease, guess)
    return not _given_up(area) and area.leader.owner_id != me.host_id


# ------------------------------------------------------------------------------ from claim to owner


def convert(
    lease: Lease, me: Identity, record: HolderRecord, geo: Geometry = FILE, poll: float = POLL_SECONDS
) -> Steps[Held]:
    """Try until this host owns what it has claimed. Withdraws the claim when Abandoned is thrown in."""
    try:
        while True:
            held = yield from try_convert(lease, me, record, geo)
            if held:
                return held
            yield Sleep(poll)
    except Abandoned:
        yield from settle(lease, me, geo)
        raise


def try_convert(lease: Lease, me: Identity, record: HolderRecord, geo: Geometry) -> Steps[Held | None]:
    """One look, and a ballot if the owner no longer counts. None: not yet.

    May be run again after any error, also by a later process of the same
    generation; the claim stays on disk until it is withdrawn with `settle`. Cheap while
    the owner lives: three sectors are read. Raises ClaimLost, RecordError, StorageError, NotMember.
    """
    own = yield from read_host_sector(lease, geo, me.host_id)
    leader = yield from read_leader(lease, geo, me.host_id)
    standing = _standing(lease, me, geo, own, leader)
    if isinstance(standing, Held):
        return standing
    fresh = paxos.free_for_us(leader, me)
    if not fresh and not (yield from _owner_over(lease, Area(geo, leader, (own,)), me)):
        return None
    area = yield from read_area(lease, geo, me.host_id)
    if area.leader != leader:
        return None
    others = yield from living(lease, area.sharers(), me)
    if others:
        return None
    return (yield from _decide(lease, me, area, fresh, record))


def _owner_over(lease: Lease, area: Area, me: Identity) -> Steps[bool]:
    try:
        return (yield from wait_for_owner(lease, area, me, wait=False))
    except HeldByOther:
        return False


def _decide(lease: Lease, me: Identity, area: Area, fresh: bool, record: HolderRecord) -> Steps[Held | None]:
    won = yield from paxos.decide(lease, me, area, fresh, False, record, _mode(me))
    if won is None:
        return None
    held, sharers = won
    if (yield from paxos.clear_dead_sharers(lease, me, held, sharers)):
        yield from become_shared(lease, me, held, record, CLAIM_FLAGS)
        return None
    ours = replace(record, state=RUNNING).tagged(me.host_id, me.generation, held.lver)
    data = host_sector(held.geometry, held.dblock, NO_MODE, ours.encode())
    yield from guarded_write(RESOURCE, held.geometry.dblock(me.host_id), data)
    return held


def _standing(lease: Lease, me: Identity, geo: Geometry, own: HostSector, leader: Leader) -> Standing:
    """What our own sector says: the claim, or that it was converted. Raises ClaimLost.

    From the claim on every write of ours carries it, but two: the last one of
    the conversion, whose block is not RELEASED, and that of a release, whose block is.
    """
    block = own.dblock
    if own.mode.claim and own.mode.generation == me.generation:
        return Claimed(leader.lver, geo)
    ours = (block.inp, block.inp2) == (me.host_id, me.generation)
    # A leader of an earlier version was written late by another host (format document, 7.4).
    owns = leader.lver < block.lver or (leader.lver == block.lver and me.owns(leader) and not leader.free)
    if own.mode == NO_MODE and ours and owns and block.bal and not block.released:
        return Held(block.lver, leader, block, geo)
    why = "its sector was emptied" if own.mode == NO_MODE else "its sector says otherwise"
    raise ClaimLost(name=lease.show(), where=lease.where, why=why)


def reassert(lease: Lease, me: Identity, held: Held) -> Steps[Held]:
    """Make the leader say what was decided for us. An earlier version that was written late may stand there.

    A sanlock daemon goes on from the leader: it would decide our version anew. One that tried
    before may have left a block of its own. Raises ClaimLost.
    """
    own = yield from read_host_sector(lease, held.geometry, me.host_id)
    leader = yield from read_leader(lease, held.geometry, me.host_id)
    block = own.dblock
    if me.owns(leader) and not leader.free and not (block.released and block.lver >= leader.lver):
        return Held(leader.lver, leader, block, held.geometry)
    if leader.lver >= held.lver or block != held.dblock:
        why = f"version {leader.lver} of host {leader.owner_id} is there, expected {held.lver}"
        raise ClaimLost(name=lease.show(), where=lease.where, why=why)
    stamp = yield from now()
    ours = replace(
        leader, lver=block.lver, owner_id=block.inp, owner_generation=block.inp2, timestamp=block.inp3,
        write_id=me.host_id, write_generation=me.generation, write_timestamp=max(1, int(stamp)),
    ).sealed()  # fmt: skip
    yield from guarded_write(RESOURCE, 0, ours.sector(held.geometry))
    return replace(held, leader=ours)


def still_claimed(lease: Lease, me: Identity, geo: Geometry) -> Steps[Standing]:
    """What stands on disk of a claim, or of what it was converted to, that is remembered. Raises ClaimLost."""
    own = yield from read_host_sector(lease, geo, me.host_id)
    leader = yield from read_leader(lease, geo)
    if _daemon_has_begun(me, own, leader):
        return Held(leader.lver, leader, own.dblock, geo)
    return _standing(lease, me, geo, own, leader)


def _daemon_has_begun(me: Identity, own: HostSector, leader: Leader) -> bool:
    """Has a sanlock daemon of this host, which was asked for what this host owns, not come to the end of it?

    Its ballot is for the next version, without the claim and at first without a value. Nothing of ours
    is like that: the version before the one that a claim is converted to is another host's.
    """
    block = own.dblock
    theirs = block.lver == leader.lver + 1 and block.mbal > 0 and own.mode == NO_MODE and not block.released
    empty_or_ours = (block.inp, block.inp2) in ((0, 0), (me.host_id, me.generation))
    return theirs and empty_or_ours and me.owns(leader) and not leader.free


# ------------------------------------------------------------------------------ who runs the guest


def mark_running(lease: Lease, me: Identity, record: HolderRecord, geo: Geometry) -> Steps[None]:
    """The guest's CPUs run here: say so in our claim. A claim that is converted says so already.

    Only ever run by whoever runs the conversion: our own sector has one writer.
    """
    own = yield from read_host_sector(lease, geo, me.host_id)
    if not own.mode.claim or own.mode.generation != me.generation:
        return
    before = decode_holder(own.holder_bytes)
    tagged = replace(record, state=RUNNING).tagged(me.host_id, me.generation, before.lver if before else 0)
    data = host_sector(geo, own.dblock, own.mode, tagged.encode())
    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), data)


def elsewhere(lease: Lease, me: Identity, uuid: bytes, geo: Geometry) -> Steps[list[Holder]]:
    """The living hosts that claim or own this lease for the same guest; `record.state` says whether it runs there."""
    area = yield from read_area(lease, geo)
    found: list[Holder] = []
    for sector in area.sectors:
        record = decode_holder(sector.holder_bytes)
        if sector.host_id == me.host_id or not record or record.uuid != uuid or record.host_id != sector.host_id:
            continue
        claims = sector.mode.claim and sector.mode.generation == record.generation
        if not claims and not _owns(area, record):
            continue
        mode = ModeBlock(CLAIM_FLAGS, record.generation)
        holder = yield from sharer_counts(lease, replace(sector, mode=mode))
        if holder:
            found.append(replace(holder, record=record, shared=claims))
    return found


def _owns(area: Area, record: HolderRecord) -> bool:
    cur = area.leader
    return not _given_up(area) and (cur.owner_id, cur.owner_generation) == (record.host_id, record.generation)
