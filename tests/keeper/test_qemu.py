# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose hook is it: the libvirtd that runs one is found among its ancestors, and an orphan has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlhook.keeper.qemu import Processes
from vlhook.keeper.state import Caller

TAIL = " 0 0 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0"


def table(directory: Path, *processes: tuple[int, int, str, int]) -> Processes:
    """A process table of (pid, parent, name, start): process 1 cannot be made otherwise."""
    for pid, parent, name, start in processes:
        (directory / str(pid)).mkdir()
        (directory / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent}{TAIL.format(start=start)}")
    return Processes(str(directory), directory)


@pytest.mark.parametrize("name", ["libvirtd", "virtqemud"])
def test_the_parent_of_a_hook_is_its_libvirtd(tmp_path: Path, name: str) -> None:
    assert table(tmp_path, (1, 0, "systemd", 3), (70, 1, name, 500)).caller(70) == Caller(70, 500)


def test_a_script_between_libvirtd_and_the_hook_is_not_taken_for_libvirtd(tmp_path: Path) -> None:
    processes = table(tmp_path, (1, 0, "systemd", 3), (70, 1, "libvirtd", 500), (80, 70, "my hooks (2)", 600))
    assert processes.caller(80) == Caller(70, 500)


def test_a_libvirtd_of_another_name_is_the_parent(tmp_path: Path) -> None:
    assert table(tmp_path, (1, 0, "systemd", 3), (70, 1, "mine", 500)).caller(70) == Caller(70, 500)


def test_an_orphan_is_not_taken_for_a_hook_of_process_1(tmp_path: Path) -> None:
    processes = table(tmp_path, (1, 0, "systemd", 3))
    assert processes.caller(1) == Caller(1, 0)
    assert not processes.caller_alive(processes.caller(1))


def test_process_1_may_be_a_libvirtd(tmp_path: Path) -> None:
    assert table(tmp_path, (1, 0, "libvirtd", 3)).caller(1) == Caller(1, 3)


def test_a_parent_that_is_gone_is_not_alive(tmp_path: Path) -> None:
    processes = table(tmp_path, (1, 0, "systemd", 3))
    assert processes.caller(70) == Caller(70, 0)
    assert not processes.caller_alive(Caller(70, 0))


def test_a_circle_of_parents_ends(tmp_path: Path) -> None:
    assert table(tmp_path, (70, 80, "a", 500), (80, 70, "b", 600)).caller(70) == Caller(70, 500)


def test_the_real_process_table_is_understood(tmp_path: Path) -> None:
    found = Processes("/proc", tmp_path).caller(os.getppid())
    assert found.start > 0
