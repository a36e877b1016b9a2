# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claims beside the sanlock daemon: made and converted by ourselves, then handed over to it (safety rules, 20).

The daemon's own acquire begins with a write that wipes the claim; for a moment a rival could win
although the guest runs here. So the claim is written and converted in the format, under the
daemon's host id and generation, and the daemon acquires only what this host owns already: to
others this host is a living owner throughout. The order, for each lease:

    claim ─▶ convert ─▶ wait ─▶ reassert ─▶ the daemon acquires ─▶ confirm

This host's own sector has two writers, one after the other: until the daemon is asked for the
lease it is ours alone, from then on the daemon's, but for the holder record (sanlockfiles.py). An acquire
whose outcome is not known is cleared up before anything else is written.

The wait is 8N+60 from the conversion, as long as anything may still land that was under way then.
The daemon goes on from the leader as it stands, and decides the next version. A release or a commit of an earlier
version that lands late puts an earlier leader back; the daemon would decide our own version anew, and the block
that tells that it is ours is wiped. The model finds that (tests/model/daemon.py). After the wait nothing of the
kind can come; `reassert` puts the leader right. Until then the lease is held like a native one: the daemon
keeps this host's id alive, which is what others judge us by.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .claimfiles import ClaimFiles
from .claiming import RETRY_SECONDS, Claims, Entry
from .engine import Owned, Want
from .errors import (
    Abandoned,
    AreaTooShort,
    BadMagic,
    ClaimLost,
    FileReplaced,
    LeaseError,
    NotCreated,
    NothingToClaim,
    NotMember,
    StorageError,
)
from .files import LeaseFiles
from .owner import CLOCK_SLACK, dead_seconds
from .parallel import each
from .release import Held
from .sanlockerrors import SanlockError, SanlockNotJoined, SanlockResult
from .sanlockfiles import SanlockFiles
from .sanlockguest import GuestConnection, listed
from .sanlockmembership import DaemonLease
from .workers import Workers

THREADS = 8
NOT_CLAIMED = (NothingToClaim, NotCreated, AreaTooShort, BadMagic)
"""Nobody else holds it: the daemon takes it as at any start, or says why not."""


def by_keeper(entry: Entry) -> bool:
    """Whether this lease is claimed, or held without the daemon."""
    return entry.claimed is not None or entry.held is not None


