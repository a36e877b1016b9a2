# SPDX-License-Identifier: LGPL-2.1-or-later
"""A watchdog device that resets nothing, and the real wdmd on it, in a mount namespace of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.keeper.hosts import PYTHON, ROOT, wait_for
from tests.needs import lacking, require_program

# wdmd has fixed places for its socket and its shared memory, and no room for a long path.
_PRIVATE = """
mkdir -p /run/wdmd && mount --make-rprivate / && mount --bind "$1" /run/wdmd && mount -t tmpfs shm /dev/shm || exit 99
touch /run/wdmd/device && mount --bind "$3" /run/wdmd/device || exit 99
exec "$2" -D -S 0 -H 0 -w /run/wdmd/device
"""


class FakeDevice:
    """The file `path` is a watchdog device; `events` is all that was done to it."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [PYTHON, "-m", "vlhook.drill.device", str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout
        if not self._process.stdout.readline():
            lacking("needs FUSE mounts")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self.events.append(json.loads(line))

    def last(self) -> str:
        """The latest event other than a feed."""
        others = [event["event"] for event in self.events if event["event"] != "fed"]
        return others[-1] if others else ""

    def feeds(self) -> int:
        return sum(event["event"] == "fed" for event in self.events)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class RealWdmd:
    """The daemon, its socket in `directory`."""

    def __init__(self, directory: Path, device: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.socket = directory / "wdmd.sock"
        self._log = directory / "log"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", _PRIVATE, "sh", str(directory), require_program("wdmd"), str(device)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for("wdmd", self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
            except OSError:
                return False
        return True

    @property
    def inside(self) -> list[str]:
        """What runs a command where it finds this daemon."""
        return ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--"]

    def dump(self) -> str:
        """Its registered clients, as it tells them itself."""
        command = [*self.inside, require_program("wdmd"), "-d"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def clients(self) -> list[dict[str, int]]:
        """Its clients with name vlhook."""
        found = []
        for line in self.dump().splitlines():
            words = line.split()
            if "vlhook:" in line:
                found.append({k: int(v) for k, v in zip(words, words[1:]) if v.isdigit()})
        return found

    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def device(path: Path) -> Iterator[FakeDevice]:
    fake = FakeDevice(path)
    try:
        yield fake
    finally:
        fake.close()


@contextlib.contextmanager
def wdmd(directory: Path, fake: FakeDevice) -> Iterator[RealWdmd]:
    daemon = RealWdmd(directory, fake.path)
    try:
        yield daemon
    finally:
        daemon.close()
