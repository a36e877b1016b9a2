# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking for guests' processes from the guard, past processes that cannot be looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from ..processes import Process, ProcessError, Scan, open_process, scan
from .work import ERROR, WARNING, Job, Jobs, Log

# A command line that takes longer to read belongs to a process that is stuck in the kernel.
STUCK_SECONDS = 2.0


class Found(NamedTuple):
    """The result of one pass. `processes` are verified and open; `failure` says why there is none."""

    processes: list[tuple[str, Process]]
    unknown: list[tuple[int, int, str]]
    failure: str = ""


class Finder:
    """Runs passes over the process table in threads. All methods are the loop's."""

    def __init__(self, proc_dir: str, jobs: Jobs, log: Log) -> None:
        self._proc_dir = proc_dir
        self._jobs = jobs
        self._log = log
        # Of each pass: what it reads, and since when.
        self._reading: dict[Job, tuple[int, float]] = {}
        self._stuck: set[Job] = set()

    def start(
        self, uuids: frozenset[str] | None, known: frozenset[int], done: Callable[[Found], None],
        *, urgent: bool = False,
    ) -> Job | None:
        """Look for the processes of these guests (None: of any), then call `done` in the loop.

        The command lines of `known` pids, which are held by pidfd, are not read: they end up in
        `unknown`. None if no thread can be had; `done` is not called then.
        """
        skip = known | frozenset(job.at for job in self._stuck)

        def work(job: Job) -> Callable[[], None]:
            found = _search(job, self._proc_dir, uuids, skip)
            return lambda: self._finish(job, found, done)

        job = self._jobs.start(work, urgent=urgent)
        if job is not None:
            self._reading[job] = 0, time.monotonic()
        elif urgent:
            self._log(ERROR, "no-thread", why="the process table cannot be searched")
        return job

    def going(self, job: Job | None) -> bool:
        """Whether this pass is under way, and not stuck."""
        return job is not None and job in self._reading and job not in self._stuck

    def mark_stuck(self) -> None:
        """To be called now and then: later passes leave out what a pass is stuck at."""
        now = time.monotonic()
        for job, (pid, since) in self._reading.items():
            if job.at != pid:
                self._reading[job] = job.at, now
            elif now - since > STUCK_SECONDS and job not in self._stuck:
                self._stuck.add(job)
                self._log(WARNING, "process-stuck", pid=pid, why="its command line cannot be read")

    def _finish(self, job: Job, found: Found, done: Callable[[Found], None]) -> None:
        del self._reading[job]
        self._stuck.discard(job)
        if found.failure:
            self._log(ERROR, "scan-failed", why=found.failure)
        done(found)


def _search(job: Job, proc_dir: str, uuids: frozenset[str] | None, skip: frozenset[int]) -> Found:
    def progress(pid: int) -> bool:
        job.at = pid
        return pid not in skip

    processes: list[tuple[str, Process]] = []
    failure = ""
    seen = Scan({}, [])
    try:
        seen = scan(proc_dir, progress=progress)
        for uuid, keys in seen.guests.items():
            if uuids is not None and uuid not in uuids:
                continue
            for pid, start in keys:
                job.at = pid
                try:
                    processes.append((uuid, open_process(pid, proc_dir=proc_dir, start=start, uuid=uuid)))
                except ProcessError:
                    continue
    except Exception as error:  # A thread that dies would leave its caller without an answer.
        failure = f"{type(error).__name__}: {error}"
    return Found(processes, seen.unknown, failure)
