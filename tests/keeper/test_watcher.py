# SPDX-License-Identifier: LGPL-2.1-or-later
"""A start of which nothing is heard any more is told; time alone never ends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.keeper.hosts import wait_for
from tests.standin import HostProcesses
from vlhook.keeper.log import Log
from vlhook.keeper.qemu import Processes
from vlhook.keeper.state import ACQUIRING, STARTING, Caller, Incarnation, StateStore
from vlhook.keeper.table import Table
from vlhook.keeper.watcher import STARTING_SECONDS, Watcher
from vlhook.processes import TICKS_PER_SECOND, start_time, ticks_now

UUID = "6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10"


class NoEndings:
    def begin(self, *_: object) -> None:
        raise AssertionError("ended by time alone")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[HostProcesses]:
    with HostProcesses(tmp_path / "proc") as host:
        host.add(os.getpid())
        yield host


def test_a_start_without_a_qemu_is_told_after_a_while_until_one_appears(proc: HostProcesses, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "run", tmp_path / "lib", "boot")
    store.prepare()
    table, log = Table(store), Log("test")
    libvirtd = Caller(os.getpid(), start_time(os.getpid()) or 0)
    born = ticks_now() - int((STARTING_SECONDS + 1) * TICKS_PER_SECOND)
    life = Incarnation(UUID, "g", 1, libvirtd, table.next_sequence(), ACQUIRING, born)
    table.put(life, ACQUIRING)
    table.put(life, STARTING)
    processes = Processes(str(proc.proc_dir), tmp_path / "libvirt")
    watcher = Watcher(table, processes, cast(Any, NoEndings()), lambda life, process: None, log)
    watcher.start()
    try:
        wait_for("the alarm", lambda: "no QEMU has appeared since" in "".join(log.alarms()))
        assert life.phase == STARTING
        proc.start(UUID, "g")
        wait_for("its end", lambda: not log.alarms())
    finally:
        watcher.stop()
