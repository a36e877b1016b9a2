# SPDX-License-Identifier: LGPL-2.1-or-later
"""The native engine: Disk Paxos on the lease directory by this process itself.

On disk a host that owns a lease takes it again without complaint, so guests of
one host are kept apart here, by one entry for each lease that this host holds,
is taking or is giving back (format document, 7.1). An entry goes only when the
storage has confirmed that nothing of ours is left on the lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .area import Identity
from .blockio import pending
from .claimfiles import ClaimFiles
from .claiming import ACQUIRING, HELD, RELEASING, RETRY_SECONDS, Claims, Entry
from .engine import Owned, Refused, Tenant, Want, wait_for_way
from .errors import (
    HeldByOther,
    HeldHere,
    InDoubtHere,
    LeaseError,
    NotMember,
    NotOurLockspace,
    StorageError,
    Timeout,
)
from .files import LeaseFiles
from .judging import Judging
from .membership import HostLease
from .owner import Holder
from .release import Held
from .workers import Workers

CLEANING = "removed as unused"
NOBODY = Tenant("clean-up", "(clean-up)", "")
CROSSED_STARTS_SECONDS = 1.5
"""How long the start that got the first lease insists on the others (see `_insist`)."""


class NativeEngine:
    """See `engine.Engine`. `host` is this host's lease, `files` the lease directory, `foreign` claim_foreign."""

    name = "native"

    def __init__(
        self, host: HostLease, files: LeaseFiles, on_alarm: Callable[[str], None], foreign: bool = False
    ) -> None:
        self._host = host
        self._files = files
        self._alarm = on_alarm
        self._workers = Workers("lease")
        self._changed = threading.Condition()
        self._entries: dict[tuple[str, str], Entry] = {}
        self.claims = Claims(host, ClaimFiles(files, foreign), self._changed, self._workers, on_alarm, self._release)
        self.judge = Judging(host, files, self._workers, foreign, self._changed, self._conflict).judge

    def identity(self) -> Identity | None:
        return self._host.identity

    def why_not(self) -> str | None:
        return self._host.why_not()

    def entries(self) -> list[Entry]:
        with self._changed:
            return list(self._entries.values())

    # ---------------------------------------------------------------- taking

    def acquire(self, tenant: Tenant, wants: Sequence[Want], deadline: float, gone: Callable[[], bool]) -> list[Owned]:
        begun = time.monotonic()
        mine = self._reserve(tenant, wants, deadline, gone)
        for entry in mine:
            if entry.state == ACQUIRING:
                self._start(entry, tenant)
        failed = self._await(mine, deadline, gone)
        if failed and self._may_insist(mine, failed):
            failed = self._insist(tenant, mine, deadline, gone)
        if not failed:
            return [e.owned for e in mine if e.owned]
        failures = [(e.want, e.error or self._late(e, begun)) for e in failed]
        for entry in mine:
            entry.cancel.cancel("another lease of the guest was refused, or the time was over")
        self._release_of(tenant, mine, deadline)
        raise Refused(failures)

    def _reserve(self, tenant: Tenant, wants: Sequence[Want], deadline: float, gone: Callable[[], bool]) -> list[Entry]:
        """An entry for each want, or Refused and none."""
        with self._changed:
            wait_for_way(self._changed, self._conflict, wants, deadline, gone)
            mine = []
            for want in wants:
                entry = self._entries.get(want.key)
                if entry:
                    entry.tenants[tenant.key] = tenant
                else:
                    entry = self._entries[want.key] = Entry(want, tenant, ACQUIRING)
                if entry not in mine:
                    mine.append(entry)
            return mine

    def _conflict(self, want: Want) -> LeaseError | None:
        if want.space != self._files.space:
            return NotOurLockspace(name=want.name, found=want.space, expected=self._files.space)
        entry = self._entries.get(want.key)
        if entry is None or (entry.state == HELD and entry.want.shared and want.shared):
            return None
        if entry.state == HELD:
            return HeldHere(name=want.name, guest=entry.guest(), tenants=tuple(entry.tenants.values()))
        if entry.state == ACQUIRING and not entry.cancel.given_up:
            if entry.want.shared and want.shared:
                why = _hanging(entry) or "it was begun just now"
                return InDoubtHere(name=want.name, guest=entry.guest(), doing=ACQUIRING, why=why)
            return HeldHere(name=want.name, guest=entry.guest(), tenants=tuple(entry.tenants.values()))
        why = _hanging(entry) or "the storage has not confirmed it yet"
        doing = CLEANING if entry.state == CLEANING else RELEASING
        return InDoubtHere(name=want.name, guest=entry.guest(), doing=doing, why=why)

    def _start(self, entry: Entry, tenant: Tenant) -> None:
        entry.error = None
        try:
            self._workers.run(lambda: self._take(entry, tenant))
        except RuntimeError as failure:
            with self._changed:
                entry.error = StorageError(op="acquire", where=entry.want.name, why=str(failure))
                entry.state = RELEASING

    def _take(self, entry: Entry, tenant: Tenant) -> None:
        error: LeaseError | None = None
        held = owned = None
        try:
            if entry.want.claim:
                held, owned = self.claims.take(entry, tenant)
            else:
                held, owned = self._files.take(self._host, entry.want, tenant, entry.cancel)
        except LeaseError as failure:
            error = failure
        except Exception as failure:  # a fault of ours must not leave an entry that nobody ends
            error = StorageError(op="acquire", where=entry.want.name, why=f"{type(failure).__name__}: {failure}")
            self._alarm(f"lease {entry.want.name}: unexpected {failure!r}")
            self._clean(entry)  # nobody knows how far it got
        with self._changed:
            entry.held, entry.owned, entry.error = held, owned, error
            if error:
                entry.state = RELEASING
                if entry.cancel.given_up:
                    self._remove(entry)
            else:
                entry.state = HELD
                if entry.cancel.given_up:
                    self._give_back(entry)
            self._changed.notify_all()

    def _await(self, mine: Sequence[Entry], deadline: float, gone: Callable[[], bool]) -> list[Entry]:
        """The entries that were refused, or not answered in time."""
        with self._changed:
            while True:
                failed = [e for e in mine if e.error]
                busy = [e for e in mine if e.state == ACQUIRING]
                if not busy:
                    return failed
                left = deadline - time.monotonic()
                if left <= 0 or gone():
                    return failed + busy
                self._changed.wait(min(left, 0.1))

    def _may_insist(self, mine: Sequence[Entry], failed: Sequence[Entry]) -> bool:
        first = min(mine, key=lambda e: e.want.key)
        return first.state == HELD and all(isinstance(e.error, HeldByOther) for e in failed)

    def _insist(self, tenant: Tenant, mine: Sequence[Entry], deadline: float, gone: Callable[[], bool]) -> list[Entry]:
        """Two starts on two hosts may each get some of the same leases and both be refused.

        The one that holds the first in the order of names tries on for a
        moment; the other gives back at once. So exactly one of them starts.
        """
        until = min(deadline, time.monotonic() + CROSSED_STARTS_SECONDS)
        while True:
            with self._changed:
                failed = [e for e in mine if e.error]
                if not failed or time.monotonic() >= until or not self._may_insist(mine, failed):
                    return failed
                self._changed.wait(0.1)
                for entry in failed:
                    entry.state, entry.error = ACQUIRING, None
            for entry in failed:
                self._start(entry, tenant)
            late = [e for e in self._await(failed, deadline, gone) if not e.error]
            if late:
                return late

    def _late(self, entry: Entry, begun: float) -> LeaseError:
        why = _hanging(entry) or "the storage is slow"
        return Timeout(name=entry.want.name, seconds=time.monotonic() - begun, why=why)

    # ---------------------------------------------------------------- giving back

    def release(self, tenant: Tenant, deadline: float, wants: Sequence[Want] | None = None) -> bool:
        keys = None if wants is None else {want.key for want in wants}
        with self._changed:
            theirs = [e for k, e in self._entries.items() if tenant.key in e.tenants and (keys is None or k in keys)]
        return self._release_of(tenant, theirs, deadline)

    def _release_of(self, tenant: Tenant, theirs: Sequence[Entry], deadline: float) -> bool:
        with self._changed:
            for entry in theirs:
                if len(entry.tenants) > 1:
                    del entry.tenants[tenant.key]
                elif entry.state == HELD:
                    self._give_back(entry)
                elif entry.error:
                    self._remove(entry)
                else:
                    entry.cancel.cancel("the guest does not need it any more")
            self._changed.notify_all()
            while any(self._entries.get(e.want.key) is e and tenant.key in e.tenants for e in theirs):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def _give_back(self, entry: Entry) -> None:
        entry.state = RELEASING
        if entry.converting:
            entry.give_up("the guest does not need it any more")  # its own thread comes here then
        else:
            self._workers.run(lambda: self._release(entry))

    def _release(self, entry: Entry) -> None:
        if entry.held:
            self._free(entry, entry.held)
            self._forget(entry)
        else:
            self._settle(entry)  # a claim: withdrawn

    def _free(self, entry: Entry, held: Held) -> None:
        owned, tenant = entry.owned, next(iter(entry.tenants.values()))
        assert owned
        self._until_done("release", entry, lambda: self._files.give_back(self._host, owned, held, tenant))

    def _clean(self, entry: Entry) -> None:
        self._until_done("clean-up", entry, lambda: self._files.settle(self._host, entry.want))

    def _until_done(self, what: str, entry: Entry, act: Callable[[], None]) -> None:
        """For as long as the storage fails; what is over otherwise is told, and no reason to try again."""
        while True:
            try:
                act()
            except NotMember:
                pass  # our host's lease is over: others may take it anyway, and nothing may be written
            except StorageError as failure:
                self._alarm(f"{what} of lease {entry.want.name}: {failure}; it is tried again")
                time.sleep(RETRY_SECONDS)
                continue
            except LeaseError as failure:
                self._alarm(f"{what} of lease {entry.want.name}: {failure}")
            return

    def _forget(self, entry: Entry) -> None:
        with self._changed:
            self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        """Take this very entry out; another attempt may have one of the same name by now."""
        if self._entries.get(entry.want.key) is entry:
            del self._entries[entry.want.key]
        self._changed.notify_all()

    def clean(self, want: Want) -> bool:
        """Remove the lease if nobody uses it, in this thread; a start on this host waits meanwhile.

        False: it is gone already. Raises Busy (it is used), and other LeaseErrors.
        """
        with self._changed:
            conflict = self._conflict(want) or (self._entries.get(want.key) and HeldHere(name=want.name, guest="?"))
            if conflict:
                raise conflict
            entry = self._entries[want.key] = Entry(want, NOBODY, CLEANING)
        try:
            return self._files.clean(self._host, want)
        finally:
            self._forget(entry)

    def quiet(self) -> bool:
        """Whether no I/O of this engine can come any more."""
        return not self._workers.busy()

    def close(self) -> None:
        """Nothing is open: each lease file is, and only while it is worked on."""

    def holds(self, tenant: Tenant, wants: Sequence[Want]) -> bool:
        """Whether every one of `wants` is held for `tenant` at this moment."""
        with self._changed:
            entries = [self._entries.get(want.key) for want in wants]
            return all(e and e.state == HELD and not e.lost and tenant.key in e.tenants for e in entries)

    # ---------------------------------------------------------------- claims

    def convert(self, tenant: Tenant) -> None:
        with self._changed:
            for entry in self._entries.values():
                if tenant.key in entry.tenants:
                    self.claims.convert(entry)

    def owns(self, tenant: Tenant, wants: Sequence[Want]) -> bool:
        if not self.holds(tenant, wants):
            return False
        with self._changed:
            return not any(e.claimed for e in self._entries.values() if tenant.key in e.tenants)

    def mark_running(self, tenant: Tenant, deadline: float) -> bool:
        with self._changed:
            theirs = [e for e in self._entries.values() if tenant.key in e.tenants]
        return self.claims.mark_running(theirs, deadline)

    def held_elsewhere(self, wants: Sequence[Want], deadline: float) -> bool:
        return self.claims.held_elsewhere(wants, deadline)

    def elsewhere(self, tenant: Tenant, deadline: float) -> list[Holder]:
        with self._changed:
            theirs = [e.owned for e in self._entries.values() if tenant.key in e.tenants and e.owned]
        return self.claims.elsewhere(theirs, tenant, deadline)

    # ---------------------------------------------------------------- after a restart

    def restore(self, tenant: Tenant, owned: Sequence[Owned]) -> list[tuple[Owned, LeaseError]]:
        lost: list[tuple[Owned, LeaseError]] = []
        for lease in owned:
            if self._joins(tenant, lease):
                continue
            entry = Entry(lease.want, tenant, HELD)
            try:
                self._find(entry, lease)
            except LeaseError as failure:
                lost.append((lease, failure))
                continue
            with self._changed:
                if self._joins(tenant, lease):
                    continue
                self._entries[lease.want.key] = entry
                self.claims.convert(entry)
            if lease.claim and entry.owned and not entry.owned.claim:
                self.claims.on_converted(tenant, entry.owned)
        return lost

    def _joins(self, tenant: Tenant, lease: Owned) -> bool:
        """Another guest of this host has this shared lease already: then `tenant` has it, too."""
        with self._changed:
            entry = self._entries.get(lease.want.key)
            if entry and entry.want.shared and lease.want.shared:
                entry.tenants[tenant.key] = tenant
                return True
            return False

    def _find(self, entry: Entry, lease: Owned) -> None:
        """A storage that does not answer well says nothing about the lease: it is asked again."""
        while True:
            try:
                if lease.claim:
                    self.claims.find(entry, lease)
                else:
                    entry.held, entry.owned = self._files.find(self._host, lease), lease
                return
            except StorageError as failure:
                if self._host.why_not():
                    raise
                self._alarm(f"lease {lease.want.name} after the restart: {failure}; it is tried again")
                time.sleep(RETRY_SECONDS)

    def settle(self, tenant: Tenant, wants: Sequence[Want]) -> None:
        with self._changed:
            for want in wants:
                if want.space == self._files.space and want.key not in self._entries:
                    entry = self._entries[want.key] = Entry(want, tenant, RELEASING)
                    self._workers.run(lambda entry=entry: self._settle(entry))  # type: ignore[misc]

    def _settle(self, entry: Entry) -> None:
        self._clean(entry)
        self._forget(entry)


def _hanging(entry: Entry) -> str | None:
    """The I/O on this lease's file that the storage has not answered, for people."""
    for io in pending():
        if entry.want.name in io.where or (entry.want.path and entry.want.path == io.where):
            return f"a {io.op} of {io.where} has been unanswered for {time.monotonic() - io.since:.0f} s"
    return None
