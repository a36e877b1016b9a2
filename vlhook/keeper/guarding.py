# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook-guard is told of every guest that holds leases, again and again if need be (safety rules, 9)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from ..errors import VlhookError
from ..guardclient import GuardClient, GuardRefused, GuardUnreachable
from ..processes import Process
from .log import Log
from .state import ENDING, RUNNING, Incarnation
from .table import Table

GUARD_SECONDS = 2.0
COMPARE_TURNS = 30


class Guarding:
    """`on_watch` is called for each guest that the guard has acknowledged, before it gets leases."""

    def __init__(self, run_dir: Path, table: Table, on_watch: Callable[[Incarnation], None], log: Log) -> None:
        self.client = GuardClient(run_dir)
        self._table = table
        self._on_watch = on_watch
        self._log = log

    def state(self) -> str:
        """For status: ready, incomplete (its list is being made good) or away."""
        try:
            return "ready" if self.client.ping() else "incomplete"
        except VlhookError:
            return "away"

    def mind(self, stop: threading.Event) -> None:
        """Name all guests anew to a guard that lost its list, or whose list may be old.

        The whole list is compared when ours has changed, or the guard was away, and now and then;
        its length each time, which takes next to nothing.
        """
        compared: Optional[frozenset[str]] = None
        turns = 0
        while not stop.wait(GUARD_SECONDS):
            turns += 1
            ours = frozenset(life.uuid for life in self._table.all() if _to_guard(life))
            try:
                complete, known = self.client.extent()
                complete = complete and known >= len(ours)
                if ours != compared or turns % COMPARE_TURNS == 0:
                    complete = complete and ours <= {guest.uuid for guest in self.client.watched()}
                if not complete:
                    self._tell()
                compared = ours
            except VlhookError as error:
                compared = None
                self._log.alarm("guard", str(error))
            else:
                self._log.calm("guard")

    def _tell(self) -> None:
        for life in self._table.all():
            if not _to_guard(life):
                continue
            try:
                self.client.watch(life.uuid, life.guest)
                if life.phase == RUNNING:
                    self.client.bind(life.uuid, life.qemu, life.qemu_start)
            except GuardRefused as error:
                # It is being ended, or its QEMU is gone: that must not hide the others from the guard.
                self._log.warning("guard", guest=life.guest, uuid=life.uuid, error=error)
        self.client.complete()

    def watch(self, life: Incarnation) -> None:
        """No guest gets leases before the guard has acknowledged it (safety rules, 9)."""
        self.client.watch(life.uuid, life.guest)
        self._on_watch(life)

    def bound(self, life: Incarnation, process: Process) -> None:
        if not life.wants:
            return
        try:
            self.client.bind(life.uuid, process.pid, process.start, process.pidfd)
        except VlhookError as error:
            self._log.alarm("guard", str(error))

    def bind_again(self, life: Incarnation) -> None:
        """A guest that had nothing to guard until now."""
        self.client.bind(life.uuid, life.qemu, life.qemu_start)

    def forget(self, life: Incarnation) -> None:
        """The guest is over. Raises GuardRefused: the guard sees a process of it."""
        others = [other for other in self._table.of(life.uuid) if other is not life and other.wants]
        if life.wants and not others:
            try:
                if life.adopting:
                    self.client.disown(life.uuid)
                else:
                    self.client.forget(life.uuid)
            except GuardUnreachable as error:
                # It has its list on disk, and asks for it anew; the keeper has looked for itself.
                self._log.warning("guard", error=error)


def _to_guard(life: Incarnation) -> bool:
    """A guest whose adoption was refused is just being taken from the guard's list."""
    return bool(life.wants) and not (life.adopting and life.phase == ENDING)
