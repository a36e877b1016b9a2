# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard as a process: its start, its loop, its end."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .. import lastok
from ..errors import VlhookError
from ..notify import notify, watchdog_interval
from ..processes import PROC, ProcessError, boot_id, open_process
from . import memory
from .ending import GRACE_MAX, Endings
from .limit import Limit
from .requests import Requests
from .scan import Finder, Found
from .server import Server
from .table import Guest, StateDamaged, Table
from .work import ERROR, NOTICE, WARNING, Job, Jobs, Log

if TYPE_CHECKING:
    import argparse

# How often the loop turns, in seconds: with nobody to watch, with guests, and while some are ended.
TICK_IDLE = 5.0
TICK = 1.0
TICK_ENDING = 0.2
# After this time a QEMU that was being started at the limit is not likely to appear any more.
LATE_SECONDS = 60.0

GRACE_SECONDS = 20.0


class CannotStart(VlhookError):
    msg = "vlhook-guard does not start: {why}"
    code = "VLH-G002"


class Guard:
    """Everything wired up. Runs in one loop, in which nothing waits but poll."""

    def __init__(
        self, run_dir: str, proc_dir: str, grace: float, *, first_start: bool, log: Log, jobs: Jobs
    ) -> None:
        """Raises OSError. `first_start`: no guard was ever started on this run directory."""
        self._log = log
        self._jobs = jobs
        self._proc_dir = proc_dir
        self._table = Table(f"{run_dir}/guard.state", boot_id())
        self._limit = Limit(f"{run_dir}/{lastok.FILE_NAME}", log)
        self._endings = Endings(self._table, self._limit, grace, log)
        self._finder = Finder(proc_dir, jobs, log)
        self._requests = Requests(self._table, self._limit, self._endings, self._finder, jobs, log, proc_dir)
        self._watchdog = watchdog_interval()
        self._fed_at = 0.0
        self._searching: Job | None = None
        self._searched_at = 0.0
        self._nobody_at = 0.0
        self._stop_asked = 0.0
        self._stop_refused = False
        self._save_failed = False
        self._some_ended = True
        self._restore(first_start)
        self._table.save(self._limit.member)
        self._server = Server(f"{run_dir}/guard.sock", self._requests.handle, log)

    def run(self) -> None:
        """Until a SIGTERM can be obeyed."""
        if self._table.guests:
            self._search()
        while True:
            self._turn()
            if self._stop_asked and self._may_stop():
                break
            try:
                self._wait()
            except MemoryError:
                time.sleep(TICK_ENDING)
        self._server.close()

    def stop(self) -> None:
        """End as soon as no guest has a process any more. May be called by a signal handler."""
        self._stop_asked = self._stop_asked or time.monotonic()
        self._requests.stopping = True

    def _turn(self) -> None:
        self._safely(self._limit.read)
        self._safely(self._judge)
        # On file before the first signal: a successor must complete what was begun.
        self._save_changes()
        for guest in tuple(self._table.guests.values()):
            if guest.limit_at or self._some_ended:
                self._safely(self._endings.end, guest)
        self._safely(self._endings.stop_stale_keeper)
        self._safely(self._finder.mark_stuck)
        self._safely(self._search_if_due)
        self._safely(self._server.expire)
        self._save_changes()
        now = time.monotonic()
        if self._watchdog and now - self._fed_at >= self._watchdog:
            self._fed_at = now
            notify("WATCHDOG=1")

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._jobs.wake, select.POLLIN)
        others = {self._jobs.wake}
        for number, events in self._server.descriptors():
            poll.register(number, events)
            others.add(number)
        for guest in self._table.guests.values():
            for target in guest.targets.values():
                poll.register(target.process.pidfd, select.POLLIN)
        ready = poll.poll(self._pause() * 1000)
        # A pidfd that is readable stays so until its process is dropped, so none is missed.
        self._some_ended = any(number not in others for number, _ in ready)
        for number, _ in ready:
            if number == self._jobs.wake:
                for result in self._jobs.finished():
                    self._safely(result)
            else:
                self._safely(self._server.ready, number)

    def _pause(self) -> float:
        """Seconds until something may be due."""
        guests = self._table.guests.values()
        if self._stop_asked or any(guest.limit_at and guest.targets for guest in guests):
            return TICK_ENDING
        pause = TICK if guests or not self._table.complete else TICK_IDLE
        overdue = self._limit.overdue()
        if overdue is not None and overdue < 0:
            pause = min(pause, -overdue)
        return min(pause, self._watchdog or pause)

    def _safely(self, step: Callable[..., None], *arguments: object) -> None:
        # A fault in one step must not keep the others from ending guests; nor one in telling of it.
        try:
            step(*arguments)
        except Exception as error:
            with contextlib.suppress(MemoryError):
                self._log(ERROR, "internal-error", what=type(error).__name__, why=error)

    def _judge(self) -> None:
        if self._endings.judge():
            # Their processes may not all be known.
            self._searched_at = 0.0

    # ------------------------------------------------------------------ looking for processes

    def _search_if_due(self) -> None:
        ending = [guest for guest in self._table.guests.values() if guest.limit_at]
        everybody = not self._table.complete and self._limit.expired()
        if not (ending or everybody or self._stop_asked):
            return
        since_limit = time.clock_gettime(time.CLOCK_BOOTTIME) - max(
            (guest.limit_at / 1e9 for guest in ending), default=0.0)
        interval = TICK_IDLE if ending and since_limit > LATE_SECONDS and not self._stop_asked else TICK
        if time.monotonic() - self._searched_at >= interval and not self._finder.going(self._searching):
            self._search()

    def _search(self) -> None:
        now = time.monotonic()
        uuids = frozenset(self._table.guests) if self._table.complete else None
        known, done = self._table.known_pids(), functools.partial(self._found, now)
        self._searching = self._finder.start(uuids, known, done, urgent=True)
        if self._searching:
            self._searched_at = now

    def _found(self, began: float, found: Found) -> None:
        for uuid, process in found.processes:
            guest = self._table.guests.get(uuid) or self._stranger(uuid)
            if guest is None:
                process.close()
            elif guest.add(process):
                self._table.changed = True
                self._log(NOTICE, "found", guest=guest.name, uuid=guest.uuid, pid=process.pid)
        if not found.processes and not found.failure:
            self._nobody_at = began

    def _stranger(self, uuid: str) -> Guest | None:
        """A guest that a damaged list may have named: past the limit it is ended like the others."""
        overdue, member = self._limit.overdue(), self._limit.member
        if self._table.complete or overdue is None or overdue < 0:
            return None
        guest = Guest(uuid, "?", 0, member.host_id if member else 0, member.generation if member else 0)
        self._table.guests[uuid] = guest
        self._endings.doom(guest, overdue, "the list of guests is damaged and the host's lease has run out")
        return guest

    # ------------------------------------------------------------------ end and resumption

    def _may_stop(self) -> bool:
        guests = self._table.guests.values()
        nobody = not guests and self._table.complete
        if nobody or (self._nobody_at >= self._stop_asked and not any(guest.targets for guest in guests)):
            return True
        if not self._stop_refused and any(guest.targets for guest in guests):
            self._stop_refused = True
            pids = ",".join(guest.pids() for guest in guests if guest.targets)
            self._log(WARNING, "stop-refused", pids=pids, why="guests with leases still run")
        return False

    def _save_changes(self) -> None:
        if not self._table.changed:
            return
        try:
            self._table.save(self._limit.member)
            self._save_failed = False
        except OSError as error:
            # What was acknowledged is on file; this is later news, and the next turn tries again.
            if not self._save_failed:
                self._log(ERROR, "not-saved", why=error)
            self._save_failed = True

    def _restore(self, first_start: bool) -> None:
        table = self._table
        try:
            table.load()
        except (OSError, StateDamaged) as error:
            table.guests.clear()
            table.complete = first_start and isinstance(error, FileNotFoundError)
            if not table.complete:
                self._log(ERROR, "list-damaged", why=error)
            return
        self._limit.resume(table.earlier_member)
        for uuid, processes in table.earlier.items():
            for pid, start in processes:
                self._reopen(table.guests[uuid], pid, start)
        if table.guests:
            self._log(NOTICE, "resumed", guests=len(table.guests), processes=len(table.known_pids()))

    def _reopen(self, guest: Guest, pid: int, start: int) -> None:
        try:
            # Not by its command line: a process that is dying shows none.
            guest.add(open_process(pid, proc_dir=self._proc_dir, start=start))
        except ProcessError as error:
            self._log(NOTICE, "gone", guest=guest.name, uuid=guest.uuid, why=error)
        except OSError as error:
            self._log(ERROR, "not-reopened", guest=guest.name, uuid=guest.uuid, pid=pid, why=error)


