# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lease directory: making lockspace and lease files so that nobody sees half of one.

A file is written whole under a temporary name, made durable, and published
with link(2), which fails if the name exists (format document, 4 and 11).
Temporary names begin with a dot: neither the leases' names nor the patterns of
clean-up scripts match them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from .errors import StorageError
from .geometry import Geometry
from .names import LOCKSPACE_NAME
from .records import (
    CLEARED_MAGIC,
    DELTA_MAGIC,
    DELTA_VERSION,
    PAXOS_MAGIC,
    PAXOS_VERSION,
    REQUEST_MAGIC,
    REQUEST_VERSION,
    Leader,
    Request,
    pad_name,
)


@dataclass(frozen=True)
class Ownership:
    """Who owns new files; -1 leaves the id as it is (libvirt's `user` and `group` settings)."""

    uid: int = -1
    gid: int = -1


def _leader(magic: int, version: int, geo: Geometry, space: bytes, name: bytes) -> Leader:
    delta = magic == DELTA_MAGIC
    return Leader(
        magic=magic, version=version, flags=geo.flag, sector_size=geo.sector,
        num_hosts=0 if delta else geo.max_hosts, max_hosts=1 if delta else geo.max_hosts,
        owner_id=0, owner_generation=0, lver=0, space_name=pad_name(space), resource_name=pad_name(name),
        timestamp=0, unused1=0, checksum=0, unused2=0, io_timeout_raw=0,
        write_id=0, write_generation=0, write_timestamp=0,
    )  # fmt: skip


def format_lockspace(geo: Geometry, space: bytes, io_timeout: int) -> bytes:
    """A fresh lockspace area, as the reference formats it (format document, 4)."""
    record = replace(_leader(DELTA_MAGIC, DELTA_VERSION, geo, space, b""), io_timeout_raw=io_timeout).sealed()
    return (record.sector(geo) * geo.max_hosts).ljust(geo.area, b"\0")


def format_resource(
    geo: Geometry, space: bytes, name: bytes, num_hosts: int = 0, cleared_at: int = 0
) -> bytes:
    """A fresh lease area. `cleared_at`: the area of a cleared lease, with that time in seconds."""
    leader = _leader(CLEARED_MAGIC if cleared_at else PAXOS_MAGIC, PAXOS_VERSION, geo, space, name)
    leader = replace(leader, num_hosts=num_hosts or geo.max_hosts, write_timestamp=cleared_at).sealed()
    request = Request(REQUEST_MAGIC, REQUEST_VERSION, 0, 0).encode()
    return (leader.sector(geo) + request).ljust(geo.area, b"\0")


def cleared_leader(leader: Leader, at: int) -> Leader:
    """The leader of a cleared lease in the place of `leader`: as fresh, with the time of clearing in seconds."""
    geo = leader.geometry("the lease")
    names = (leader.space_name.rstrip(b"\0"), leader.resource_name.rstrip(b"\0"))
    blank = _leader(CLEARED_MAGIC, PAXOS_VERSION, geo, *names)
    return replace(blank, num_hosts=leader.num_hosts, write_timestamp=at).sealed()


def publish(path: str, content: bytes, mode: int, owner: Ownership) -> bool:
    """Make `path` with `content`, whole or not at all. False: somebody else was first.

    Raises StorageError; then nothing is left behind but, at the worst, a
    temporary file.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(8).hex()}.new")
    try:
        try:
            _write_whole(temporary, content, mode, owner)
            os.link(temporary, path)
            made = True
        except FileExistsError:
            made = False
        finally:
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass
        sync_directory(directory)
    except OSError as error:
        raise StorageError(op="creation", where=path, why=error.strerror or str(error)) from error
    return made


def _write_whole(path: str, content: bytes, mode: int, owner: Ownership) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        if (owner.uid, owner.gid) != (-1, -1):
            os.fchown(fd, owner.uid, owner.gid)
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(directory: str) -> None:
    """Make the names that were made in it, and removed from it, durable. Raises OSError."""
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lockspace_path(directory: str) -> str:
    return os.path.join(directory, LOCKSPACE_NAME)


def create_lockspace(directory: str, geo: Geometry, io_timeout: int, owner: Ownership) -> bool:
    """Make the lockspace file if it is absent; True if this call made it. Raises StorageError."""
    mode = 0o660 if owner.gid != -1 else 0o600
    content = format_lockspace(geo, LOCKSPACE_NAME.encode(), io_timeout)
    return publish(lockspace_path(directory), content, mode, owner)


def create_lease(path: str, geo: Geometry, space: bytes, name: bytes, owner: Ownership) -> bool:
    """Make the lease file `path` if it is absent; True if this call made it. Raises StorageError."""
    return publish(path, format_resource(geo, space, name), 0o600, owner)
