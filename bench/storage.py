# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage that the parties share: ext4 (or what is below /var/tmp), tmpfs, and tmpfs with 5 ms an I/O."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vlhook.drill.fuse import unmount

ROOT = Path(__file__).resolve().parent.parent
DISK, MEMORY, SLOW = "ext4", "tmpfs", "5 ms an I/O"
KINDS = (DISK, MEMORY, SLOW)
SLOW_SECONDS = 0.005
ON_DISK, IN_MEMORY = "/var/tmp", "/dev/shm"


@contextlib.contextmanager
def storage(kind: str) -> Iterator[Path]:
    """An empty directory on that kind of storage; gone afterwards."""
    with directory(ON_DISK if kind == DISK else IN_MEMORY) as base:
        if kind != SLOW:
            yield base
            return
        with slow(base, SLOW_SECONDS) as mounted:
            yield mounted


@contextlib.contextmanager
def directory(where: str = IN_MEMORY) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vlhook-bench-", dir=where))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def slow(base: Path, seconds: float) -> Iterator[Path]:
    """A directory below `base` in which every read and write takes so much longer."""
    behind, mounted = base / "behind", base / "mounted"
    behind.mkdir()
    mounted.mkdir()
    command = [sys.executable, "-m", "bench.slow", str(behind), str(mounted), str(seconds)]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        if not server.stdout.readline():
            raise SystemExit("bench: the slow file system cannot be mounted: it needs root and /dev/fuse")
        yield mounted
    finally:
        unmount(str(mounted))
        server.communicate()