def main(argv: list[str] | None = None) -> int:
    """The command `vlhook-guard`. Returns its exit status: 0, or 1 if it could not start."""
    options = _options(argv)
    memory.one_heap()
    jobs = Jobs()
    log = Log("vlhook-guard")
    try:
        first_start = _lock(options.run_dir)
        held = _protect(log)
        guard = Guard(
            options.run_dir, options.proc_dir, options.grace, first_start=first_start, log=log, jobs=jobs)
    except (VlhookError, OSError) as error:
        log(ERROR, "not-started", why=error)
        log.close()
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: guard.stop())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(jobs.waker, warn_on_full_buffer=False)
    notify("READY=1")
    guard.run()
    held.clear()
    log(NOTICE, "ends")
    log.close()
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    import argparse

    parser = argparse.ArgumentParser(
        prog="vlhook-guard",
        description="Ends guests whose leases ran out, whether the keeper (vlhookd) lives, hangs or is dead."
        " Started by its service; the keeper tells it which guests to watch.",
    )
    parser.add_argument("--run-dir", default="/run/vlhook", metavar="DIR",
                        help="the keeper's page, the guard's socket and list (default: %(default)s)")
    parser.add_argument("--proc-dir", default=PROC, metavar="DIR",
                        help="the host's process table (default: %(default)s)")
    parser.add_argument("--grace", default=GRACE_SECONDS, type=float, metavar="SECONDS",
                        help="how long a working keeper may take to end guests by their policy"
                        " before they are killed, where it does not tell it;"
                        f" up to {GRACE_MAX:g} (default: %(default)g)")
    options = parser.parse_args(argv)
    if not 0 <= options.grace <= GRACE_MAX:
        parser.error(f"argument --grace: {options.grace:g} is not within 0..{GRACE_MAX:g} seconds")
    return options


def _lock(run_dir: str) -> bool:
    """Keep other guards out for as long as this process lives; True if there never was one here."""
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    path = f"{run_dir}/guard.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        first = True
    except FileExistsError:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        first = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(why=f"another guard runs on {run_dir}") from None
    return first


def _protect(log: Log) -> list[bytes]:
    """Take what can be had against shortage of memory and of descriptors; what is returned must be kept."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise CannotStart(why=f"this kernel has no pidfd ({error.strerror}); Linux 5.3 is needed") from None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return memory.hold(log)
