# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine that has the sanlock daemon of this host take the leases (sanlock companion, 6).

The daemon owns what a host holds, so guests of one host are kept apart here as
in the native engine: by an entry for each lease that a guest holds, is getting
or is giving back. Unlike there every guest has an entry of its own, also for a lease that it
shares: the daemon counts the holders. An entry goes only when it has the lease no more for that guest.

Leases are acquired in the order of their names, eight at a time, and nothing is
waited for in the daemon: its few threads would be blocked by owners that may be dead.
What is in the way is read from the lease itself and said as the native engine says it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .area import Identity
from .claiming import ACQUIRING, HELD, RELEASING, RETRY_SECONDS, Entry
from .engine import Owned, Refused, Tenant, Want, wait_for_way
from .errors import HeldHere, InDoubtHere, LeaseError, NotOurLockspace, StorageError, Timeout
from .files import LeaseFiles
from .judging import Judging
from .owner import Holder
from .sanlockclaims import DaemonClaims, by_keeper
from .sanlockerrors import SanlockError, SanlockNotHeld, SanlockResult
from .sanlockfiles import SanlockFiles
from .sanlockfinding import NOTICE_SECONDS, POLL_SECONDS, Finding, foreign
from .sanlockguest import GuestConnection, listed
from .sanlockjudging import with_daemon
from .sanlockmembership import DaemonLease
from .sanlockstate import HeldLease
from .sanlocktaking import Taking
from .sanlockwire import BATCH
from .workers import Workers


