# SPDX-License-Identifier: LGPL-2.1-or-later
"""Threads for I/O that may hang: made when needed, kept a while, never waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from .blockio import trim_buffers

IDLE_SECONDS = 10.0
KEPT = 64
"""A start of a guest with many disks, or of many guests, is followed by others; to make a thread takes longer than the
processor's part of a lease."""


class Workers:
    """Runs callables at once, each in a thread of its own.

    There is no upper bound and no queue: a job that waited behind a hanging
    one would hang with it. The number of jobs is bounded by the callers.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._busy = 0

    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._busy > 0

    def run(self, job: Callable[[], None]) -> None:
        """Start `job`; it must not raise. Raises RuntimeError when the system gives no thread."""
        with self._lock:
            self._busy += 1
            if self._idle:
                self._idle -= 1
                self._jobs.put(job)
                return
        try:
            threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._busy -= 1
            raise

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            job()
            with self._lock:
                self._busy -= 1
                if self._idle >= KEPT:
                    return
                self._idle += 1
            try:
                job = self._jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle:
                        self._idle -= 1
                        trim_buffers()
                        return
                job = self._jobs.get()
