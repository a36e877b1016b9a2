# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine's claims: one thread for each, which is the only writer of its sector until it is converted.

It looks on until the owner has given the lease up, then takes it; when the
guest does not need it any more, it withdraws the claim, or releases what it has just
taken. What stands on disk is enough for a successor to go on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from .claimfiles import ClaimFiles
from .claims import POLL_SECONDS, Claimed
from .driver import Cancel
from .engine import Owned, Tenant, Want
from .errors import Abandoned, ClaimLost, LeaseError, NotMember, StorageError, Timeout, one_line
from .membership import HostLease
from .owner import Holder
from .release import Held
from .workers import Workers

ACQUIRING, HELD, RELEASING = "taken", "held", "given back"
RETRY_SECONDS = 1.0
T = TypeVar("T")


class Entry:
    """One lease on this host. Guarded by the engine's condition.

    `claimed`: it is only claimed so far. `converting`: a thread looks after the claim.
    `running`: the guest's CPUs run here; `marked`: the claim says so on disk.
    """

    def __init__(self, want: Want, tenant: Tenant, state: str) -> None:
        self.want = want
        self.tenants = {tenant.key: tenant}
        self.state = state
        self.cancel = Cancel()
        self.held: Held | None = None
        self.owned: Owned | None = None
        self.error: LeaseError | None = None
        self.claimed: Claimed | None = None
        self.lost = False
        self.converting = False
        self.running = False
        self.marked = False
        self.event: threading.Event | None = None

    def guest(self) -> str:
        return ", ".join(t.guest for t in self.tenants.values()) or "?"

    def give_up(self, why: str) -> None:
        self.cancel.cancel(why)
        self.wake()

    def wake(self) -> None:
        """Have the thread that looks after the claim look now."""
        if self.event:
            self.event.set()

    @property
    def poke(self) -> threading.Event:
        """What the thread that looks after the claim waits for; 1 KB, so only while there is one."""
        assert self.event
        return self.event


