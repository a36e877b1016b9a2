# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is to be ended, and ending them."""

from __future__ import annotations

import os
import signal
import time

from ..processes import ProcessError, open_process
from .limit import Limit
from .table import Guest, Table, Target
from .work import ERROR, NOTICE, WARNING, Log

TERM_SECONDS = 5.0
# The keeper kills at the end of the grace; the guard after it.
LAST_SECONDS = 1.0
GRACE_MAX = 40.0
COMPLAIN_SECONDS = 10.0

WAIT, TERM, KILL = "wait", "term", "kill"


def stage(overdue: float, grace: float, keeper_acts: bool, since_term: float | None) -> str:
    """What is due `overdue` seconds after the limit; `since_term`: seconds since the first SIGTERM."""
    if overdue >= grace or (since_term is not None and since_term >= TERM_SECONDS):
        return KILL
    if since_term is None and keeper_acts:
        return WAIT
    return TERM


class Endings:
    """Called with every turn of the loop; nothing here waits."""

    def __init__(self, table: Table, limit: Limit, grace: float, log: Log) -> None:
        self._table = table
        self._limit = limit
        self._default_grace = grace
        self._log = log
        self._keeper_killed = (0, 0)

    def _grace(self) -> float:
        """The keeper's, if it told one: then the guard comes last."""
        member = self._limit.member
        if member is None or member.grace < 0:
            return self._default_grace
        return min(member.grace + LAST_SECONDS, GRACE_MAX)

    def judge(self) -> list[Guest]:
        """Find the guests whose leases have run out by now; returns those that are new among them."""
        overdue = self._limit.overdue()
        if overdue is None:
            return []
        member = self._limit.member
        doomed = []
        for guest in self._table.guests.values():
            if guest.limit_at:
                continue
            if member and (member.host_id, member.generation) != (guest.host_id, guest.generation):
                self.doom(guest, self._grace(), "the host has another generation now")
            elif overdue >= 0:
                self.doom(guest, overdue, "the host's lease has run out")
            else:
                continue
            doomed.append(guest)
        return doomed

    def doom(self, guest: Guest, overdue: float, why: str) -> None:
        """From here on this guest is ended, whatever the page will say."""
        guest.limit_at = max(1, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(overdue * 1e9))
        self._table.changed = True
        self._log(
            ERROR, "expired", guest=guest.name, uuid=guest.uuid, why=why, overdue=f"{overdue:.1f}",
            pids=guest.pids(), keeper="acts-first" if self._limit.keeper_acts() else "does-not-act",
        )

    def end(self, guest: Guest) -> None:
        """Take the next step with a guest, if one is due."""
        for process in guest.drop_gone():
            self._table.changed = True
            self._log(NOTICE, "gone", guest=guest.name, uuid=guest.uuid, pid=process.pid)
        if not guest.limit_at or not guest.targets:
            return
        now = time.monotonic()
        overdue = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - guest.limit_at) / 1e9
        since_term = now - guest.term_at if guest.term_at else None
        due = stage(overdue, self._grace(), self._limit.keeper_acts(), since_term)
        for target in guest.targets.values():
            if due == TERM and not target.terminated:
                target.terminated = now
                guest.term_at = guest.term_at or now
                self._signal(guest, target, signal.SIGTERM, overdue)
            elif due == KILL and not target.killed:
                target.killed = target.complained = now
                self._signal(guest, target, signal.SIGKILL, overdue)
            elif due == KILL and now - target.complained >= COMPLAIN_SECONDS:
                target.complained = now
                # Again: the first may have been forbidden.
                self._signal(guest, target, signal.SIGKILL, overdue)
                self._log(
                    ERROR, "does-not-die", guest=guest.name, uuid=guest.uuid, pid=target.process.pid,
                    overdue=f"{overdue:.1f}", why="stuck in the kernel; only the watchdog helps",
                )

    def stop_stale_keeper(self) -> None:
        """A keeper that is stopped or hangs past the limit is killed: continued, it might write."""
        beat = self._limit.beat
        if beat is None or self._limit.member is None:
            return
        if not self._limit.expired() or not self._limit.keeper_is_stale():
            return
        key = beat.keeper_pid, beat.keeper_start
        if key[0] in (0, 1, os.getpid()) or key == self._keeper_killed:
            return
        try:
            keeper = open_process(key[0], start=key[1])
        except ProcessError:
            return
        try:
            sent = keeper.send(signal.SIGKILL)
        finally:
            keeper.close()
        self._keeper_killed = key
        if sent:
            self._log(
                ERROR, "keeper-killed", pid=key[0], heartbeat_age=f"{beat.heartbeat_age():.1f}",
                why="it stopped, and must not finish an old write when it is continued",
            )

    def _signal(self, guest: Guest, target: Target, number: signal.Signals, overdue: float) -> None:
        fields = {"guest": guest.name, "uuid": guest.uuid, "pid": target.process.pid, "signal": number.name}
        try:
            if target.process.send(number):
                self._log(WARNING, "signalled", overdue=f"{overdue:.1f}", **fields)
        except OSError as error:
            self._log(ERROR, "not-signalled", why=error, **fields)
