# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeping this host's id alive: a thread that renews the delta lease, and what it saw of others.

`check` is asked before every write to a lease; it says no from last_ok + 8N
on, whatever the thread is doing: last_ok is the time before the write of the
last renewal that is known to have reached the disk (format document, 6.2, 8.10).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import delta
from .area import Identity
from .blockio import BlockFile, await_io, busy, waiting
from .clock import Moment, boottime_offset
from .delta import Membership, OwnTrace, Space
from .driver import Cancel, drive
from .effects import LOCKSPACE, Effect, Maybe, Read, Write
from .errors import LeaseError, LockspaceLost, NotMember, StorageError
from .hosts import HostTable
from .owner import fail_seconds
from .records import Leader, show_name

RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Renewal:
    """The outcome of the latest try. `latency`: seconds from the read's start to the write's end."""

    at: Moment
    latency: float
    error: LeaseError | None
    read_seconds: float = 0.0
    write_seconds: float = 0.0


class Laps:
    """Seconds that the reads and writes of one run took: a trace for `drive`."""

    def __init__(self) -> None:
        self.seconds = {Read: 0.0, Write: 0.0}
        self._last = time.monotonic()

    def __call__(self, effect: Effect, _: object) -> None:
        now = time.monotonic()
        if isinstance(effect, (Read, Write)):
            self.seconds[type(effect)] += now - self._last
        self._last = now


class HostLease:
    """This host's id in one lockspace. Made by `join` or `resume`; then `start`, at last `leave`."""

    def __init__(self, member: Membership, file: BlockFile, offset_before: float) -> None:
        self.member = member
        self.space = member.space
        self.table = HostTable()
        self.lost: LeaseError | None = None
        self.latest: Renewal | None = None
        self.on_renewed: Callable[[HostLease, Renewal], None] = lambda lease, renewal: None
        self.on_alarm: Callable[[int, str], None] = lambda host_id, what: None
        self.watchdog_elsewhere = False
        """Another daemon has its watchdog reset this host if this lease fails while guests hold leases."""
        self._file = file
        self._last_ok = _moment(member, offset_before)
        self._stop = threading.Event()
        self._turned = time.monotonic()
        self._renewed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    @property
    def identity(self) -> Identity:
        return self.member.identity

    @property
    def last_ok(self) -> Moment:
        return self._last_ok

    @property
    def limit(self) -> int:
        """Seconds after last_ok from which nothing may be used (8N)."""
        return fail_seconds(self.space.io_timeout)

    def age(self) -> float:
        """Seconds since last_ok, by the worse of both clocks."""
        return self._last_ok.age()

    def overdue(self) -> float | None:
        """When this lease is lost: seconds past 8N, which open the grace of its guests.

        None: there is no grace. Who wrote into the host's record may have taken all that it held.
        """
        late = self.age() - self.limit
        return late if late >= 0 else None

    def why_not(self) -> str | None:
        """None while the host's lease is good; otherwise why it is not."""
        if self.lost:
            return self.lost.reason()
        if self.age() >= self.limit:
            # For good: a renewal that is answered late must not make it valid again.
            self.give_up(f"not renewed for {self.age():.0f} s, the limit is {self.limit} s")
            return self.why_not()
        return None

    def give_up(self, why: str) -> None:
        """From now on this lease is lost, whatever a write that is still under way does."""
        if not self.lost:
            self.lost = NotMember(space=show_name(self.space.name), host_id=self.space.host_id, why=why)

    def quiet(self) -> bool:
        """Whether nothing of this lease can be written any more: its thread has ended."""
        return not self._thread.is_alive()

    def same_file(self, file: BlockFile) -> bool:
        """Is this the lockspace file in which this host's record lies? No file is, after `close`."""
        return not self._file.closed and file.identity()[:2] == self._file.identity()[:2]

    def _check_place(self) -> None:
        """What is renewed must be what others read: the file that the path names.

        Raises LockspaceLost where another file has that name, so that this host is free in the eyes of
        others, and StorageError where the path cannot be looked at, which alone loses nothing before 8N.
        """
        where = self.space.where
        try:
            with waiting("stat", where):
                named = os.stat(where)
        except OSError as error:
            raise StorageError(op="stat", where=where, why=error.strerror or str(error)) from error
        if (named.st_dev, named.st_ino) != self._file.identity()[:2]:
            why = "another file has its name now (something was mounted over it, or it was replaced)"
            raise LockspaceLost(where=where, host_id=self.space.host_id, why=why)

    def stands_still(self, margin: float) -> bool:
        """Whether the renewing thread has done nothing for `margin` seconds too long; waiting for I/O is work."""
        if self.lost or self._stop.is_set() or self._thread.ident is None:
            return False
        late = time.monotonic() - self._turned > 2 * self.space.io_timeout + margin
        return not self._thread.is_alive() or (late and not busy(self._thread.ident))

    def check(self) -> None:
        """Raises NotMember."""
        why = self.why_not()
        if why:
            raise NotMember(space=show_name(self.space.name), host_id=self.space.host_id, why=why)

    def seen(self, host_id: int) -> Maybe:
        return self.table.get(host_id)

    def start(self) -> None:
        self._thread.start()

    def renew_now(self) -> None:
        """Renew once in this thread, before `start`: after a restart, so that a keeper in a crash loop still renews."""
        self._renew(previous_ok=False)

    def stop(self) -> None:
        """Stop renewing without leaving: what the host holds stays held until 8N+60."""
        self._stop.set()

    def leave(self) -> None:
        """Release the host id. Only when nothing depends on it any more. Raises LeaseError.

        From the beginning on `check` lets nobody write: others may have a lease as soon as the id is free.
        """
        self._stop.set()
        self.check()
        self.give_up("it is leaving the lockspace")
        if self._thread.ident:
            self._thread.join()
        drive(delta.release(self.member), {LOCKSPACE: self._file}, member=self._check_age)
        self.close()

    def wind_up(self) -> None:
        """It is lost, and nothing of it is under way any more. Raises LeaseError."""
        self.close()

    def close(self) -> None:
        """Free what it has open."""
        self._file.close()

    def _check_age(self) -> None:
        if self.age() >= self.limit:
            why = f"not renewed for {self.age():.0f} s"
            raise NotMember(space=show_name(self.space.name), host_id=self.space.host_id, why=why)

    def wait_renewal(self, seconds: float) -> bool:
        """Wait for the next successful renewal or the loss of the id, at most `seconds`."""
        before = self._last_ok
        with self._renewed:
            return self._renewed.wait_for(lambda: self._last_ok is not before or bool(self.lost), seconds)

    def _run(self) -> None:
        previous_ok = self.latest is None or self.latest.error is None
        self._observe_once()
        while not self.lost:
            self._turned = time.monotonic()
            wait = self._last_ok.monotonic + 2 * self.space.io_timeout - time.monotonic()
            if self._stop.wait(max(wait, 0.0) if previous_ok else RETRY_SECONDS):
                return
            previous_ok = self._renew(previous_ok)

    def _observe_once(self) -> None:
        """Look at the others at once, so that their silence counts from now on."""
        try:
            area = self._file.read(0, self.member.geometry.area)
        except LeaseError:
            return
        self._take_in(area, time.monotonic())

    def _take_in(self, area: bytes, at: float) -> None:
        for alarm in self.table.observe(area, self.member.geometry, at):
            if alarm.host_id != self.space.host_id:
                self.on_alarm(alarm.host_id, alarm.what)

    def _renew(self, previous_ok: bool) -> bool:
        offset, begun = boottime_offset(), Moment.now()
        error: LeaseError | None = None
        laps = Laps()
        try:
            self._check_place()
            steps = delta.renew(self.member, previous_ok)
            done = drive(steps, {LOCKSPACE: self._file}, member=self.check, trace=laps)
            self._check_place()
            # An answer that came after 8N revives nothing: others may have taken what was held.
            self.check()
        except StorageError as failure:
            error = failure
        except LeaseError as failure:
            error = self.lost = failure
            with self._renewed:
                self._renewed.notify_all()
        renewal = Renewal(begun, time.monotonic() - begun.monotonic, error, laps.seconds[Read], laps.seconds[Write])
        if not error and not self.lost:
            self._take_in(done.area, time.monotonic())
            with self._renewed:
                self.member = done.membership
                self._last_ok = _moment(self.member, offset)
                self._renewed.notify_all()
        self.latest = renewal
        self.on_renewed(self, renewal)
        return error is None


