# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole lockspace or lease area, decoded for people: every record, who holds, what is wrong where.

Pure, and never raises for what an area contains: hostile bytes become faults.

`Report.as_dict` is the JSON of `vlhook dump --json`. Its shape is numbered by
`schema`; a field keeps its name and meaning while that number stays, new ones
may come. Numbers of records are as on disk, and named as in format document 3.

    schema        1
    kind          "lockspace", "lease", "cleared lease" or "unknown"
    ok            no faults, and one of the first three kinds
    sector_size, area_size (bytes), max_hosts, space, name (of a lease)
    leader        a lease's leader record, or null; checksum_ok says whether to believe it
    request       a lease's request record, or null; pending: the owner is asked to give way
    hosts         of a lockspace, the records that were ever used: host_id, offset, record, ok, in_use,
                  notices (host ids whose bit is set); of a lease, the sectors that are not blank: host_id,
                  offset, dblock (or null if damaged), mode, holder (the holder record or null)
    holders       of a lease: host_id, generation, mode ("exclusive", "shared" or "claimed"), host_name and
                  membership: what the lockspace says, if one was given: "member", "left", "came back"
                  (the lease is free for others in both cases) or "unknown"
    holders_known false where damage keeps from telling who holds
    notes         what is worth knowing and no fault
    faults        offset (byte in the file) and what
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import LeaseError
from .geometry import Geometry
from .holder import decode_holder
from .records import (
    CLEARED_MAGIC,
    DELTA_MAGIC,
    LEADER_SIZE,
    PAXOS_MAGIC,
    REQUEST_MAGIC,
    REQUEST_VERSION,
    Leader,
    ModeBlock,
    Request,
    bitmap_hosts,
    check_delta,
    check_leader,
    decode_host_sector,
    show_name,
)

SCHEMA = 1
LOCKSPACE, LEASE, CLEARED, UNKNOWN = "lockspace", "lease", "cleared lease", "unknown"
MEMBER, LEFT, CAME_BACK = "member", "left", "came back"
_KINDS = {DELTA_MAGIC: LOCKSPACE, PAXOS_MAGIC: LEASE, CLEARED_MAGIC: CLEARED}
_BLOCKS_END = 144
"""Of a host's sector: dblock and mode block lie below this byte."""


@dataclass(frozen=True)
class Holder:
    """A host that holds the lease by format document 7.9; whether it still counts its lockspace tells."""

    host_id: int
    generation: int
    mode: str
    host_name: str | None = None
    membership: str = "unknown"

    @property
    def counts(self) -> bool:
        return self.membership not in (LEFT, CAME_BACK)


@dataclass
class Report:
    """See the module's text. `base`: byte of the file at which the area begins."""

    kind: str
    base: int = 0
    sector_size: int = 0
    area_size: int = 0
    max_hosts: int = 0
    space: str = ""
    name: str = ""
    leader: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    hosts: list[dict[str, Any]] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    holders_known: bool = True
    notes: list[str] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults and self.kind != UNKNOWN

    def fault(self, offset: int, what: str) -> None:
        self.faults.append((self.base + offset, what))

    def as_dict(self) -> dict[str, Any]:
        data = {"schema": SCHEMA, "ok": self.ok, **asdict(self)}
        data["faults"] = [{"offset": offset, "what": what} for offset, what in self.faults]
        del data["base"]
        return data


def inspect(data: bytes, base: int = 0) -> Report:
    """What the bytes of an area say; `base` is where in the file they begin, for the offsets of faults."""
    if len(data) < LEADER_SIZE:
        report = Report(UNKNOWN, base)
        report.fault(0, f"only {len(data)} bytes are here: no lockspace and no lease")
        return report
    leader = Leader.decode(data)
    report = Report(_KINDS.get(leader.magic, UNKNOWN), base)
    if report.kind == UNKNOWN:
        blank = not any(data[:LEADER_SIZE])
        what = "all zero, never formatted or half made" if blank else f"magic {leader.magic:#010x}"
        report.fault(0, f"no lockspace and no lease: {what}")
        return report
    report.space = show_name(leader.space_name)
    try:
        geo = leader.geometry("the first record")
    except LeaseError as error:
        report.holders_known = False
        report.fault(0, error.reason())
        return report
    report.sector_size, report.area_size, report.max_hosts = geo.sector, geo.area, geo.max_hosts
    if len(data) < geo.area:
        report.fault(len(data), f"the file ends here, the area needs {geo.area} bytes")
    if report.kind == LOCKSPACE:
        _lockspace(report, data, geo, leader)
    else:
        _lease(report, data, geo, leader)
    return report


def _fields(leader: Leader) -> dict[str, Any]:
    data = asdict(leader)
    data["space_name"], data["resource_name"] = show_name(leader.space_name), show_name(leader.resource_name)
    data["io_timeout"] = leader.io_timeout
    del data["io_timeout_raw"]
    data["checksum_ok"] = leader.checksum == leader.computed_checksum()
    return data


# ----------------------------------------------------------------------------------------- lockspace


def _lockspace(report: Report, data: bytes, geo: Geometry, first: Leader) -> None:
    space = first.space_name.rstrip(b"\0")
    for host_id in range(1, geo.max_hosts + 1):
        offset = geo.delta(host_id)
        raw = data[offset : offset + geo.sector]
        if len(raw) < LEADER_SIZE:
            return
        record = Leader.decode(raw)
        what = _delta_fault(record, space, first, host_id)
        if what:
            report.fault(offset, what)
        if record.owner_id or record.timestamp or record.owner_generation:
            report.hosts.append(
                {
                    "host_id": host_id,
                    "offset": report.base + offset,
                    "ok": what is None,
                    "in_use": not record.free,
                    "record": _fields(record),
                    "notices": bitmap_hosts(raw),
                }
            )


def _delta_fault(record: Leader, space: bytes, first: Leader, host_id: int) -> str | None:
    try:
        check_delta(record, space, f"host id {host_id}")
    except (LeaseError, ValueError) as error:
        return error.reason() if isinstance(error, LeaseError) else str(error)
    if (record.sector_size, record.flags) != (first.sector_size, first.flags):
        return f"host id {host_id}: other sizes than the first record's"
    if record.owner_id not in (0, host_id):
        return f"host id {host_id}: the record says host id {record.owner_id}"
    return None


# --------------------------------------------------------------------------------------------- lease


def _lease(report: Report, data: bytes, geo: Geometry, leader: Leader) -> None:
    report.name = show_name(leader.resource_name)
    report.leader = _fields(leader)
    if report.kind == CLEARED:
        report.notes.append("cleared by a clean-up; a new file is made when the guest starts")
        return
    try:
        check_leader(leader, leader.space_name.rstrip(b"\0"), leader.resource_name.rstrip(b"\0"), 0, "leader")
    except (LeaseError, ValueError) as error:
        report.holders_known = False
        report.fault(0, error.reason() if isinstance(error, LeaseError) else str(error))
    _request(report, data, geo, leader)
    released: set[int] = set()
    latest = 0
    for host_id in range(1, geo.max_hosts + 1):
        offset = geo.dblock(host_id)
        raw = data[offset : offset + geo.sector]
        if len(raw) == geo.sector and any(raw[:_BLOCKS_END]):
            latest = max(latest, _host(report, raw, host_id, offset, released))
            if host_id > leader.num_hosts:
                report.fault(offset, f"host {host_id}: its sector is used, the lease is for {leader.num_hosts} hosts")
    if report.holders_known:
        _exclusive(report, leader, geo, released)
        _leader_notes(report, leader, latest)


def _request(report: Report, data: bytes, geo: Geometry, leader: Leader) -> None:
    raw = data[geo.request : geo.request + 24]
    if len(raw) < 24:
        return
    request = Request.decode(raw)
    pending = bool(request.force_mode) and request.lver > leader.lver
    report.request = {**asdict(request), "pending": pending}
    if request.magic != REQUEST_MAGIC:
        report.fault(geo.request, f"request record: magic {request.magic:#010x}")
    elif request.version >> 16 != REQUEST_VERSION >> 16:
        report.fault(geo.request, f"request record: version {request.version:#010x}")
    elif pending:
        report.notes.append(f"another host asks the owner to give way (version {request.lver})")


def _host(report: Report, raw: bytes, host_id: int, offset: int, released: set[int]) -> int:
    """Returns the version that the host has begun to decide, 0 if its block is damaged."""
    found: dict[str, Any] = {"host_id": host_id, "offset": report.base + offset, "dblock": None, "holder": None}
    mode = ModeBlock.decode(raw)
    found["mode"] = {**asdict(mode), "shared": mode.shared, "claim": mode.claim}
    report.hosts.append(found)
    if mode.shared:
        report.holders.append(Holder(host_id, mode.generation, "claimed" if mode.claim else "shared"))
    try:
        sector = decode_host_sector(raw, host_id, "dblock")
    except LeaseError as error:
        report.fault(offset, error.reason())
        return 0
    holder = decode_holder(sector.holder_bytes)
    found["dblock"] = {**asdict(sector.dblock), "released": sector.dblock.released}
    found["holder"] = {**asdict(holder), "uuid": holder.uuid_text()} if holder else None
    if sector.dblock.released:
        released.add(host_id)
    return sector.dblock.lver


def _exclusive(report: Report, leader: Leader, geo: Geometry, released: set[int]) -> None:
    """The leader names the owner, unless another host wrote it and the owner has RELEASED (7.9)."""
    given_up = leader.write_id != leader.owner_id and leader.owner_id in released
    if leader.free or given_up:
        return
    report.holders.insert(0, Holder(leader.owner_id, leader.owner_generation, "exclusive"))
    if not 1 <= leader.owner_id <= geo.max_hosts:
        report.fault(32, f"leader: owned by host id {leader.owner_id}, which cannot be")


def _leader_notes(report: Report, leader: Leader, latest: int) -> None:
    if latest == leader.lver + 1:
        report.notes.append(f"a host is about to take version {latest}, or began to and did not finish")
    elif latest > leader.lver:
        report.notes.append(
            f"the leader is behind (version {leader.lver}, a host is at {latest}): the next start mends it"
        )
    if leader.short_hold and not leader.free:
        report.notes.append("held for a moment only, on the way to a shared lease")


def with_lockspace(report: Report, lockspace: Report) -> Report:
    """The same, each holder with its name and whether it still counts by that lockspace."""
    if report.kind != LEASE:
        return report
    if lockspace.kind != LOCKSPACE or lockspace.space != report.space:
        found = lockspace.space or lockspace.kind
        return replace(report, notes=[*report.notes, f"the lockspace file is that of {found}, not of {report.space}"])
    hosts = {host["host_id"]: host for host in lockspace.hosts if host["ok"]}
    return replace(report, holders=[_judged(holder, hosts.get(holder.host_id)) for holder in report.holders])


def _judged(holder: Holder, host: dict[str, Any] | None) -> Holder:
    if host is None:
        return holder
    record = host["record"]
    if record["owner_generation"] > holder.generation:
        membership = CAME_BACK
    elif not host["in_use"]:
        membership = LEFT
    else:
        membership = MEMBER if record["owner_generation"] == holder.generation else "unknown"
    return replace(holder, host_name=record["resource_name"], membership=membership)
