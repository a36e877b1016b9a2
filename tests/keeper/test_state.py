# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper's local state: what was saved is loaded, what is damaged is never guessed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlhook.keeper.state import (
    GRANTED,
    RUNNING,
    Caller,
    Incarnation,
    Member,
    StateDamaged,
    StateStore,
    StateUnwritable,
)
from vlhook.leases.clock import Moment
from vlhook.leases.directory import format_lockspace
from vlhook.leases.engine import Owned, Want
from vlhook.leases.geometry import FILE
from vlhook.leases.records import Leader

WANT = Want("bfa0240911bc17753e0b473688822159", "__LIBVIRT__DISKS__", False, "/var/lib/libvirt/images/dé mo.img")
LIFE = Incarnation(
    uuid="6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10", guest="dé mo", domain_id=3, caller=Caller(12, 99), sequence=7,
    phase=RUNNING, born=1234, wants=[WANT], owned=[Owned(WANT, "/leases/x", 4, 77)], images=["/a", "/b"],
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    made = StateStore(tmp_path / "run", tmp_path / "lib", "boot-1")
    made.prepare()
    return made


def member(boot: str = "boot-1") -> Member:
    record = Leader.decode(format_lockspace(FILE, b"LS", 10))
    return Member(boot, "/leases/LS", 3, "name", 10, record, Moment(12.5, 13.5))


def test_a_guest_is_loaded_as_it_was_saved_until_it_is_forgotten(store: StateStore) -> None:
    store.save_guest(LIFE)
    assert store.load_guests() == [LIFE]
    LIFE.phase = GRANTED
    store.save_guest(LIFE)
    assert [life.phase for life in store.load_guests()] == [GRANTED]
    LIFE.phase = RUNNING
    store.forget_guest(LIFE)
    store.forget_guest(LIFE)
    assert store.load_guests() == []


def test_the_membership_is_loaded_in_the_same_boot_only(store: StateStore, tmp_path: Path) -> None:
    assert store.load_member() is None
    store.save_member(member())
    assert store.load_member() == member()
    assert StateStore(tmp_path / "run", tmp_path / "lib", "boot-2").load_member() is None


def test_having_joined_is_remembered_outside_the_run_directory(store: StateStore, tmp_path: Path) -> None:
    assert not store.joined_in_this_boot()
    store.note_joined()
    elsewhere = StateStore(tmp_path / "other", tmp_path / "lib", "boot-1")
    assert elsewhere.joined_in_this_boot()
    assert not StateStore(tmp_path / "other", tmp_path / "lib", "boot-2").joined_in_this_boot()


@pytest.mark.parametrize("place", [0, 5, 9, 40, -1])
def test_one_wrong_byte_is_damage(store: StateStore, tmp_path: Path, place: int) -> None:
    store.save_guest(LIFE)
    path = next((tmp_path / "run/guests").iterdir())
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateDamaged, match=str(path)):
        store.load_guests()


@pytest.mark.parametrize("keep", [0, 1, 9, 50])
def test_a_file_that_ends_early_is_damage(store: StateStore, tmp_path: Path, keep: int) -> None:
    store.save_member(member())
    path = tmp_path / "run/membership"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StateDamaged):
        store.load_member()


def test_a_write_that_was_broken_off_leaves_the_old_state(store: StateStore, tmp_path: Path) -> None:
    store.save_guest(LIFE)
    (tmp_path / "run/guests" / f"{LIFE.key}.new").write_bytes(b"half")
    assert store.load_guests() == [LIFE]


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "gone", tmp_path / "lib", "boot-1")
    with pytest.raises(StateUnwritable, match="gone"):
        store.save_member(member())