class SanlockEngine:
    """See `engine.Engine`. `host` is this host's lease as the daemon keeps it, `files` the lease directory."""

    name = "sanlock"

    def __init__(
        self, host: DaemonLease, files: LeaseFiles, on_alarm: Callable[[str], None], foreign: bool = False
    ) -> None:
        self._host = host
        self._files = SanlockFiles(files)
        self._alarm = on_alarm
        self._workers = Workers("sanlock")
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._guests: dict[str, GuestConnection] = {}
        self.moves = DaemonClaims(
            host, files, self._changed, self._workers, on_alarm,
            self._guest_of, self._give_back, self._forget_claims, foreign,
        )  # fmt: skip
        self.claims = self.moves.claims
        self._taking = Taking(host, self._files, on_alarm)
        self._finding = Finding(host, self._files, on_alarm, self._held_by_us, self.moves.find)
        judge = Judging(host, files, self._workers, foreign, self._changed, self._conflict).judge
        self.judge = with_daemon(judge, host.client)

    def identity(self) -> Identity | None:
        return self._host.identity

    def why_not(self) -> str | None:
        return self._host.why_not()

    def entries(self) -> list[Entry]:
        with self._changed:
            return list(self._entries)

    # ---------------------------------------------------------------- taking

    def acquire(self, tenant: Tenant, wants: Sequence[Want], deadline: float, gone: Callable[[], bool]) -> list[Owned]:
        begun = time.monotonic()
        mine, guest = self._reserve(tenant, wants, deadline, gone)
        try:
            self._workers.run(lambda: self._take(guest, mine))
        except RuntimeError as failure:
            why = StorageError(op="acquire", where=tenant.guest, why=str(failure))
            self._forget(mine)
            raise Refused([(entry.want, why) for entry in mine]) from failure
        with self._changed:
            while any(entry.state == ACQUIRING for entry in mine):
                left = deadline - time.monotonic()
                if left <= 0 or gone():
                    break
                self._changed.wait(min(left, POLL_SECONDS))
            late = [entry for entry in mine if entry.state == ACQUIRING]
            for entry in late:
                entry.cancel.cancel("the time was over, or the caller hung up")
            if all(entry.state == HELD for entry in mine):
                return [entry.owned for entry in mine if entry.owned]
            failures = [(entry.want, entry.error) for entry in mine if entry.error is not None]
        raise Refused(failures or [(entry.want, self._late(entry, begun)) for entry in late or mine])

    def _reserve(
        self, tenant: Tenant, wants: Sequence[Want], deadline: float, gone: Callable[[], bool]
    ) -> tuple[list[Entry], GuestConnection]:
        """An entry for each want, or Refused and none."""
        with self._changed:
            wait_for_way(self._changed, self._conflict, wants, deadline, gone)
            unique = {want.key: want for want in wants}
            mine = [Entry(want, tenant, ACQUIRING) for _, want in sorted(unique.items())]
            self._entries += mine
            return mine, self._guest(tenant)

    def _conflict(self, want: Want) -> LeaseError | None:
        if want.space != self._files.space:
            return NotOurLockspace(name=want.name, found=want.space, expected=self._files.space)
        for entry in self._entries:
            if entry.want.key != want.key or (entry.want.shared and want.shared):
                continue
            if entry.state == RELEASING or entry.cancel.given_up:
                why = "sanlock has not confirmed it yet"
                return InDoubtHere(name=want.name, guest=entry.guest(), doing=RELEASING, why=why)
            return HeldHere(name=want.name, guest=entry.guest(), tenants=tuple(entry.tenants.values()))
        return None

    def _guest(self, tenant: Tenant) -> GuestConnection:
        """The caller holds the condition."""
        if tenant.key not in self._guests:
            lost = lambda: self._host.lost is not None  # noqa: E731
            self._guests[tenant.key] = GuestConnection(self._host.client, tenant, lost, self._alarm)
        return self._guests[tenant.key]

    def _guest_of(self, entry: Entry) -> GuestConnection:
        with self._changed:
            return self._guest(next(iter(entry.tenants.values())))

    def _take(self, guest: GuestConnection, mine: Sequence[Entry]) -> None:
        with guest.turn:
            errors: dict[tuple[str, str], LeaseError] = {}
            try:
                refused = self.moves.take(mine)
                if refused:
                    raise Refused(refused)
                owned = self._taking.take(guest, [entry for entry in mine if not by_keeper(entry)])
            except Refused as refused:
                errors = {want.key: error for want, error in refused.failures}
            except Exception as failure:  # a fault of ours must not leave entries that nobody ends
                self._alarm(f"leases of guest {guest.tenant.guest}: unexpected {failure!r}")
                why = StorageError(op="acquire", where=guest.tenant.guest, why=f"{type(failure).__name__}: {failure}")
                errors = {entry.want.key: why for entry in mine}
            with self._changed:
                # Cancelled under the same lock: who was told that it failed must not hold it.
                given_up = errors or any(entry.cancel.given_up for entry in mine)
                for entry in mine:
                    entry.error = errors.get(entry.want.key)
                    if not by_keeper(entry):
                        entry.owned = None if errors else owned[entry.want.key]
                    entry.state = RELEASING if given_up else HELD
                self._changed.notify_all()
            if given_up:
                rest = [entry for entry in mine if not by_keeper(entry)]
                for entry in mine:
                    if by_keeper(entry):
                        self.moves.give_back(entry)
                self._give_back(guest, rest)

    def _late(self, entry: Entry, begun: float) -> LeaseError:
        why = entry.cancel.why if entry.state != ACQUIRING and entry.cancel.why else "sanlock has not answered"
        return Timeout(name=entry.want.name, seconds=time.monotonic() - begun, why=why)

    # ---------------------------------------------------------------- giving back

    def release(self, tenant: Tenant, deadline: float, wants: Sequence[Want] | None = None) -> bool:
        keys = None if wants is None else {want.key for want in wants}
        with self._changed:
            theirs = [e for e in self._of(tenant) if keys is None or e.want.key in keys]
            held = [entry for entry in theirs if entry.state == HELD]
            for entry in theirs:
                if entry.state == ACQUIRING:
                    entry.cancel.cancel("the guest does not need it any more")
            for entry in held:
                entry.state = RELEASING
                if entry.converting:
                    entry.give_up("the guest does not need it any more")  # its own thread gives it back
                elif by_keeper(entry):
                    self._workers.run(lambda entry=entry: self.moves.give_back(entry))  # type: ignore[misc]
            rest = [entry for entry in held if not entry.converting and not by_keeper(entry)]
            if rest:
                guest = self._guest(tenant)
                self._workers.run(lambda: self._release(guest, rest))
            while any(entry in self._entries for entry in theirs):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return True

    def _of(self, tenant: Tenant) -> list[Entry]:
        return [entry for entry in self._entries if tenant.key in entry.tenants]

    def _release(self, guest: GuestConnection, entries: Sequence[Entry]) -> None:
        with guest.turn:
            self._give_back(guest, entries)

    def _give_back(self, guest: GuestConnection, entries: Sequence[Entry], left_behind: bool = False) -> None:
        """Until the daemon has none of it for this guest any more; the caller has the guest's turn.

        `left_behind`: a former keeper may have got some of it.
        """
        for start in range(0, len(entries), BATCH):
            batch = entries[start : start + BATCH]
            doubt = left_behind
            try:
                if guest.good():
                    guest.release([self._files.resource(entry.want) for entry in batch])
                else:
                    doubt |= guest.asked
                    guest.close()  # what it held are orphans now
            except SanlockNotHeld:
                pass  # of a refused acquire; the others are released
            except SanlockError as error:
                doubt = True
                if not isinstance(error, SanlockResult):
                    guest.close()
            except Exception as failure:
                doubt = True
                self._alarm(f"release of leases of guest {guest.tenant.guest}: unexpected {failure!r}")
            if doubt:
                for entry in batch:
                    self._make_sure(guest, entry)
            self._forget(batch)
        with self._changed:
            if not self._of(guest.tenant):
                self._guests.pop(guest.tenant.key, None)
                guest.close()

    def _make_sure(self, guest: GuestConnection, entry: Entry) -> None:
        """Wait until the daemon lists this lease for nobody but other guests of ours; orphans are released."""
        resource = self._files.resource(entry.want)
        said = ""
        while not self._host.lost:  # else what the daemon still has is in the way of the next membership only
            try:
                found = [one for one in listed(self._host.client, resource) if not foreign(one)]
                if len(found) <= self._others(entry):
                    return
                if any(one.orphan for one in found):
                    guest.open()
                    guest.release_orphan(resource)
            except LeaseError as error:
                if str(error) != said:
                    said = str(error)
                    self._alarm(f"release of lease {entry.want.name}: {said}; it is tried again")
                time.sleep(RETRY_SECONDS)
                continue
            time.sleep(POLL_SECONDS)

    def _others(self, entry: Entry) -> int:
        with self._changed:
            return sum(1 for e in self._entries if e is not entry and e.want.key == entry.want.key and e.state == HELD)

    def _forget(self, entries: Sequence[Entry]) -> None:
        with self._changed:
            self._entries = [entry for entry in self._entries if entry not in entries]
            self._changed.notify_all()

    def _forget_claims(self, entries: Sequence[Entry]) -> None:
        guests = [self._guest_of(entry) for entry in entries]
        self._forget(entries)
        for guest in guests:
            with guest.turn:
                self._give_back(guest, [])

    def quiet(self) -> bool:
        """Whether nothing of this engine can come any more."""
        return not self._workers.busy()

    def close(self) -> None:
        """The host's membership is over and its guests are gone: give up every connection."""
        with self._changed:
            guests, self._guests = list(self._guests.values()), {}
        for guest in guests:
            guest.close()

    def holds(self, tenant: Tenant, wants: Sequence[Want]) -> bool:
        """Whether every one of `wants` is held for `tenant` at this moment."""
        with self._changed:
            guest = self._guests.get(tenant.key)
            held = {e.want.key: by_keeper(e) for e in self._of(tenant) if e.state == HELD and not e.lost}
        if not all(want.key in held for want in wants):
            return False
        return all(held[want.key] for want in wants) or (guest is not None and guest.good())

    # ---------------------------------------------------------------- claims

    def convert(self, tenant: Tenant) -> None:
        with self._changed:
            for entry in self._of(tenant):
                self.claims.convert(entry)

    def owns(self, tenant: Tenant, wants: Sequence[Want]) -> bool:
        if not self.holds(tenant, wants):
            return False
        with self._changed:
            return not any(entry.claimed for entry in self._of(tenant))

    def mark_running(self, tenant: Tenant, deadline: float) -> bool:
        with self._changed:
            theirs = self._of(tenant)
        return self.claims.mark_running(theirs, deadline)

    def held_elsewhere(self, wants: Sequence[Want], deadline: float) -> bool:
        return self.claims.held_elsewhere(wants, deadline)

    def elsewhere(self, tenant: Tenant, deadline: float) -> list[Holder]:
        with self._changed:
            theirs = [entry.owned for entry in self._of(tenant) if entry.owned]
        return self.claims.elsewhere(theirs, tenant, deadline)

    # ---------------------------------------------------------------- after a restart

    def restore(self, tenant: Tenant, owned: Sequence[Owned]) -> list[tuple[Owned, LeaseError]]:
        lost: list[tuple[Owned, LeaseError]] = []
        with self._changed:
            guest = self._guest(tenant)
        with guest.turn:
            for lease in owned:
                entry = Entry(lease.want, tenant, HELD)
                entry.owned = lease
                try:
                    if lease.claim:
                        self._finding.claim(guest, entry, lease)
                    else:
                        self._finding.adopt(guest, lease)
                except LeaseError as failure:
                    lost.append((lease, failure))
                    continue
                with self._changed:
                    self._entries.append(entry)
                if lease.claim and not by_keeper(entry):
                    self.claims.on_converted(tenant, entry.owned)
        self.convert(tenant)
        return lost

    def _held_by_us(self, want: Want) -> int:
        with self._changed:
            return sum(1 for entry in self._entries if entry.want.key == want.key and entry.state == HELD)

    def settle(self, tenant: Tenant, wants: Sequence[Want]) -> None:
        with self._changed:
            known = {entry.want.key for entry in self._of(tenant)}
            ours = [w for w in wants if w.space == self._files.space and w.key not in known]
            entries = [Entry(want, tenant, RELEASING) for want in ours]
            if not entries:
                return
            self._entries += entries
            guest = self._guest(tenant)
            self._workers.run(lambda: self._settle(guest, entries))

    def _settle(self, guest: GuestConnection, entries: Sequence[Entry]) -> None:
        """What the dead keeper had asked for last may come a moment after its connection was closed."""
        time.sleep(RETRY_SECONDS)
        with guest.turn:
            self._give_back(guest, [entry for entry in entries if not entry.want.claim], left_behind=True)
            for entry in entries:
                if entry.want.claim:
                    self._make_sure(guest, entry)
                    self.moves.give_back_claim(entry)

    # ---------------------------------------------------------------- what nobody knows of

    def strays(self) -> list[HeldLease]:
        """Orphans of our lockspace that belong to no guest. Raises SanlockError."""
        with self._changed:
            before = {entry.want.key for entry in self._entries}
        found = self._host.client.leases(time.monotonic() + NOTICE_SECONDS)
        with self._changed:
            known = before | {entry.want.key for entry in self._entries}
        return [
            one for one in found
            if one.orphan and one.resource.space == self._files.space
            and (one.resource.space, one.resource.name) not in known
        ]  # fmt: skip

    def release_stray(self, stray: HeldLease) -> None:
        """Raises SanlockError. The caller knows that no guest uses it."""
        with self._host.client.register(time.monotonic() + NOTICE_SECONDS) as registered:
            registered.release_orphan(stray.resource)

    def broken(self) -> list[Tenant]:
        """Guests whose connection the daemon has closed although it lives: their leases are orphans."""
        with self._changed:
            theirs = [entry for entry in self._entries if entry.state == HELD and not by_keeper(entry)]
            held = {key for entry in theirs for key in entry.tenants}
            return [guest.tenant for key, guest in self._guests.items() if key in held and not guest.good()]

    def mend(self, tenant: Tenant) -> list[tuple[Owned, LeaseError]]:
        """Take the orphans of such a guest back; returns what is lost."""
        with self._changed:
            theirs = [entry for entry in self._of(tenant) if not by_keeper(entry)]
            entries = [entry for entry in theirs if entry.state == HELD and entry.owned]
            self._entries = [entry for entry in self._entries if entry not in entries]
        return self.restore(tenant, [entry.owned for entry in entries if entry.owned])
