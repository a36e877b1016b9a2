# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon's socket protocol, byte for byte: commands and what they carry (sanlock companion, 4.1).

Every request and every answer starts with a 32 byte header, in host byte order:
magic, version, command, command flags, length of header and body, sequence
number (0), data, data2. An answer repeats the header; data is the result, 0 or
positive, or a negative error. What follows the header depends on the command.

What the daemon tells of itself is in `sanlockstate.py`. Nothing here does I/O.
Decoding checks every length and raises WireError, and nothing else, for whatever
bytes it is given. Encoding raises CannotSend for what would not fit its field:
the daemon cuts silently.

Text (names, paths) is UTF-8; bytes that are not survive as surrogate escapes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .sanlockerrors import CannotSend, WireError

MAGIC = 0x04282010
VERSION = 1
"""Protocol version; only equality of the upper 16 bits counts."""
BATCH = 8
"""Leases in one acquire or release: more of the first the daemon refuses, more of the second crash it."""
SELF = -1
"""As data2: the connection itself, not a pid."""
NAME_SIZE, PATH_SIZE, HELPER_SIZE = 48, 1024, 128
MAX_DISKS = 4
HELPER_ARGV = 8
LONGEST_ANSWER = 4 << 20
"""More bytes than any answer can have: 2000 hosts, or a few thousand leases."""

# magic version cmd cmd_flags length seq data(signed) data2
_HEADER = struct.Struct("=IIIIIIiI")
# path offset pad pad
_DISK = struct.Struct("=1024sQII")
# lockspace_name name lver data64 data32 unused flags num_disks
_RESOURCE = struct.Struct("=48s48sQQIIII")
# name host_id flags pad, then a disk
_LOCKSPACE = struct.Struct("=48sQI4x")
# owner_name flags len
_OPTIONS = struct.Struct("=48sII")
HEADER_SIZE, DISK_SIZE, RESOURCE_SIZE = _HEADER.size, _DISK.size, _RESOURCE.size
LOCKSPACE_SIZE = _LOCKSPACE.size + DISK_SIZE
OPTIONS_SIZE = _OPTIONS.size


class Command(enum.IntEnum):
    """Commands that vlhook sends; `words` is what messages call them."""

    REGISTER = 1
    ADD_LOCKSPACE = 2
    REMOVE_LOCKSPACE = 3
    STATUS = 5
    ACQUIRE = 7
    RELEASE = 8
    INQUIRE = 9
    RESTRICT = 10
    REQUEST = 11
    INQUIRE_LOCKSPACE = 16
    KILLPATH = 17
    WRITE_LOCKSPACE = 18
    WRITE_RESOURCE = 19
    READ_LOCKSPACE = 20
    READ_RESOURCE = 21
    GET_LOCKSPACES = 22
    GET_HOSTS = 23
    READ_OWNERS = 24
    CONVERT = 27
    VERSION = 28
    SET_CONFIG = 33

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", " ")


# Command flags.
ACQUIRE_ORPHAN, ACQUIRE_NOWAIT = 0x2, 0x8
RELEASE_ORPHAN = 0x4
REMOVE_ASYNC, REMOVE_IF_UNUSED = 0x1, 0x2
ADD_ASYNC = 0x1
INQUIRE_WAIT = 0x1
REQUEST_NEXT = 0x1
WRITE_CLEAR = 0x1
KILLPATH_PID = 0x1
# Restrict's flag 1, "all commands", is left out: from then on the daemon answers nothing on that connection.
RESTRICT_SIGKILL, RESTRICT_SIGTERM = 0x2, 0x4

# Resource flags.
RES_LVER, RES_NUM_HOSTS, RES_SHARED, RES_PERSISTENT = 0x1, 0x2, 0x4, 0x8
# Lockspace flags in an answer to get lockspaces.
LOCKSPACE_ADDING, LOCKSPACE_REMOVING = 0x1, 0x2


