# SPDX-License-Identifier: LGPL-2.1-or-later
"""All leases of a guest from the sanlock daemon, or none, with the reason (sanlock companion, 4.2).

The daemon's number says that an acquire failed; which lease of the eight it was, and who
stands in the way, the leases themselves tell. Where they tell of nobody the moment has
passed, so it is tried again for a while; then the daemon's own word is the reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .claiming import Entry
from .engine import Owned, Refused, Tenant, Want
from .errors import (
    Abandoned,
    AreaTooShort,
    BadMagic,
    Cleared,
    FileReplaced,
    HeldByOther,
    InDoubtHere,
    LeaseError,
    NotCreated,
    NotMember,
    StorageError,
)
from .parallel import each
from .sanlockerrors import (
    SanlockError,
    SanlockHeldHere,
    SanlockNotFound,
    SanlockNotJoined,
    SanlockOrphaned,
    SanlockResult,
)
from .sanlockfiles import SanlockFiles
from .sanlockguest import GuestConnection, listed
from .sanlockjudging import in_the_way
from .sanlockmembership import DaemonLease
from .sanlockwire import BATCH

RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 5.0
"""How long it is tried again where nobody stands in the way, or a file is half made."""
CROSSED_STARTS_SECONDS = 1.5
"""As in the native engine: who could have the first lease insists on the others."""
LOOK_SECONDS = 10.0
MAX_REPLACED = 20
Failures = list[tuple[Want, LeaseError]]


class Taking:
    def __init__(self, host: DaemonLease, files: SanlockFiles, alarm: Callable[[str], None]) -> None:
        self._host = host
        self._files = files
        self._alarm = alarm

    def take(self, guest: GuestConnection, entries: Sequence[Entry]) -> dict[tuple[str, str], Owned]:
        """In the order of `entries`; the caller has the guest's turn.

        Raises Refused. What was got until then is for the caller to give back:
        the daemon knows what that is.
        """
        try:
            self._host.check()
            guest.open()
        except LeaseError as error:
            raise Refused([(entry.want, error) for entry in entries]) from error
        owned: dict[tuple[str, str], Owned] = {}
        first = entries[0].want.key if entries else ("", "")
        for start in range(0, len(entries), BATCH):
            batch = entries[start : start + BATCH]
            for _ in range(MAX_REPLACED):
                self._acquire(guest, batch, first)
                failures = self._confirm(guest.tenant, batch, owned)
                if not failures:
                    break
                if not all(isinstance(error, FileReplaced) for _, error in failures):
                    raise Refused(failures)
                self._release(guest, batch)
            else:
                raise Refused(failures)
        return owned

    def _acquire(self, guest: GuestConnection, batch: Sequence[Entry], first: tuple[str, str]) -> None:
        begun = time.monotonic()
        made = 0
        while True:
            given_up = next((entry for entry in batch if entry.cancel.given_up), None)
            if given_up:
                error: LeaseError = Abandoned(name=given_up.want.name, why=given_up.cancel.why)
                raise Refused([(entry.want, error) for entry in batch])
            try:
                guest.acquire([self._files.resource(entry.want) for entry in batch])
                return
            except SanlockNotFound as error:
                made += 1
                if made > MAX_REPLACED or not self._make(batch):
                    raise Refused(self._look(batch) or [(entry.want, error) for entry in batch]) from error
                continue
            except SanlockResult as error:
                failures = self._reasons(batch, error)
                if self._is_final(failures, error, time.monotonic() - begun, first):
                    raise Refused(failures or [(entry.want, error) for entry in batch]) from error
            except SanlockError as error:
                raise Refused([(entry.want, error) for entry in batch]) from error
            batch[0].cancel.wait(RETRY_SECONDS)

    def _make(self, batch: Sequence[Entry]) -> bool:
        """Make the files that are missing; False: none is. Raises Refused."""
        failures: Failures = []
        made = False
        for entry in batch:
            try:
                made |= self._files.make(self._host, entry.want)
            except LeaseError as error:
                failures.append((entry.want, error))
        if failures:
            raise Refused(failures)
        return made

    def _is_final(self, failures: Failures, error: SanlockResult, tried: float, first: tuple[str, str]) -> bool:
        """Is that the end, after `tried` seconds?"""
        if isinstance(error, SanlockNotJoined):
            return True
        if not failures or all(_passes(why) for _, why in failures):
            return tried >= PATIENCE_SECONDS
        crossed = all(isinstance(why, HeldByOther) for _, why in failures)
        insists = crossed and all(want.key != first for want, _ in failures)
        return not insists or tried >= CROSSED_STARTS_SECONDS

    def _reasons(self, batch: Sequence[Entry], error: SanlockResult) -> Failures:
        if isinstance(error, SanlockNotJoined):
            why = self._host.why_not() or "not known to sanlock any more"
            lost = NotMember(space=self._files.space, host_id=self._host.identity.host_id, why=why)
            return [(entry.want, lost) for entry in batch]
        if isinstance(error, (SanlockHeldHere, SanlockOrphaned)):
            return self._on_this_host(batch)
        return self._look(batch)

    def _on_this_host(self, batch: Sequence[Entry]) -> Failures:
        """Somebody else on this host has one of them by the same daemon."""
        failures: Failures = []
        for entry in batch:
            want = entry.want
            try:
                found = listed(self._host.client, self._files.resource(want))
            except LeaseError as error:
                failures.append((want, error))
                continue
            why = in_the_way(want, found)
            if why:
                failures.append((want, why))
        return failures

    def _look(self, batch: Sequence[Entry]) -> Failures:
        """What the leases themselves say."""

        def ask(entry: Entry) -> LeaseError | None:
            try:
                self._files.obstacle(self._host, entry.want)
            except LeaseError as error:
                return error
            return None

        answers = each(list(batch), ask, LOOK_SECONDS, len(batch))
        return [(entry.want, error) for entry, error in answers if error]

    def _confirm(
        self, tenant: Tenant, batch: Sequence[Entry], owned: dict[tuple[str, str], Owned]
    ) -> Failures:
        """Read back what was acquired. Waits for every answer: it writes, and nothing may follow before."""

        def confirm(entry: Entry) -> Owned | LeaseError:
            try:
                return self._files.confirm(self._host, entry.want, tenant)
            except NotCreated:
                return FileReplaced(where=self._files.resource(entry.want).disks[0].path)
            except LeaseError as error:
                return error
            except Exception as failure:  # `each` waits for every answer
                self._alarm(f"lease {entry.want.name}: unexpected {failure!r}")
                return StorageError(op="read", where=entry.want.name, why=f"{type(failure).__name__}: {failure}")

        failures: Failures = []
        for entry, answer in each(list(batch), confirm, threading.TIMEOUT_MAX, len(batch)):
            if isinstance(answer, LeaseError):
                failures.append((entry.want, answer))
            else:
                owned[entry.want.key] = answer
        return failures

    def _release(self, guest: GuestConnection, batch: Sequence[Entry]) -> None:
        try:
            guest.release([self._files.resource(entry.want) for entry in batch])
        except SanlockResult:
            pass  # the next acquire tells
        except SanlockError as error:
            raise Refused([(entry.want, error) for entry in batch]) from error


def _passes(error: LeaseError) -> bool:
    """A lease file that is half made or just cleared, or one that this host is about to give back."""
    half = isinstance(error, (AreaTooShort, Cleared)) or (isinstance(error, BadMagic) and vars(error).get("found") == 0)
    return half or isinstance(error, (InDoubtHere, NotCreated))
