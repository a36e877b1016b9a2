# SPDX-License-Identifier: LGPL-2.1-or-later
"""What vlhook has converted is handed over to the sanlock daemon: when, and what becomes of it where that fails.

The daemon is a stand-in that writes what the real one does, and fails when it is told to.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import pytest

from tests.leases.rig import Rig, RigHost, by, eventually, tenant
from vlhook.leases import sanlockclaims
from vlhook.leases.blockio import BlockFile
from vlhook.leases.claimfiles import ClaimFiles
from vlhook.leases.claiming import Entry
from vlhook.leases.engine import Owned, Tenant, Want
from vlhook.leases.errors import (
    ClaimDisturbed,
    ClaimRefused,
    HeldByOther,
    LeaseError,
    NotCreated,
    NotMember,
    StorageError,
)
from vlhook.leases.files import LeaseFiles
from vlhook.leases.geometry import FILE
from vlhook.leases.membership import HostLease
from vlhook.leases.owner import Holder
from vlhook.leases.records import Dblock, Leader, decode_host_sector, host_sector
from vlhook.leases.release import Held
from vlhook.leases.sanlock import SanlockEngine
from vlhook.leases.sanlockerrors import SanlockHungUp, SanlockNoAnswer, refusal
from vlhook.leases.sanlockmembership import DaemonLease
from vlhook.leases.sanlockstate import HeldLease
from vlhook.leases.sanlockwire import Resource

pytestmark = pytest.mark.xdist_group("hand-over")
GUEST = tenant("web1")
SLOWEST = 7
WAIT = 8 * SLOWEST + 60 + 1


class Connection:
    """A registered connection to the stand-in."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.closed = False

    def hung_up(self) -> bool:
        return self.closed

    def restrict(self, signals: int, deadline: float) -> None:
        pass

    def killpath(self, path: str, words: Sequence[str], *, append_pid: bool, deadline: float) -> None:
        pass

    def acquire(self, batch: Sequence[Resource], deadline: float) -> None:
        for resource in batch:
            self.daemon.acquire(resource)

    def adopt(self, batch: Sequence[Resource], deadline: float) -> None:
        for resource in batch:
            assert self.daemon.held[resource.name].orphan
            self.daemon.has(resource, "held")

    def release(self, batch: Sequence[Resource], deadline: float) -> None:
        for resource in batch:
            self.daemon.release(resource)

    def late_answer(self, deadline: float) -> int:
        """To what was not answered in time: it waits until the daemon does, or has the caller ask again."""
        if not self.daemon.goes_on.wait(max(0.0, deadline - time.monotonic())):
            raise no_answer(Resource("", ""))
        return self.daemon.late

    def close(self) -> None:
        self.closed = True


class Daemon:
    """`fails`: what becomes of its next acquires. `goes_on`: it answers with `late` what it had not answered."""

    def __init__(self, host: RigHost) -> None:
        self.host_id, self.generation = host.me
        self.held: dict[str, HeldLease] = {}
        self.fails: list[Fault] = []
        self.asked = 0
        self.late = 0
        self.goes_on = threading.Event()
        self._unanswered: Resource | None = None
        self._connections: list[Connection] = []

    def register(self, deadline: float) -> Connection:
        self._connections.append(Connection(self))
        return self._connections[-1]

    def hang_up(self) -> None:
        for connection in self._connections:
            connection.closed = True

    def states(self) -> dict[str, str]:
        return {name: lease.state for name, lease in self.held.items()}

    def answers_late(self, result: int) -> None:
        """To the acquire that it has left unanswered."""
        assert self._unanswered
        if result == 0:
            self.decide(self._unanswered)
            self.has(self._unanswered, "held")
        self.late = result
        self.goes_on.set()

    def leases(self, deadline: float) -> list[HeldLease]:
        return list(self.held.values())

    def has(self, resource: Resource, state: str) -> None:
        self.held[resource.name] = HeldLease(resource, state, os.getpid(), 0, False)

    def acquire(self, resource: Resource) -> None:
        self.asked += 1
        self._unanswered = resource
        if self.fails:
            self.fails.pop(0)(self, resource)
        self.decide(resource)
        self.has(resource, "held")

    def begin(self, resource: Resource) -> Dblock:
        """Phase 1: a blank block of the version after the leader's."""
        with BlockFile(resource.disks[0].path) as file:
            lver = self._leader(file).lver + 1
            block = Dblock(mbal=self.host_id + 2000, lver=lver)
            file.write(FILE.dblock(self.host_id), host_sector(FILE, block))
        return block

    def accept(self, resource: Resource) -> Dblock:
        """Phase 2 of it."""
        begun, stamp = self.begin(resource), int(time.monotonic())
        block = replace(begun, bal=begun.mbal, inp=self.host_id, inp2=self.generation, inp3=stamp)
        with BlockFile(resource.disks[0].path) as file:
            file.write(FILE.dblock(self.host_id), host_sector(FILE, block))
        return block

    def decide(self, resource: Resource) -> None:
        block = self.accept(resource)
        with BlockFile(resource.disks[0].path) as file:
            leader = self._leader(file)
            assert (leader.owner_id, leader.owner_generation) == (self.host_id, self.generation), "not owned before"
            file.write(0, replace(leader, lver=block.lver).sealed().sector(FILE))

    def release(self, resource: Resource) -> None:
        with BlockFile(resource.disks[0].path) as file:
            at = FILE.dblock(self.host_id)
            block = decode_host_sector(file.read(at, 512), self.host_id, file.path).dblock
            file.write(at, host_sector(FILE, block.with_released()))
            file.write(0, replace(self._leader(file), timestamp=0).sealed().sector(FILE))
        del self.held[resource.name]

    @staticmethod
    def _leader(file: BlockFile) -> Leader:
        return Leader.decode(file.read(0, 512))


