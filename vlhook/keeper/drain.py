# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dead means gone and drained (safety rules, 5).

What a QEMU process wrote may still be in this host's page cache when the
process is gone, and reach the disk after another host has taken over. So every
writable image is opened and fsynced, by a process of its own that may hang or
be refused without harm (`syncer`), before the lease of the image is given up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import vlhook

from .syncer import sync

Owner = Optional[tuple[int, int]]
NO_DEVICE = ("No such device", "No such device or address", "No medium found")


@dataclass(frozen=True)
class Undrained:
    """Why an image's pages are not known to be on the disk."""

    path: str
    why: str


class Job:
    """One fsync: `error` is set before `ended`, "" if it went well."""

    def __init__(self, path: str, owner: Owner) -> None:
        self.path = path
        self.owner = owner
        self.error = ""
        self.ended = threading.Event()

    def end(self, error: str) -> None:
        self.error = error
        self.ended.set()

    def run(self) -> None:
        """Without the child that is there for it."""
        self.end(sync(self.path, self.owner))


class Syncer:
    """The child (`syncer`), or a process for each file where it is not there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._jobs: dict[int, Job] = {}
        self._number = 0

    def start(self) -> None:
        """Start the child if it does not run; only while the storage is well. Raises nothing."""
        with self._lock:
            if self._process and self._process.poll() is None:
                return
            package = str(Path(vlhook.__file__).resolve().parent.parent)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-s", "-m", "vlhook.keeper.syncer"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", close_fds=False,
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": package},
                )  # fmt: skip
                threading.Thread(target=self._read, args=(self._process,), name="syncer", daemon=True).start()
            except (OSError, RuntimeError):
                self._process = None

    def stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process and process.stdin:
            process.stdin.close()

    def begin(self, path: str, owner: Owner) -> Job:
        job = Job(path, owner)
        with self._lock:
            self._number += 1
            self._jobs[self._number] = job
            line = json.dumps({"number": self._number, "path": path, "owner": owner}).encode() + b"\n"
            process = self._process
            try:
                if process is None or process.stdin is None or process.poll() is not None:
                    raise BrokenPipeError
                process.stdin.write(line)
                process.stdin.flush()
                return job
            except (OSError, ValueError):
                del self._jobs[self._number]
        threading.Thread(target=job.run, name="sync", daemon=True).start()
        return job

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            answer = json.loads(line)
            with self._lock:
                job = self._jobs.pop(answer["number"], None)
            if job:
                job.end(answer["error"])
        process.wait()
        with self._lock:
            lost, self._jobs = list(self._jobs.values()), {}
        for job in lost:
            job.end("the process that syncs has ended")


class Drain:
    """The images of one guest. A process that hangs is waited for again, not joined by another."""

    def __init__(self, paths: Sequence[str], devices: Mapping[str, int], syncer: Optional[Syncer] = None) -> None:
        self._paths = paths
        self._devices = devices
        self._syncer = syncer or Syncer()
        self._running: dict[tuple[str, Owner], Job] = {}

    def run(self, seconds: float) -> list[Undrained]:
        """fsync all paths, each by its own process, within `seconds` each; returns those that failed.

        A path that does not exist has no pages that could come back under its name, unless its
        file system was taken away from under it; neither has a device that is gone.
        Where root may not open an image (root_squash) its owner does it.
        """
        left = [path for path in self._paths if _exists(path)]
        for path in left:
            self._start(path, None)
        failed = [Undrained(path, "its file system is not mounted") for path in self._paths if self._is_away(path)]
        for path in left:
            why = self._wait(path, None, seconds)
            if why and (path, None) not in self._running and os.geteuid() == 0:
                why = self._wait_as_owner(path, seconds)
            if why and not why.endswith(NO_DEVICE):
                failed.append(Undrained(path, why))
        return failed

    def _is_away(self, path: str) -> bool:
        """Is the path missing because the file system that it was on is not there (umount -l, for example)?"""
        device = self._devices.get(path)
        if device is None or _exists(path):
            return False
        directory = os.path.dirname(path)
        while not _exists(directory):
            directory = os.path.dirname(directory)
        try:
            return os.stat(directory).st_dev != device
        except OSError:
            return True

    def _wait_as_owner(self, path: str, seconds: float) -> str:
        try:
            stat = os.stat(path)
        except OSError as error:
            return error.strerror or str(error)
        owner = stat.st_uid, stat.st_gid
        self._start(path, owner)
        return self._wait(path, owner, seconds)

    def _start(self, path: str, owner: Owner) -> None:
        if (path, owner) not in self._running:
            self._running[path, owner] = self._syncer.begin(path, owner)

    def _wait(self, path: str, owner: Owner, seconds: float) -> str:
        job = self._running[path, owner]
        if not job.ended.wait(seconds):
            return f"fsync has not ended for {seconds:.0f} s"
        del self._running[path, owner]
        return job.error


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
