# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checksum, against every value that the format document (2) gives."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.leases import directory
from vlhook.leases.crc32c import crc32c
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME


def dblock(*values: int) -> bytes:
    return struct.pack("<6Q", *values)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xFFFFFFFE),
        (b"123456789", 0xE8C7BB34),
        (bytes(48), 0xCB5AD842),
        (bytes(168), 0x7E11FBD1),
        (dblock(1, 0, 0, 0, 0, 1), 0x9E4FB861),
        (dblock(2, 0, 0, 0, 0, 1), 0xBA349F6D),
        (dblock(1, 1, 1, 1, 1443, 1), 0xB6BAB48E),
        (directory.format_lockspace(FILE, b"LS", 10)[:168], 0xB0F174C0),
        (directory.format_resource(FILE, b"LS", b"RES1")[:168], 0xE0217F4C),
        (directory.format_lockspace(FILE, LOCKSPACE_NAME.encode(), 10)[:168], 0x8F072CE4),
    ],
)
def test_the_values_of_the_format_document(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@given(st.binary(max_size=200))
def test_every_kind_of_buffer_gives_the_same(data: bytes) -> None:
    assert crc32c(data) == crc32c(bytearray(data)) == crc32c(memoryview(data))


@given(st.binary(min_size=1, max_size=168), st.data())
def test_one_flipped_bit_is_always_found(data: bytes, more: st.DataObject) -> None:
    bit = more.draw(st.integers(0, len(data) * 8 - 1))
    other = bytearray(data)
    other[bit // 8] ^= 1 << bit % 8
    assert crc32c(other) != crc32c(data)
