# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's own lease on its host id: acquire, renew, release (format document, 6).

The generation rises by one with every acquire and never falls; everything a
host holds is tagged with (host id, generation). A new generation, or a release
of the record, frees at once everything the old one held.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .area import Identity
from .effects import LOCKSPACE, Sleep, Steps, Write, guarded_write, now, read
from .errors import HostIdInUse, HostIdTooLarge, LockspaceLost, NameInUse, NotMember, RecordError
from .geometry import HEADER, Geometry
from .owner import CLOCK_SLACK, DEFAULT_IO_TIMEOUT, dead_seconds, fail_seconds
from .records import Leader, check_delta, pad_name, show_name

WATCH_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Space:
    """A lockspace and who we want to be in it. `where` is its file, for messages."""

    name: bytes
    where: str
    host_id: int
    host_name: bytes
    io_timeout: int


@dataclass(frozen=True)
class Membership:
    """The host id is ours with this generation. `record`: what we last wrote."""

    space: Space
    geometry: Geometry
    record: Leader

    @property
    def identity(self) -> Identity:
        return Identity(self.record.owner_id, self.record.owner_generation)

    @property
    def last_ok(self) -> int:
        """CLOCK_MONOTONIC in whole seconds, taken before the write of the record."""
        return self.record.timestamp


@dataclass(frozen=True)
class Renewed:
    membership: Membership
    area: bytes


@dataclass(frozen=True)
class OwnTrace:
    """What this host itself last wrote in this boot, and when (its own CLOCK_MONOTONIC seconds)."""

    record: Leader
    written_at: float


def probe(space: Space) -> Steps[Geometry]:
    """The sizes of the lockspace, from its first record. Raises RecordError."""
    data = yield from read(LOCKSPACE, 0, HEADER)
    first = Leader.decode(data)
    check_delta(first, space.name, f"{space.where}, host id 1")
    geo = first.geometry(space.where)
    if space.host_id > geo.max_hosts:
        raise HostIdTooLarge(where=space.where, found=space.host_id, expected=geo.max_hosts)
    return geo


def read_own(space: Space, geo: Geometry) -> Steps[Leader]:
    data = yield from read(LOCKSPACE, geo.delta(space.host_id), geo.sector)
    record = Leader.decode(data)
    check_delta(record, space.name, f"{space.where}, host id {space.host_id}")
    return record


def acquire(space: Space, trace: OwnTrace | None = None) -> Steps[Membership]:
    """Join the lockspace under a new generation (format document, 6.1).

    A record under our own name is first watched for as long as a living owner
    can go without renewing (8N): any change means a clone (safety rules, 7).
    Time that has gone by since we wrote exactly this record in this boot (`trace`)
    counts. A record under another name must stand still for 8N+60.

    Raises HostIdInUse, NameInUse, HostIdTooLarge, RecordError, StorageError,
    and NotMember when this process stood still while it joined.
    """
    geo = yield from probe(space)
    while True:
        found, read_at = yield from _watch(space, geo, trace)
        stamp = yield from now()
        # If this process stood still since that read, another host may meanwhile have claimed
        # the id, waited and checked; only within its wait does it notice our write.
        if stamp - read_at < (found.io_timeout or DEFAULT_IO_TIMEOUT):
            break
    if found.owner_generation + 1 >= 1 << 64:
        where = f"{space.where}, host id {space.host_id}"
        raise RecordError(where=where, what="generation", found=found.owner_generation, expected="< 2^64 - 1")
    record = replace(
        found,
        owner_id=space.host_id,
        owner_generation=found.owner_generation + 1,
        resource_name=pad_name(space.host_name),
        timestamp=max(1, int(stamp)),
        io_timeout_raw=space.io_timeout,
        write_id=0,
        write_generation=0,
        write_timestamp=0,
    ).sealed()
    yield Write(LOCKSPACE, geo.delta(space.host_id), record.sector(geo))
    yield Sleep(2 * (found.io_timeout or DEFAULT_IO_TIMEOUT))
    after = yield from read_own(space, geo)
    if after != record:
        raise HostIdInUse(where=space.where, host_id=space.host_id, other=show_name(after.resource_name))
    return (yield from _first_renewal(Membership(space, geo, record)))


