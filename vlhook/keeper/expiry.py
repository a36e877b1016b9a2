# SPDX-License-Identifier: LGPL-2.1-or-later
"""When this host's own lease is lost or has run out, its guests are stopped (architecture, safety rule 4).

The keeper acts first, gracefully (`stopping`). vlhook-guard does the same from
outside a little later, whatever has become of the keeper. Only when
every guest is gone and its images are flushed does the host join again
under a new generation (format document, 8.11).
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from ..lastok import Page
from ..leases.delta import OwnTrace
from .budget import Budget
from .ending import Endings
from .host import Host
from .log import Log
from .qemu import Processes
from .state import ENDING, RUNNING, STARTING, Incarnation
from .stopping import TERM_BEFORE_KILL, Ask, Request, Signals, does, due
from .table import Table
from .watcher import Watcher

BEAT_SECONDS = 0.5
TICK_SECONDS = 0.25


class Expiry:
    def __init__(
        self,
        *,
        host: Host,
        page: Page,
        table: Table,
        watcher: Watcher,
        processes: Processes,
        endings: Endings,
        log: Log,
        rejoin: Callable[[OwnTrace | None], bool],
        beat: Callable[[], None],
        budget: Budget,
        grace: float,
        ask: Ask,
    ) -> None:
        self._host = host
        self._page = page
        self._table = table
        self._watcher = watcher
        self._processes = processes
        self._endings = endings
        self._log = log
        self._rejoin = rejoin
        self._beat = beat
        self._budget = budget
        self._grace = grace
        self._ask = ask
        self._signals = Signals(log)
        self._turn: Callable[[], None] = lambda: None

    def run(self, stop: threading.Event, turn: Callable[[], None]) -> None:
        """The keeper's heartbeat: runs until `stop`. `turn` is called with every turn."""
        self._turn = turn
        while not stop.wait(BEAT_SECONDS):
            self._beat()
            turn()
            try:
                self._page.heartbeat()
            except OSError as error:
                self._log.alarm("page", f"the shared page cannot be written: {error}")
            lease = self._host.lease
            if lease is None:
                continue
            self._budget.look(lease)
            why = lease.why_not()
            if why:
                self._lost(why, stop)

    def _lost(self, why: str, stop: threading.Event) -> None:
        self._log.alarm("lost", f"this host's lease is lost, its guests are stopped: {why}")
        lease = self._host.lease
        overdue = lease.overdue() if lease else 0.0
        trace = self._host.drop(f"this host's lease was lost ({why}); its guests are being stopped")
        lives = [life for life in self._table.all() if life.wants]
        self.end_all(lives, stop, overdue)
        self._log.calm("lost")
        self._budget.over()
        if not stop.is_set():
            self._rejoin(trace)

    def end_all(self, lives: list[Incarnation], stop: threading.Event, overdue: float | None = None) -> None:
        """Stop these guests and wait, for as long as it takes, until they are gone and drained.

        `overdue`: seconds past last_ok + 8N, which opens the grace; None: there is none, others
        may have the leases already.
        """
        begun = time.monotonic() - (overdue or 0.0)
        grace = TERM_BEFORE_KILL if overdue is None else self._grace
        request = self._begin(lives, grace - TERM_BEFORE_KILL - (overdue or 0.0))
        while not stop.is_set():
            left = [life for life in lives if self._table.alive(life)]
            if not left:
                return
            late = time.monotonic() - begun
            for life in left:
                if life.phase == ENDING:
                    self._endings.begin(life, True, "it was ending before")
                else:
                    self._stop(life, due(late, grace, request.asked(life.uuid)))
            try:
                self._page.heartbeat()
            except OSError:
                pass
            self._turn()
            stop.wait(TICK_SECONDS)

    def _begin(self, lives: list[Incarnation], seconds: float) -> Request:
        for life in lives:
            what, why = does(life.policy)
            if why:
                self._log.warning("policy", guest=life.guest, asked=life.policy, does=what, why=why)
        running = [life.uuid for life in lives if life.phase in (STARTING, RUNNING)]
        return self._ask(running if seconds > 0 else [], seconds)

    def _stop(self, life: Incarnation, number: signal.Signals | None) -> None:
        process, phase = self._watcher.process_of(life), life.phase
        if process:
            if number:
                self._signals.send(life, process, number)
            return
        looked = self._processes.look(life, thoroughly=True) if phase in (STARTING, RUNNING) else None
        if looked:
            try:
                if number:
                    self._signals.send(life, looked, number)
            finally:
                looked.close()
        elif life.adopting or (phase != STARTING and not self._processes.sign_of_life(life.uuid, life.born)):
            # Past the second gate its QEMU may appear at any time: that is for the watcher to say (safety rules, 2).
            # One that is not adopted yet runs on as before, without leases (24).
            self._endings.begin(life, phase == RUNNING, "this host's lease was lost", phase)
