# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper's table of guest incarnations, and one request at a time for each guest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import VlhookError
from .state import ACQUIRING, ENDING, Incarnation, StateStore


class LifeOver(VlhookError):
    """The incarnation has ended meanwhile; nothing brings it back."""

    msg = "the start of guest {guest} was ended meanwhile: this host lost its lease, or libvirt gave up"
    hint = "see 'vlhook status', then start the guest again"
    code = "VLH-K106"


class GuestBusy(VlhookError):
    msg = "another request for guest {guest} is still being worked on"
    hint = "start the guest again in a moment"
    code = "VLH-K101"


class Table:
    """All incarnations of this host, in memory and, through `StateStore`, on local storage.

    `changed` guards everything here, and is notified at each change. `revision` rises with each:
    who looks again and again need not look at 250 guests of whom nothing has changed.
    """

    def __init__(self, store: StateStore) -> None:
        self.changed = threading.Condition()
        self.revision = 0
        self._store = store
        self._lives: dict[str, Incarnation] = {}
        self._busy: set[str] = set()
        self._sequence = 0

    def load(self, lives: list[Incarnation]) -> None:
        with self.changed:
            for life in lives:
                self._lives[life.key] = life
                self._sequence = max(self._sequence, life.sequence)
            self.revision += 1

    def next_sequence(self) -> int:
        with self.changed:
            self._sequence += 1
            return self._sequence

    def all(self) -> list[Incarnation]:
        with self.changed:
            return list(self._lives.values())

    def of(self, uuid: str) -> list[Incarnation]:
        with self.changed:
            return [life for life in self._lives.values() if life.uuid == uuid]

    def alive(self, life: Incarnation) -> bool:
        with self.changed:
            return self._lives.get(life.key) is life

    def put(self, life: Incarnation, phase: str) -> None:
        """Enter `phase`, durably. Raises StateUnwritable; then the phase is as it was.

        Raises LifeOver for a life that is ending or was dropped: both are final.
        """
        with self.changed:
            known = self._lives.get(life.key) is life
            if (known and life.phase == ENDING != phase) or (not known and phase != ACQUIRING):
                raise LifeOver(guest=life.guest)
            before, life.phase = life.phase, phase
            try:
                self._store.save_guest(life)
            except VlhookError:
                life.phase = before
                raise
            self._lives[life.key] = life
            self._tell()

    def end(self, life: Incarnation, since: str = "") -> bool:
        """Enter ENDING, for good. False: it was dropped before, or is not in phase `since` any more.

        Raises StateUnwritable; it is ending nevertheless: what is about to be given back must not pass
        for held because a disk is full.
        """
        with self.changed:
            if not self.alive(life) or (since and life.phase != since):
                return False
            life.phase = ENDING
            self._tell()
            self._store.save_guest(life)
            return True

    def save(self, life: Incarnation) -> None:
        """Write what was changed in `life`; it stays in its phase, whatever that is by now. Raises as `put`."""
        with self.changed:
            self.put(life, life.phase)

    def drop(self, life: Incarnation) -> None:
        with self.changed:
            self._lives.pop(life.key, None)
            self._store.forget_guest(life)
            self._tell()

    def _tell(self) -> None:
        self.revision += 1
        self.changed.notify_all()

    def wait_gone(self, lives: list[Incarnation], deadline: float) -> bool:
        """Wait until none of `lives` is in the table; False at CLOCK_MONOTONIC `deadline`."""
        with self.changed:
            while any(self._lives.get(life.key) is life for life in lives):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(left)
            return True

    @contextmanager
    def one_request(self, uuid: str, guest: str, deadline: float) -> Iterator[None]:
        """Requests of one guest are serial (safety rules, 1). Raises GuestBusy."""
        with self.changed:
            while uuid in self._busy:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise GuestBusy(guest=guest)
                self.changed.wait(left)
            self._busy.add(uuid)
        try:
            yield
        finally:
            with self.changed:
                self._busy.discard(uuid)
                self.changed.notify_all()
