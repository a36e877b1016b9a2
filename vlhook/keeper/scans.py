# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks at the process table that end in time, whatever one process is stuck in.

The kernel may keep a reader of a command line waiting for as long as that
process is stuck with its memory map locked, as a QEMU can be on dead storage.
No thread of the keeper that serves anybody may stand still for that: the
reading is done in a thread of its own, and left behind when it hangs.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Optional, TypeVar

from .. import processes
from ..processes import PROC, Scan

SCAN_SECONDS = 2.0
T = TypeVar("T")


class _Shared:
    """One scan, for all who wait for it."""

    def __init__(self) -> None:
        self.over = False
        self.seen: Optional[Scan] = None
        self.error: Optional[BaseException] = None


class Scans:
    """`seconds`: how long one look may take before the process it hangs at is passed over."""

    def __init__(self, proc_dir: str = PROC, seconds: float = SCAN_SECONDS) -> None:
        self._proc_dir = proc_dir
        self._seconds = seconds
        self._lock = threading.Lock()
        self._stuck: set[int] = set()
        self._turns = threading.Condition()
        self._going: Optional[_Shared] = None
        self._next: Optional[_Shared] = None

    def scan(self) -> Scan:
        """As `processes.scan`; a process that hangs its reader counts as unknown. Raises OSError.

        Who asks while a scan is going on shares the next one with all others that wait
        for it: it begins after they asked, and a hundred guests that end cost no more than one.
        """
        with self._turns:
            mine = self._next
            if mine is None:
                mine = self._next = _Shared()
                while self._going:
                    self._turns.wait()
                self._going, self._next = mine, None
                first = True
            else:
                first = False
                while not mine.over:
                    self._turns.wait()
        if first:
            self._share(mine)
        if mine.error:
            raise mine.error
        assert mine.seen
        return mine.seen

    def _share(self, mine: _Shared) -> None:
        try:
            mine.seen = self._scan_past_stuck()
        except BaseException as error:
            mine.error = error
        finally:
            with self._turns:
                self._going, mine.over = None, True
                self._turns.notify_all()

    def _scan_past_stuck(self) -> Scan:
        for _ in range(2):
            at = [0]
            try:
                return self.within(lambda at=at: self._scan(at), at)  # type: ignore[misc]
            except TimeoutError:
                continue
        raise TimeoutError(errno.ETIMEDOUT, f"reading it does not end; it hangs at process {at[0]}")

    def _scan(self, at: list[int]) -> Scan:
        def progress(pid: int) -> bool:
            at[0] = pid
            with self._lock:
                return pid not in self._stuck

        return processes.scan(self._proc_dir, progress=progress)

    def within(self, work: Callable[[], T], at: list[int]) -> T:
        """`work`, in time. `at[0]`: the process it is at, passed over by all until the hanging `work` ends.

        Raises TimeoutError, and what `work` raises.
        """
        ended = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:
                errors.append(error)
            with self._lock:
                ended.set()
                self._stuck.discard(at[0])

        with self._lock:
            if at[0] in self._stuck:
                raise _stuck(at[0])
        threading.Thread(target=run, name="scan", daemon=True).start()
        if not ended.wait(self._seconds):
            with self._lock:
                if not ended.is_set():
                    self._stuck.add(at[0])
                    raise _stuck(at[0])
        if errors:
            raise errors[0]
        return results[0]


def _stuck(pid: int) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"process {pid} cannot be read: it is stuck in the kernel")
