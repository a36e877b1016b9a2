# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fault layer as a child process, and how it is told what to do (`faults`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import vlhook

from .fuse import CannotMount, unmount

PACKAGE = str(Path(vlhook.__file__).resolve().parent.parent)


def spawn(module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A module of ours with a pipe to and from it; it ends with the pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PACKAGE}, cwd="/",
    )  # fmt: skip


class Layer:
    """`source` as seen through `mountpoint`, in the mode that was set last. Raises CannotMount."""

    def __init__(self, source: Path, mountpoint: Path) -> None:
        self.source, self.mountpoint = source, mountpoint
        for path in (source, mountpoint):
            path.mkdir(parents=True, exist_ok=True)
        self._process = spawn("vlhook.drill.faults", source, mountpoint)
        assert self._process.stdout
        if not self._process.stdout.readline():
            self._process.wait()
            raise CannotMount(path=mountpoint, why="see the message above")

    def set(self, mode: str) -> None:
        """One of the modes of `faults`; what comes from now on meets it."""
        self._ask(mode)

    def last_write(self, name: str) -> float:
        """When the file was last written beneath, on CLOCK_MONOTONIC; 0: never."""
        return float(self._ask(f"writes {name}")["at"])

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Unmount; whoever waits for an answer gets an error."""
        unmount(str(self.mountpoint))
        self._process.kill()
        self._process.communicate()
