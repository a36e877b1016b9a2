# SPDX-License-Identifier: LGPL-2.1-or-later
"""One simulated host: machine, keeper process, its lease on its id, guests and their guard.

What a keeper's threads do is a `Task` here, a generator of the shipped code; what
the keeper adds to it (renewing, giving back until the storage has confirmed it,
settling after a restart) is written as a generator too, in `keeper.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional, Union

from ..leases.area import Identity
from ..leases.claims import Claimed
from ..leases.delta import Membership, OwnTrace, Space
from ..leases.effects import LOCKSPACE, Member, Now, Random, Read, Remove, Seen, Sleep, Steps, Write
from ..leases.errors import Abandoned, LeaseError, NotMember
from ..leases.geometry import Geometry
from ..leases.hosts import HostTable
from ..leases.owner import WATCHDOG_SECONDS, fail_seconds
from ..leases.release import Held
from .disk import SECTOR, SPACE, Area
from .storage import Link

if TYPE_CHECKING:
    from .world import World

Done = Callable[[object, Optional[LeaseError]], None]


class Task:
    """One operation under way on a host; driven as `leases/driver.py` drives it."""

    __slots__ = ("area", "cancelled", "deadline", "done", "epoch", "host", "lease", "sleep", "steps", "told")

    def __init__(
        self, host: Host, lease: str, steps: Steps[object], done: Done, area: Optional[Area] = None
    ) -> None:
        """`area`: of the file that is open; by default the one that has the lease's name now."""
        self.host, self.lease, self.steps, self.done = host, lease, steps, done
        self.area = area or host.world.leases.get(lease)
        self.epoch = host.epoch
        self.cancelled = self.told = False
        self.sleep = 0
        self.deadline = 0.0

    def step(self, answer: object = None, error: LeaseError | None = None) -> None:
        """Go on until the next I/O or pause."""
        host, send = self.host, self.steps.send
        while True:
            try:
                effect = self.steps.throw(error) if error else send(answer)
            except StopIteration as stop:
                self.done(stop.value, None)
                return
            except LeaseError as failure:
                self.done(None, failure)
                return
            answer = error = None
            host.world.effects += 1
            if self.cancelled and not self.told:
                self.told, error = True, Abandoned(name=self.lease, why="the deadline is over")
                continue
            kind = type(effect)
            if kind in (Read, Write, Remove):
                self._io(effect)  # type: ignore[arg-type]
                return
            if kind is Now:
                answer = host.clock()
            elif kind is Member:
                why = host.why_not()
                if why:
                    error = NotMember(space=SPACE.decode(), host_id=host.id, why=why)
                elif host.trap:
                    host.spring(self)
                    return
            elif kind is Random:
                answer = host.rng.random()
            elif isinstance(effect, Seen):
                answer = host.table.get(effect.host_id)
            else:
                assert isinstance(effect, Sleep)
                self._sleep(effect.seconds)
                return

    def _io(self, effect: Union[Read, Write, Remove]) -> None:
        world = self.host.world
        if isinstance(effect, Remove):
            world.push(self.host.link.lag * self.host.rng.random(), self._remove, None)
            return
        area = world.lockspace if effect.area == LOCKSPACE else self.area
        assert area
        self.host.link.submit(self, area, effect)

    def _remove(self, _: object) -> None:
        host = self.host
        if self.epoch != host.epoch:
            return
        if host.stopped_until > host.world.now:
            host.world.push(host.stopped_until - host.world.now, self._remove, None)
            return
        assert self.area
        self.step(host.world.removed(host, self.lease, self.area))

    def _sleep(self, seconds: float) -> None:
        self.sleep += 1
        self.deadline = self.host.clock() + seconds
        self.host.world.push(seconds / self.host.rate, self.wake, self.sleep)

    def wake(self, sleep: int) -> None:
        host = self.host
        if sleep != self.sleep or self.epoch != host.epoch:
            return
        if host.stopped_until > host.world.now:
            host.world.push(host.stopped_until - host.world.now, self.wake, sleep)
        elif not self.cancelled and host.clock() < self.deadline - 1e-6:
            host.world.push((self.deadline - host.clock()) / host.rate, self.wake, sleep)
        else:
            self.sleep += 1
            self.deadline = 0.0
            self.step()

    def resume(self, _: object) -> None:
        """Go on after the process was stopped in the middle of a step."""
        host = self.host
        if self.epoch != host.epoch:
            return
        if host.stopped_until > host.world.now:
            host.world.push(host.stopped_until - host.world.now, self.resume, None)
        else:
            self.step()

    def cancel(self, _: object = None) -> None:
        """Give the operation up: at its next step, or at once if it pauses (`driver.Cancel`)."""
        self.cancelled = True
        if self.deadline:
            self.wake(self.sleep)


def name_of(host_id: int) -> bytes:
    return b"node%d" % host_id


def rows_of(lockspace: Area) -> Geometry:
    """A geometry of the used sectors only: looking through 2000 records each time costs too much."""
    used = len(lockspace.sectors)
    return Geometry(SECTOR, used * SECTOR, used)


class Entry:
    """A lease on this host: taken, held or given back. Survives a restart of the keeper.

    `guest`: its CPUs run here. `incoming`: a guest is on its way, `left`: it has gone to where the lease is claimed.
    """

    def __init__(self, lease: str, shared: bool, seconds: float, patience: float, tries: int) -> None:
        self.lease, self.shared, self.seconds = lease, shared, seconds
        self.patience, self.tries = patience, tries
        self.held: Held | None = None
        self.task: Task | None = None
        self.guest = False
        self.area: Area | None = None
        self.guest_id = 0
        self.claimed: Claimed | None = None
        self.incoming = self.left = self.cleans = False


