# SPDX-License-Identifier: LGPL-2.1-or-later
"""This host's id as the sanlock daemon keeps it: the daemon renews, we look on and judge.

`DaemonLease` is a `HostLease` whose last_ok is the daemon's. Everything that asks
a HostLease whether this host may write, and how long, gets the same answer here:
from last_ok + 8N on, no, whatever the daemon does. A daemon that does not answer
is no loss by itself; it tells no new last_ok, and 8N end what was known.

USED is set before anything else (safety rules, 25): from then on the lockspace
does not end, and the daemon's watchdog resets this host, unless we say with
`let_go` that no guest is left. A daemon that dies leaves all that behind, and
whoever joins the lockspace anew frees what the dead one held; so it is never joined
here while guests of an older generation run.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from .blockio import BlockFile
from .clock import Moment, boottime_offset
from .delta import Membership, Space, probe, read_own
from .driver import Cancel, drive
from .effects import LOCKSPACE
from .errors import Abandoned, LeaseError, LockspaceLost
from .membership import HostLease, Renewal
from .records import Leader, show_name
from .sanlockclient import SanlockClient
from .sanlockending import end
from .sanlockerrors import SanlockBusy, SanlockNoAnswer, SanlockNotJoined, SanlockUnreachable
from .sanlockregistered import Registered
from .sanlockspace import (
    DaemonState,
    SanlockDaemonGone,
    SanlockSpaceEnding,
    SanlockSpaceLost,
    SpaceState,
    check_able,
    look,
)
from .sanlockwire import Config, Disk, Lockspace

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 3.0
"""How long one exchange with a daemon that works takes at the most."""
JOIN_POLL_SECONDS = 0.2
REMOVE_SECONDS = 60.0
CLOSE_SECONDS = 1.0
LONGEST_JOIN_SECONDS = 8 * 255 + 60 + 2 * 255 + 30.0


class DaemonLease(HostLease):
    """Made by `join` or `attach`; then `start`, at last `leave`, or `let_go` where it was lost.

    `added`: we joined the lockspace, so we leave it. `may_let_go`: no guest is left on this host.
    """

    def __init__(self, client: SanlockClient, member: Membership, file: BlockFile, state: DaemonState) -> None:
        super().__init__(member, file, boottime_offset())
        assert state.space
        self.client = client
        self.added = False
        self.watchdog_elsewhere = state.use_watchdog
        self.grace = state.grace
        self.version = state.version
        self.may_let_go: Callable[[], bool] = lambda: True
        self.daemon_gone = False
        self._doomed = False
        self._latency = 0.0
        self._offsets: deque[tuple[float, float]] = deque(maxlen=1024)
        self._monitor: Registered | None = None
        self._poke = threading.Event()
        self._watcher = threading.Thread(target=self._watch_hosts, name="lockspace", daemon=True)
        self._take(state.space, Moment.now())

    # -- what differs from a lease that we renew ourselves

    def renew_now(self) -> None:
        self._look()

    def start(self) -> None:
        super().start()
        self._watcher.start()

    def stop(self) -> None:
        super().stop()
        self._poke.set()

    def quiet(self) -> bool:
        """This lease writes nothing; what the daemon writes is the daemon's."""
        return True

    def stands_still(self, margin: float) -> bool:
        if self.lost or self._stop.is_set() or self._thread.ident is None:
            return False
        return not self._thread.is_alive() or time.monotonic() - self._turned > 2 * ANSWER_SECONDS + margin

    def overdue(self) -> float | None:
        """A failure that the daemon's watchdog stands behind leaves the whole grace, also before 8N."""
        late = self.age() - self.limit
        if late >= 0 or (self._doomed and (self.watchdog_elsewhere or not self.daemon_gone)):
            return max(late, 0.0)
        return None

    def look_now(self) -> None:
        """The daemon has said that something is wrong: do not wait for the next turn."""
        self._poke.set()

    def leave(self) -> None:
        """UNUSED, and out of the lockspace if we joined it and nobody else uses it. Raises LeaseError."""
        self.stop()
        if self._thread.ident:
            self._thread.join()
        try:
            if self.may_let_go():
                self.let_go()
            if self.added:
                with contextlib.suppress(SanlockBusy, SanlockNotJoined):
                    until = time.monotonic() + REMOVE_SECONDS
                    self.client.remove_lockspace(self._lockspace(), only_unused=True, deadline=until)
        finally:
            self.close()

    def wind_up(self) -> None:
        """Have a daemon that goes on with what is lost here begin a new generation.

        Under the old one others would see as held what could not be given back; and it may be
        renewed in a file that has lost its name. Raises LeaseError.
        """
        found = None
        with contextlib.suppress(SanlockUnreachable):
            found = look(self.client, self._name, time.monotonic() + ANSWER_SECONDS).space
        ours = found is not None and found.good and found.generation == self.identity.generation
        if self.added and ours and self.may_let_go():
            self.leave()
        else:
            self.close()

    def close(self) -> None:
        self.stop()
        if self._watcher.ident:
            self._watcher.join(CLOSE_SECONDS)
        if not self._watcher.is_alive():  # else the storage holds it up
            super().close()

    # -- USED

    def hold(self) -> None:
        """No guest may hold a lease before this. Raises SanlockError."""
        self.client.set_config(self._name, Config.USED, deadline=time.monotonic() + ANSWER_SECONDS)

    def let_go(self) -> None:
        """Only when no guest of this host is left. Raises SanlockError."""
        with contextlib.suppress(SanlockNotJoined, SanlockUnreachable):
            self.client.set_config(self._name, Config.UNUSED, deadline=time.monotonic() + ANSWER_SECONDS)

    # -- looking on

    def _run(self) -> None:
        try:
            while not self.lost and not self._stop.is_set():
                self._turned = time.monotonic()
                self._look()
                self._wait()
        finally:
            if self._monitor:
                self._monitor.close()

    def _wait(self) -> None:
        """Until the next turn, or until the daemon hangs up."""
        self._poke.clear()
        until = time.monotonic() + LOOK_SECONDS
        monitor = self._monitor
        while not self._stop.is_set() and not self._poke.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            if monitor is None or monitor.hung_up():
                self._poke.wait(min(left, JOIN_POLL_SECONDS))
                if monitor is not None:
                    return
                continue
            poll = select.poll()
            poll.register(monitor.fileno(), select.POLLIN | select.POLLRDHUP)
            poll.poll(min(left, JOIN_POLL_SECONDS) * 1000)

    def _look(self) -> None:
        offset, begun = boottime_offset(), Moment.now()
        self._offsets.append((begun.monotonic, offset))
        deadline = begun.monotonic + ANSWER_SECONDS
        error: LeaseError | None = None
        try:
            if self._monitor is not None and self._monitor.hung_up():
                self._monitor.close()
                self._monitor = None
            state = look(self.client, self._name, deadline)
            self._judge(state, begun)
            if self._monitor is None and not self.lost:
                self._monitor = self.client.register(deadline)
        except SanlockUnreachable as failure:
            error = failure
            if self._monitor is None:
                self._gone()
        except LeaseError as failure:
            error = failure
        if self.lost:
            error = self.lost
            with self._renewed:
                self._renewed.notify_all()
        if error:
            self.latest = Renewal(begun, time.monotonic() - begun.monotonic, error)
            self.on_renewed(self, self.latest)

    def _judge(self, state: DaemonState, begun: Moment) -> None:
        self.watchdog_elsewhere, self.grace = state.use_watchdog, state.grace
        space = state.space
        why = ""
        if space is None:
            why = "sanlock does not have it any more"
        elif space.generation != self.identity.generation or space.lockspace.host_id != self.space.host_id:
            found = f"host id {space.lockspace.host_id} generation {space.generation}"
            why = f"sanlock has joined it anew, as {found}"
        elif not space.good:
            # A record that was damaged or taken is no matter of time: others may have what we held.
            self._doomed = not space.dead or self.age() >= self.limit - 2 * LOOK_SECONDS
            why = space.trouble()
        if why or space is None:
            self.lost = SanlockSpaceLost(space=self._name, why=why)
        elif space.last_ok > int(self._last_ok.monotonic):
            self._take(space, begun)
            # What the daemon has renewed after 8N had gone by revives nothing here.
            if not self.why_not():
                self.latest = Renewal(begun, self._latency, None)
                self.on_renewed(self, self.latest)

    def _gone(self) -> None:
        self.daemon_gone = self._doomed = True
        what_next = ": its watchdog resets this host" if self.watchdog_elsewhere else ""
        self.lost = SanlockDaemonGone(what_next=what_next)

    def _take(self, space: SpaceState, begun: Moment) -> None:
        # The time spent suspended before the renewal; an older figure can only make last_ok older.
        before = [offset for at, offset in self._offsets if at <= space.last_ok]
        offset = before[-1] if before else (self._offsets[0][1] if self._offsets else boottime_offset())
        with self._renewed:
            self._last_ok = Moment(float(space.last_ok), space.last_ok + offset)
            self._renewed.notify_all()

    def _watch_hosts(self) -> None:
        """The other hosts' records, read by ourselves: a storage that hangs holds up nothing but this thread."""
        while not self.lost and not self._stop.is_set():
            try:
                self._check_place()
                begun, known = time.monotonic(), int(self._last_ok.monotonic)
                area = self._file.read(0, self.member.geometry.area)
                self._latency = time.monotonic() - begun
                self._check_renewed(area, known)
                self._take_in(area, time.monotonic())
            except LockspaceLost as failure:
                self.lost = failure
                return
            except LeaseError:
                pass  # a storage that fails is the daemon's to notice: it renews no more
            # A little longer than their renewals take, so that each look finds a change in who lives.
            self._stop.wait(2.25 * self.space.io_timeout)

    def _check_renewed(self, area: bytes, known: int) -> None:
        """What others read must be what the daemon renews. Raises LockspaceLost, RecordError."""
        record = Leader.decode(area[self.member.geometry.delta(self.space.host_id) :])
        _check_file(self.space, record, known)

    # -- inside

    @property
    def _name(self) -> str:
        return show_name(self.space.name)

    def _lockspace(self) -> Lockspace:
        return Lockspace(self._name, self.space.host_id, Disk(self.space.where))


