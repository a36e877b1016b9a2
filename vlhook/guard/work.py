# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guard must do but must never wait for: writing its log, and reading command lines.

A log that cannot be written (a full pipe, a journal that hangs) blocks its
writer. Reading the command line of a process that is stuck in the kernel may
block the reader. Both happen in threads of their own, and the loop that kills
goes on.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6

LOG_LINES_MAX = 2000
JOBS_MAX = 64
# Threads for what is urgent that are there from the start: later there may be no memory for one.
SPARE = 2
# A thread that has not begun its work by then never will: it got no memory.
BEGIN_SECONDS = 10.0
# A thread's stack is locked memory.
STACK_BYTES = 256 << 10


class Log:
    """Lines for journald: `<priority>program: event key=value ...`. Never blocks or raises."""

    def __init__(self, program: str, descriptor: int = 2) -> None:
        self._program = program
        self._descriptor = descriptor
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._dropped = 0
        self._ended = threading.Event()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def __call__(self, priority: int, event: str, **fields: object) -> None:
        if self._lines.qsize() >= LOG_LINES_MAX:
            self._dropped += 1
            return
        if self._dropped:
            fields["lines_lost_before"], self._dropped = self._dropped, 0
        words = "".join(f" {name}={_quoted(value)}" for name, value in fields.items())
        self._lines.put(f"<{priority}>{self._program}: {event}{words}\n".encode("utf-8", "replace"))

    def close(self, seconds: float = 1.0) -> None:
        """Wait at most this long for the lines to be written."""
        self._lines.put(None)
        self._ended.wait(seconds)

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            if line is None:
                self._ended.set()
                return
            try:
                os.write(self._descriptor, line)
            except OSError:
                pass


class Job:
    """Some work in a thread. `at` is the pid being read right now; `result` is set when it is done."""

    def __init__(self, work: Callable[[Job], Callable[[], None]]) -> None:
        self.work = work
        self.at = 0
        self.spare = self.began = False
        self.since = time.monotonic()


class Jobs:
    """Runs work in threads. What it returns is to be run in the loop: `finished`, when `wake` is readable.

    All methods are the loop's.
    """

    def __init__(self) -> None:
        threading.stack_size(STACK_BYTES)
        self.wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._done: deque[tuple[Job, Callable[[], None]]] = deque()
        self._running: set[Job] = set()
        self._urgent: SimpleQueue[Job] = SimpleQueue()
        self._spare = SPARE
        for _ in range(SPARE):
            threading.Thread(target=self._serve, daemon=True).start()

    @property
    def waker(self) -> int:
        """Any byte written here wakes the loop too: for signals."""
        return self._waker

    def start(self, work: Callable[[Job], Callable[[], None]], *, urgent: bool = False) -> Job | None:
        """Run `work(job)`, which must not raise, in a thread. None if no thread can be had.

        What is urgent gets one even if requests hold all that they may have.
        """
        late = time.monotonic() - BEGIN_SECONDS
        self._running = {job for job in self._running if job.began or job.since > late}
        if len(self._running) >= (2 * JOBS_MAX if urgent else JOBS_MAX):
            return None
        job = Job(work)
        self._running.add(job)
        if urgent and self._spare:
            self._spare -= 1
            job.spare = True
            self._urgent.put(job)
            return job
        try:
            # Not a Thread: its start waits for the new thread, for ever if that got no memory.
            _thread.start_new_thread(self._run, (job,))
        except (RuntimeError, MemoryError):
            self._running.discard(job)
            return None
        return job

    def finished(self) -> list[Callable[[], None]]:
        """What has become ready since the last call; drains `wake`."""
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            pass
        results = []
        for _ in range(len(self._done)):
            job, result = self._done.popleft()
            self._running.discard(job)
            self._spare += job.spare
            results.append(result)
        return results

    def _serve(self) -> None:
        while True:
            self._run(self._urgent.get())

    def _run(self, job: Job) -> None:
        job.began = True
        self._done.append((job, job.work(job)))
        try:
            os.write(self._waker, b"j")
        except BlockingIOError:
            pass


def _quoted(value: object) -> str:
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return '"' + text.replace('"', "'") + '"' if " " in text or not text else text
