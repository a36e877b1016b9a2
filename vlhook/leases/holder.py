# SPDX-License-Identifier: LGPL-2.1-or-later
"""The holder record: which guest holds a lease, for people on other hosts.

It lies in the owner's own sector of the lease, bytes 192 to 511, and so is
written in the same sector write as the dblock and mode block it belongs to:
no further I/O, no second file, and only ever one writer. The reference reads
neither these bytes nor keeps them: where a sanlock daemon acquires with this
host's id, the record is simply gone.

It is a hint and never grants anything (safety rules, 15). It counts only if
its checksum is right and it is tagged with the (host id, generation, lver) of
the lease as it stands.

    off  type  field
      0  u32   magic 0x484B4C56 ("VLKH")
      4  u32   version 1
      8  u64   host id
     16  u64   generation
     24  u64   lver
     32  u64   since, seconds of the epoch
     40  16 B  UUID of the guest
     56  u32   state: 1 running, 2 incoming migration, 3 released, 4 no guest: being cleaned up
     60  u16   length of the guest's name in bytes
     62  u16   length of the disk's path in bytes
     64  u32   checksum (crc32c) of all other 316 bytes
     68        name, then path; what does not fit is cut: of names the end, of paths the start
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from .crc32c import crc32c
from .records import HOLDER_SIZE, Buffer

MAGIC = 0x484B4C56
VERSION = 1
RUNNING, INCOMING, WAS_RELEASED, CLEANING = 1, 2, 3, 4
_HEAD = struct.Struct("<II QQQQ 16s I HH")
_SUM_AT = _HEAD.size
_TEXT_AT = _SUM_AT + 4
_TEXT_MAX = HOLDER_SIZE - _TEXT_AT
_NAME_MAX = 96


@dataclass(frozen=True)
class HolderRecord:
    host_id: int
    generation: int
    lver: int
    since: int
    uuid: bytes
    state: int
    guest: str
    disk: str

    def tagged(self, host_id: int, generation: int, lver: int) -> HolderRecord:
        return replace(self, host_id=host_id, generation=generation, lver=lver)

    def belongs_to(self, host_id: int, generation: int, lver: int) -> bool:
        return (self.host_id, self.generation, self.lver) == (host_id, generation, lver)

    def encode(self) -> bytes:
        """320 bytes."""
        name = _fit(self.guest.encode("utf-8", "surrogateescape"), _NAME_MAX, keep_end=False)
        path = _fit(self.disk.encode("utf-8", "surrogateescape"), _TEXT_MAX - len(name), keep_end=True)
        head = _HEAD.pack(
            MAGIC, VERSION, self.host_id, self.generation, self.lver, self.since,
            self.uuid, self.state, len(name), len(path),
        )  # fmt: skip
        text = (name + path).ljust(_TEXT_MAX, b"\0")
        return head + struct.pack("<I", crc32c(head + text)) + text

    def uuid_text(self) -> str:
        h = self.uuid.hex()
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _fit(text: bytes, room: int, keep_end: bool) -> bytes:
    if len(text) <= room:
        return text
    mark = "…".encode()
    cut = text[-(room - len(mark)) :] if keep_end else text[: room - len(mark)]
    whole = cut.decode("utf-8", "ignore").encode()
    return mark + whole if keep_end else whole + mark


def decode_holder(data: Buffer) -> HolderRecord | None:
    """The record, or None if there is none or it does not check out."""
    if len(data) < HOLDER_SIZE:
        return None
    magic, version, host_id, generation, lver, since, uuid, state, n, p = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION or n + p > _TEXT_MAX:
        return None
    raw = bytes(data[:HOLDER_SIZE])
    if struct.unpack_from("<I", raw, _SUM_AT)[0] != crc32c(raw[:_SUM_AT] + raw[_TEXT_AT:]):
        return None
    name, path = raw[_TEXT_AT : _TEXT_AT + n], raw[_TEXT_AT + n : _TEXT_AT + n + p]
    return HolderRecord(host_id, generation, lver, since, uuid, state, _show(name), _show(path))


def _show(text: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in text.decode("utf-8", "replace"))
