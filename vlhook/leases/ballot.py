# SPDX-License-Identifier: LGPL-2.1-or-later
"""One ballot: phase 1, choose, phase 2 (format document, 7.2 and 8).

Each phase is a write of this host's own sector followed by a read of all
sectors, strictly in this order. Of an own block of the same lver phase 1
changes mbal only. The reference wipes bal, inp and flags there, which is safe
only for a host that never starts a further ballot after a completed one
(format document, 8). An attempt that is given up may have completed its ballot
without knowing, and its clean-up sets RELEASED on a version that others may
still decide for it and then, trusting the flag, take on: to wipe the flag in
the next attempt on that version is to own it again behind their backs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .area import Identity, Lease
from .effects import RESOURCE, Steps, guarded_write, now, read
from .errors import LockspaceLost
from .geometry import Geometry
from .holder import HolderRecord
from .records import NO_MODE, Dblock, HostSector, ModeBlock, host_sector, host_sectors


@dataclass(frozen=True)
class Won:
    """The value in `block` (inp, inp2, inp3) is decided for block.lver.

    It may be another host's. `sharers`: sectors that showed SHARED in phase 1.
    """

    block: Dblock
    sharers: tuple[HostSector, ...]


@dataclass(frozen=True)
class Lost:
    """Somebody has a greater ballot or a later version, or our sector was emptied.

    `block` is what we wrote last, `mbal` the greatest ballot seen. `later`: the
    area must be read again, because a later version is under way.
    """

    block: Dblock
    mbal: int
    later: bool = False


def first_mbal(greatest: int, max_hosts: int, host_id: int) -> int:
    """A ballot number above `greatest` that only `host_id` uses (format document, 7.1 E)."""
    if greatest == 0:
        return host_id
    return greatest - greatest % max_hosts + max_hosts + host_id


def ballot(
    lease: Lease,
    me: Identity,
    geo: Geometry,
    num_hosts: int,
    lver: int,
    mbal: int,
    before: Dblock,
    record: HolderRecord | None,
    mode: ModeBlock = NO_MODE,
    alone: bool = False,
) -> Steps[Won | Lost]:
    """Run ballot `mbal` for version `lver`. `before`: our own block as it stands.

    `alone`: lost, with `later`, as soon as another host is seen to hold the lease shared or to claim it.

    `mode` is carried by both writes: a claim must stay visible throughout
    (safety rules, 20). Raises BadDblockChecksum: a damaged block of a host that
    may be alive could hide a decision.
    """
    own_at = geo.dblock(me.host_id)
    block = replace(before, mbal=mbal) if before.lver == lver else Dblock(mbal=mbal, lver=lver)
    yield from guarded_write(RESOURCE, own_at, host_sector(geo, block, mode))
    sectors = yield from _read_sectors(lease, me, geo, num_hosts, block)
    lost = _overtaken(sectors, block)
    if lost or not sectors:
        return lost or Lost(block, mbal)
    sharers = tuple(s for s in sectors if s.mode.shared and s.host_id != me.host_id)
    if alone and sharers:
        return Lost(block, mbal, later=True)
    accepted = _accepted(sectors, lver)
    if accepted:
        inp, inp2, inp3 = accepted.inp, accepted.inp2, accepted.inp3
    else:
        stamp = yield from now()
        inp, inp2, inp3 = me.host_id, me.generation, max(1, int(stamp))
    ours = (inp, inp2) == (me.host_id, me.generation)
    tagged = record.tagged(me.host_id, me.generation, lver).encode() if record and ours else b""
    block = replace(block, bal=mbal, inp=inp, inp2=inp2, inp3=inp3)
    yield from guarded_write(RESOURCE, own_at, host_sector(geo, block, mode, tagged))
    sectors = yield from _read_sectors(lease, me, geo, num_hosts, block)
    lost = _overtaken(sectors, block)
    if lost or not sectors:
        return lost or Lost(block, mbal)
    return Won(block, sharers)


def _read_sectors(
    lease: Lease, me: Identity, geo: Geometry, num_hosts: int, written: Dblock
) -> Steps[tuple[HostSector, ...] | None]:
    """All sectors that are not blank; None if our own one is."""
    data = yield from read(RESOURCE, 0, geo.ballot_length(num_hosts), sparse=True)
    sectors = tuple(host_sectors(data, geo, num_hosts, lease.where))
    own = next((s.dblock for s in sectors if s.host_id == me.host_id), None)
    if own is None:
        # An exclusive owner zeroed it, because our mode block of an earlier generation was there.
        return None
    if own != written:
        raise LockspaceLost(
            where=lease.where,
            host_id=me.host_id,
            why="its sector does not read back as written (a second machine with this id, or a lost write)",
        )
    return sectors


def _overtaken(sectors: tuple[HostSector, ...] | None, ours: Dblock) -> Lost | None:
    blocks = [s.dblock for s in sectors or () if s.dblock.lver >= ours.lver]
    later = any(b.lver > ours.lver for b in blocks)
    if later or any(b.mbal > ours.mbal for b in blocks):
        return Lost(ours, max(b.mbal for b in blocks), later)
    return None


def _accepted(sectors: tuple[HostSector, ...], lver: int) -> Dblock | None:
    """The accepted value of the greatest ballot, which must be adopted."""
    best: Dblock | None = None
    for sector in sectors:
        block = sector.dblock
        if block.lver == lver and block.inp and block.bal and (best is None or block.bal > best.bal):
            best = block
    return best
