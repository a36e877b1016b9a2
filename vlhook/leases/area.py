# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading a lease's area and other hosts' delta records, with every check made."""

from __future__ import annotations

from dataclasses import dataclass

from .effects import LOCKSPACE, RESOURCE, Steps, read
from .errors import RecordError
from .geometry import HEADER, Geometry
from .holder import HolderRecord, decode_holder
from .records import (
    HostSector,
    Leader,
    check_delta,
    check_leader,
    decode_host_sector,
    host_sectors,
    show_name,
)


@dataclass(frozen=True)
class Identity:
    """(host id, generation): what a lease is tagged with, never the host id alone."""

    host_id: int
    generation: int

    def owns(self, leader: Leader) -> bool:
        return (leader.owner_id, leader.owner_generation) == (self.host_id, self.generation)


@dataclass(frozen=True)
class Lease:
    """One lease: its names, and for messages the files it and its lockspace lie in."""

    space: bytes
    name: bytes
    where: str
    lockspace_where: str
    lockspace_geometry: Geometry

    def show(self) -> str:
        return show_name(self.name)


@dataclass(frozen=True)
class Area:
    """A resource area as read: the leader and the sectors that are not blank."""

    geometry: Geometry
    leader: Leader
    sectors: tuple[HostSector, ...]

    def sector_of(self, host_id: int) -> HostSector | None:
        return next((s for s in self.sectors if s.host_id == host_id), None)

    def greatest_mbal(self) -> int:
        """Over all dblocks, whatever their lver (format document, 7.1 A)."""
        return max((s.dblock.mbal for s in self.sectors), default=0)

    def greatest_lver(self) -> int:
        """The latest version that any host has begun to decide."""
        return max((s.dblock.lver for s in self.sectors), default=0)

    def sharers(self) -> tuple[HostSector, ...]:
        return tuple(s for s in self.sectors if s.mode.shared)

    def holder_record(self) -> HolderRecord | None:
        """The exclusive owner's holder record, if it belongs to the lease as it stands."""
        sector = self.sector_of(self.leader.owner_id)
        record = decode_holder(sector.holder_bytes) if sector else None
        tag = (self.leader.owner_id, self.leader.owner_generation, self.leader.lver)
        return record if record and record.belongs_to(*tag) else None


def read_area(lease: Lease, guess: Geometry, host_id: int = 0) -> Steps[Area]:
    """Read and check the whole area (format document, 7.1 A).

    `guess` saves a read: if the leader states other sizes the area is read again.
    `host_id` 0: for looking only. Raises RecordError and its subclasses.
    """
    data = yield from read(RESOURCE, 0, guess.area, sparse=True)
    leader = Leader.decode(data)
    check_leader(leader, lease.space, lease.name, host_id, lease.where)
    geo = leader.geometry(lease.where)
    if geo != guess:
        data = yield from read(RESOURCE, 0, geo.area, sparse=True)
        leader = Leader.decode(data)
        check_leader(leader, lease.space, lease.name, host_id, lease.where)
        if leader.geometry(lease.where) != geo:
            raise RecordError(where=lease.where, what="sizes", found="changing", expected="constant")
    sectors = host_sectors(data, geo, leader.num_hosts, lease.where)
    return Area(geo, leader, tuple(sectors))


def read_beginning(lease: Lease, guess: Geometry, me: Identity) -> Steps[Area | None]:
    """Leader and sectors up to our own, if the leader is free; None: the whole area must be read.

    What is missing are other hosts' sectors, of which `Area` then says nothing. Raises as `read_area`.
    """
    length = guess.dblock(me.host_id) + guess.sector
    data = yield from read(RESOURCE, 0, length)
    leader = Leader.decode(data)
    check_leader(leader, lease.space, lease.name, me.host_id, lease.where)
    if not leader.free or leader.geometry(lease.where) != guess:
        return None
    return Area(guess, leader, tuple(host_sectors(data, guess, me.host_id, lease.where)))


def read_geometry(lease: Lease) -> Steps[Geometry]:
    """The sizes that the leader states, by its first page alone: no host's sector is looked at."""
    data = yield from read(RESOURCE, 0, HEADER)
    leader = Leader.decode(data)
    check_leader(leader, lease.space, lease.name, 0, lease.where)
    return leader.geometry(lease.where)


def read_leader(lease: Lease, geo: Geometry, host_id: int = 0) -> Steps[Leader]:
    data = yield from read(RESOURCE, 0, geo.sector)
    leader = Leader.decode(data)
    check_leader(leader, lease.space, lease.name, host_id, lease.where)
    return leader


def read_host_sector(lease: Lease, geo: Geometry, host_id: int) -> Steps[HostSector]:
    data = yield from read(RESOURCE, geo.dblock(host_id), geo.sector)
    return decode_host_sector(data, host_id, lease.where)


def read_delta(lease: Lease, host_id: int) -> Steps[Leader]:
    """A fresh read of the delta record of `host_id`, checked (format document, 6.1)."""
    geo = lease.lockspace_geometry
    data = yield from read(LOCKSPACE, geo.delta(host_id), geo.sector)
    record = Leader.decode(data)
    check_delta(record, lease.space, f"{lease.lockspace_where}, host id {host_id}")
    return record
