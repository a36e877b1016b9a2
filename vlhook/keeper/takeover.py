# SPDX-License-Identifier: LGPL-2.1-or-later
"""A keeper continues what a former one of this boot left (format document, 10; safety rules, 6)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Optional

from ..errors import VlhookError
from ..leases.blockio import await_io
from ..leases.delta import OwnTrace
from ..leases.engine import Engine
from ..leases.errors import LeaseError
from ..leases.native import NativeEngine
from ..leases.parallel import THREADS, each
from .bysanlock import AUTO, leave_former
from .ending import Endings
from .expiry import Expiry
from .host import Host, StateLost
from .log import Log
from .qemu import Processes
from .state import ACQUIRING, ENDING, GRANTED, RUNNING, Incarnation, Member, StateStore
from .table import Table


class TakeOver:
    def __init__(
        self,
        *,
        host: Host,
        store: StateStore,
        table: Table,
        processes: Processes,
        endings: Endings,
        expiry: Expiry,
        resume_cleaning: Callable[[], None],
        look_after: Callable[[list[Incarnation]], None],
        log: Log,
    ) -> None:
        self._host = host
        self._store = store
        self._table = table
        self._processes = processes
        self._endings = endings
        self._end_all = expiry.end_all
        self._resume_cleaning = resume_cleaning
        self._look_after = look_after
        self._log = log
        self._stop = threading.Event()
        self._lives: list[Incarnation] = []
        self._member: Optional[Member] = None
        self._error: Optional[VlhookError] = None

    def load(self) -> None:
        """Fill the table, before any hook asks: a release that finds no guest would be lost.

        What is wrong with the state is raised by `run`.
        """
        try:
            self._lives, self._member = self._store.load_guests(), self._store.load_member()
            if self._member is None:
                self._check_state_not_lost()
                self._keep_without_leases(self._lives)
            else:
                self._host.taking_over = True
                self._table.load(self._lives)
        except VlhookError as error:
            self._error = error

    def run(self, stop: threading.Event) -> Optional[OwnTrace]:
        """Continue what a former keeper of this boot left (format document, 10)."""
        self._stop = stop
        if self._error:
            raise self._error
        lives, member = self._lives, self._member
        if member is None:
            return None
        why = self._resume(member, lives)
        if why is None:
            self._restore(lives)
            self._resume_cleaning()
            self._host.taking_over = False
            return None
        self._host.taking_over = False
        self._log.alarm("lost", f"this host's lease could not be resumed, its guests are stopped: {why}")
        self._host.why = f"this host's lease was lost ({why}); its guests are being stopped"
        over = (ACQUIRING, GRANTED, ENDING)
        overdue = member.last_ok.age() - 8 * member.io_timeout
        doomed = [life for life in lives if life.wants or life.phase in over]
        self._end_all(doomed, self._stop, overdue if overdue >= 0 else None)
        self._log.calm("lost")
        self._await_io(member, lives)
        return OwnTrace(member.record, member.last_ok.monotonic)

    def _await_io(self, member: Member, lives: list[Incarnation]) -> None:
        """Nothing of the former keeper may land beside what the next generation writes (safety rules, 12)."""
        directory = os.path.dirname(member.lockspace)
        places = {(member.lockspace, 0)}
        for life in lives:
            places |= {(want.path or os.path.join(directory, want.name), want.offset) for want in life.wants}
        for path, offset in sorted(places):
            try:
                await_io(path, offset)
            except LeaseError as error:  # an answer all the same
                self._log.warning("former-io", error=error)

    def _keep_without_leases(self, lives: list[Incarnation]) -> None:
        """A host that was no member held no lease; guests that need none of its leases go on."""
        kept = [life for life in lives if not life.wants]
        for life in lives:
            if life.wants:
                self._store.forget_guest(life)
        self._table.load(kept)
        for life in kept:
            if life.phase in (ACQUIRING, GRANTED, ENDING):
                self._endings.begin(life, life.phase == ENDING, "the keeper ended meanwhile")

    def _resume(self, member: Member, lives: list[Incarnation]) -> Optional[object]:
        """With guests, the membership goes on as it was; changed settings wait until they are gone."""
        where = self._host.where
        kept = replace(
            where,
            directory=os.path.dirname(member.lockspace),
            host_id=member.host_id,
            host_name=member.host_name,
            io_timeout=member.io_timeout,
            engine=where.engine if where.engine == AUTO else member.engine,
        )
        if kept != where:
            if not lives:
                self._leave_former(member)
                return "host_id, io_timeout, engine or lease directory were changed, and no guest needs the old ones"
            self._host.where = kept
            self._log.alarm("settings", "changed settings of the host take effect when vlhookd starts without guests")
        return self._host.resume(member)

    def _leave_former(self, member: Member) -> None:
        """The sanlock daemon would go on being what this host is no more."""
        try:
            if not self._processes.guests():
                leave_former(member)
        except (LeaseError, OSError) as error:
            self._log.warning("leave", error=error)

    def _check_state_not_lost(self) -> None:
        """Safety rules, 6: with QEMU processes of which nothing is known there is no joining."""
        if not self._store.joined_in_this_boot():
            return
        guests = self._processes.guests()
        pids = [str(pid) for found in guests.values() for pid, _ in found]
        if pids:
            raise StateLost(pids=", ".join(pids))

    def _restore(self, lives: list[Incarnation]) -> None:
        assert self._host.engine
        # All that is held first: cleaning up after an unfinished acquire must not touch it.
        self._restore_held(self._host.engine, [life for life in lives if life.phase not in (ACQUIRING, GRANTED)])
        for life in lives:
            owned = {held.want.key for held in life.owned} if life.phase != GRANTED else set()
            self._host.engine.settle(life.tenant, [want for want in life.wants if want.key not in owned])
            if life.phase in (ACQUIRING, GRANTED, ENDING):
                # The hook never confirmed, or the end was not finished: nobody starts this guest.
                self._endings.begin(life, life.phase == ENDING, "the keeper ended meanwhile")
            else:
                life.wants = [want for want in life.wants if want.key in owned]

    def _restore_held(self, engine: Engine, lives: list[Incarnation]) -> None:
        """Many guests at once, and as long as the storage takes: no guest starts before all that is held is known."""

        def restore(life: Incarnation) -> Optional[Exception]:
            try:
                self._restore_one(engine, life)
            except Exception as error:
                return error
            return None

        # The daemon's orphans are taken one after another: who shares one waits for the first.
        threads = THREADS if isinstance(engine, NativeEngine) else 1
        for _, error in each(lives, restore, None, threads):
            if error:
                raise error
        self._look_after([life for life in lives if life.phase == RUNNING])

    def _restore_one(self, engine: Engine, life: Incarnation) -> None:
        lost = engine.restore(life.tenant, life.owned)
        for owned, error in lost:
            which = {"lver": owned.lver}
            self._log.error("lease-lost", more=which, guest=life.guest, lease=owned.want.name, error=error)
        if lost and life.phase != ENDING:
            threading.Thread(target=self._end_all, args=([life], self._stop), daemon=True).start()