# ---------------------------------------------------------------------------- getting in


def join(
    client: SanlockClient, space: Space, cancel: Cancel, nobody_runs: Callable[[], bool] = lambda: True
) -> DaemonLease:
    """Have the daemon join `space`, or use it as it has it; may wait 8M+60+2M seconds.

    The caller has made sure that no guest of an older generation can write; `nobody_runs`
    tells whether a lockspace that failed under them may end. Raises
    what the client raises, SanlockSpaceElsewhere, SanlockSpaceEnding, SanlockTooShort,
    RecordError, StorageError, and Abandoned after `cancel`.
    """
    state = look(client, show_name(space.name), time.monotonic() + ANSWER_SECONDS)
    check_able(space, state)
    added = False
    if state.space is None:
        # Waited for: why it cannot join the daemon tells only to who waits.
        where = Lockspace(show_name(space.name), space.host_id, Disk(space.where))
        client.add_lockspace(where, space.io_timeout, deadline=time.monotonic() + LONGEST_JOIN_SECONDS)
        added = True
    elif not state.space.good and state.space.state != "add":
        _end_the_old_one(client, state.space, nobody_runs)
    lease = _attach(client, space, _wait_joined(client, space, cancel))
    lease.added = added
    try:
        client.set_config(show_name(space.name), Config.USED_BY_ORPHANS)
        lease.hold()
    except BaseException:
        lease.close()
        raise
    return lease


