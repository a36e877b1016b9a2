# SPDX-License-Identifier: LGPL-2.1-or-later
"""This host's membership: joined at start, resumed after a crash, lost, joined anew.

A restarted keeper continues the generation of its predecessor if it is in
time; a new generation frees at once whatever the old one held, so it is only
taken when no guest of the old one can write any more (format document, 8.11
and 10; safety rules, 6).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional, Union

from ..errors import VlhookError
from ..lastok import NANOSECONDS, Page
from ..leases import hostids
from ..leases.delta import OwnTrace, Space
from ..leases.directory import Ownership, create_lockspace, lockspace_path
from ..leases.driver import Cancel
from ..leases.engine import Owned, Tenant
from ..leases.errors import LeaseError, NotCreated, StorageError
from ..leases.files import LeaseFiles
from ..leases.geometry import FILE
from ..leases.membership import HostLease, Renewal
from ..leases.names import LOCKSPACE_NAME
from ..leases.native import NativeEngine
from ..leases.owner import WATCHDOG_SECONDS, fail_seconds
from ..leases.sanlock import SanlockEngine
from ..leases.sanlockerrors import SanlockError
from ..leases.sanlockmembership import DaemonLease
from ..leases.sanlockspace import SanlockSpaceEnding
from ..mounts import missing_mount
from .bysanlock import SANLOCK, Way, way_of
from .log import Log
from .state import Member, StateStore

JOINING = "the host is joining the lockspace"
JOIN_RETRY_SECONDS = 5.0
RESUME_RETRY_SECONDS = 0.5
ASIDE_SECONDS = 1.0
LEAVE_SECONDS = 5.0
"""For what is under way on leases when the keeper is stopped; a service manager waits longer."""
AnyEngine = Union[NativeEngine, SanlockEngine]


class NoHostId(VlhookError):
    msg = "no host_id is set in {path}"
    hint = "give this host an id of its own, 1 to 2000: augtool -s set /files{path}/host_id N"
    code = "VLH-K201"


class StateLost(VlhookError):
    msg = "the run directory of the keeper was lost in this boot while QEMU processes run (pid {pids})"
    hint = "nothing is known of their leases: end those guests, then restart vlhookd"
    code = "VLH-K603"


@dataclass(frozen=True)
class Where:
    """The lockspace and under which name this host is in it."""

    directory: str
    host_id: int
    host_name: str
    io_timeout: int
    owner: Ownership
    machine: Optional[hostids.Machine] = None
    engine: str = "native"

    def space(self) -> Space:
        where = lockspace_path(self.directory)
        return Space(LOCKSPACE_NAME.encode(), where, self.host_id, self.host_name.encode(), self.io_timeout)


class Host:
    """The one membership of this keeper. `engine` is None while the host has none."""

    def __init__(self, where: Where, store: StateStore, page: Page, boot_id: str, log: Log) -> None:
        self.where = where
        self.engine: Optional[AnyEngine] = None
        self.why = JOINING
        self._joins_by = time.time() + fail_seconds(where.io_timeout) + WATCHDOG_SECONDS + 2 * where.io_timeout
        self._store = store
        self._page = page
        self._boot_id = boot_id
        self._log = log
        self._cancel = Cancel()
        self._lease: Optional[HostLease] = None
        self._former: list[tuple[HostLease, AnyEngine]] = []
        self.taking_over = False
        self.grace = -1
        self.on_good: Callable[[HostLease], None] = lambda lease: None
        self.claim_foreign = False
        self.on_converted: Callable[[Tenant, Owned], None] = lambda tenant, owned: None
        self.on_claim_lost: Callable[[Tenant, LeaseError], None] = lambda tenant, error: None
        self._failures = 0
        self._joining = threading.Lock()
        self.aside: Optional[str] = None
        """Why this host leaves the lockspace to the sanlock daemon, while it does."""
        self.stand_aside: Callable[[], Optional[str]] = lambda: None
        self.make_way: Callable[[], None] = lambda: None
        self.on_aside: Callable[[], None] = lambda: None
        self.on_renewal: Callable[[Renewal], None] = lambda renewal: None
        self.nobody_runs: Callable[[], bool] = lambda: False

    @property
    def lease(self) -> Optional[HostLease]:
        return self._lease

    def why_not(self) -> Optional[str]:
        """None while leases can be taken and used on this host; otherwise the reason, for people."""
        lease = self._lease
        if self.taking_over and lease is not None:
            return "the keeper was just started and is finding its guests again; see 'vlhook status'"
        if lease is not None:
            return lease.why_not()
        if self.why == JOINING:
            at = time.strftime("%H:%M:%S", time.localtime(self._joins_by))
            return f"{JOINING}, until {at} at the latest if the storage answers; start the guest again then"
        return f"{self.why}; see 'vlhook status'"

    # -- getting in

    def resume(self, member: Member) -> Optional[LeaseError]:
        """Continue the predecessor's generation. Returns why that cannot be."""
        while True:
            try:
                way = way_of(member.engine, self._nobody_runs)
                lease = way.resume(self.where.space(), member)
                break
            except (StorageError, NotCreated) as error:
                # The storage does not answer well; that alone loses nothing before 8N.
                self._log.alarm("resume", f"the host's lease cannot be resumed yet: {error}")
                time.sleep(RESUME_RETRY_SECONDS)
            except LeaseError as error:
                return error
        self._log.calm("resume")
        lease.renew_now()
        if lease.lost:
            lease.close()
            return lease.lost
        self._enter(way, lease)
        self._log.notice("resumed", host_id=self.where.host_id, generation=lease.identity.generation)
        return None

    def join(self, trace: Optional[OwnTrace], stop: threading.Event) -> bool:
        """Take the host id under a new generation, for as long as it takes; False: stopped."""
        with self._joining:
            return self._lease is not None or self._join(trace, stop)

    def _join(self, trace: Optional[OwnTrace], stop: threading.Event) -> bool:
        while not stop.is_set():
            if self._stands_aside():
                stop.wait(ASIDE_SECONDS)
                continue
            try:
                self._check_quiet()
                self.make_way()
                way = way_of(self.where.engine, self._nobody_runs)
                lease = self._join_once(way, trace)
                self._store.note_joined()
                self._store.note_lockspace(lease.space.where)
                self._enter(way, lease)
            except (LeaseError, VlhookError, OSError) as error:
                self.why = f"the host could not join the lockspace: {error}"
                self._log.alarm("join", self.why)
                stop.wait(ASIDE_SECONDS if isinstance(error, SanlockSpaceEnding) else JOIN_RETRY_SECONDS)
                continue
            self._log.calm("join")
            self._log.notice("joined", host_id=self.where.host_id, generation=lease.identity.generation)
            return True
        return False

    def _stands_aside(self) -> bool:
        before, self.aside = self.aside, self.stand_aside()
        if self.aside is None:
            return False
        self.why = self.aside
        if before is None:
            self._log.calm("join")
            self._log.notice("aside", why=self.aside)
            self.on_aside()
        return True

    def _check_quiet(self) -> None:
        """A write of the former generation that may still land must not meet the new one (safety rules, 12)."""
        done = [one for one in self._former if all(part.quiet() for part in one)]
        for lease, engine in done:
            engine.close()
            lease.wind_up()
        self._former = [one for one in self._former if one not in done]
        if self._former:
            raise FormerIo(directory=self.where.directory)

    def _nobody_runs(self) -> bool:
        return self.nobody_runs()

    def _join_once(self, way: Way, trace: Optional[OwnTrace]) -> HostLease:
        space = self.where.space()
        self._check_mounted()
        self._check_not_a_clone()
        try:
            os.stat(space.where)
        except FileNotFoundError:
            if self._store.noted_lockspace() == space.where:
                raise LockspaceGone(path=space.where, note=self._store.lockspace_note) from None
            create_lockspace(self.where.directory, FILE, self.where.io_timeout, self.where.owner)
        except OSError as error:
            raise StorageError(op="stat", where=space.where, why=error.strerror) from error
        try:
            return way.join(space, trace, self._cancel)
        except NotCreated as error:
            raise StorageError(op="open", where=space.where, why="it was removed meanwhile") from error

    def _check_mounted(self) -> None:
        """A lockspace below the place where the shared one belongs keeps no other host out."""
        missing = missing_mount(self.where.directory)
        if missing:
            raise NotMounted(directory=self.where.directory, point=missing.point, source=missing.source)

    def _check_not_a_clone(self) -> None:
        """Before harm: the id may have been chosen for another machine, which is not there just now."""
        machine = self.where.machine
        note = hostids.noted_for_other(self.where.directory, self.where.host_id, machine) if machine else None
        if note:
            raise hostids.HostIdTaken(where=self.where.directory, host_id=self.where.host_id, who=str(note))

    def _enter(self, way: Way, lease: HostLease) -> None:
        lease.on_renewed = self._renewed
        lease.on_alarm = self._others_alarm
        files = LeaseFiles(self.where.directory, LOCKSPACE_NAME, lease.space.where, self.where.owner)
        self._publish(lease)
        self._lease = lease
        engine = way.engine(lease, files, self._engine_alarm, self.claim_foreign)
        engine.claims.on_converted = self.on_converted
        engine.claims.on_lost = self.on_claim_lost
        self.engine = engine
        lease.start()

    # -- staying in

    def _publish(self, lease: HostLease) -> None:
        me, last_ok = lease.identity, lease.last_ok
        self._page.store(
            io_timeout=self.where.io_timeout,
            host_id=me.host_id,
            generation=me.generation,
            last_ok_monotonic=int(last_ok.monotonic * NANOSECONDS),
            last_ok_boottime=int(last_ok.boottime * NANOSECONDS),
            grace=self.grace,
        )
        member = Member(
            self._boot_id, lease.space.where, me.host_id, self.where.host_name,
            self.where.io_timeout, lease.member.record, last_ok,
            SANLOCK if isinstance(lease, DaemonLease) else NativeEngine.name, getattr(lease, "added", False),
        )  # fmt: skip
        self._store.save_member(member)

    def _renewed(self, lease: HostLease, renewal: Renewal) -> None:
        if lease is not self._lease:
            return
        self.on_renewal(renewal)
        if isinstance(renewal.error, SanlockError):
            self._log.alarm("sanlock", f"{renewal.error}; guests are stopped {lease.limit} s after the last renewal")
        if renewal.error:
            self._failures += 1
            if self._failures == 1 or self._failures % 20 == 0:
                age = f"{lease.age():.0f}"
                self._log.warning("renewal-failed", error=renewal.error, last_ok_age=age, limit=lease.limit)
            return
        self._failures = 0
        self._log.calm("sanlock")
        self.on_good(lease)
        try:
            self._publish(lease)
        except (VlhookError, OSError) as error:
            self._log.alarm("publish", f"the renewal cannot be published: {error}")
        else:
            self._log.calm("publish")

    def _others_alarm(self, host_id: int, what: str) -> None:
        self._log.error("lockspace", host_id=host_id, what=what)

    def _engine_alarm(self, what: str) -> None:
        self._log.error("lease", what=what)

    @property
    def engine_name(self) -> str:
        """native or sanlock; what the setting says while the host has not joined."""
        engine = self.engine
        return engine.name if engine else self.where.engine

    # -- the sanlock daemon

    def releasing(self) -> Optional[AnyEngine]:
        """The engine by which leases are given back: also one whose membership is lost, if it is sanlock's."""
        former = [engine for _, engine in self._former if isinstance(engine, SanlockEngine)]
        return self.engine or (former[-1] if former else None)

    def look_now(self) -> None:
        """The sanlock daemon has run its killpath."""
        if isinstance(self._lease, DaemonLease):
            self._lease.look_now()

    def ended_by_sanlock(self) -> bool:
        """Whether a SIGTERM may be the daemon's: it sends one each second to who holds leases in a failed lockspace."""
        if isinstance(self._lease, DaemonLease) and self._lease.lost:
            return True
        return any(isinstance(engine, SanlockEngine) for _, engine in self._former)

    # -- getting out

    def drop(self, why: str) -> Optional[OwnTrace]:
        """The membership is over (lost or run out); what it held is for others to take."""
        lease, engine = self._lease, self.engine
        self._lease, self.engine = None, None
        self.why = why
        if lease is None:
            return None
        lease.give_up(why)
        lease.stop()
        self._former += [(lease, engine)] if engine else []
        return OwnTrace(lease.member.record, lease.last_ok.monotonic)

    def leave(self, nobody_needs_it: Callable[[], bool], lock: threading.Condition) -> bool:
        """Give the host id back at the end, if no guest needs it; `lock` as in `step_aside`. Raises LeaseError.

        False: it is kept for a successor, also where something is still under way on a lease (a clean-up).
        """
        self._cancel.cancel("the keeper stops")
        with lock:
            if not nobody_needs_it():
                return False
            lease, engine = self._lease, self.engine
            self._lease, self.engine = None, None
            self.why = "the keeper is stopping"
        if lease is None or engine is None:
            return True
        until = time.monotonic() + LEAVE_SECONDS
        while not (engine.quiet() and not engine.entries()):
            if time.monotonic() >= until:
                lease.stop()
                return False
            time.sleep(0.05)
        lease.leave()
        self._store.forget_member()
        return True

    def step_aside(self, nobody_needs_it: Callable[[], bool], lock: threading.Condition) -> bool:
        """Leave the lockspace to the sanlock daemon, if no guest needs the membership; then join again.

        `lock` keeps guests from being entered in the table meanwhile: who enters
        one asks for the engine afterwards, and finds none. Raises LeaseError.
        """
        with lock:
            lease, engine = self._lease, self.engine
            if lease is None or engine is None or lease.why_not() or self.taking_over:
                return False
            if not (nobody_needs_it() and engine.quiet() and not engine.entries()):
                return False
            self._lease, self.engine = None, None
            self.why = "the host is leaving the lockspace to the sanlock daemon"
        try:
            lease.leave()
        except LeaseError:
            self._former.append((lease, engine))
            raise
        finally:
            self._store.forget_member()
        self._log.notice("left", host_id=self.where.host_id, generation=lease.identity.generation)
        return True

    def abandon(self) -> None:
        """Stop without giving anything back; a successor resumes the generation."""
        self._cancel.cancel("the keeper stops")
        if self._lease:
            self._lease.stop()


class LockspaceGone(VlhookError):
    msg = "{path} is missing, in which this host was before; is the lease directory not mounted?"
    hint = "mount it; if the lockspace was removed on purpose: rm {note}, then restart vlhookd"
    code = "VLH-K207"


class NotMounted(VlhookError):
    msg = "the lease directory {directory} is not there yet: /etc/fstab has {source} for {point}, which is not mounted"
    hint = "the host joins when it is: mount {point}"
    code = "VLH-K208"


class FormerIo(VlhookError):
    msg = "an I/O of this host's former generation in {directory} has not been answered by the storage yet"
    hint = "the host joins again when it is; check the storage"
    code = "VLH-K205"
