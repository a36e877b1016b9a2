# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole lease directory at a glance: every host id and every lease, by reading only.

Works on any host, whether a keeper runs or not. Of a lease no more is read than
the sectors of host ids that were ever used: a few KiB instead of 1 MiB. What
one look cannot tell is said to be unknown: a delta record shows that a host
lives only by changing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from .blockio import BlockFile
from .directory import lockspace_path
from .errors import AreaTooShort, LeaseError, NotCreated, StorageError, one_line
from .geometry import FILE, HEADER, Geometry
from .holder import RUNNING, HolderRecord, decode_holder
from .hosts import HostTable
from .inspect import CAME_BACK, LEFT, MEMBER
from .names import LOCKSPACE_NAME
from .parallel import Unanswered, each, within
from .records import (
    CLEARED_MAGIC,
    LEADER_SIZE,
    HostSector,
    Leader,
    Request,
    check_delta,
    check_leader,
    delta_records,
    host_sectors,
    show_name,
)

FREE, HELD, SHARED, CLAIMED = "free", "held", "shared", "claimed"
CLEARED, DAMAGED, UNFINISHED, UNREADABLE = "cleared", "damaged", "unfinished", "unreadable"
EXCLUSIVE = "exclusive"
UNKNOWN = "unknown"
LEASE_NAME = re.compile(r"[0-9a-f]{32}")
READ_SECONDS = 10.0
_TIMELESS = 1 << 33


@dataclass(frozen=True)
class HostRecord:
    """One host id that was ever used, as its delta record says. `timestamp` is the host's own clock."""

    host_id: int
    name: str
    generation: int
    timestamp: int
    io_timeout: int
    ok: bool

    @property
    def joined(self) -> bool:
        return self.timestamp != 0


@dataclass(frozen=True)
class Holding:
    """A host that the lease names as holder. `since` in seconds of the epoch, 0 if it wrote no holder record."""

    host_id: int
    generation: int
    mode: str
    guest: str = ""
    uuid: str = ""
    disk: str = ""
    since: int = 0
    host_name: str = ""
    membership: str = UNKNOWN

    @property
    def counts(self) -> bool:
        """Whether it may still use the disk: it has neither left nor come back as a later generation."""
        return self.membership not in (LEFT, CAME_BACK)


@dataclass(frozen=True)
class LeaseView:
    """One lease file. `modified`: when it was last written, seconds of the epoch by the file server's clock.

    `disk` and `guest` are those of the holder or, if the lease is free, of the
    last one; "" if no host wrote them. `wanted`: a host is about to take it,
    or asks the owner to give way.
    """

    name: str
    path: str
    state: str
    lver: int = 0
    disk: str = ""
    guest: str = ""
    holders: tuple[Holding, ...] = ()
    wanted: bool = False
    modified: float = 0.0
    trouble: str = ""


@dataclass(frozen=True)
class Overview:
    """`last`: the highest host id ever used. `table`: what looks at the lockspace so far have shown."""

    directory: str
    hosts: dict[int, HostRecord]
    leases: tuple[LeaseView, ...] = ()
    unanswered: tuple[str, ...] = ()
    geometry: Geometry | None = None
    last: int = 0
    table: HostTable = field(default_factory=HostTable, compare=False)


def lockspace(directory: str, table: HostTable | None = None, seconds: float = READ_SECONDS) -> Overview:
    """Every host id that was ever used. `table` takes the look in, so that two looks show who lives.

    Raises NotCreated (no host has ever joined), RecordError, StorageError.
    """
    path = lockspace_path(directory)
    try:
        area, geo = within(seconds, lambda: _read_lockspace(path))
    except Unanswered:
        why = f"no answer within {seconds:.0f} s"
        raise StorageError(op="read", where=path, why=why) from None
    table = table or HostTable()
    table.observe(area, geo, time.monotonic())
    hosts = {}
    for host_id, record in delta_records(area, geo).items():
        if record.owner_id or record.timestamp or record.owner_generation:
            hosts[host_id] = _host(host_id, record, path)
    return Overview(directory, hosts, geometry=geo, last=max(hosts, default=0), table=table)


def _read_lockspace(path: str) -> tuple[bytes, Geometry]:
    with BlockFile(path, writable=False) as file:
        head = Leader.decode(file.read(0, HEADER))
        check_delta(head, LOCKSPACE_NAME.encode(), f"{path}, host id 1")
        geo = head.geometry(path)
        return file.read(0, geo.area), geo


def _host(host_id: int, record: Leader, path: str) -> HostRecord:
    try:
        check_delta(record, LOCKSPACE_NAME.encode(), path)
        ok = record.owner_id in (0, host_id)
    except LeaseError:
        ok = False
    name = show_name(record.resource_name)
    return HostRecord(host_id, name, record.owner_generation, record.timestamp, record.io_timeout, ok)


def lease_names(directory: str) -> list[str]:
    """The names of all lease files made for disks. Raises StorageError."""
    try:
        return sorted(name for name in os.listdir(directory) if LEASE_NAME.fullmatch(name))
    except OSError as error:
        raise StorageError(op="read", where=directory, why=error.strerror or str(error)) from error