def attach(client: SanlockClient, space: Space, generation: int) -> DaemonLease:
    """Go on with the generation of a former keeper. Raises SanlockSpaceLost if it is over, SanlockError."""
    name = show_name(space.name)
    state = look(client, name, time.monotonic() + ANSWER_SECONDS)
    found = state.space
    if found is None or found.generation != generation or found.lockspace.host_id != space.host_id:
        why = "sanlock does not have it any more" if found is None else "sanlock has joined it anew meanwhile"
        raise SanlockSpaceLost(space=name, why=why)
    if not found.good:
        raise SanlockSpaceLost(space=name, why=found.trouble())
    client.set_config(name, Config.USED, deadline=time.monotonic() + ANSWER_SECONDS)
    client.set_config(name, Config.USED_BY_ORPHANS, deadline=time.monotonic() + ANSWER_SECONDS)
    return _attach(client, space, state)


def _end_the_old_one(client: SanlockClient, found: SpaceState, nobody_runs: Callable[[], bool]) -> None:
    """A lockspace that failed ends when nothing holds it. No guest is left: take USED back, and what was left behind.

    Always raises SanlockSpaceEnding.
    """
    name = found.lockspace.name
    if not nobody_runs():
        why = f"{found.trouble()}, and a QEMU process runs of which vlhookd knows nothing"
        raise SanlockSpaceEnding(space=name, why=why)
    end(client, found)
    raise SanlockSpaceEnding(space=name, why=found.trouble())