class Config(enum.IntEnum):
    """What set config changes, one at a time.

    USED: the lockspace does not end, whatever becomes of its holders.
    USED_BY_ORPHANS: it does not end while there are orphans.
    """

    USED = 1
    UNUSED = 2
    USED_BY_ORPHANS = 4
    UNUSED_BY_ORPHANS = 8


def text_of(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _field(text: str, limit: int, what: str) -> bytes:
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise CannotSend(what=what, value=repr(text), why="it is not text") from None
    if b"\0" in raw:
        raise CannotSend(what=what, value=repr(text), why="it contains a NUL")
    if len(raw) > limit:
        raise CannotSend(what=what, value=repr(text), why=f"it has {len(raw)} bytes, the limit is {limit}")
    return raw


def pack(layout: struct.Struct, what: str, *values: object) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise CannotSend(what=what, value=repr(values), why=str(error)) from None


def cut(data: bytes, at: int, size: int, what: str) -> bytes:
    part = data[at : at + size]
    if len(part) != size:
        raise WireError(what=what, why=f"{len(part)} bytes where {size} are needed")
    return part


# ------------------------------------------------------------------------- header


@dataclass(frozen=True)
class Header:
    """`length` is that of the whole message, `data` the result in an answer; data2 of -1 is sent as SELF."""

    cmd: int
    flags: int = 0
    length: int = HEADER_SIZE
    data: int = 0
    data2: int = 0
    version: int = VERSION

    def encode(self) -> bytes:
        data2 = self.data2 & 0xFFFFFFFF
        fields = (MAGIC, self.version, self.cmd, self.flags, self.length, 0, self.data, data2)
        return pack(_HEADER, "a request", *fields)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Needs 32 bytes of a protocol that we speak; the length is checked to be possible."""
        head = cut(data, 0, HEADER_SIZE, "answer")
        magic, version, cmd, flags, length, _seq, result, data2 = _HEADER.unpack(head)
        if magic != MAGIC:
            raise WireError(what="answer", why=f"it starts with {magic:#010x}")
        if version >> 16 != VERSION >> 16:
            raise WireError(what="answer", why=f"protocol version {version:#010x} is not known")
        if not HEADER_SIZE <= length <= LONGEST_ANSWER:
            raise WireError(what="answer", why=f"its length is given as {length} bytes")
        return cls(cmd, flags, length, result, data2, version)


def request(cmd: Command, flags: int = 0, data: int = 0, data2: int = 0, body: bytes = b"") -> bytes:
    """A whole request. Raises CannotSend."""
    return Header(cmd, flags, HEADER_SIZE + len(body), data, data2).encode() + body


@dataclass(frozen=True)
class DaemonVersion:
    protocol: int
    major: int
    minor: int
    patch: int

    @classmethod
    def decode(cls, header: Header) -> DaemonVersion:
        """From the answer to the version command."""
        word = header.data2
        return cls(header.version, word >> 24, word >> 16 & 0xFF, word >> 8 & 0xFF)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


# ------------------------------------------------------------------------ structures


@dataclass(frozen=True)
class Disk:
    """Where an area is: a path of at most 1023 bytes, and the byte at which the area starts."""

    path: str
    offset: int = 0

    def encode(self) -> bytes:
        return pack(_DISK, "the path", _field(self.path, PATH_SIZE - 1, "the path"), self.offset, 0, 0)

    @classmethod
    def decode(cls, data: bytes, at: int = 0) -> Disk:
        path, offset, _, _ = _DISK.unpack(cut(data, at, DISK_SIZE, "disk"))
        return cls(text_of(path), offset)


@dataclass(frozen=True)
class Resource:
    """A lease: names of at most 48 bytes, `flags` of RES_*, its disks (vlhook uses one, sanlock up to 4)."""

    space: str
    name: str
    disks: tuple[Disk, ...] = ()
    flags: int = 0
    lver: int = 0
    data64: int = 0
    data32: int = 0

    def encode(self, with_disks: bool = True) -> bytes:
        """128 bytes, and the disks where the command wants them."""
        disks = self.disks if with_disks else ()
        if len(disks) > MAX_DISKS:
            raise CannotSend(what="the lease", value=self.name, why=f"more than {MAX_DISKS} disks")
        space = _field(self.space, NAME_SIZE, "the lockspace name")
        name = _field(self.name, NAME_SIZE, "the lease name")
        numbers = (self.lver, self.data64, self.data32, 0, self.flags, len(disks))
        head = pack(_RESOURCE, "the lease", space, name, *numbers)
        return head + b"".join(disk.encode() for disk in disks)

    @classmethod
    def decode(cls, data: bytes, at: int = 0, with_disks: bool = True) -> Resource:
        """The resource at byte `at`; `with_disks` False where the answer counts disks but leaves them out."""
        head = cut(data, at, RESOURCE_SIZE, "resource")
        space, name, lver, data64, data32, _, flags, count = _RESOURCE.unpack(head)
        disks: tuple[Disk, ...] = ()
        if with_disks:
            if count > MAX_DISKS:
                raise WireError(what="resource", why=f"it has {count} disks")
            start = at + RESOURCE_SIZE
            disks = tuple(Disk.decode(data, start + i * DISK_SIZE) for i in range(count))
        return cls(text_of(space), text_of(name), disks, flags, lver, data64, data32)

    @property
    def size(self) -> int:
        """Bytes of it with its disks."""
        return RESOURCE_SIZE + DISK_SIZE * len(self.disks)

    @property
    def shared(self) -> bool:
        return bool(self.flags & RES_SHARED)

    def __str__(self) -> str:
        return f"{self.space}:{self.name}"


@dataclass(frozen=True)
class Lockspace:
    name: str
    host_id: int = 0
    disk: Disk = Disk("")
    flags: int = 0

    def encode(self) -> bytes:
        name = _field(self.name, NAME_SIZE, "the lockspace name")
        return pack(_LOCKSPACE, "the lockspace", name, self.host_id, self.flags) + self.disk.encode()

    @classmethod
    def decode(cls, data: bytes, at: int = 0) -> Lockspace:
        whole = cut(data, at, LOCKSPACE_SIZE, "lockspace")
        name, host_id, flags = _LOCKSPACE.unpack_from(whole)
        return cls(text_of(name), host_id, Disk.decode(whole, _LOCKSPACE.size), flags)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Options:
    """Follows the resources of an acquire."""

    owner_name: str = ""
    flags: int = 0

    def encode(self) -> bytes:
        owner_name = _field(self.owner_name, NAME_SIZE, "the owner name")
        return pack(_OPTIONS, "the options", owner_name, self.flags, 0)

    @classmethod
    def decode(cls, data: bytes, at: int = 0) -> Options:
        owner_name, flags, _ = _OPTIONS.unpack(cut(data, at, OPTIONS_SIZE, "options"))
        return cls(text_of(owner_name), flags)


def killpath(path: str, args: Sequence[str]) -> bytes:
    """The body of the killpath command: the program, and its arguments in one string.

    The daemon checks nothing of it: what is too long it cuts, and of more than
    8 words (the program and the pid count) it drops the last. So both are
    refused here, as is what its own escaping cannot carry.
    """
    if len(args) + 2 > HELPER_ARGV:
        raise CannotSend(what="the killpath", value=path, why=f"it has {len(args)} arguments")
    for word in args:
        if not word or "\\" in word:
            why = "it is empty or has a backslash"
            raise CannotSend(what="the killpath argument", value=repr(word), why=why)
    line = " ".join(word.replace(" ", "\\ ") for word in args)
    raw_path = _field(path, HELPER_SIZE - 1, "the killpath")
    raw_line = _field(line, HELPER_SIZE - 1, "the killpath arguments")
    return raw_path.ljust(HELPER_SIZE, b"\0") + raw_line.ljust(HELPER_SIZE, b"\0")