def whole(
    directory: str,
    names: Iterable[str] | None = None,
    table: HostTable | None = None,
    seconds: float = READ_SECONDS,
    told: Callable[[], object] = lambda: None,
) -> Overview:
    """Hosts, and the leases `names` (default: all), many at once. `told` is called for each lease.

    Raises StorageError, and RecordError for a lockspace that is none.
    """
    try:
        seen = lockspace(directory, table, seconds)
    except NotCreated:
        seen = Overview(directory, {})
    todo = lease_names(directory) if names is None else list(names)
    views = []
    for _, view in each(todo, lambda name: look(directory, name, seen), seconds):
        views.append(view)
        told()
    found = {view.name for view in views}
    missing = tuple(name for name in todo if name not in found)
    return replace(seen, leases=tuple(sorted(views, key=lambda v: v.name)), unanswered=missing)


def look(directory: str, name: str, seen: Overview) -> LeaseView:
    """One lease as it stands; whatever is wrong with it is in its `state` and `trouble`."""
    path = os.path.join(directory, name)
    view = LeaseView(name, path, UNREADABLE)
    try:
        with BlockFile(path, writable=False) as file:
            view = replace(view, modified=os.stat(path).st_mtime)
            data = file.read(0, _enough(FILE, FILE.max_hosts, seen.last))
            leader = Leader.decode(data)
            if leader.magic == CLEARED_MAGIC:
                return replace(view, state=CLEARED)
            if not any(data[:LEADER_SIZE]):
                return replace(view, state=UNFINISHED, trouble="never formatted, or being made")
            check_leader(leader, LOCKSPACE_NAME.encode(), name.encode(), 0, path)
            geo = leader.geometry(path)
            enough = _enough(geo, leader.num_hosts, seen.last)
            if len(data) < enough:
                data = file.read(0, enough)
                leader = Leader.decode(data)
                check_leader(leader, LOCKSPACE_NAME.encode(), name.encode(), 0, path)
            return _decode(view, leader, data, geo, seen)
    except AreaTooShort as error:
        return replace(view, state=UNFINISHED, trouble=error.reason())
    except (NotCreated, StorageError, OSError) as error:
        return replace(view, trouble=one_line(error))
    except LeaseError as error:
        return replace(view, state=DAMAGED, trouble=error.reason())


def _enough(geo: Geometry, num_hosts: int, last: int) -> int:
    """Bytes that hold the sectors of all host ids ever used; whole pages, as direct I/O wants."""
    used = min(last or num_hosts, num_hosts)
    length = (used + 2) * geo.sector
    return min(max(HEADER, -(-length // HEADER) * HEADER), geo.area)


def _decode(view: LeaseView, leader: Leader, data: bytes, geo: Geometry, seen: Overview) -> LeaseView:
    sectors = {s.host_id: s for s in host_sectors(data, geo, leader.num_hosts, view.path)}
    request = Request.decode(data[geo.request :])
    begun = max((s.dblock.lver for s in sectors.values()), default=0)
    holders = [*_exclusive(leader, sectors), *_sharers(sectors)]
    judged = tuple(judge(holder, seen.hosts.get(holder.host_id)) for holder in holders)
    counting = [holder for holder in judged if holder.counts]
    shown = next((h for h in counting if h.disk or h.guest), None)
    last = decode_holder(sectors[leader.owner_id].holder_bytes) if leader.owner_id in sectors else None
    return replace(
        view,
        state=_state(counting),
        lver=leader.lver,
        holders=judged,
        disk=shown.disk if shown else last.disk if last else "",
        guest=shown.guest if shown else last.guest if last else "",
        wanted=begun > leader.lver or bool(request.force_mode and request.lver > leader.lver),
    )


def _state(counting: list[Holding]) -> str:
    modes = {holder.mode for holder in counting}
    if EXCLUSIVE in modes:
        return HELD
    return SHARED if SHARED in modes else CLAIMED if modes else FREE


def _exclusive(leader: Leader, sectors: dict[int, HostSector]) -> list[Holding]:
    """The owner, unless another host wrote the leader and the owner has RELEASED (format document, 7.9)."""
    own = sectors.get(leader.owner_id)
    if leader.free or (leader.write_id != leader.owner_id and own and own.dblock.released):
        return []
    holding = Holding(leader.owner_id, leader.owner_generation, EXCLUSIVE)
    record = decode_holder(own.holder_bytes) if own else None
    tag = (leader.owner_id, leader.owner_generation, leader.lver)
    return [_named(holding, record) if record and record.belongs_to(*tag) else holding]


def _sharers(sectors: dict[int, HostSector]) -> list[Holding]:
    found = []
    for sector in sectors.values():
        if not sector.mode.shared:
            continue
        mode = CLAIMED if sector.mode.claim else SHARED
        holding = Holding(sector.host_id, sector.mode.generation, mode)
        record = decode_holder(sector.holder_bytes)
        mine = record and (record.host_id, record.generation) == (sector.host_id, sector.mode.generation)
        found.append(_named(holding, record) if record and mine else holding)
    return found


def _named(holding: Holding, record: HolderRecord) -> Holding:
    since = record.since if record.state == RUNNING and record.since < _TIMELESS else 0
    return replace(holding, guest=record.guest, uuid=record.uuid_text(), disk=record.disk, since=since)


def judge(holding: Holding, host: HostRecord | None) -> Holding:
    """The same with the host's name, and what the lockspace says of that very generation."""
    if host is None or not host.ok:
        return holding
    if host.generation > holding.generation:
        membership = CAME_BACK
    elif not host.joined:
        membership = LEFT
    else:
        membership = MEMBER if host.generation == holding.generation else UNKNOWN
    return replace(holding, host_name=host.name, membership=membership)
