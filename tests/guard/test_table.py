# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from vlhook.guard.table import Guest, StateDamaged, Table
from vlhook.lastok import NOTHING

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
GUEST = "6d1f5f2c-2f3e-4d0a-9a53-0c1d2e3f4a5b"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    table = Table(str(tmp_path / "guard.state"), BOOT)
    table.guests[GUEST] = Guest(GUEST, "démo guest", 1234, 5, 6, 789)
    table.guests["b" + GUEST[1:]] = Guest("b" + GUEST[1:], "", 1, 2, 3)
    table.complete = False
    table.save(NOTHING._replace(io_timeout=10, last_ok_boottime=8))
    return tmp_path / "guard.state"


def loaded(path: Path, boot: str = BOOT) -> Table:
    table = Table(str(path), boot)
    table.load()
    return table


def test_what_was_saved_is_loaded(path: Path) -> None:
    table = loaded(path)
    guest = table.guests[GUEST]
    assert (guest.name, guest.since, guest.host_id, guest.generation, guest.limit_at) == (
        "démo guest", 1234, 5, 6, 789)
    assert table.guests["b" + GUEST[1:]].name == ""
    assert not table.complete
    assert (table.earlier_member.io_timeout, table.earlier_member.last_ok_boottime) == (10, 8)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_list_of_another_boot_is_no_list(path: Path) -> None:
    table = loaded(path, "f" + BOOT[1:])
    assert table.guests == {}
    assert table.complete


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_a_shortened_list_is_damaged(path: Path, cut: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: min(cut, len(data) - 1)])
    with pytest.raises(StateDamaged, match="guard's list of guests is damaged"):
        loaded(path)


@pytest.mark.parametrize("bit", range(0, 2400, 37))
def test_a_list_with_one_wrong_bit_is_damaged(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)
    with pytest.raises(StateDamaged):
        loaded(path)


def test_a_line_that_is_not_known_is_damage_though_the_checksum_is_right(path: Path) -> None:
    body = f"boot {BOOT}\ncomplete 1\npage 0 0 0 0 0\nsecret 1\n".encode()
    path.write_bytes(f"vlhook-guard 1 {zlib.crc32(body):08x}\n".encode() + body)
    with pytest.raises(StateDamaged, match="secret"):
        loaded(path)


def test_a_list_that_cannot_be_replaced_stays_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    path.with_name("guard.state.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        Table(str(path), BOOT).save(None)
    assert path.read_bytes() == before
