# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host for the guard: a page that the test writes, stand-in QEMUs, and a stand-in for the keeper.

The page never names the test itself as the keeper: the guard kills keepers.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid as uuids
from pathlib import Path

from tests.standin import HostProcesses
from vlhook import lastok, processes
from vlhook.guardclient import GuardClient
from vlhook.lastok import NOTHING, Page

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
SECOND = 1_000_000_000


class Rig:
    """N is 10 unless a test says otherwise, so the limit is 80 seconds after last_ok."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self.run_dir.mkdir(parents=True)
        self.host = HostProcesses(directory / "proc")
        self.others = HostProcesses(directory / "others")
        self.keeper = self.others.start(str(uuids.uuid4()), "keeper")
        self.page_path = self.run_dir / lastok.FILE_NAME
        self.page = Page.create(str(self.page_path))
        self.client = GuardClient(self.run_dir, seconds=PATIENCE)
        self.guard: subprocess.Popen[bytes] | None = None
        self.log = ""

    def close(self) -> None:
        self.kill_guard()
        self.host.close()
        self.others.close()

    # ---------------------------------------------------------------- the keeper's side

    def renew(
        self, age: float = 0, *, beat: float = 0, generation: int = 1, io_timeout: int = 10,
        keeper_start: int | None = None,
    ) -> None:
        """Say that the last renewal was `age` seconds ago, and the keeper's last heartbeat `beat`."""
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.page.write(NOTHING._replace(
            io_timeout=io_timeout, host_id=5, generation=generation,
            last_ok_monotonic=monotonic - int(age * SECOND),
            last_ok_boottime=boottime - int(age * SECOND),
            heartbeat=monotonic - int(beat * SECOND),
            keeper_pid=self.keeper.pid,
            keeper_start=keeper_start or processes.start_time(self.keeper.pid) or 0,
        ))

    def kill_keeper(self) -> None:
        self.renew()
        self.keeper.kill()
        self.keeper.wait()

    def guest(
        self, name: str = "demo", *, ignore_sigterm: bool = False, bind: bool = True, headless: bool = False
    ) -> tuple[str, subprocess.Popen[bytes]]:
        """A guest as the keeper has it started: watched, then run, then bound."""
        uuid = str(uuids.uuid4())
        self.client.watch(uuid, name)
        qemu = self.host.start(uuid, name, ignore_sigterm, headless=headless)
        if bind:
            self.client.bind(uuid, qemu.pid, processes.start_time(qemu.pid) or 0)
        return uuid, qemu

    # ---------------------------------------------------------------- the guard

    def start_guard(self, *arguments: str, wait: bool = True, stderr: int = subprocess.PIPE) -> None:
        """Start the guard; unless told otherwise, until it says that it is ready."""
        address = f"\0vlhook-test-{uuids.uuid4()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(PATIENCE)
            self.guard = subprocess.Popen(
                [sys.executable, "-m", "vlhook.guard", "--run-dir", self.run_dir,
                 "--proc-dir", self.host.proc_dir, *arguments],
                cwd=ROOT, stderr=stderr, env={**os.environ, "NOTIFY_SOCKET": address.replace("\0", "@")},
            )
            if wait:
                assert manager.recv(64) == b"READY=1"

    def kill_guard(self) -> None:
        """As the OOM killer would."""
        if self.guard is not None:
            self.guard.kill()
            self.guard.wait()
            if self.guard.stderr is not None:
                self.log += self.guard.stderr.read().decode()
                self.guard.stderr.close()
            self.guard = None

    def stop_guard(self) -> None:
        assert self.guard is not None
        self.guard.send_signal(signal.SIGTERM)

    def expect(self, *words: str) -> str:
        """Wait for a line of the guard's log with all these words; returns it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for line in self.log.splitlines():
                if all(word in line for word in words):
                    return line
            assert self.guard is not None
            assert self.guard.stderr is not None
            descriptor = self.guard.stderr.fileno()
            ready = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"no line with {words} in:\n{self.log}"
            chunk = os.read(descriptor, 65536)
            assert chunk, f"the guard ended, and no line with {words} is in:\n{self.log}"
            self.log += chunk.decode()

    def turn(self) -> None:
        """Let the guard go through its loop at least once."""
        self.client.ping()
        self.client.ping()


def died_of(process: subprocess.Popen[bytes]) -> signal.Signals:
    """Wait for the end of a process; the signal that ended it."""
    return signal.Signals(-process.wait(PATIENCE))
