# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checksum of the on-disk records: CRC-32C with sanlock's start and end.

Reflected, table polynomial 0x82F63B78, initial value 0xFFFFFFFE, no final xor
(format document, 2). Standard CRC-32C starts at 0xFFFFFFFF and inverts at the
end, so a library's result would have to be bent; the table is shorter.
"""

from __future__ import annotations

from functools import lru_cache


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        rows.append(crc)
    return tuple(rows)


_TABLE = _table()


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Checksum of `data` as stored in leader records and dblocks."""
    return _sum(bytes(data))


@lru_cache(maxsize=256)
def _sum(data: bytes) -> int:
    """Kept for a while: in the course of one acquire most records are read, or written and read back, several times."""
    crc = 0xFFFFFFFE
    table = _TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc
