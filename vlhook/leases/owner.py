# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is the host that holds a lease dead? (format document, 6.4, 7.1 D, 7.6)

Death is only ever concluded from knowledge: the owner left, came back as a
later generation, or its delta record stood still for more than 8N+60 seconds
of this host's own observation, N being the owner's. Absence of knowledge is
never death.
"""

from __future__ import annotations

from dataclasses import dataclass

from .area import Area, Identity, Lease, read_delta, read_host_sector, read_leader
from .effects import Maybe, Sleep, Steps, now, seen
from .errors import HeldByOther, OwnerMaybeDead, RecordError
from .holder import HolderRecord, decode_holder
from .records import HostSector, Leader

WATCHDOG_SECONDS = 60
CLOCK_SLACK = 1
"""The reference compares whole seconds with '>'; this is the most that gives."""
DEFAULT_IO_TIMEOUT = 10
POLL_SECONDS = 1


def fail_seconds(io_timeout: int) -> int:
    """After this long without renewal a host's own leases may not be used (8N)."""
    return 8 * (io_timeout or DEFAULT_IO_TIMEOUT)


def dead_seconds(io_timeout: int) -> int:
    """After this long without renewal others may take what the host held (8N+60)."""
    return fail_seconds(io_timeout) + WATCHDOG_SECONDS


@dataclass(frozen=True)
class Holder:
    """Who stands in the way, as far as this host knows. Times are seconds of this host's clock.

    `alive`: its delta record was seen changing lately. `silent_for`: seconds
    since it last did, None if this host has not seen it change.
    `free_in`: seconds after which the lease is free at the latest if the host
    is dead. `record` is the holder record, a hint for people.
    """

    host_id: int
    generation: int
    name: bytes
    io_timeout: int
    alive: bool
    silent_for: float | None
    free_in: float
    record: HolderRecord | None = None
    shared: bool = False


def wait_for_owner(lease: Lease, area: Area, me: Identity, wait: bool) -> Steps[bool]:
    """Return True when the owner of `area.leader` no longer counts, False when the leader changed.

    Raises HeldByOther (-243), OwnerMaybeDead (-247, only without `wait`), and
    RecordError when the owner's delta record does not check out.
    """
    cur = area.leader
    view = yield from seen(cur.owner_id)
    start = yield from now()
    last: int | None = None
    if view and (view.owner_id, view.generation) == (cur.owner_id, cur.owner_generation):
        start, last = view.last_live, view.timestamp
    while True:
        # The time before the read: a read that was answered late shows what was true long ago.
        asked = yield from now()
        delta = yield from read_delta(lease, cur.owner_id)
        if _gone(delta, cur.owner_id, cur.owner_generation, lease):
            return True
        if cur.write_id != cur.owner_id and (yield from _released_by_flag(lease, area, cur)):
            return True
        moved = last is not None and delta.timestamp != last
        if moved or _changed_at_last_check(view, cur.owner_generation):
            holder = _holder(area, delta, alive=True, silent=0.0)
            raise HeldByOther(**_fields(lease, cur, holder))
        last = delta.timestamp
        silent = asked - start
        if silent >= dead_seconds(delta.io_timeout) + CLOCK_SLACK:
            return True
        if not wait:
            known = silent if view and view.ever_changed else None
            holder = _holder(area, delta, alive=False, silent=known, waited=silent)
            raise OwnerMaybeDead(**_fields(lease, cur, holder))
        yield Sleep(POLL_SECONDS)
        view = yield from seen(cur.owner_id)
        if (yield from read_leader(lease, area.geometry, me.host_id)) != cur:
            return False


def _gone(delta: Leader, host_id: int, generation: int, lease: Lease) -> bool:
    if delta.free or delta.owner_id != host_id or delta.owner_generation > generation:
        return True
    if delta.owner_generation < generation:
        # A delta record never goes back: a delayed write, or damage.
        raise RecordError(
            where=f"{lease.lockspace_where}, host id {host_id}",
            what="generation of the host",
            found=delta.owner_generation,
            expected=f"at least {generation}, which {lease.where} names",
        )
    return False


def _changed_at_last_check(view: Maybe, generation: int) -> bool:
    """Did our latest look find a change? What the very first look found may have stood there for years."""
    if view is None or view.generation != generation or not view.ever_changed:
        return False
    return view.last_live == view.last_check


def _released_by_flag(lease: Lease, area: Area, cur: Leader) -> Steps[bool]:
    """The owner did not write this leader: its RELEASED flag is its release (format document, 7.4)."""
    sector = yield from read_host_sector(lease, area.geometry, cur.owner_id)
    return sector.dblock.released and sector.dblock.lver >= cur.lver


def _holder(area: Area, delta: Leader, alive: bool, silent: float | None, waited: float = 0.0) -> Holder:
    return Holder(
        host_id=delta.owner_id,
        generation=delta.owner_generation,
        name=delta.resource_name.rstrip(b"\0"),
        io_timeout=delta.io_timeout,
        alive=alive,
        silent_for=silent,
        free_in=max(0.0, dead_seconds(delta.io_timeout) + CLOCK_SLACK - waited),
        record=area.holder_record(),
    )


def _fields(lease: Lease, cur: Leader, holder: Holder) -> dict[str, object]:
    return {
        "name": lease.show(),
        "where": lease.where,
        "owner_id": cur.owner_id,
        "owner_generation": cur.owner_generation,
        "lver": cur.lver,
        "short_hold": cur.short_hold,
        "holder": holder,
    }


def sharer_counts(lease: Lease, sector: HostSector) -> Steps[Holder | None]:
    """Does a host whose mode block says SHARED still count? None: it is dead or gone.

    Judged by a fresh read of its delta record; the table only tells how long
    that record has stood still (format document, 7.6). Unknown counts as alive.
    """
    host_id, generation = sector.host_id, sector.mode.generation
    view = yield from seen(host_id)
    asked = yield from now()
    delta = yield from read_delta(lease, host_id)
    if delta.free or delta.owner_id != host_id or delta.owner_generation > generation:
        return None
    silent: float | None = None
    if view and (view.generation, view.timestamp) == (delta.owner_generation, delta.timestamp):
        silent = asked - view.last_live
        if silent >= dead_seconds(delta.io_timeout) + CLOCK_SLACK:
            return None
    record = decode_holder(sector.holder_bytes)
    if record and (record.host_id, record.generation) != (host_id, generation):
        record = None
    alive = silent is None or silent <= fail_seconds(delta.io_timeout)
    return Holder(
        host_id=host_id,
        generation=generation,
        name=delta.resource_name.rstrip(b"\0"),
        io_timeout=delta.io_timeout,
        alive=alive,
        silent_for=silent,
        free_in=max(0.0, dead_seconds(delta.io_timeout) + CLOCK_SLACK - (silent or 0.0)),
        record=record,
        shared=True,
    )


def living(lease: Lease, area_sectors: tuple[HostSector, ...], me: Identity) -> Steps[list[Holder]]:
    """The hosts among these sectors, other than this one, that still count as sharers."""
    found: list[Holder] = []
    for sector in area_sectors:
        if sector.host_id != me.host_id:
            holder = yield from sharer_counts(lease, sector)
            if holder:
                found.append(holder)
    return found