class DaemonClaims:
    """`guest_of`: the connection of an entry's guest. `give_back`: ends what the daemon has. `forget`: ends an entry.

    `seconds`: how long the daemon is kept waiting, None for what is safe.
    """

    def __init__(
        self,
        host: DaemonLease,
        files: LeaseFiles,
        changed: threading.Condition,
        workers: Workers,
        alarm: Callable[[str], None],
        guest_of: Callable[[Entry], GuestConnection],
        give_back: Callable[[GuestConnection, Sequence[Entry]], None],
        forget: Callable[[Sequence[Entry]], None],
        foreign: bool,
    ) -> None:
        self.seconds: float | None = None
        self._host = host
        self._files = files
        self._sanlock = SanlockFiles(files)
        self._claims = ClaimFiles(files, foreign)
        self._changed = changed
        self._alarm = alarm
        self._guest_of = guest_of
        self._give_back_by_daemon = give_back
        self._forget = forget
        self.claims = Claims(host, self._claims, changed, workers, alarm, self.give_back, self._hand_over)

    def take(self, entries: Sequence[Entry]) -> list[tuple[Want, LeaseError]]:
        """Claim those that are to be claimed; what nobody else holds is left to the daemon. Returns what is refused."""

        def claim(entry: Entry) -> LeaseError | None:
            tenant = next(iter(entry.tenants.values()))
            try:
                entry.claimed, entry.owned = self._claims.claim_held(self._host, entry.want, tenant, entry.cancel)
            except NOT_CLAIMED:
                return None
            except LeaseError as error:
                return error
            except Exception as failure:  # `each` waits for every answer
                self._alarm(f"lease {entry.want.name}: unexpected {failure!r}")
                return StorageError(op="claim", where=entry.want.name, why=f"{type(failure).__name__}: {failure}")
            return None

        wanted = [entry for entry in entries if entry.want.claim]
        answers = each(wanted, claim, threading.TIMEOUT_MAX, THREADS)
        return [(entry.want, error) for entry, error in answers if error]

    def find(self, entry: Entry, owned: Owned) -> None:
        """After a restart: what became of a claim that the daemon does not have. Raises LeaseError."""
        self.claims.find(entry, owned)

    # ---------------------------------------------------------------- from the keeper to the daemon

    def _hand_over(self, entry: Entry) -> Owned:
        """Raises Abandoned, ClaimLost, NotMember."""
        self._wait(entry)
        guest, tenant = self._guest_of(entry), next(iter(entry.tenants.values()))
        said = ""
        while True:
            if entry.cancel.given_up:
                raise Abandoned(name=entry.want.name, why=entry.cancel.why)
            self._host.check()
            try:
                assert entry.owned
                assert entry.held
                entry.held = self._claims.reassert(self._host, entry.owned, entry.held)
                # A daemon that meets a claim gives back what it took: the guest moves on first.
                if not self._claims.elsewhere(self._host, entry.owned, tenant):
                    with guest.turn:
                        self._daemon_takes(guest, entry)
                    return self._confirm(entry)
            except SanlockNotJoined as error:
                why = self._host.why_not() or "not known to sanlock any more"
                host_id = self._host.identity.host_id
                raise NotMember(space=self._files.space, host_id=host_id, why=why) from error
            except (ClaimLost, NotMember):
                raise
            except LeaseError as error:
                if str(error) != said:
                    said = str(error)
                    self._alarm(f"lease {entry.want.name}: sanlock has not taken it over: {said}; it is tried again")
            entry.poke.wait(RETRY_SECONDS)
            entry.poke.clear()

    def _wait(self, entry: Entry) -> None:
        until = time.monotonic() + (self._longest() if self.seconds is None else self.seconds)
        while not entry.cancel.given_up:
            left = until - time.monotonic()
            if left <= 0:
                return
            entry.poke.wait(left)
            entry.poke.clear()

    def _longest(self) -> float:
        """Seconds after which no write of any host lands that it began before (8N+60, of the slowest)."""
        seen = [view.io_timeout for view in self._host.table.rows().values()]
        slowest = max([self._host.space.io_timeout, *seen])
        return dead_seconds(slowest) + CLOCK_SLACK

    def _daemon_takes(self, guest: GuestConnection, entry: Entry) -> None:
        """Raises SanlockError: the daemon does not have it."""
        resource = self._sanlock.resource(entry.want)
        try:
            guest.open()
            guest.acquire([resource])
        except SanlockResult:
            raise
        except SanlockError:
            if not self._has(guest, entry):
                raise

    def _has(self, guest: GuestConnection, entry: Entry) -> bool:
        """Nobody knows whether the daemon has got it: until that is known we write nothing. Raises NotMember."""
        resource = self._sanlock.resource(entry.want)
        while True:
            self._host.check()
            try:
                guest.open()
                found = listed(self._host.client, resource)
                if not found:
                    return False
                if any(one.orphan for one in found):
                    guest.adopt(resource)
                    return True
            except SanlockError as error:
                self._alarm(f"lease {entry.want.name}: {error}; it is tried again")
            time.sleep(RETRY_SECONDS)

    def _confirm(self, entry: Entry) -> Owned:
        """The daemon has it. Raises ClaimLost if the file does not say so."""
        assert entry.owned
        tenant = next(iter(entry.tenants.values()))
        with self._changed:
            entry.held = None
        while True:
            try:
                owned = self._sanlock.confirm(self._host, entry.want, tenant)
                break
            except (FileReplaced, NotCreated) as error:
                raise ClaimLost(name=entry.want.name, where=entry.owned.path, why=str(error)) from error
            except StorageError as error:
                self._alarm(f"lease {entry.want.name}: {error}; it is read again")
                time.sleep(RETRY_SECONDS)
        with self._changed:
            entry.owned = owned
            self._changed.notify_all()
        return owned

    # ---------------------------------------------------------------- the end

    def give_back(self, entry: Entry) -> None:
        """Withdraw or release what is ours, or have the daemon release what is its; then the entry is gone."""
        if not by_keeper(entry):
            guest = self._guest_of(entry)
            with guest.turn:
                self._give_back_by_daemon(guest, [entry])
            return
        self.give_back_claim(entry)

    def give_back_claim(self, entry: Entry) -> None:
        """What the daemon does not have, or nothing: nobody knows what a former keeper left."""
        tenant = next(iter(entry.tenants.values()))
        held: Held | None = None
        while True:
            try:
                if entry.held and entry.owned:
                    # Not as it was converted: a daemon that tried in vain has left a block of its own.
                    held = held or self._found(entry.owned)
                    self._files.give_back(self._host, entry.owned, held, tenant)
                else:
                    self._files.settle(self._host, entry.want)
            except NotCreated:
                entry.held = None  # settled, which tells a lease directory that is away from a file that is gone
                continue
            except NotMember:
                pass  # others may take it anyway, and nothing may be written
            except StorageError as error:
                self._alarm(f"release of lease {entry.want.name}: {error}; it is tried again")
                time.sleep(RETRY_SECONDS)
                continue
            except LeaseError as error:
                self._alarm(f"release of lease {entry.want.name}: {error}")
            break
        self._forget([entry])

    def _found(self, owned: Owned) -> Held:
        """What stands there of what was converted. Raises LeaseError."""
        found = self._claims.find(self._host, owned)
        if isinstance(found, Held):
            return found
        raise ClaimLost(name=owned.want.name, where=owned.path, why="it is only claimed")