def _moment(member: Membership, offset: float) -> Moment:
    """last_ok on both clocks; an offset taken before it can only make it older."""
    return Moment(float(member.last_ok), member.last_ok + offset)


def join(space: Space, trace: OwnTrace | None, cancel: Cancel | None = None) -> HostLease:
    """Take the host id under a new generation; may wait 8M+60+2M seconds (format document, 6.1).

    Raises what `delta.acquire` raises, and Abandoned after `cancel`.
    """
    file = BlockFile(space.where)
    try:
        offset = boottime_offset()
        member = drive(delta.acquire(space, trace), {LOCKSPACE: file}, cancel=cancel, name="host id")
    except BaseException:
        file.close()
        raise
    return HostLease(member, file, offset)


def resume(space: Space, last: Leader, last_ok: Moment) -> HostLease:
    """Continue the generation of `last`, whose renewal at `last_ok` was the latest known to be good.

    Raises LockspaceLost when the record is not ours any more, NotMember when 8N are over.
    """
    if last_ok.age() >= fail_seconds(space.io_timeout):
        why = f"not renewed for {last_ok.age():.0f} s"
        raise NotMember(space=show_name(space.name), host_id=space.host_id, why=why)
    await_io(space.where)
    file = BlockFile(space.where)
    try:
        member = drive(delta.resume(space, last), {LOCKSPACE: file})
        if member.record.io_timeout != space.io_timeout:
            why = f"io_timeout was changed from {member.record.io_timeout} to {space.io_timeout} meanwhile"
            raise LockspaceLost(where=space.where, host_id=space.host_id, why=why)
    except BaseException:
        file.close()
        raise
    lease = HostLease(replace(member, space=space), file, 0.0)
    lease._last_ok = last_ok
    return lease
