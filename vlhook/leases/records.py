# SPDX-License-Identifier: LGPL-2.1-or-later
"""The on-disk records, byte for byte (format document, 3).

Little endian throughout. A leader record (200 bytes) heads a resource area and
is also each host's delta record in a lockspace area. A host's sector of a
resource area holds its dblock (56 bytes at 0), its mode block (16 bytes at 128)
and, as an addition of vlhook's that the reference ignores, the holder record
(`holder.py`). Decoding never believes a field before the checks have passed:
`check_delta` and `check_leader` name the first thing that is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Union

from .crc32c import crc32c
from .errors import (
    BadDblockChecksum,
    BadLeaderChecksum,
    BadMagic,
    BadResourceName,
    BadSpaceName,
    BadVersion,
    Cleared,
    NumHostsTooSmall,
    RecordError,
    UnsupportedFlags,
)
from .geometry import Geometry, of_leader

Buffer = Union[bytes, bytearray, memoryview]

DELTA_MAGIC = 0x12212010
PAXOS_MAGIC = 0x06152010
CLEARED_MAGIC = 0x11282016
REQUEST_MAGIC = 0x08292011
DELTA_VERSION = 0x00030004
PAXOS_VERSION = 0x00060004
REQUEST_VERSION = 0x00010001
KNOWN_MAJORS = {DELTA_MAGIC: (3, 5), PAXOS_MAGIC: (6, 7)}
"""3.4 and 6.4 are written; what 5.x wrote is read, and its version kept."""

SHORT_HOLD = 0x1
KNOWN_FLAGS = 0xF1
"""SHORT_HOLD and the align bits. Anything else may change what the record means."""
RELEASED = 0x1
MODE_SHARED = 0x1
MODE_CLAIM = 0x2

# magic version flags sector_size | num_hosts max_hosts owner_id owner_generation lver |
# space_name resource_name | timestamp unused1 | checksum unused2 io_timeout | write_id _generation _timestamp
_LEADER = struct.Struct("<IIII QQQQQ 48s48s QQ IHH QQQ")
_DBLOCK = struct.Struct("<QQQQQQ II")
_MODE = struct.Struct("<I4xQ")
_REQUEST = struct.Struct("<IIQI")
LEADER_SIZE = _LEADER.size
_LEADER_SUMMED = 168
_DBLOCK_SUMMED = 48
MODE_AT = 128
BITMAP_AT, BITMAP_END = 256, 512
_ZERO_DBLOCK = bytes(56)
_BLANK_SECTORS = 64
_BLANK = memoryview(bytes(_BLANK_SECTORS * 4096))
_USED_WORDS = struct.Struct(f"<QQQ16xQQ{MODE_AT - 56}xQ")
"""Of a dblock mbal, bal, inp, lver, checksum and flags; then the mode's flags. All zero: nobody's."""


def pad_name(name: bytes) -> bytes:
    """A name as it stands on disk: 48 bytes, padded with NUL. Raises ValueError if longer."""
    if len(name) > 48 or b"\0" in name:
        raise ValueError(f"not a lease name: {name!r}")
    return name.ljust(48, b"\0")


def show_name(name: bytes) -> str:
    """A name for people; hostile bytes are escaped."""
    text = name.rstrip(b"\0").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


@dataclass(frozen=True)
class Leader:
    """The leader record; names are the field of that name in format document 3.1.

    `space_name` and `resource_name` are the raw 48 bytes. `checksum` is the one
    found on disk; `encode` computes it anew. Two leaders are the same when all
    200 bytes are, that is when the objects are equal.
    """

    magic: int
    version: int
    flags: int
    sector_size: int
    num_hosts: int
    max_hosts: int
    owner_id: int
    owner_generation: int
    lver: int
    space_name: bytes
    resource_name: bytes
    timestamp: int
    unused1: int
    checksum: int
    unused2: int
    io_timeout_raw: int
    write_id: int
    write_generation: int
    write_timestamp: int

    @classmethod
    def decode(cls, data: Buffer) -> Leader:
        """The fields as they stand, unchecked. Needs 200 bytes (struct.error else)."""
        return cls(*_LEADER.unpack_from(data))

    def _pack(self, checksum: int) -> bytes:
        return _LEADER.pack(
            self.magic, self.version, self.flags, self.sector_size,
            self.num_hosts, self.max_hosts, self.owner_id, self.owner_generation, self.lver,
            self.space_name, self.resource_name, self.timestamp, self.unused1,
            checksum, self.unused2, self.io_timeout_raw,
            self.write_id, self.write_generation, self.write_timestamp,
        )  # fmt: skip

    def computed_checksum(self) -> int:
        return crc32c(self._pack(0)[:_LEADER_SUMMED])

    def sealed(self) -> Leader:
        """The same with the checksum that belongs to it."""
        return replace(self, checksum=self.computed_checksum())

    def encode(self) -> bytes:
        """200 bytes, the checksum as in the object (see `sealed`)."""
        return self._pack(self.checksum)

    def sector(self, geo: Geometry) -> bytes:
        """The whole sector: record, bitmap and rest zero."""
        return self.encode().ljust(geo.sector, b"\0")

    @property
    def io_timeout(self) -> int:
        """Seconds; only the low 8 bits are used."""
        return self.io_timeout_raw & 0xFF

    @property
    def free(self) -> bool:
        return self.timestamp == 0

    @property
    def short_hold(self) -> bool:
        return bool(self.flags & SHORT_HOLD)

    def geometry(self, where: str) -> Geometry:
        return of_leader(self.sector_size, self.flags, where)


def _check_common(leader: Leader, magic: int, space: bytes, where: str) -> None:
    kind = "lockspace record" if magic == DELTA_MAGIC else "lease"
    if leader.magic == CLEARED_MAGIC and magic == PAXOS_MAGIC:
        raise Cleared(where=where, found=leader.magic, expected=magic, kind=kind)
    if leader.magic != magic:
        raise BadMagic(where=where, found=leader.magic, expected=magic, kind=kind)
    majors = KNOWN_MAJORS[magic]
    if leader.version >> 16 not in majors:
        known = " or ".join(f"{m}.x" for m in majors)
        raise BadVersion(where=where, found=leader.version, expected=known, kind=kind)
    if leader.flags & ~KNOWN_FLAGS:
        what = "no-timeout, compare-and-write or dead-ext leases, or later inventions"
        raise UnsupportedFlags(where=where, found=leader.flags & ~KNOWN_FLAGS, what=what)
    if leader.space_name != pad_name(space):
        raise BadSpaceName(where=where, found=show_name(leader.space_name), expected=show_name(space))


def _check_sum(leader: Leader, where: str, kind: str) -> None:
    computed = leader.computed_checksum()
    if leader.checksum != computed:
        raise BadLeaderChecksum(where=where, found=leader.checksum, expected=computed, kind=kind)


def check_delta(leader: Leader, space: bytes, where: str) -> None:
    """Raise what is wrong with a delta record: -223, -224, -226, -229 in this order."""
    _check_common(leader, DELTA_MAGIC, space, where)
    _check_sum(leader, where, "lockspace record")


def check_leader(leader: Leader, space: bytes, name: bytes, host_id: int, where: str) -> None:
    """Raise what is wrong with a lease's leader, in the order of format document 7.1 A.

    `host_id` 0 leaves the check of num_hosts out (for looking only).
    """
    _check_common(leader, PAXOS_MAGIC, space, where)
    if leader.resource_name != pad_name(name):
        raise BadResourceName(where=where, found=show_name(leader.resource_name), expected=show_name(name))
    geo = leader.geometry(where)
    if leader.max_hosts != geo.max_hosts or not 1 <= leader.num_hosts <= leader.max_hosts:
        raise RecordError(
            where=where,
            what="number of hosts",
            found=f"{leader.num_hosts} of {leader.max_hosts}",
            expected=f"1 to {geo.max_hosts} of {geo.max_hosts}",
        )
    if leader.num_hosts < host_id:
        raise NumHostsTooSmall(where=where, found=leader.num_hosts, expected=host_id)
    _check_sum(leader, where, "leader")


@dataclass(frozen=True)
class Dblock:
    """A host's ballot state. `inp` 0 means that nothing was accepted."""

    mbal: int = 0
    bal: int = 0
    inp: int = 0
    inp2: int = 0
    inp3: int = 0
    lver: int = 0
    flags: int = 0

    @classmethod
    def decode(cls, data: Buffer, host_id: int, where: str) -> Dblock:
        """The dblock at the start of a sector. Raises BadDblockChecksum (-214)."""
        mbal, bal, inp, inp2, inp3, lver, checksum, flags = _DBLOCK.unpack_from(data)
        if checksum == 0 and not (mbal or bal or inp or lver):
            return cls(inp2=inp2, inp3=inp3, flags=flags)
        if checksum != crc32c(data[:_DBLOCK_SUMMED]):
            raise BadDblockChecksum(where=where, host_id=host_id)
        return cls(mbal, bal, inp, inp2, inp3, lver, flags)

    def encode(self) -> bytes:
        """56 bytes with the checksum that belongs to them."""
        values = struct.pack("<QQQQQQ", self.mbal, self.bal, self.inp, self.inp2, self.inp3, self.lver)
        return values + struct.pack("<II", crc32c(values), self.flags)

    @property
    def released(self) -> bool:
        return bool(self.flags & RELEASED)

    def with_released(self) -> Dblock:
        return replace(self, flags=self.flags | RELEASED)