def _first_renewal(member: Membership) -> Steps[Membership]:
    """Write the record again at once: the wait before may have been longer than our own 8N.

    (A lockspace made with the default io_timeout of 10 makes the first user of an
    id wait 20 s, whatever its own is.) Nothing depends on the generation yet, so
    8N is no limit here; but after 8N+60 others may have taken the id.
    """
    space, geo = member.space, member.geometry
    stamp = yield from now()
    if stamp - member.last_ok >= dead_seconds(space.io_timeout):
        why = f"not renewed for {stamp - member.last_ok:.0f} s while it was taken"
        raise NotMember(space=show_name(space.name), host_id=space.host_id, why=why)
    record = replace(member.record, timestamp=max(1, int(stamp))).sealed()
    yield Write(LOCKSPACE, geo.delta(space.host_id), record.sector(geo))
    return replace(member, record=record)


def _watch(space: Space, geo: Geometry, trace: OwnTrace | None) -> Steps[tuple[Leader, float]]:
    """Wait until the record's owner cannot be alive.

    Returns the record to build on and the time before its last read.
    """
    start = read_at = yield from now()
    found = current = yield from read_own(space, geo)
    own_name = found.resource_name == pad_name(space.host_name)
    seconds = fail_seconds(found.io_timeout) if own_name else dead_seconds(found.io_timeout)
    if own_name and trace and trace.record == found:
        start = min(start, trace.written_at)
    while not current.free:
        if current != found:
            error = NameInUse if own_name else HostIdInUse
            other = show_name(current.resource_name)
            raise error(where=space.where, host_id=space.host_id, other=other)
        if read_at - start >= seconds + CLOCK_SLACK:
            break
        yield Sleep(WATCH_POLL_SECONDS)
        read_at = yield from now()
        current = yield from read_own(space, geo)
    return current, read_at


def resume(space: Space, last: Leader) -> Steps[Membership]:
    """Continue a generation after a restart of the engine, in time (format document, 10).

    The caller has shown that the old process is gone, that the boot is the
    same and that `last_ok` + 8N is not over. As after a failed renewal, only
    ownership is compared. Raises LockspaceLost.
    """
    geo = yield from probe(space)
    record = yield from read_own(space, geo)
    _check_ours(space, record, last)
    return Membership(space, geo, record)


def renew(member: Membership, previous_ok: bool) -> Steps[Renewed]:
    """Read the whole lockspace, check our record, write it with the time of now (format document, 6.2).

    `previous_ok`: the last renewal is known to have succeeded, so the record
    must be what we last wrote. Raises LockspaceLost, which is final; NotMember
    when the lease ran out meanwhile (also final); StorageError, to be retried.
    """
    space, geo = member.space, member.geometry
    area = yield from read(LOCKSPACE, 0, geo.area)
    record = Leader.decode(memoryview(area)[geo.delta(space.host_id) :])
    try:
        check_delta(record, space.name, f"{space.where}, host id {space.host_id}")
    except RecordError as error:
        raise LockspaceLost(where=space.where, host_id=space.host_id, why=error.reason()) from error
    _check_ours(space, record, member.record)
    if previous_ok and record != member.record:
        raise LockspaceLost(
            where=space.where, host_id=space.host_id, why="somebody else wrote it since the last renewal"
        )
    stamp = yield from now()
    fresh = replace(member.record, timestamp=max(1, int(stamp))).sealed()
    yield from guarded_write(LOCKSPACE, geo.delta(space.host_id), fresh.sector(geo))
    return Renewed(replace(member, record=fresh), area)


def release(member: Membership) -> Steps[None]:
    """Leave: from this instant others may take whatever this host held (format document, 6.3)."""
    space, geo = member.space, member.geometry
    record = yield from read_own(space, geo)
    _check_ours(space, record, member.record)
    gone = replace(record, timestamp=0).sealed()
    yield from guarded_write(LOCKSPACE, geo.delta(space.host_id), gone.sector(geo))


def _check_ours(space: Space, record: Leader, last: Leader) -> None:
    ours = (last.owner_id, last.owner_generation, last.resource_name)
    found = (record.owner_id, record.owner_generation, record.resource_name)
    if found != ours:
        why = f"generation {record.owner_generation} of {show_name(record.resource_name)} is there"
        raise LockspaceLost(where=space.where, host_id=space.host_id, why=why)
    if record.free:
        raise LockspaceLost(where=space.where, host_id=space.host_id, why="it was released")
