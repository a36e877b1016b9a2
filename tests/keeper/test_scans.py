# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process table is read in time, whatever one of the processes is stuck in.

A command line that cannot be read is made with a FIFO: a kernel that keeps its reader waiting cannot be had at will.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vlhook import processes as processes_module
from vlhook.keeper.qemu import Processes
from vlhook.keeper.scans import Scans
from vlhook.processes import Scan, sign_of_life

UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
OTHER = "d8b6fece-fdb0-4566-837b-e76d27ec2910"
STAT = "{pid} (qemu-system-x86) D 1 0 0 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0"


def put(table: Path, pid: int, start: int, command_line: bytes | None) -> Path:
    (table / str(pid)).mkdir(parents=True)
    (table / str(pid) / "stat").write_text(STAT.format(pid=pid, start=start))
    path = table / str(pid) / "cmdline"
    if command_line is None:
        os.mkfifo(path)
    else:
        path.write_bytes(command_line)
    return path


def let_go(fifo: Path) -> None:
    """The kernel answers: with a command line."""
    with open(fifo, "wb") as file:
        file.write(b"qemu\0-uuid\0" + UUID.encode() + b"\0")


def test_a_process_that_hangs_its_reader_counts_as_unknown_and_hides_no_other(tmp_path: Path) -> None:
    fifo = put(tmp_path, 70, 500, None)
    put(tmp_path, 71, 600, b"qemu\0-uuid\0" + UUID.upper().encode() + b"\0")
    seen = Scans(str(tmp_path), 0.2).scan()
    assert seen.guests == {UUID: [(71, 600)]}
    assert seen.unknown == [(70, 500, "qemu-system-x86")]
    assert "70" in str(sign_of_life("another", seen))
    let_go(fifo)


def test_two_of_them_make_the_look_fail_and_the_next_one_passes_over_both(tmp_path: Path) -> None:
    fifos = [put(tmp_path, pid, 500, None) for pid in (70, 71)]
    scans = Scans(str(tmp_path), 0.2)
    pids = set()
    for _ in range(2):
        try:
            pids = {pid for pid, _, _ in scans.scan().unknown}
            break
        except TimeoutError as error:
            assert "hangs at process 7" in str(error)
    assert pids == {70, 71}
    for fifo in fifos:
        let_go(fifo)


def test_a_process_is_read_again_when_the_kernel_has_answered(tmp_path: Path) -> None:
    fifo = put(tmp_path, 70, 500, None)
    scans = Scans(str(tmp_path), 0.2)
    assert scans.scan().unknown
    let_go(fifo)
    fifo.unlink()
    fifo.write_bytes(b"qemu\0-uuid\0" + UUID.encode() + b"\0")
    while not scans.scan().guests:
        pass
    assert scans.scan().guests == {UUID: [(70, 500)]}


def test_who_cannot_be_told_dead_counts_as_alive(tmp_path: Path) -> None:
    fifos = [put(tmp_path, pid, 500, None) for pid in (70, 71, 72)]
    processes = Processes(str(tmp_path), tmp_path)
    processes._scans = Scans(str(tmp_path), 0.2)
    for _ in range(2):
        assert processes.sign_of_life(UUID) is not None
    for fifo in fifos:
        let_go(fifo)


def test_a_hundred_who_ask_during_one_scan_share_the_next_which_began_after_they_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 71, 600, b"qemu\0-uuid\0" + UUID.encode() + b"\0")
    scans = Scans(str(tmp_path))
    done: list[Scan] = []
    go_on = threading.Event()
    real = processes_module.scan

    def scan(proc_dir: str, **options: Any) -> Scan:
        seen = real(proc_dir, **options)
        done.append(seen)
        if len(done) == 1:
            go_on.wait(60)
        return seen

    monkeypatch.setattr(processes_module, "scan", scan)
    found: list[Scan] = []
    threads = [threading.Thread(target=lambda: found.append(scans.scan())) for _ in range(101)]
    scans._seconds = 60
    threads[0].start()
    while not done:
        time.sleep(0.01)
    put(tmp_path, 72, 700, b"qemu\0-uuid\0" + OTHER.encode() + b"\0")
    for thread in threads[1:]:
        thread.start()
    while len(scans_waiting(threads[1:])) < 100:
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(done) == 2, "one for the first, one for all others"
    assert sorted(OTHER in seen.guests for seen in found) == [False] + [True] * 100


def scans_waiting(threads: list[threading.Thread]) -> list[threading.Thread]:
    """Those that stand in a wait of the scans' condition."""
    frames = sys._current_frames()
    return [t for t in threads if t.ident in frames and frames[t.ident].f_code.co_name == "wait"]


def test_a_pass_over_many_guests_scans_once_and_the_next_pass_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 71, 600, b"qemu\0-uuid\0" + UUID.encode() + b"\0")
    table = Processes(str(tmp_path), tmp_path)
    count = 0
    real = table._scans.scan

    def scan() -> Scan:
        nonlocal count
        count += 1
        return real()

    monkeypatch.setattr(table._scans, "scan", scan)
    with table.one_pass():
        assert [table.sign_of_life(uuid) is not None for uuid in (UUID, OTHER, UUID)] == [True, False, True]
    assert count == 1
    put(tmp_path, 72, 700, b"qemu\0-uuid\0" + OTHER.encode() + b"\0")
    with table.one_pass():
        assert table.sign_of_life(OTHER)
    assert table.sign_of_life(OTHER)
    assert count == 3