@dataclass(frozen=True)
class ModeBlock:
    """Says that a host holds (or claims) the lease shared. Unknown bits are kept out."""

    flags: int = 0
    generation: int = 0

    @classmethod
    def decode(cls, sector: Buffer) -> ModeBlock:
        return cls(*_MODE.unpack_from(sector, MODE_AT))

    def encode(self) -> bytes:
        return _MODE.pack(self.flags, self.generation)

    @property
    def shared(self) -> bool:
        return bool(self.flags & MODE_SHARED)

    @property
    def claim(self) -> bool:
        return bool(self.flags & MODE_CLAIM)


NO_MODE = ModeBlock()


@dataclass(frozen=True)
class Request:
    """What another host asks the owner for (format document, 7.8)."""

    magic: int
    version: int
    lver: int
    force_mode: int

    @classmethod
    def decode(cls, sector: Buffer) -> Request:
        return cls(*_REQUEST.unpack_from(sector))

    def encode(self) -> bytes:
        return _REQUEST.pack(self.magic, self.version, self.lver, self.force_mode)


def host_sector(geo: Geometry, dblock: Dblock, mode: ModeBlock = NO_MODE, holder: bytes = b"") -> bytes:
    """A host's own sector, all of it: dblock and mode block are only ever written together."""
    sector = bytearray(geo.sector)
    sector[: len(_ZERO_DBLOCK)] = dblock.encode() if dblock != Dblock() else _ZERO_DBLOCK
    if mode != NO_MODE:
        sector[MODE_AT : MODE_AT + _MODE.size] = mode.encode()
    if holder:
        sector[HOLDER_AT : HOLDER_AT + len(holder)] = holder
    return bytes(sector)


