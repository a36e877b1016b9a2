# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a guest's CPUs run on this host, by libvirt's own state file: nobody is asked, nobody must tell.

libvirt writes `<run directory>/qemu/GUEST.xml` anew at every change of a running
guest's state, within milliseconds (seen with 9.0), and begins it with that state:

    <domstatus state='paused' reason='migration' pid='4711'>

A guest whose CPUs begin to run is told to `on_resumed`, one that is paused to
`on_paused`, again every now and then for as long as it is. What the file says
while libvirtd is away is old; but then nobody resumes a guest either.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import select
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

from .log import Log
from .state import RUNNING, Incarnation
from .table import Table

POLL_SECONDS = 0.2
"""Where the kernel does not tell of changes."""
TOLD_SECONDS = 1.0
"""Where it does: a guest may have become known after its file was written."""
SWEEP_SECONDS = 60.0
"""Between two looks at all files, told or not."""
LEAST_SECONDS = 0.02
"""Between two looks, however many changes there are."""
IN_CLOSE_WRITE, IN_MOVED_TO, IN_Q_OVERFLOW, IN_IGNORED = 0x8, 0x80, 0x4000, 0x8000
_EVENT = struct.Struct("iIII")
"""watch, mask, cookie, length of the name that follows (inotify(7))"""
PAUSED_SECONDS = 60.0
"""Between two words about a guest that stays paused."""
HEAD_BYTES = 4096
STARTING_UP = "starting up"
POST_COPY = ("post-copy", "post-copy failed")
_DOMSTATUS = re.compile(rb"<domstatus state='([a-z]+)' reason='([a-z -]+)'(?: pid='([0-9]{1,9})')?")


class RunState(NamedTuple):
    """As libvirt's file has them: ('running', 'booted', 4711), ('paused', 'migration', 4711), …"""

    state: str
    reason: str
    pid: int

    @property
    def paused(self) -> bool:
        return self.state == "paused"

    @property
    def runs(self) -> bool:
        return self.state == "running"


def run_state(libvirt_run_dir: Path, guest: str) -> Optional[RunState]:
    """What libvirt's state file of that guest says; None if there is none, or it says nothing."""
    try:
        with open(_file(libvirt_run_dir, guest), "rb") as file:
            found = _DOMSTATUS.search(file.read(HEAD_BYTES))
    except OSError:
        return None
    return RunState(found[1].decode(), found[2].decode(), int(found[3] or 0)) if found else None


def _file(libvirt_run_dir: Path, guest: str) -> Path:
    return libvirt_run_dir / "qemu" / f"{guest}.xml"


class _Seen:
    """The last look at one guest."""

    __slots__ = ("qemu", "stamp", "state", "told_at")

    def __init__(self) -> None:
        self.qemu = 0
        self.stamp: tuple[int, ...] = ()
        self.state: Optional[RunState] = None
        self.told_at = 0.0

    def due(self) -> float:
        """CLOCK_MONOTONIC at which a pause that goes on is to be told again."""
        return self.told_at + PAUSED_SECONDS if self.state is not None and self.state.paused else math.inf


