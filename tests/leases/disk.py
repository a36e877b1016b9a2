# SPDX-License-Identifier: LGPL-2.1-or-later
"""A shared disk in memory, and hosts whose protocol steps a test performs one by one, in the order it wants.

    world = World()
    one, two = world.host(1), world.host(2)
    task = one.acquire()
    task.until(Write, offset=0)     # everything up to the write of the leader, which is still to come
    two.acquire().run()             # from beginning to end
    task.step()                     # now the write

Time stands still but for sleeps (`Task.run`) and `World.pass_time`, during which every living host renews.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from vlhook.leases import delta, directory, paxos, release
from vlhook.leases.area import Area, Identity, Lease, read_area
from vlhook.leases.delta import Membership, Space
from vlhook.leases.effects import (
    LOCKSPACE,
    RESOURCE,
    Effect,
    Member,
    Now,
    Random,
    Read,
    Remove,
    Seen,
    Sleep,
    Steps,
    Write,
)
from vlhook.leases.errors import Abandoned, AreaTooShort, LeaseError, NotMember, StorageError
from vlhook.leases.geometry import FILE, Geometry
from vlhook.leases.hosts import HostTable
from vlhook.leases.owner import fail_seconds
from vlhook.leases.records import HostSector, Leader, decode_host_sector, pad_name
from vlhook.leases.release import Held

T = TypeVar("T")
SPACE = b"__LIBVIRT__DISKS__"
NAME = b"289c8a34e2061dec2f707f71b24ad50a"
WHERE, LOCKSPACE_WHERE = "/leases/" + NAME.decode(), "/leases/__LIBVIRT__DISKS__"


@dataclass(frozen=True)
class Io:
    """One I/O that was performed; `data` is what was written."""

    host_id: int
    op: str
    area: str
    offset: int
    length: int
    data: bytes = b""

    def trace(self) -> tuple[str, int, int, bytes]:
        return self.op, self.offset, self.length, self.data.rstrip(b"\0")


class World:
    """One lockspace, one lease, one clock (seconds) that all hosts read without drift."""

    def __init__(
        self,
        resource: bytes | None = None,
        *,
        name: bytes = NAME,
        geo: Geometry = FILE,
        num_hosts: int = 0,
        io_timeout: int = 1,
        now: float = 1000.0,
    ) -> None:
        self.now = float(now)
        self.geo = geo
        self.io_timeout = io_timeout
        self.lease = Lease(SPACE, name, WHERE, LOCKSPACE_WHERE, geo)
        fresh = directory.format_resource(geo, SPACE, name, num_hosts)
        self.areas = {
            LOCKSPACE: bytearray(directory.format_lockspace(geo, SPACE, io_timeout)),
            RESOURCE: bytearray(resource if resource is not None else fresh),
        }
        self.hosts: dict[int, Host] = {}
        self.log: list[Io] = []
        self.random: Callable[[], float] = lambda: 0.5

    # -- hosts

    def host(self, host_id: int, generation: int = 1) -> Host:
        """A host that has just joined under that generation."""
        space = Space(SPACE, LOCKSPACE_WHERE, host_id, b"host-%d" % host_id, self.io_timeout)
        record = replace(
            self.delta(host_id),
            owner_id=host_id,
            owner_generation=generation,
            resource_name=pad_name(space.host_name),
            timestamp=int(self.now),
            io_timeout_raw=self.io_timeout,
        )
        self.write_delta(record)
        host = Host(self, Membership(space, self.geo, record.sealed()))
        self.hosts[host_id] = host
        return host

    def pass_time(self, seconds: float) -> None:
        """Second by second; each living host renews every 2N and looks at the others on the way."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1, end)
            for host in self.hosts.values():
                if host.alive and self.now - host.member.last_ok >= 2 * self.io_timeout:
                    host.renew()

    def jump(self, seconds: float) -> None:
        """As `pass_time`, at the cost of two renewals: what lies between them is left out."""
        self._renew_all()
        self.now += seconds
        self._renew_all()

    def _renew_all(self) -> None:
        living = [host for host in self.hosts.values() if host.alive]
        for host in living:
            record = replace(host.member.record, timestamp=int(self.now)).sealed()
            self.write_delta(record)
            host.member = replace(host.member, record=record)
        for host in living:
            host.table.observe(bytes(self.areas[LOCKSPACE]), self.geo, self.now)

    # -- what stands on the disk

    def delta(self, host_id: int) -> Leader:
        return Leader.decode(memoryview(self.areas[LOCKSPACE])[self.geo.delta(host_id) :])

    def write_delta(self, record: Leader, host_id: int = 0) -> None:
        self.put(LOCKSPACE, self.geo.delta(host_id or record.owner_id), record.sealed().sector(self.geo))

    @property
    def leader(self) -> Leader:
        return Leader.decode(self.areas[RESOURCE])

    @leader.setter
    def leader(self, leader: Leader) -> None:
        self.put(RESOURCE, 0, leader.sealed().sector(self.geo))

    def edit_leader(self, **changes: Any) -> None:
        self.leader = replace(self.leader, **changes)

    def sector(self, host_id: int) -> HostSector:
        offset = self.geo.dblock(host_id)
        return decode_host_sector(self.areas[RESOURCE][offset : offset + self.geo.sector], host_id, WHERE)

    def put_sector(self, host_id: int, data: bytes) -> None:
        self.put(RESOURCE, self.geo.dblock(host_id), data.ljust(self.geo.sector, b"\0"))

    def put(self, area: str, offset: int, data: bytes) -> None:
        self.areas[area][offset : offset + len(data)] = data

    def writes(self, host_id: int = 0) -> list[tuple[str, int]]:
        return [(io.area, io.offset) for io in self.log if io.op == "write" and host_id in (0, io.host_id)]

    def owner(self) -> tuple[int, int] | None:
        """(host id, generation) of the exclusive owner by format document 7.9; None: nobody."""
        leader = self.leader
        if leader.free:
            return None
        if leader.write_id != leader.owner_id and self.sector(leader.owner_id).dblock.released:
            return None
        return leader.owner_id, leader.owner_generation


class Host:
    """One host: its identity, what its renewals saw of others, and its protocol runs."""

    def __init__(self, world: World, member: Membership) -> None:
        self.world = world
        self.member = member
        self.alive = True
        self.table = HostTable()

    @property
    def me(self) -> Identity:
        return self.member.identity

    def task(self, steps: Steps[T]) -> Task[T]:
        return Task(self, steps)

    def acquire(self, **options: Any) -> Task[Held]:
        return self.task(paxos.acquire(self.world.lease, self.me, guess=self.world.geo, **options))

    def release(self, held: Held, **options: Any) -> Task[None]:
        return self.task(release.release(self.world.lease, self.me, held, **options))

    def settle(self) -> Task[None]:
        return self.task(release.settle(self.world.lease, self.me, self.world.geo))

    def area(self) -> Area:
        return self.task(read_area(self.world.lease, self.world.geo)).run()

    def renew(self) -> None:
        done = self.task(delta.renew(self.member, True)).run()
        self.member = done.membership
        self.table.observe(done.area, self.world.geo, self.world.now)

    def die(self) -> None:
        """Stops without a word; what it holds stays on disk."""
        self.alive = False

    def leave(self) -> None:
        self.task(delta.release(self.member)).run()
        self.alive = False

    def rejoin(self) -> Host:
        """The same host under its next generation, as after a crash and the wait."""
        self.alive = False
        return self.world.host(self.me.host_id, self.me.generation + 1)

    def check_member(self) -> None:
        age = self.world.now - self.member.last_ok
        if not self.alive or age >= fail_seconds(self.world.io_timeout):
            why = f"not renewed for {age:.0f} s"
            raise NotMember(space=SPACE.decode(), host_id=self.me.host_id, why=why)