HOLDER_AT = 192
HOLDER_SIZE = 512 - HOLDER_AT


@dataclass(frozen=True)
class HostSector:
    """One host's sector of a resource area, decoded."""

    host_id: int
    dblock: Dblock
    mode: ModeBlock
    holder_bytes: bytes


def host_sectors(area: Buffer, geo: Geometry, num_hosts: int, where: str) -> list[HostSector]:
    """The sectors of hosts 1..num_hosts that are not blank.

    Raises BadDblockChecksum for the first damaged one (format document, 7.1 A).
    """
    return [decode_host_sector(data, h, where) for h, data in _used_sectors(area, geo, num_hosts)]


def decode_host_sector(data: Buffer, host_id: int, where: str) -> HostSector:
    dblock = Dblock.decode(data, host_id, where)
    holder = bytes(data[HOLDER_AT : HOLDER_AT + HOLDER_SIZE])
    return HostSector(host_id, dblock, ModeBlock.decode(data), holder)


def _used_sectors(area: Buffer, geo: Geometry, num_hosts: int) -> Iterator[tuple[int, memoryview]]:
    """Nearly all sectors are blank: they are passed over many at a time, by comparisons with zero in C."""
    data = area if isinstance(area, bytes) else bytes(area)
    view = memoryview(data)
    size = geo.sector
    first = 2 * size
    count = min(num_hosts, (len(data) - first) // size)
    for begin in range(0, count, _BLANK_SECTORS):
        some = min(_BLANK_SECTORS, count - begin)
        if data.startswith(_BLANK[: some * size], first + begin * size):
            continue
        for index in range(begin, begin + some):
            at = first + index * size
            if any(_USED_WORDS.unpack_from(data, at)):
                yield index + 1, view[at : at + size]


def bitmap_hosts(sector: Buffer) -> list[int]:
    """Host ids whose bit is set in a delta sector's bitmap."""
    bits = bytes(sector[BITMAP_AT:BITMAP_END])
    return [i * 8 + b + 1 for i, byte in enumerate(bits) if byte for b in range(8) if byte & (1 << b)]


def delta_records(area: Buffer, geo: Geometry) -> dict[int, Leader]:
    """All records of a lockspace area by host id, unchecked."""
    return {h: Leader.decode(memoryview(area)[geo.delta(h) :]) for h in range(1, geo.max_hosts + 1)}