def no_answer(resource: Resource) -> SanlockNoAnswer:
    return SanlockNoAnswer(path="sanlock.sock", command="acquire", subject=f" {resource.name}", why="it hangs")


Fault = Callable[[Daemon, Resource], None]


class DaemonsHost:
    """The host's lease as the daemon keeps it: here it is the host itself that renews. `gone`: it is not valid."""

    def __init__(self, host: RigHost, daemon: Daemon) -> None:
        self._lease = host.lease
        self.client = daemon
        self.gone = False

    def check(self) -> None:
        if self.gone:
            raise NotMember(space="", host_id=self._lease.identity.host_id, why="gone")
        self._lease.check()

    def __getattr__(self, name: str) -> object:
        return getattr(self._lease, name)


class Clock:
    """What the hand-over takes for the time: `ahead` seconds later than it is."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass
class Target:
    """Host 2 with a daemon, whose keeper has converted what host 1 held; the daemon has not been asked yet."""

    rig: Rig
    host: RigHost
    want: Want
    clock: Clock

    def __post_init__(self) -> None:
        self.daemon = Daemon(self.host)
        self.alarms = self.host.alarms
        self.alarms.clear()
        self.engine = self._engine()
        self.granted = self.engine.acquire(GUEST, [replace(self.want, claim=True)], by(), lambda: False)

    def _engine(self) -> SanlockEngine:
        self.converted: list[Owned] = []
        self.lost: list[LeaseError] = []
        self.lease = DaemonsHost(self.host, self.daemon)
        engine = SanlockEngine(cast("DaemonLease", self.lease), self.host.files, self.alarms.append)
        engine.claims.on_converted = lambda _, owned: self.converted.append(owned)
        engine.claims.on_lost = lambda _, error: self.lost.append(error)
        return engine

    @property
    def entry(self) -> Entry:
        [entry] = self.engine.entries()
        return entry

    def pass_time(self, seconds: float) -> None:
        """Returns when the hand-over has looked at the clock again, or looks after the lease no more."""
        self.clock.ahead += seconds
        before = self.clock.looks
        self.entry.wake()
        eventually(lambda: self.clock.looks > before or not self.entry.converting, "a look at the clock")

    def ask(self, *fails: Fault) -> None:
        """It is time: the daemon is asked, and fails so often."""
        self.daemon.fails = list(fails)
        self.pass_time(WAIT)
        eventually(lambda: self.daemon.asked > 0, "the daemon to be asked")

    def restart(self) -> list[tuple[Owned, LeaseError]]:
        """The keeper is killed and another one comes; returns what is lost."""
        entry = self.entry
        entry.give_up("killed")
        eventually(lambda: not entry.converting, "the end of the keeper")
        self.engine.close()
        self.engine = self._engine()
        return list(self.engine.restore(GUEST, self.granted))

    def alarmed(self, words: str) -> bool:
        return any(self.want.name in alarm and words in alarm for alarm in self.alarms)

    def assert_owned(self) -> None:
        """Whether by the keeper or by the daemon: the guest has it, and no other host gets it."""
        assert self.engine.owns(GUEST, [self.want])
        assert not self.lost
        assert self.rig.owner(self.want) == self.host.me
        assert isinstance(self.rig.hosts[3].why("db1", self.want), HeldByOther)

    def assert_handed_over(self) -> None:
        eventually(lambda: bool(self.converted), "the daemon's turn")
        assert self.daemon.states() == {self.want.name: "held"}
        assert self.entry.held is None
        self.assert_owned()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The third host's io_timeout is longer than the others'."""
    rig = Rig(tmp_path_factory.mktemp("leases"))
    rig.join(1, 2)
    rig.io_timeout = SLOWEST
    rig.join(3)
    for host in rig.hosts.values():
        eventually(lambda host=host: all(host.lease.seen(n) for n in (1, 2, 3)), "the hosts know each other")
    yield rig
    rig.stop()