class Task(Generic[T]):
    """One run of a protocol generator; `next` is the effect that is still to be performed."""

    def __init__(self, host: Host, steps: Steps[T]) -> None:
        self.host = host
        self.world = host.world
        self.log: list[Io] = []
        self.effects: list[Effect] = []
        self.done = False
        self.error: BaseException | None = None
        self._result: T | None = None
        self._steps = steps
        self.next: Effect | None = None
        self._advance(lambda: self._steps.send(None))

    @property
    def result(self) -> T:
        assert self.done, f"still at {self.next}"
        if self.error:
            raise self.error
        return self._result  # type: ignore[return-value]

    def step(self) -> None:
        """Perform the effect that is next."""
        assert self.next is not None, "it has ended"
        try:
            answer = self._perform(self.next)
        except LeaseError as failure:
            error = failure
            self._advance(lambda: self._steps.throw(error))
        else:
            self._advance(lambda: self._steps.send(answer))

    def fail(self, error: LeaseError | None = None) -> None:
        """The effect that is next does not happen: `error` instead (default: a storage error)."""
        failure = error or StorageError(op="I/O", where=WHERE, why="injected")
        self._advance(lambda: self._steps.throw(failure))

    def fail_landed(self) -> None:
        """The write that is next reaches the disk, but its writer is told that it failed."""
        assert isinstance(self.next, Write)
        self._perform(self.next)
        self.fail()

    def cancel(self) -> None:
        self.fail(Abandoned(name=NAME.decode(), why="cancelled by the test"))

    def steps(self, count: int) -> Task[T]:
        for _ in range(count):
            self.step()
        return self

    def until(self, kind: type[Effect], offset: int | None = None, *, count: int = 1) -> Task[T]:
        """Go on until the `count`-th effect of that kind (at that offset of the lease) is next."""
        while True:
            assert not self.done, f"ended ({self.error!r}) before {kind.__name__} at {offset}"
            if isinstance(self.next, kind) and self._at(offset):
                count -= 1
                if not count:
                    return self
            self.step()

    def run(self) -> T:
        while not self.done:
            self.step()
        return self.result

    def raises(self, kind: type[LeaseError]) -> Any:
        """Run to the end, which must be an error of exactly that kind; returns it."""
        try:
            self.run()
        except LeaseError as error:
            assert type(error) is kind, repr(error)
            return error
        raise AssertionError(f"no {kind.__name__}: {self._result}")

    def trace(self) -> list[tuple[str, int, int, bytes]]:
        """The I/O on the lease file so far, as in the recorded traces."""
        return [io.trace() for io in self.log if io.area == RESOURCE]

    def _at(self, offset: int | None) -> bool:
        if offset is None:
            return True
        return isinstance(self.next, (Read, Write)) and self.next.area == RESOURCE and self.next.offset == offset

    def _advance(self, go: Callable[[], Effect]) -> None:
        try:
            self.next = go()
            self.effects.append(self.next)
        except StopIteration as stop:
            self.done, self.next, self._result = True, None, stop.value
        except Exception as error:  # an error of any kind is the run's outcome
            self.done, self.next, self.error = True, None, error

    def _perform(self, effect: Effect) -> object:
        world, host = self.world, self.host
        if isinstance(effect, Read):
            data = bytes(world.areas[effect.area][effect.offset : effect.offset + effect.length])
            if len(data) < effect.length:
                raise AreaTooShort(where=WHERE, size=effect.offset + len(data), needed=effect.offset + effect.length)
            self._note(Io(host.me.host_id, "read", effect.area, effect.offset, effect.length))
            return data
        if isinstance(effect, Write):
            assert len(effect.data) == world.geo.sector, "exactly one sector (format document, 8.1)"
            world.put(effect.area, effect.offset, effect.data)
            self._note(Io(host.me.host_id, "write", effect.area, effect.offset, len(effect.data), effect.data))
            return None
        if isinstance(effect, Remove):
            # Who has the file open goes on with it, and so does this disk.
            self._note(Io(host.me.host_id, "remove", effect.area, 0, 0))
            return True
        if isinstance(effect, Member):
            return host.check_member()
        if isinstance(effect, Now):
            return world.now
        if isinstance(effect, Random):
            return world.random()
        if isinstance(effect, Seen):
            return host.table.get(effect.host_id)
        assert isinstance(effect, Sleep)
        world.pass_time(effect.seconds)
        return None

    def _note(self, io: Io) -> None:
        self.log.append(io)
        self.world.log.append(io)