class News:
    """Waits for a file of that directory to be written or renamed into it, by inotify(7)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = ctypes.CDLL(None, use_errno=True).inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watching = False

    def wait(self) -> Optional[set[str]]:
        """Names of files that were written, none after TOLD_SECONDS; None: any of them may have been.

        A directory that is not there yet is looked for each time.
        """
        if not self._watching and self._fd >= 0:
            path, mask = os.fsencode(self._directory), IN_MOVED_TO | IN_CLOSE_WRITE
            self._watching = ctypes.CDLL(None).inotify_add_watch(self._fd, path, mask) >= 0
            if self._watching:
                return None
        if not self._watching:
            time.sleep(POLL_SECONDS)
            return None
        if not select.select([self._fd], [], [], TOLD_SECONDS)[0]:
            return set()
        time.sleep(LEAST_SECONDS)
        return self._read()

    def _read(self) -> Optional[set[str]]:
        names: set[str] = set()
        complete = True
        while True:
            try:
                events = os.read(self._fd, 65536)
            except BlockingIOError:
                return names if complete else None
            at = 0
            while at < len(events):
                _, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                names.add(os.fsdecode(events[at - length : at].rstrip(b"\0")))
                if mask & IN_IGNORED:
                    self._watching = False
                if mask & (IN_IGNORED | IN_Q_OVERFLOW):
                    complete = False


class RunStates:
    """Looks at every running guest. `on_resumed` and `on_paused` must not wait for the storage."""

    def __init__(self, libvirt_run_dir: Path, table: Table, log: Log) -> None:
        self.on_resumed: Callable[[Incarnation], None] = lambda life: None
        self.on_paused: Callable[[Incarnation], None] = lambda life: None
        self._dir = libvirt_run_dir
        self._table = table
        self._log = log
        self._seen: dict[str, _Seen] = {}
        self._swept = 0.0
        self._revision = -1
        self._due = math.inf
        """When the next guest that stays paused is told again."""

    def of(self, life: Incarnation) -> Optional[RunState]:
        """None, too, if the file is that of another run of the guest."""
        found = run_state(self._dir, life.guest)
        return found if found and found.pid == life.qemu else None

    def run(self, stop: threading.Event) -> None:
        news = News(self._dir / "qemu")
        while not stop.is_set():
            try:
                self.look(news.wait())
            except Exception as error:  # a fault in one look must not be the last one
                self._log.error("fault", error=repr(error))
                self._swept = 0.0
                stop.wait(TOLD_SECONDS)

    def look(self, written: Optional[set[str]] = None) -> None:
        """One look at the guests of whose files one is among `written` (None: all), or that are new.

        A guest that gets another process is new: what its file says may be about that one.
        """
        now, revision = time.monotonic(), self._table.revision
        everywhere = written is None or now >= self._swept + SWEEP_SECONDS
        if not (everywhere or written or now >= self._due or revision != self._revision):
            return
        self._revision = revision
        if everywhere:
            self._swept = now
        lives = [life for life in self._table.all() if life.phase == RUNNING and life.owned]
        for key in set(self._seen) - {life.key for life in lives}:
            del self._seen[key]
        for life in lives:
            seen = self._seen.setdefault(life.key, _Seen())
            told = f"{life.guest}.xml" in (written or ())
            if everywhere or told or seen.qemu != life.qemu or now >= seen.due():
                seen.qemu = life.qemu
                self._look_safely(life, seen)
        self._due = min((seen.due() for seen in self._seen.values()), default=math.inf)

    def _look_safely(self, life: Incarnation, seen: _Seen) -> None:
        """A look that failed is made anew at the next turn, and keeps nobody else's from being made."""
        stamp, state = seen.stamp, seen.state
        try:
            self._look_at(life, seen)
        except Exception as error:
            self._log.error("run-state", guest=life.guest, uuid=life.uuid, error=repr(error))
            seen.stamp, seen.state, seen.qemu = stamp, state, -1
            self._revision = -1

    def _look_at(self, life: Incarnation, seen: _Seen) -> None:
        before, now = seen.state, self._state(life, seen)
        if now is None:
            return
        first = before is None
        if now.runs and not (before and before.runs):
            claims = any(owned.claim for owned in life.owned)
            if claims or not (first or before.reason == STARTING_UP):  # type: ignore[union-attr]
                self.on_resumed(life)
        elif now.paused and now.reason != STARTING_UP:
            just_now = not (before and before.paused and before.reason != STARTING_UP)
            if just_now or time.monotonic() >= seen.due():
                seen.told_at = time.monotonic()
                self.on_paused(life)

    def _state(self, life: Incarnation, seen: _Seen) -> Optional[RunState]:
        """The file is read only if it was written since the last look."""
        try:
            stat = _file(self._dir, life.guest).stat()
        except OSError:
            return None
        stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if stamp != seen.stamp:
            found = self.of(life)
            if found:
                seen.stamp, seen.state = stamp, found
        return seen.state
