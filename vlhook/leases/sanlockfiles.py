# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lease files beside the sanlock daemon: made for it, read after it, and the holder record put in.

The daemon takes and gives back; who holds a lease, and since when, stands in the
file, which is read here with the same checks as by the native engine. After an
acquire the file that the path names must say that this host owns the lease: the
daemon may have won it in a file that a clean-up had just unlinked.

One thing is written: the holder record (safety rules, 15), into this host's own
sector, whose other writer is the daemon. The daemon writes there while it
acquires, converts or releases this very lease, and at no other time; it does all
three only on our word, one after another on one connection (a persistent lease is
not released when the connection closes). So between the answer to an acquire
and the next word about that lease the sector is ours to rewrite, with the 192
bytes that are the protocol's exactly as they were read. Until the storage has
answered that write nothing more is asked of the daemon for that lease.
"""

from __future__ import annotations

from .area import Area, Identity, Lease, read_area
from .blockio import BlockFile
from .directory import create_lease
from .effects import RESOURCE, Steps, guarded_write, read
from .engine import Owned, Tenant, Want
from .errors import ClaimedByOther, FileReplaced, SharedByOthers, StorageError
from .files import LeaseFiles, record_of
from .geometry import FILE, Geometry
from .holder import HolderRecord
from .membership import HostLease
from .owner import living, wait_for_owner
from .paxos import free_for_us
from .records import HOLDER_AT, HOLDER_SIZE, HostSector
from .sanlockwire import RES_PERSISTENT, RES_SHARED, Disk, Resource


class SanlockFiles:
    """The lease directory of the daemon's lockspace. Blocks, as files.py does."""

    def __init__(self, files: LeaseFiles) -> None:
        self._files = files
        self.space = files.space

    def resource(self, want: Want) -> Resource:
        """The lease as the daemon is asked for it."""
        flags = RES_PERSISTENT | (RES_SHARED if want.shared else 0)
        return Resource(want.space, want.name, (Disk(self._files.path_of(want), want.offset),), flags)

    def make(self, host: HostLease, want: Want) -> bool:
        """Make the lease file if it is absent and ours to make; True if it was. Raises LeaseError."""
        if want.path is not None:
            return False
        host.check()
        path = self._files.path_of(want)
        return create_lease(path, FILE, want.space.encode(), want.name.encode(), self._files.owner)

    def confirm(self, host: HostLease, want: Want, tenant: Tenant) -> Owned:
        """What the daemon has just acquired, as the file says it; writes the holder record.

        Raises FileReplaced where the file does not say that this host holds it,
        ClaimedByOther where another host's claim stands in the way of a shared lease.
        """
        path = self._files.path_of(want)
        with BlockFile(path, want.offset) as file:
            lease = self._files.lease_of(host, want, path)
            steps = confirm(lease, host.identity, want.shared, record_of(tenant, want))
            lver = self._files.drive(host, steps, file)
            return Owned(want, path, lver, file.identity()[1])

    def obstacle(self, host: HostLease, want: Want) -> None:
        """Raises the LeaseError that says what stands in the way of `want`, if anything does."""
        path = self._files.path_of(want)
        with BlockFile(path, want.offset, writable=False) as file:
            lease = self._files.lease_of(host, want, path)
            self._files.drive(host, obstacle(lease, host.identity, want.shared), file)


def confirm(lease: Lease, me: Identity, shared: bool, record: HolderRecord) -> Steps[int]:
    """The version that this host holds. Raises FileReplaced, ClaimedByOther, RecordError, StorageError."""
    area = yield from read_area(lease, FILE, me.host_id)
    own = area.sector_of(me.host_id)
    if own is None or not (_shares(own, me) if shared else _owns(area, own, me)):
        raise FileReplaced(where=lease.where)
    if shared:
        yield from _refuse_claimed(lease, area, me)
    try:
        yield from _write_record(area.geometry, me, own, record.tagged(me.host_id, me.generation, area.leader.lver))
    except StorageError:
        pass  # a hint for people is missing; the write is over, so nothing of it lands later
    return area.leader.lver


def _shares(own: HostSector, me: Identity) -> bool:
    return own.mode.shared and own.mode.generation == me.generation


def _owns(area: Area, own: HostSector, me: Identity) -> bool:
    leader = area.leader
    given_up = own.dblock.released and own.dblock.lver >= leader.lver
    return me.owns(leader) and not leader.free and not given_up


def _refuse_claimed(lease: Lease, area: Area, me: Identity) -> Steps[None]:
    """The daemon does not know claims: it shares a lease that a host has claimed (safety rules, 19)."""
    claims = tuple(sector for sector in area.sectors if sector.mode.claim)
    holders = yield from living(lease, claims, me)
    if holders:
        raise ClaimedByOther(
            name=lease.show(), where=lease.where, owner_id=holders[0].host_id, holder=holders[0]
        )


def _write_record(geo: Geometry, me: Identity, own: HostSector, record: HolderRecord) -> Steps[None]:
    at = geo.dblock(me.host_id)
    raw = yield from read(RESOURCE, at, geo.sector)
    if len(raw) < HOLDER_AT + HOLDER_SIZE:
        return
    data = bytes(raw[:HOLDER_AT]) + record.encode() + bytes(raw[HOLDER_AT + HOLDER_SIZE :])
    if data != raw:
        yield from guarded_write(RESOURCE, at, data)


def obstacle(lease: Lease, me: Identity, shared: bool) -> Steps[None]:
    """Raises HeldByOther, OwnerMaybeDead, SharedByOthers, ClaimedByOther or RecordError for what is in the way."""
    area = yield from read_area(lease, FILE, me.host_id)
    if not free_for_us(area.leader, me):
        yield from wait_for_owner(lease, area, me, wait=False)
    if shared:
        yield from _refuse_claimed(lease, area, me)
    else:
        holders = yield from living(lease, area.sharers(), me)
        if holders:
            hosts = ", ".join(str(holder.host_id) for holder in holders)
            raise SharedByOthers(name=lease.show(), where=lease.where, hosts=hosts, holders=tuple(holders))