@pytest.fixture
def target(rig: Rig, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    clock = Clock()
    monkeypatch.setattr(sanlockclaims, "time", clock)
    monkeypatch.setattr(sanlockclaims, "RETRY_SECONDS", 0.05)
    source, want = rig.hosts[1], rig.want(request.node.name)
    source.start("web1", want)
    target = Target(rig, rig.hosts[2], want, clock)
    assert target.engine.holds(GUEST, [want])
    assert not target.engine.owns(GUEST, [want])
    target.engine.convert(GUEST)
    source.stop("web1")
    eventually(lambda: target.entry.held is not None and clock.looks > 0, "the conversion")
    yield target
    target.daemon.fails.clear()
    target.daemon.goes_on.set()
    assert target.engine.release(GUEST, by())
    assert (rig.owner(want), target.daemon.states()) == (None, {})
    source.start("web1", want)
    source.stop("web1")


def test_the_daemon_is_asked_when_nothing_can_land_any_more_that_the_slowest_host_had_begun(target: Target) -> None:
    target.pass_time(WAIT - 20)
    assert (target.daemon.asked, target.converted) == (0, [])
    target.assert_owned()
    target.pass_time(20)
    target.assert_handed_over()
    assert target.daemon.asked == 1


def nothing_done(daemon: Daemon, resource: Resource) -> None:
    """The daemon could not even write."""
    raise refusal("acquire", -211, resource.name)


def half_done(daemon: Daemon, resource: Resource) -> None:
    daemon.begin(resource)
    raise refusal("acquire", -210, resource.name)


def nearly_done(daemon: Daemon, resource: Resource) -> None:
    daemon.accept(resource)
    raise refusal("acquire", -202, resource.name)


STORAGE = pytest.mark.parametrize("fault", [nothing_done, half_done, nearly_done])


@STORAGE
def test_a_storage_error_of_the_daemon_is_told_and_it_is_asked_again(target: Target, fault: Fault) -> None:
    target.ask(fault, fault)
    eventually(lambda: target.alarmed("sanlock has not taken it over"), "the alarm")
    target.assert_owned()
    target.assert_handed_over()
    assert target.daemon.asked == 3


@STORAGE
def test_a_guest_that_ends_after_a_storage_error_of_the_daemon_leaves_its_lease_free(
    target: Target, fault: Fault
) -> None:
    target.ask(*[fault] * 1000)
    eventually(lambda: target.alarmed("sanlock has not taken it over"), "the alarm")
    assert target.engine.release(GUEST, by())
    assert target.rig.owner(target.want) is None
    target.rig.hosts[3].start("db1", target.want)
    target.rig.hosts[3].stop("db1")


@STORAGE
def test_a_restarted_keeper_finds_the_lease_after_a_storage_error_of_the_daemon(target: Target, fault: Fault) -> None:
    target.ask(*[fault] * 1000)
    eventually(lambda: target.alarmed("sanlock has not taken it over"), "the alarm")
    assert target.restart() == []
    target.daemon.fails.clear()
    target.assert_owned()
    target.pass_time(WAIT)
    target.assert_handed_over()


def test_a_guest_whose_lease_is_half_handed_over_moves_on_only_when_the_daemon_has_it(target: Target) -> None:
    """Until then nothing on disk says whose lease it is."""
    source, incoming = target.rig.hosts[1], replace(target.want, claim=True)
    target.ask(*[half_done] * 1000)
    eventually(lambda: target.alarmed("sanlock has not taken it over"), "the alarm")
    assert isinstance(source.why("web1", incoming), (ClaimRefused, ClaimDisturbed))
    target.daemon.fails.clear()
    target.assert_handed_over()
    [claimed] = source.start("web1", incoming)
    assert claimed.claim
    source.stop("web1")


def test_a_guest_that_moves_on_meanwhile_is_handed_over_only_if_it_stays(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon would meet the claim, and give back what the guest still uses."""
    source, incoming = target.rig.hosts[1], replace(target.want, claim=True)
    [claimed] = source.start("web1", incoming)
    assert claimed.claim
    works, looks = ClaimFiles.elsewhere, []

    def elsewhere(self: ClaimFiles, host: HostLease, owned: Owned, tenant: Tenant) -> list[Holder]:
        looks.append(works(self, host, owned, tenant))
        return looks[-1]

    monkeypatch.setattr(ClaimFiles, "elsewhere", elsewhere)
    target.pass_time(WAIT)
    eventually(lambda: len(looks) > 3, "looks for claims")
    assert target.daemon.asked == 0
    assert target.rig.owner(target.want) == target.host.me
    source.stop("web1")
    target.assert_handed_over()


def test_a_release_goes_on_until_the_lease_directory_is_there_again(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    settles = LeaseFiles.settle
    away = threading.Event()
    away.set()

    def find(self: ClaimFiles, host: HostLease, owned: Owned) -> Held:
        raise NotCreated(where=owned.path)

    def settle(self: LeaseFiles, host: HostLease, want: Want) -> None:
        if away.is_set():
            raise StorageError(op="open", where="lockspace", why="it is missing; is it mounted?")
        settles(self, host, want)

    monkeypatch.setattr(ClaimFiles, "find", find)
    monkeypatch.setattr(LeaseFiles, "settle", settle)
    assert not target.engine.release(GUEST, time.monotonic())
    eventually(lambda: target.alarmed("is it mounted?"), "the alarm")
    assert target.rig.owner(target.want) == target.host.me
    away.clear()
    assert target.engine.release(GUEST, by())
    assert target.rig.owner(target.want) is None


def test_a_storage_error_of_the_keeper_is_told_and_the_daemon_is_asked_later(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = ClaimFiles.reassert
    failing = threading.Event()
    failing.set()

    def reassert(self: ClaimFiles, host: HostLease, owned: Owned, held: Held) -> Held:
        if failing.is_set():
            raise StorageError(op="read", where=owned.path, why="injected")
        return works(self, host, owned, held)

    monkeypatch.setattr(ClaimFiles, "reassert", reassert)
    target.pass_time(WAIT)
    eventually(lambda: target.alarmed("injected"), "the alarm")
    assert target.daemon.asked == 0
    target.assert_owned()
    failing.clear()
    target.assert_handed_over()


def unanswered(daemon: Daemon, resource: Resource) -> None:
    raise no_answer(resource)


@pytest.mark.parametrize("late", [0, -202])
def test_a_daemon_that_does_not_answer_is_told_and_waited_for(target: Target, late: int) -> None:
    """What it was asked may still be done: nothing is written and nothing else asked until it says so."""
    target.ask(unanswered)
    eventually(lambda: target.alarmed("did not answer"), "the alarm")
    before = target.rig.path(target.want).read_bytes()
    target.assert_owned()
    assert (target.daemon.asked, target.converted) == (1, [])
    assert target.rig.path(target.want).read_bytes() == before
    target.daemon.answers_late(late)
    target.assert_handed_over()
    assert target.daemon.asked == (1 if late == 0 else 2)


def test_a_keeper_that_the_daemon_hangs_up_on_finds_out_whether_it_has_the_lease(target: Target) -> None:
    target.ask(done_and_hung_up)
    target.assert_handed_over()
    assert target.daemon.asked == 1


def test_a_daemon_that_hangs_up_and_has_nothing_is_asked_again(target: Target) -> None:
    target.ask(hung_up)
    eventually(lambda: target.alarmed("hung up"), "the alarm")
    target.assert_handed_over()
    assert target.daemon.asked == 2


def hung_up(daemon: Daemon, resource: Resource) -> None:
    daemon.hang_up()
    raise SanlockHungUp(path="sanlock.sock", command="acquire", subject=f" {resource.name}")


def done_and_hung_up(daemon: Daemon, resource: Resource) -> None:
    daemon.decide(resource)
    daemon.has(resource, "orphan")
    hung_up(daemon, resource)


def test_a_lease_that_another_host_has_got_meanwhile_is_lost_and_the_daemon_is_not_asked(target: Target) -> None:
    """Nothing of ours lets that happen; somebody else wrote it."""
    leader = target.rig.leader(target.want)
    theirs = replace(leader, lver=leader.lver + 1, owner_id=3, owner_generation=1, write_id=3, write_generation=1)
    with BlockFile(str(target.rig.path(target.want))) as file:
        file.write(0, theirs.sealed().sector(FILE))
    target.pass_time(WAIT)
    eventually(lambda: bool(target.lost), "the loss")
    assert target.daemon.asked == 0
    assert not target.engine.holds(GUEST, [target.want])
    with BlockFile(str(target.rig.path(target.want))) as file:
        file.write(0, leader.sector(FILE))


def test_a_host_whose_own_lease_is_gone_asks_for_nothing_and_tells_of_no_conversion(target: Target) -> None:
    """Its guests are ended for that; the state is to say that the lease was claimed."""
    target.lease.gone = True
    target.pass_time(WAIT)
    eventually(target.engine.quiet, "the end of the hand-over")
    assert (target.daemon.asked, target.converted, target.lost) == (0, [], [])
    target.lease.gone = False
