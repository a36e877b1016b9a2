# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which host ids are taken: by the lockspace that the real sanlock made, and by notes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.leases.images import image
from vlhook.leases import hostids
from vlhook.leases.directory import Ownership
from vlhook.leases.errors import LeaseError, StorageError
from vlhook.leases.hostids import HostIdTaken, Machine, NoFreeHostId, Note, bind, look, noted_for_other, unbind

HERE = Machine("mark-of-here", "here.example", "boot-1")
THERE = Machine("mark-of-there", "there.example", "boot-2")
SPACE = "__LIBVIRT__DISKS__"


def leases(folder: Path, name: str = "") -> str:
    if name:
        (folder / SPACE).write_bytes(image(name))
    return str(folder)


def free(directory: str, machine: Machine = HERE, own_name: str = "", wanted: int = 0) -> int:
    return look(directory).choose(machine, own_name, wanted)


def why_not(directory: str, host_id: int, machine: Machine = HERE, own_name: str = "") -> str:
    return look(directory).taken_by_other(host_id, machine, own_name)


# ------------------------------------------------------------------------------- the lockspace


def test_an_empty_directory_has_every_id_free(tmp_path: Path) -> None:
    assert free(leases(tmp_path)) == 1
    assert why_not(str(tmp_path), 2000) == ""


def test_ids_of_joined_hosts_are_taken_and_gaps_are_used(tmp_path: Path) -> None:
    directory = leases(tmp_path, "lockspace_hosts_1_2_7_alive")
    assert sorted(look(directory).records) == [1, 2, 7]
    assert free(directory) == 3
    assert "has joined with it" in why_not(directory, 7)
    assert why_not(directory, 3) == ""


@pytest.mark.parametrize("name", ["lockspace_host2_released", "lockspace_all_released", "lockspace_host7_crashed"])
def test_the_id_of_a_host_that_left_or_crashed_stays_its_own(tmp_path: Path, name: str) -> None:
    directory = leases(tmp_path, name)
    assert free(directory) == 3
    assert why_not(directory, 2) != ""


def test_the_id_under_the_hosts_own_name_is_its_own(tmp_path: Path) -> None:
    directory = leases(tmp_path, "lockspace_hosts_1_2_7_alive")
    own_name = look(directory).records[7]
    assert why_not(directory, 7, own_name=own_name) == ""
    assert free(directory, own_name=own_name) == 7


def test_a_damaged_record_is_not_taken_for_free(tmp_path: Path) -> None:
    directory = leases(tmp_path, "lockspace_corrupt_host2")
    assert "damaged" in why_not(directory, 2)
    assert free(directory) == 3


def test_a_smaller_lockspace_has_fewer_ids(tmp_path: Path) -> None:
    directory = leases(tmp_path, "lockspace_fresh_4K_1M")
    assert "room for 250 hosts" in why_not(directory, 251)
    assert why_not(directory, 250) == ""


def test_a_file_that_is_no_lockspace_is_an_error(tmp_path: Path) -> None:
    (tmp_path / SPACE).write_bytes(b"x" * (1 << 20))
    with pytest.raises(LeaseError, match="no lockspace record here"):
        look(str(tmp_path))


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file or directory"):
        look(str(tmp_path / "not mounted"))


def test_when_every_id_was_used_none_is_guessed(tmp_path: Path) -> None:
    everyone = dict.fromkeys(range(1, 251), "host")
    with pytest.raises(NoFreeHostId, match="every host id from 1 to 250"):
        hostids.HostIds(str(tmp_path), 250, everyone, frozenset(), {}).choose(HERE, "")


# ----------------------------------------------------------------------------------- the notes


def test_a_noted_id_is_another_machines_before_that_has_ever_joined(tmp_path: Path) -> None:
    assert bind(str(tmp_path), 1, HERE, Ownership())
    assert free(str(tmp_path), THERE) == 2
    assert "it was set for host here.example on 20" in why_not(str(tmp_path), 1, THERE)
    with pytest.raises(HostIdTaken, match=r"host id 1 .* is taken: it was set for host here\.example"):
        bind(str(tmp_path), 1, THERE, Ownership())


def test_a_machine_finds_its_own_note_again(tmp_path: Path) -> None:
    bind(str(tmp_path), 5, HERE, Ownership())
    rebooted = Machine(HERE.mark, "renamed.example", "boot-9")
    assert free(str(tmp_path), rebooted) == 5
    assert not bind(str(tmp_path), 5, rebooted, Ownership())


def test_the_wanted_id_is_kept_unless_it_is_anothers(tmp_path: Path) -> None:
    assert free(str(tmp_path), wanted=9) == 9
    bind(str(tmp_path), 9, THERE, Ownership())
    assert free(str(tmp_path), wanted=9) == 1


def test_a_clone_is_told_that_its_id_is_the_originals(tmp_path: Path) -> None:
    bind(str(tmp_path), 4, HERE, Ownership())
    assert noted_for_other(str(tmp_path), 4, HERE) is None
    assert noted_for_other(str(tmp_path), 5, THERE) is None
    note = noted_for_other(str(tmp_path), 4, THERE)
    assert isinstance(note, Note)
    assert note.machine == HERE


def test_a_note_is_replaced_only_by_force(tmp_path: Path) -> None:
    bind(str(tmp_path), 4, THERE, Ownership())
    assert bind(str(tmp_path), 4, HERE, Ownership(), force=True)
    assert look(str(tmp_path)).notes[4].machine == HERE


def test_only_the_own_note_is_taken_away(tmp_path: Path) -> None:
    bind(str(tmp_path), 4, THERE, Ownership())
    unbind(str(tmp_path), 4, HERE)
    assert list(look(str(tmp_path)).notes) == [4]
    unbind(str(tmp_path), 4, THERE)
    unbind(str(tmp_path), 4, THERE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xff", b'{"machine": 3, "since": 1}', b"[" * 100000, b"null"])
def test_a_note_that_cannot_be_read_is_some_other_machines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".vlhook-host-1").write_bytes(content)
    assert free(str(tmp_path)) == 2
    assert "cannot be read" in why_not(str(tmp_path), 1)
    unbind(str(tmp_path), 1, HERE)
    assert (tmp_path / ".vlhook-host-1").exists()


@pytest.mark.parametrize("name", [".vlhook-host-0", ".vlhook-host-01", ".vlhook-host-x", ".vlhook-host-1.ab.new"])
def test_other_names_are_no_notes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    assert look(str(tmp_path)).notes == {}


def test_many_machines_that_choose_at_once_get_different_ids(tmp_path: Path) -> None:
    directory = leases(tmp_path, "lockspace_hosts_1_2_7_alive")
    barrier, got = threading.Barrier(8), []

    def install(number: int) -> None:
        machine = Machine(f"mark-{number}", f"host-{number}", "boot")
        barrier.wait()
        while True:
            host_id = free(directory, machine)
            try:
                bind(directory, host_id, machine, Ownership())
            except HostIdTaken:
                continue
            got.append(host_id)
            return

    threads = [threading.Thread(target=install, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [3, 4, 5, 6, 8, 9, 10, 11]