class Claims:
    """`give_back` ends an entry whatever it has become; it is run in a thread of ours.

    `finish`: what is left to do about a claim that was converted; raises what `_until_owned` does.
    """

    def __init__(
        self,
        host: HostLease,
        files: ClaimFiles,
        changed: threading.Condition,
        workers: Workers,
        alarm: Callable[[str], None],
        give_back: Callable[[Entry], None],
        finish: Callable[[Entry], Owned] | None = None,
    ) -> None:
        self.on_converted: Callable[[Tenant, Owned], None] = lambda tenant, owned: None
        self.on_lost: Callable[[Tenant, LeaseError], None] = lambda tenant, error: None
        self._host = host
        self._files = files
        self._changed = changed
        self._workers = workers
        self._alarm = alarm
        self._give_back = give_back
        self._finish = finish

    def take(self, entry: Entry, tenant: Tenant) -> tuple[Held | None, Owned]:
        """Claim, or take what is free. Raises LeaseError."""
        standing, owned = self._files.claim(self._host, entry.want, tenant, entry.cancel)
        if isinstance(standing, Held):
            return standing, owned
        entry.claimed = standing
        return None, owned

    def find(self, entry: Entry, owned: Owned) -> None:
        """After a restart: what became of the claim. Raises LeaseError; StorageError says nothing."""
        standing = self._files.find(self._host, owned)
        if isinstance(standing, Held):
            entry.held, entry.owned = standing, replace(owned, claim=False, lver=standing.lver)
        else:
            entry.claimed, entry.owned = standing, owned

    def convert(self, entry: Entry) -> None:
        """Look after this claim in a thread of its own. The caller holds the condition."""
        unfinished = self._finish is not None and entry.held is not None
        if (entry.claimed is None and not unfinished) or entry.converting or entry.state != HELD:
            return
        entry.converting, entry.event = True, threading.Event()
        try:
            self._workers.run(lambda: self._look_after(entry))
        except RuntimeError as failure:
            entry.converting = False
            self._alarm(f"claim on lease {entry.want.name}: {failure}; it is converted when vlhookd is restarted")

    def _look_after(self, entry: Entry) -> None:
        tenant = next(iter(entry.tenants.values()))
        owned = lost = None
        try:
            converted = entry.owned if entry.held else self._until_owned(entry, tenant)
            owned = self._finish(entry) if self._finish else converted
        except ClaimLost as error:
            lost = error
        except (Abandoned, NotMember):
            pass  # withdrawn below; or others may take all that this host had
        except Exception as failure:  # a fault of ours: the claim stays, and goes with the guest
            self._alarm(f"claim on lease {entry.want.name}: unexpected {failure!r}")
        with self._changed:
            entry.converting, entry.lost = False, lost is not None
            over = entry.state == RELEASING
            self._changed.notify_all()
        if over:
            self._give_back(entry)
        elif owned:
            self.on_converted(tenant, owned)
        elif lost:
            self._alarm(one_line(lost))
            self.on_lost(tenant, lost)

    def _until_owned(self, entry: Entry, tenant: Tenant) -> Owned:
        said = ""
        while True:
            entry.poke.clear()
            if entry.cancel.given_up:
                raise Abandoned(name=entry.want.name, why=entry.cancel.why)
            try:
                owned = self._look(entry, tenant)
            except (ClaimLost, NotMember, Abandoned):
                raise
            except LeaseError as failure:
                if str(failure) != said:
                    said = str(failure)
                    self._alarm(f"claim on lease {entry.want.name}: {said}; it is tried again")
                entry.poke.wait(RETRY_SECONDS)
                continue
            if owned:
                return owned
            entry.poke.wait(POLL_SECONDS)

    def _look(self, entry: Entry, tenant: Tenant) -> Owned | None:
        assert entry.owned
        assert entry.claimed
        if entry.running and not entry.marked:
            self._files.mark_running(self._host, entry.owned, entry.claimed, tenant)
            with self._changed:
                entry.marked = True
                self._changed.notify_all()
        held = self._files.try_convert(
            self._host, entry.owned, entry.claimed, tenant, entry.running, entry.cancel
        )
        if held is None:
            return None
        with self._changed:
            entry.held, entry.claimed = held, None
            entry.owned = replace(entry.owned, claim=False, lver=held.lver)
            self._changed.notify_all()
            return entry.owned

    def mark_running(self, entries: list[Entry], deadline: float) -> bool:
        with self._changed:
            for entry in entries:
                entry.running = True
                entry.wake()
            while any(e.claimed and not e.marked and e.state == HELD for e in entries):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def held_elsewhere(self, wants: Sequence[Want], deadline: float) -> bool:
        """As `Engine.held_elsewhere`."""
        answers, error = self._ask_all([partial(self._files.held_elsewhere, self._host, w) for w in wants], deadline)
        return any(answers) or error is not None

    def elsewhere(self, owned: Sequence[Owned], tenant: Tenant, deadline: float) -> list[Holder]:
        """As `Engine.elsewhere`."""
        questions = [partial(self._files.elsewhere, self._host, one, tenant) for one in owned]
        answers, error = self._ask_all(questions, deadline)
        found = [holder for answer in answers for holder in answer]
        if error and not found:
            raise error
        return found

    def _ask_all(self, questions: Sequence[Callable[[], T]], deadline: float) -> tuple[list[T], LeaseError | None]:
        """All answers, and the first error; each from a thread of its own: a read may hang."""
        answers: queue.SimpleQueue[T | LeaseError] = queue.SimpleQueue()
        begun = time.monotonic()

        def ask(question: Callable[[], T]) -> None:
            try:
                answers.put(question())
            except LeaseError as error:
                answers.put(error)
            except Exception as failure:
                answers.put(StorageError(op="read", where="a lease", why=f"{type(failure).__name__}: {failure}"))

        for question in questions:
            self._workers.run(partial(ask, question))
        found: list[T] = []
        error: LeaseError | None = None
        for _ in questions:
            try:
                answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                why = "the storage is slow"
                error = error or Timeout(name="of the guest", seconds=time.monotonic() - begun, why=why)
                break
            if isinstance(answer, LeaseError):
                error = error or answer
            else:
                found.append(answer)
        return found, error
