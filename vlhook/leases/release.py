# SPDX-License-Identifier: LGPL-2.1-or-later
"""Giving a lease up, and cleaning up after an attempt that failed (format document, 7.3 to 7.6).

The values of our dblock stay as they are until our own next ballot: a ballot
of another host that is under way may need them to see the decision. Release
only sets a flag.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .area import Identity, Lease, read_host_sector, read_leader
from .effects import RESOURCE, Sleep, Steps, guarded_write, now
from .errors import Abandoned, ReleaseMismatch, StorageError
from .geometry import Geometry
from .holder import WAS_RELEASED, HolderRecord
from .records import MODE_SHARED, NO_MODE, SHORT_HOLD, Dblock, Leader, ModeBlock, host_sector

RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class Held:
    """Proof that this host holds a lease: what it last wrote, or saw, on disk."""

    lver: int
    leader: Leader
    dblock: Dblock
    geometry: Geometry
    shared: bool = False


def freed(leader: Leader, me: Identity, stamp: float) -> Leader:
    """The leader that says that the same owner has given the same version up."""
    return replace(
        leader,
        flags=leader.flags & ~SHORT_HOLD,
        timestamp=0,
        write_id=me.host_id,
        write_generation=me.generation,
        write_timestamp=max(1, int(stamp)),
    ).sealed()


def _last_record(record: HolderRecord | None, me: Identity, lver: int) -> bytes:
    if record is None:
        return b""
    return replace(record.tagged(me.host_id, me.generation, lver), state=WAS_RELEASED).encode()


def release(lease: Lease, me: Identity, held: Held, record: HolderRecord | None = None) -> Steps[None]:
    """Give up what `held` proves. May be run again after a StorageError.

    Raises ReleaseMismatch (-250, -251) without having touched the leader when
    the disk does not say what it must.
    """
    geo = held.geometry
    last = _last_record(record, me, held.lver)
    sector = host_sector(geo, held.dblock.with_released(), NO_MODE, last)
    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), sector)
    if not held.shared:
        yield from _free_leader(lease, me, held)


def _free_leader(lease: Lease, me: Identity, held: Held) -> Steps[None]:
    leader = yield from read_leader(lease, held.geometry)
    if leader.write_id != me.host_id or leader.lver < held.lver:
        # Somebody else committed us, or an earlier version late: the flag is our release,
        # and writing the leader could put an old version over a newer one (format document, 7.4).
        return
    if leader.lver == held.lver and leader.free and me.owns(leader):
        return
    if leader != held.leader:
        why = (
            f"version {leader.lver}, owner {leader.owner_id}:{leader.owner_generation}, expected {held.lver}"
        )
        raise ReleaseMismatch(where=lease.where, name=lease.show(), why=why)
    stamp = yield from now()
    yield from guarded_write(RESOURCE, 0, freed(leader, me, stamp).sector(held.geometry))


def become_shared(
    lease: Lease, me: Identity, held: Held, record: HolderRecord | None, flags: int = MODE_SHARED
) -> Steps[Held]:
    """From exclusive to shared: mode block first, then free the leader (format document, 8.12)."""
    geo = held.geometry
    mode = ModeBlock(flags, me.generation)
    tagged = record.tagged(me.host_id, me.generation, held.lver).encode() if record else b""
    block = held.dblock.with_released()
    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), host_sector(geo, block, mode, tagged))
    yield from _free_leader(lease, me, held)
    return replace(held, dblock=block, shared=True)


def settle(lease: Lease, me: Identity, geo: Geometry) -> Steps[None]:
    """After an acquire that failed or was broken off: leave nothing that holds (format document, 7.5).

    What this host last wrote is read back from its own sector, which nobody
    else writes. Storage errors are retried for as long as it takes: until it
    has worked the lease counts as held; so Abandoned, too, is raised only then.
    Raises NotMember when this host's own lease has run out; then others may
    take whatever was left anyway.
    """
    given_up: Abandoned | None = None
    pause = 0.0
    while True:
        try:
            if pause:
                yield Sleep(pause)
            yield from _settle_once(lease, me, geo)
            break
        except Abandoned as error:
            given_up, pause = error, 0.0
        except StorageError:
            pause = RETRY_SECONDS
    if given_up:
        raise given_up


def _settle_once(lease: Lease, me: Identity, geo: Geometry) -> Steps[None]:
    own = yield from read_host_sector(lease, geo, me.host_id)
    if own.dblock == Dblock() and own.mode == NO_MODE:
        return
    sector = host_sector(geo, own.dblock.with_released())
    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), sector)
    leader = yield from read_leader(lease, geo)
    if me.owns(leader) and not leader.free and leader.write_id == me.host_id:
        stamp = yield from now()
        yield from guarded_write(RESOURCE, 0, freed(leader, me, stamp).sector(geo))


def still_held(lease: Lease, me: Identity, geo: Geometry, lver: int, shared: bool) -> Steps[Held | None]:
    """What a restarted engine finds on disk for a lease it remembers; None: lost (format document, 10)."""
    own = yield from read_host_sector(lease, geo, me.host_id)
    leader = yield from read_leader(lease, geo)
    if shared:
        holds = own.mode.shared and own.mode.generation == me.generation
    else:
        # A leader of an earlier version was written late by a host that helped to decide that one
        # (format document, 7.4). It takes nothing away: our block keeps this version decided for us.
        behind = leader.lver < lver and own.dblock.lver == lver
        here = me.owns(leader) and leader.lver == lver and not leader.free
        holds = (here or behind) and not own.dblock.released
    return Held(lver, leader, own.dblock, geo, shared) if holds else None
