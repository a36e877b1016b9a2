# SPDX-License-Identifier: LGPL-2.1-or-later
"""The holder record: a hint for people that must never mislead (safety rules, 15)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.leases.area import Area
from vlhook.leases.geometry import FILE
from vlhook.leases.holder import MAGIC, RUNNING, HolderRecord, decode_holder
from vlhook.leases.records import HOLDER_AT, HOLDER_SIZE, Dblock, Leader, ModeBlock, decode_host_sector, host_sector

from .images import image

UUID = bytes.fromhex("c7a5fdbd9edc4d8a84c1d2f4d1f0a001")
RECORD = HolderRecord(7, 3, 12, 1_700_000_000, UUID, RUNNING, "web1", "/var/lib/libvirt/images/web1.qcow2")
u64 = st.integers(0, (1 << 64) - 1)


def in_area(record: bytes, **changes: int) -> Area:
    """An area that host 7 generation 3 owns at version 12, `record` in its sector."""
    block = Dblock(2007, 2007, 7, 3, 50, 12)
    sector = decode_host_sector(host_sector(FILE, block, holder=record), 7, "x")
    owned = {"owner_id": 7, "owner_generation": 3, "lver": 12, "timestamp": 50, **changes}
    leader = replace(Leader.decode(image("resource_acquired_host1")), **owned).sealed()
    return Area(FILE, leader, (sector,))


def test_it_fills_the_rest_of_the_512_byte_sector_and_leaves_the_blocks_alone() -> None:
    block, mode = Dblock(1, 1, 1, 1, 1, 1), ModeBlock(1, 3)
    sector = host_sector(FILE, block, mode, RECORD.encode())
    assert len(RECORD.encode()) == HOLDER_SIZE == 512 - HOLDER_AT
    assert sector[:HOLDER_AT] == host_sector(FILE, block, mode)[:HOLDER_AT]
    assert decode_holder(decode_host_sector(sector, 7, "x").holder_bytes) == RECORD


@given(u64, u64, u64, u64, st.binary(min_size=16, max_size=16), st.integers(0, 3), st.text(), st.text())
def test_any_record_is_read_back(
    host: int, generation: int, lver: int, since: int, uuid: bytes, state: int, guest: str, disk: str
) -> None:
    record = HolderRecord(host, generation, lver, since, uuid, state, guest[:20], disk[:30])
    found = decode_holder(record.encode())
    assert found
    assert replace(found, guest="", disk="") == replace(record, guest="", disk="")
    assert found.guest == "".join(c if c.isprintable() else "?" for c in guest[:20])


@pytest.mark.parametrize("letter", ["a", "ä", "€", "😀"])
def test_of_a_long_name_the_end_is_cut_and_of_a_long_path_the_start(letter: str) -> None:
    found = decode_holder(replace(RECORD, guest=letter * 300, disk=letter * 300 + "/end.qcow2").encode())
    assert found
    assert found.guest.startswith(letter)
    assert found.guest.endswith("…")
    assert found.disk.startswith("…")
    assert found.disk.endswith("/end.qcow2")
    assert "?" not in found.guest + found.disk, "cut within a character"


def test_undecodable_file_names_are_kept_as_far_as_they_can_be_shown() -> None:
    found = decode_holder(replace(RECORD, disk="/images/\udcff.img").encode())
    assert found
    assert found.disk.startswith("/images/")
    assert found.disk.isprintable()


@given(st.integers(0, HOLDER_SIZE * 8 - 1))
def test_any_flipped_bit_makes_it_no_record(bit: int) -> None:
    data = bytearray(RECORD.encode())
    data[bit // 8] ^= 1 << bit % 8
    assert decode_holder(data) is None


@given(st.binary(max_size=HOLDER_SIZE + 8))
def test_garbage_is_no_record(data: bytes) -> None:
    assert decode_holder(data) is None
    assert decode_holder(MAGIC.to_bytes(4, "little") + b"\1\0\0\0" + data) is None


def test_a_leftover_of_sanlock_is_no_record() -> None:
    assert decode_holder(bytes(HOLDER_SIZE)) is None
    assert decode_holder(b"\xaa" * HOLDER_SIZE) is None


def test_the_owners_record_is_shown_while_it_is_tagged_with_the_lease_as_it_stands() -> None:
    assert in_area(RECORD.encode()).holder_record() == RECORD


@pytest.mark.parametrize("changes", [{"owner_generation": 4}, {"lver": 13}, {"owner_id": 8}])
def test_a_record_of_an_earlier_holding_is_not_shown(changes: dict[str, int]) -> None:
    assert in_area(RECORD.encode(), **changes).holder_record() is None


def test_a_copied_record_with_another_hosts_tag_is_not_shown() -> None:
    assert in_area(replace(RECORD, host_id=9).encode()).holder_record() is None


def test_the_uuid_is_shown_as_libvirt_shows_it() -> None:
    assert RECORD.uuid_text() == "c7a5fdbd-9edc-4d8a-84c1-d2f4d1f0a001"