class Host:
    def __init__(self, world: World, host_id: int, seed: int, rate: float, uptime: float) -> None:
        self.world = world
        self.id = host_id
        self.rng = random.Random(seed)
        self.rate = rate
        self.base = uptime
        self.suspended = 0.0
        self.up = True
        self.running = False
        self.epoch = 0
        self.stopped_until = 0.0
        self.trap = 0.0
        self.doom = 0
        self.doomed_for = 0.0
        self.link = Link(self)
        self.entries: dict[str, Entry] = {}
        self.autostart: list[Entry] = []
        self.space = Space(SPACE, "lockspace", host_id, name_of(host_id), world.io_timeout)
        self.limit = fail_seconds(world.io_timeout)
        self.rows = rows_of(world.lockspace)
        self.forget()

    def forget(self) -> None:
        """What a new keeper does not know."""
        self.table = HostTable()
        self.member: Membership | None = None
        self.trace: OwnTrace | None = None
        self.lost = ""
        self.last_ok = 0.0
        self.watched = False

    # ------------------------------------------------------------------ clocks and the own lease

    def clock(self) -> float:
        """CLOCK_MONOTONIC."""
        return self.base + self.rate * self.world.now

    def age(self) -> float:
        """Seconds since the last renewal, on the clock that does not stop while the machine is suspended."""
        return self.clock() + self.suspended - self.last_ok

    def why_not(self) -> str:
        if self.lost:
            return self.lost
        if self.member is None:
            return "not joined"
        if self.age() >= self.limit:
            return f"not renewed for {self.age():.0f} s"
        return ""

    def at_rest(self) -> bool:
        return self.running and not self.entries and not self.why_not()

    def is_lost(self) -> bool:
        return bool(self.lost)

    @property
    def identity(self) -> Identity:
        assert self.member
        return self.member.identity

    def joined(self, member: Membership) -> None:
        self.member, self.lost = member, ""
        self.renewed(member)

    def renewed(self, member: Membership) -> None:
        """The record of `member` is on disk."""
        self.member = member
        # A sleep since the record's timestamp was taken counts from that time on.
        self.last_ok = member.last_ok + self.suspended
        self.trace = OwnTrace(member.record, self.clock())
        if not self.watched:
            self.watched = True
            self.guard(self.epoch)

    def observe(self, area: bytes) -> None:
        if self.table.observe(area, self.rows, self.clock()):
            self.world.alarms += 1

    # ------------------------------------------------------------------ guard and watchdog

    def guard(self, _: object) -> None:
        """When 8N are over the guests are killed, which takes a while, but never as long as 60 s."""
        if not self.up or self.member is None:
            self.watched = False
            return
        left = self.limit - self.age()
        if left > 1e-6:
            self.world.push(left / self.rate, self.guard, None)
            return
        self.watched = False
        self.lost = self.lost or f"not renewed for {self.limit} s"
        self.world.note(self, "its lease has run out")
        for entry in list(self.entries.values()):
            if entry.guest:
                self.world.push(self.rng.random() * 50, self.kill, entry)
            else:
                self._let_go(entry)
        self.world.push((WATCHDOG_SECONDS - 2) / self.rate, self.watchdog, (self.member, self.last_ok))

    def kill(self, entry: Entry) -> None:
        if self.entries.get(entry.lease) is entry and entry.guest:
            self.world.lost(self, entry)

    def watchdog(self, seen: tuple[Membership, float]) -> None:
        """Bounded survival: who cannot be shown to have stopped is reset 8N+60 s after the last renewal.

        That is a keeper that was stopped all the time (in the middle of a step, it
        would finish it), one with a write still under way, and one whose guests live.
        """
        if not self.up or self.member is not seen[0] or self.last_ok != seen[1]:
            return
        alive = any(e.guest for e in self.entries.values())
        if alive or self.stopped_until > self.world.now or self.link.writing():
            self.world.crash(self, "reset by its watchdog")

    def lose(self, why: str) -> None:
        """The host's own lease is over for this generation; its guests are killed soon."""
        self.lost = self.lost or why
        self.world.note(self, f"its lease is lost: {self.lost}")
        for entry in list(self.entries.values()):
            if entry.guest:
                self.world.push(self.rng.random() * 5, self.kill, entry)
            else:
                self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        """No guest comes here any more, and none is left behind."""
        entry.incoming = entry.left = False
        if entry.claimed and entry.task:
            entry.task.cancel()

    # ------------------------------------------------------------------ accidents

    def spring(self, task: Task) -> None:
        """The process stops in the worst place: between the check and the write."""
        self.stop(self.trap)
        self.trap = 0.0
        self.world.push(self.stopped_until - self.world.now, task.resume, None)

    def wrote(self) -> None:
        """A write of this host to a lease has landed; it does not know yet."""
        if self.doom:
            self.doom -= 1
            if not self.doom:
                self.world.push(0.0, self._meet_doom, self.epoch)

    def _meet_doom(self, epoch: int) -> None:
        if self.epoch == epoch and self.up:
            self.world.crash(self, "crashes right after a write")
            self.world.push(1.0 + self.doomed_for, self.world.boot, self)

    def stop(self, seconds: float) -> None:
        self.stopped_until = max(self.stopped_until, self.world.now + seconds)
        self.world.note(self, f"its keeper stands still for {seconds:.1f} s")

    def suspend(self, seconds: float) -> None:
        """The machine sleeps. A sleep inhibitor allows that only while no guest has or wants a lease."""
        if self.entries or self.link.inflight:
            return
        self.base -= self.rate * seconds
        self.suspended += self.rate * seconds
        self.stopped_until = max(self.stopped_until, self.world.now + seconds)
        self.world.note(self, f"is suspended for {seconds:.1f} s")
