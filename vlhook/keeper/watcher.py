# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watches the QEMU processes of all incarnations, because libvirt's release may never come.

A guest whose QEMU is gone is ended. A guest that was prepared and for which no
QEMU appears is ended under the rules of the two gates: before the second gate
after a long while, after it never by time alone (safety rules, 2).
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Optional

from ..errors import VlhookError
from ..processes import TICKS_PER_SECOND, Process, ticks_now
from .ending import Endings
from .log import Log
from .qemu import Processes
from .state import ENDING, PREPARED, RUNNING, STARTING, Incarnation
from .table import Table

LOOK_SECONDS = 0.1
SCAN_SECONDS = 1.0
IDLE_SECONDS = 5.0
PREPARED_SECONDS = 600.0
"""A start whose second gate comes later than this after the first is refused there."""
STARTING_SECONDS = 300.0
"""Another hook script can delay a start for minutes. After that somebody should look."""
ORPHAN_SECONDS = 5.0
"""After the death of libvirtd its half-started QEMU may appear for a moment; then two scans must agree."""


class Watcher:
    def __init__(
        self,
        table: Table,
        processes: Processes,
        endings: Endings,
        bound: Callable[[Incarnation, Process], None],
        log: Log,
    ) -> None:
        self._table = table
        self._processes = processes
        self._endings = endings
        self._bound = bound
        self.missed: Callable[[Incarnation], None] = lambda life: None
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._watched: dict[str, Process] = {}
        self._orphan_since: dict[str, float] = {}
        self._next_scan = 0.0
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="watcher", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        self.wake()

    def wake(self) -> None:
        """Look now; after a change of the table."""
        os.write(self._wake_write, b"w")

    def process_of(self, life: Incarnation) -> Optional[Process]:
        return self._watched.get(life.key)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                ready = [key.data for key, _ in self._selector.select(self._look())]
                if None in ready:
                    self._drain_wakes()
                with self._processes.one_pass():
                    for key in ready:
                        if key is not None:
                            self._gone(key)
            except Exception as error:  # one guest's trouble must not leave the others unwatched
                self._log.error("watcher", error=repr(error))
                self._stop.wait(SCAN_SECONDS)

    def _calm(self, lives: list[Incarnation]) -> None:
        self._log.calm_others(f"{STARTING} ", [f"{STARTING} {life.key}" for life in lives if life.phase == STARTING])

    def _drain_wakes(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _gone(self, key: str) -> None:
        process = self._watched.pop(key)
        self._selector.unregister(process.pidfd)
        process.close()
        for life in self._table.all():
            if life.key == key and life.phase != ENDING:
                self._end_or_rebind(life, f"QEMU (pid {process.pid}) is gone")

    def _look(self) -> float:
        """One pass over the table; returns the seconds until the next."""
        with self._processes.one_pass():
            return self._look_at_all()

    def _look_at_all(self) -> float:
        now = time.monotonic()
        thoroughly = now >= self._next_scan
        waiting = False
        for life in self._table.all():
            if life.key in self._watched or life.phase == ENDING:
                continue
            if thoroughly and life.phase in (PREPARED, STARTING):
                self.missed(life)
            if life.phase == RUNNING:
                waiting = not self._watch_again(life) or waiting
            elif life.phase == STARTING:
                waiting = True
                self._find(life, thoroughly)
            elif life.phase == PREPARED:
                self._collect_prepared(life)
        if thoroughly:
            self._calm(self._table.all())
            self._next_scan = now + SCAN_SECONDS
        return LOOK_SECONDS if waiting else IDLE_SECONDS

    def _watch_again(self, life: Incarnation) -> bool:
        """After a restart of the keeper, or while it is not clear whether the guest is gone; True: it is now."""
        process = self._processes.open(life)
        if process:
            self._watch(life, process)
            return True
        return self._end_or_rebind(life, "QEMU is gone")

    def _end_or_rebind(self, life: Incarnation, why: str) -> bool:
        """The process that we knew is gone. It may not have been QEMU: another one keeps the leases."""
        process = self._processes.look(life, thoroughly=True)
        if process:
            self._log.warning("another-process", guest=life.guest, uuid=life.uuid, pid=process.pid, was=life.qemu)
            self._bind(life, process)
        elif not self._processes.sign_of_life(life.uuid, life.born):
            self._endings.begin(life, True, why)
        else:
            return False
        return True

    def _find(self, life: Incarnation, thoroughly: bool) -> None:
        process = self._processes.look(life, thoroughly=thoroughly)
        if process:
            self._bind(life, process)
        elif thoroughly and (life.released or not self._processes.caller_alive(life.caller)):
            self._collect_orphan(life)
        elif thoroughly and (ticks_now() - life.born) / TICKS_PER_SECOND >= STARTING_SECONDS:
            # Only libvirt knows whether the start is over; the hook may have been killed, or could leave no note.
            name = life.guest
            text = f"guest {name} was let through to its start and no QEMU has appeared since; its leases are kept"
            text += "; if libvirt has given it up, start it here again"
            self._log.alarm(f"{STARTING} {life.key}", text)

    def _bind(self, life: Incarnation, process: Process) -> None:
        life.qemu, life.qemu_start = process.pid, process.start
        try:
            self._table.put(life, RUNNING)
        except VlhookError as error:
            self._log.alarm(f"state {life.key}", str(error))
        self._bound(life, process)
        self._watch(life, process)
        self._log.info("running", guest=life.guest, uuid=life.uuid, pid=process.pid)

    def _watch(self, life: Incarnation, process: Process) -> None:
        self._watched[life.key] = process
        self._selector.register(process.pidfd, selectors.EVENT_READ, life.key)

    def _collect_orphan(self, life: Incarnation) -> None:
        """libvirtd died between the second gate and QEMU's appearance."""
        if self._processes.sign_of_life(life.uuid, life.born):
            self._orphan_since.pop(life.key, None)
            return
        since = self._orphan_since.setdefault(life.key, time.monotonic())
        if time.monotonic() - since >= ORPHAN_SECONDS:
            del self._orphan_since[life.key]
            self._endings.begin(life, True, "libvirt gave the start up, or died before QEMU was there")

    def _collect_prepared(self, life: Incarnation) -> None:
        age = (ticks_now() - life.born) / TICKS_PER_SECOND
        caller_alive = self._processes.caller_alive(life.caller)
        if caller_alive and age < PREPARED_SECONDS:
            return
        if not self._processes.sign_of_life(life.uuid, life.born):
            why = "it was never started" if caller_alive else "its libvirtd died before the start"
            self._endings.begin(life, False, why, PREPARED)