def _wait_joined(client: SanlockClient, space: Space, cancel: Cancel) -> DaemonState:
    """Until the daemon has joined and renewed once."""
    name = show_name(space.name)
    while True:
        if cancel.given_up:
            raise Abandoned(name=name, why=cancel.why)
        try:
            state = look(client, name, time.monotonic() + ANSWER_SECONDS)
        except SanlockNoAnswer:
            cancel.wait(JOIN_POLL_SECONDS)
            continue
        found = state.space
        if found and found.good and found.last_ok:
            return state
        if found is None:
            raise SanlockSpaceEnding(space=name, why="sanlock could not join it, see its log")
        if found.state != "add" and not found.good:
            raise SanlockSpaceEnding(space=name, why=found.trouble())
        cancel.wait(JOIN_POLL_SECONDS)


def _attach(client: SanlockClient, space: Space, state: DaemonState) -> DaemonLease:
    assert state.space
    file = BlockFile(space.where, writable=False)
    try:
        geo = drive(probe(space), {LOCKSPACE: file})
        record = drive(read_own(space, geo), {LOCKSPACE: file})
        if (record.owner_id, record.owner_generation) != (space.host_id, state.space.generation):
            found = f"host {record.owner_id} generation {record.owner_generation}"
            why = f"it says {found}, sanlock says generation {state.space.generation}"
            raise LockspaceLost(where=space.where, host_id=space.host_id, why=why)
        if record.io_timeout != space.io_timeout:
            why = f"io_timeout there is {record.io_timeout}, the settings say {space.io_timeout}"
            raise LockspaceLost(where=space.where, host_id=space.host_id, why=why)
        _check_file(space, record, state.space.last_ok)
        return DaemonLease(client, Membership(space, geo, record), file, state)
    except BaseException:
        file.close()
        raise


def _check_file(space: Space, record: Leader, last_ok: int) -> None:
    """Raises LockspaceLost: the daemon has renewed at `last_ok`, and not in the file that this was read from."""
    if 0 < record.timestamp < last_ok:
        why = f"it was renewed at {record.timestamp}, sanlock says {last_ok}: another file has its name now"
        raise LockspaceLost(where=space.where, host_id=space.host_id, why=why)
