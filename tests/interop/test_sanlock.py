# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook's engine and the real sanlock daemon on the same files: each respects, releases and survives the other.

Taking over from a host that died costs 8N+60 seconds. Those scenarios begin with the module and run in threads
of their own, beside the other tests; the tests of their outcome stand at the end.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop.fight.section import Record, Version, faults, holdings
from tests.leases.rig import Rig, RigHost, by, eventually
from tests.sanlock_daemon import (
    SanlockHost,
    direct_dump,
    direct_leader,
    direct_lockspace,
    direct_resource,
    run_sanlock,
    short_directory,
)
from tests.sanlock_daemon import resource as any_resource
from vlhook.leases import directory, paxos, release
from vlhook.leases.area import Identity, Lease
from vlhook.leases.blockio import BlockFile
from vlhook.leases.directory import Ownership
from vlhook.leases.driver import drive
from vlhook.leases.effects import LOCKSPACE, RESOURCE, Effect, Write
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import Busy, HeldByOther, LeaseError, OwnerMaybeDead, SharedByOthers
from vlhook.leases.geometry import FILE
from vlhook.leases.hosts import LIVE, state
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.records import HOLDER_AT, Dblock, ModeBlock, host_sector
from vlhook.leases.sanlockerrors import SanlockBusy
from vlhook.leases.sanlockregistered import Registered
from vlhook.leases.sanlockwire import Resource

pytestmark = [pytest.mark.sanlock, pytest.mark.slow, pytest.mark.xdist_group("sanlock-interop")]
SPACE = LOCKSPACE_NAME.encode()
SHARED = 4
HELD, AGAIN = (-243, -247), -11
"""-247: sanlock's last renewal happened to fall between two of the owner's, so it is not sure that it lives."""
N = 3
"""io_timeout of the hosts of the common lockspace: a busy machine may starve one for 8N seconds."""
CONTENTION_SECONDS = float(os.environ.get("VLHOOK_CONTENTION_SECONDS", "30"))


def resource(rig: Rig, want: Want) -> Resource:
    """The same lease for sanlock."""
    return any_resource(rig.path(want), want.name, SHARED if want.shared else 0, LOCKSPACE_NAME)


def refused_by_sanlock(call: Callable[[], Any]) -> int:
    with pytest.raises(SanlockBusy) as caught:
        call()
    return int(caught.value.result)


@dataclass
class Field:
    """Hosts 1 and 2 run vlhook's engine, 11 and 12 the sanlock daemon, in one lockspace that vlhook made."""

    rig: Rig
    one: RigHost
    two: RigHost
    eleven: SanlockHost
    twelve: SanlockHost
    count: int = 0

    def live_for_sanlock(self) -> dict[int, tuple[int, int]]:
        """(generation, io_timeout) of the hosts that host 12 has seen renew."""
        try:
            hosts = self.twelve.client.get_hosts(LOCKSPACE_NAME)
        except SanlockBusy:
            return {}  # it has not renewed yet
        return {host.host_id: (host.generation, host.io_timeout) for host in hosts if host.flags & 0xF == 3}

    def acquainted(self) -> bool:
        """Have vlhook and sanlock seen each other renew?"""
        views = [self.one.lease.seen(host_id) for host_id in (2, 11, 12)]
        return len(self.live_for_sanlock()) == 4 and all(view and view.ever_changed for view in views)

    def disk(self, shared: bool = False) -> Want:
        """A lease that no other test uses; its file is there."""
        self.count += 1
        want = self.rig.want(f"disk{self.count}", shared)
        directory.create_lease(str(self.rig.path(want)), FILE, SPACE, want.name.encode(), Ownership())
        return want


@pytest.fixture(scope="module")
def takeovers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Takeovers]:
    with ExitStack() as stack:
        yield Takeovers(tmp_path_factory.mktemp("takeovers"), stack)


@pytest.fixture(scope="module")
def field_(tmp_path_factory: pytest.TempPathFactory, takeovers: Takeovers) -> Iterator[Field]:
    assert takeovers
    rig = Rig(tmp_path_factory.mktemp("field"), io_timeout=N)
    with short_directory() as first, short_directory() as second:
        with SanlockHost("eleven", first) as eleven, SanlockHost("twelve", second) as twelve:
            for daemon in (eleven, twelve):
                daemon.start()
            joins = [
                threading.Thread(target=daemon.add_lockspace, args=(rig.lockspace, host_id, N, LOCKSPACE_NAME))
                for daemon, host_id in ((eleven, 11), (twelve, 12))
            ]
            for join in joins:
                join.start()
            one, two = rig.join(1, 2)
            for join in joins:
                join.join()
            found = Field(rig, one, two, eleven, twelve)
            eventually(found.acquainted, "the hosts see each other live")
            yield found
            rig.stop()


@pytest.fixture
def field11(field_: Field) -> Iterator[Registered]:
    with field_.eleven.register() as registered:
        yield registered


@pytest.fixture
def field12(field_: Field) -> Iterator[Registered]:
    with field_.twelve.register() as registered:
        yield registered


# ------------------------------------------------------------------------------ scenarios that take 8N+60 seconds


class Takeovers:
    """In each lockspace N is 1, and one host dies while it holds one lease exclusively and one shared."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self._threads: dict[str, threading.Thread] = {}
        for name, scenario in (("vlhook dies", self._vlhook_dies), ("sanlock dies", self._sanlock_dies)):
            place = folder / name.replace(" ", "-")
            place.mkdir()
            rig = Rig(place, io_timeout=1)
            # From here, because a daemon ends with the thread that started it.
            daemon = stack.enter_context(SanlockHost("reference", stack.enter_context(short_directory()))).start()
            thread = threading.Thread(target=self._run, args=(name, scenario, rig, daemon), daemon=True)
            self._threads[name] = thread
            stack.callback(rig.stop)
            thread.start()

    def outcome(self, name: str) -> dict[str, Any]:
        self._threads[name].join(200)
        result = self.results[name]
        if "error" in result:
            raise result["error"]
        return result

    def _run(self, name: str, scenario: Callable[[Rig, SanlockHost, dict[str, Any]], None], *rest: Any) -> None:
        self.results[name] = {}
        try:
            scenario(*rest, self.results[name])
        except BaseException as error:  # raised again in the test that asks
            self.results[name]["error"] = error

    def _begin(self, rig: Rig, daemon: SanlockHost) -> tuple[RigHost, Want, Want]:
        join = threading.Thread(target=daemon.add_lockspace, args=(rig.lockspace, 2, 1, LOCKSPACE_NAME))
        join.start()
        (host,) = rig.join(1)
        join.join()
        wants = rig.want("exclusive"), rig.want("shared", shared=True)
        for want in wants:
            directory.create_lease(str(rig.path(want)), FILE, SPACE, want.name.encode(), Ownership())
        return host, *wants

    def _vlhook_dies(self, rig: Rig, daemon: SanlockHost, result: dict[str, Any]) -> None:
        host, exclusive, shared = self._begin(rig, daemon)
        host.start("web", exclusive, shared)
        daemon.wait_renewals(3)
        host.lease.stop()  # no more renewals, nothing given back
        last_ok = host.lease.last_ok.monotonic
        with daemon.register() as registered:
            result["at once"] = refused_by_sanlock(lambda: registered.acquire([resource(rig, exclusive)]))
            self._insist(registered, resource(rig, exclusive))
            result["waited"] = time.monotonic() - last_ok
            alone = any_resource(rig.path(shared), shared.name, 0, LOCKSPACE_NAME)
            self._insist(registered, alone)
            result["owner"] = rig.owner(exclusive)
            result["sharer"] = rig.sector(shared, 1).mode
            result["refused"] = host.why("late", rig.want("late"))
            registered.release([resource(rig, exclusive), alone])

    def _insist(self, registered: Registered, wanted: Resource) -> None:
        """Until it is had; sanlock itself waits only while it is not sure that the holder lives."""
        until = by(150)
        while True:
            try:
                return registered.acquire([wanted], wait=True, deadline=until)
            except SanlockBusy:
                assert time.monotonic() < until
                time.sleep(0.5)

    def _sanlock_dies(self, rig: Rig, daemon: SanlockHost, result: dict[str, Any]) -> None:
        host, exclusive, shared = self._begin(rig, daemon)
        with daemon.register() as registered:
            registered.acquire([resource(rig, exclusive)])
            registered.acquire([resource(rig, shared)])
            eventually(lambda: bool(host.lease.seen(2) and host.lease.seen(2).ever_changed), "sanlock renews")  # type: ignore[union-attr]
            daemon.kill9()
            alone = rig.want("shared")
            result["at once"] = host.why("web", exclusive), host.why("web", alone)
            seen = host.lease.seen(2)
            assert seen
            errors: list[LeaseError] = []
            for want in (exclusive, alone):
                until = by(150)
                while True:
                    try:
                        host.start(f"taker of {want.source}", want)
                        break
                    except Refused as refused:
                        errors.append(refused.failures[0][1])
                        assert time.monotonic() < until
                        time.sleep(0.5)
                result.setdefault("waited", time.monotonic() - seen.last_live)
            result["errors"] = errors
            result["owners"] = rig.owner(exclusive), rig.owner(alone)
            result["sharer"] = rig.sector(shared, 2).mode


# -------------------------------------------------------------------------------------- files made by either


def test_sanlock_joins_a_lockspace_that_vlhook_made_and_both_see_each_other_live(field_: Field) -> None:
    hosts = field_.live_for_sanlock()
    assert all(hosts[host_id] == (1, N) for host_id in (1, 2, 11, 12))
    names = {}
    for host_id in (2, 11, 12):
        view = field_.one.lease.seen(host_id)
        assert view
        assert state(view, time.monotonic()) == LIVE
        names[host_id] = view.name
    assert names == {2: b"host-2", 11: b"eleven", 12: b"twelve"}


def test_vlhook_joins_a_lockspace_that_sanlock_made(tmp_path: Path) -> None:
    space = tmp_path / LOCKSPACE_NAME
    direct_lockspace(space, io_timeout=1, space=LOCKSPACE_NAME)
    rig = Rig(tmp_path, io_timeout=1)
    (host,) = rig.join(3)
    dump = direct_dump(space)
    assert "host-3" in dump
    assert direct_lockspace_record(space, 3)["owner_generation"] == "1"
    host.lease.leave()
    assert direct_lockspace_record(space, 3)["timestamp"] == "0"


def direct_lockspace_record(path: Path, host_id: int) -> dict[str, str]:
    """A record of the lockspace as sanlock reads it."""
    text = run_sanlock("direct", "read_leader", "-s", f"{LOCKSPACE_NAME}:{host_id}:{path}:0")
    return {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}


def test_a_lease_file_that_vlhook_made_is_taken_and_given_back_by_sanlock(
    field_: Field, field11: Registered, field12: Registered
) -> None:
    want = field_.disk()
    field11.acquire([resource(field_.rig, want)])
    assert refused_by_sanlock(lambda: field12.acquire([resource(field_.rig, want)])) in HELD
    assert field_.rig.owner(want) == (11, 1)
    field11.release([resource(field_.rig, want)])
    field12.acquire([resource(field_.rig, want)])
    assert field_.rig.leader(want).lver == 2
    field12.release([resource(field_.rig, want)])


def test_a_lease_file_that_sanlock_made_is_taken_and_given_back_by_vlhook(field_: Field) -> None:
    want = field_.rig.want("made by sanlock")
    path = field_.rig.path(want)
    direct_resource(path, want.name, LOCKSPACE_NAME)
    (owned,) = field_.one.start("web", want)
    told = direct_leader(path, want.name, LOCKSPACE_NAME)
    assert (told["owner_id"], told["owner_generation"], told["lver"]) == ("1", "1", "1")
    assert owned.lver == 1
    assert isinstance(field_.two.why("db", want), HeldByOther)
    field_.one.stop("web")
    assert direct_leader(path, want.name, LOCKSPACE_NAME)["timestamp"] == "0"
    field_.two.start("db", want)
    field_.two.stop("db")


# --------------------------------------------------------------------------- each respects what the other holds


def test_sanlock_is_refused_what_vlhook_holds_and_gets_it_when_it_is_given_back(
    field_: Field, field11: Registered
) -> None:
    want = field_.disk()
    field_.one.start("web", want)
    field_.eleven.wait_renewals()
    for shared in (0, SHARED):
        theirs = any_resource(field_.rig.path(want), want.name, shared, LOCKSPACE_NAME)
        assert refused_by_sanlock(lambda theirs=theirs: field11.acquire([theirs])) in HELD  # type: ignore[misc]
    field_.one.stop("web")
    field11.acquire([resource(field_.rig, want)])
    field11.release([resource(field_.rig, want)])


def test_vlhook_is_refused_what_sanlock_holds_and_gets_it_when_it_is_given_back(
    field_: Field, field11: Registered
) -> None:
    want = field_.disk()
    field11.acquire([resource(field_.rig, want)])
    for shared in (False, True):
        error = field_.one.why("web", Want(want.name, want.space, shared, want.source))
        assert isinstance(error, HeldByOther)
        holder = error.__dict__["holder"]
        assert (holder.host_id, holder.name, holder.record) == (11, b"eleven", None)
    field11.release([resource(field_.rig, want)])
    field_.one.start("web", want)
    field_.one.stop("web")


def test_both_share_and_keep_exclusive_ones_of_both_kinds_out(
    field_: Field, field11: Registered, field12: Registered
) -> None:
    want = field_.disk(shared=True)
    alone = Want(want.name, want.space, False, want.source)
    field_.one.start("web", want)
    field11.acquire([resource(field_.rig, want)])
    field_.two.start("db", want)
    sharers = [h for h in (1, 2, 11, 12) if field_.rig.sector(want, h).mode.shared]
    assert sharers == [1, 2, 11]
    assert refused_by_sanlock(lambda: field12.acquire([resource(field_.rig, alone)])) == AGAIN
    field_.one.stop("web")
    field_.two.stop("db")
    error = field_.one.why("web", alone)
    assert isinstance(error, SharedByOthers)
    assert [h.host_id for h in error.__dict__["holders"]] == [11]
    assert refused_by_sanlock(lambda: field12.acquire([resource(field_.rig, alone)])) == AGAIN
    field11.release([resource(field_.rig, want)])
    field_.one.start("web", alone)
    assert refused_by_sanlock(lambda: field12.acquire([resource(field_.rig, want)])) in HELD
    field_.one.stop("web")


def test_what_vlhook_held_is_free_for_sanlock_as_soon_as_it_left_or_came_back(
    field_: Field, field11: Registered
) -> None:
    """Traps 7 and 8: a release of the host id, and a new generation, free what the old one held."""
    wants = [field_.disk(), field_.disk()]
    (host,) = field_.rig.join(5)
    host.start("web", *wants)
    field_.eleven.wait_renewals()
    assert refused_by_sanlock(lambda: field11.acquire([resource(field_.rig, wants[0])])) in HELD
    host.lease.leave()
    field11.acquire([resource(field_.rig, wants[0])])
    (again,) = field_.rig.join(5)
    assert again.me == (5, 2)
    field11.acquire([resource(field_.rig, wants[1])])
    field11.release([resource(field_.rig, want) for want in wants])
    again.lease.leave()


# ------------------------------------------------------------------------- one ballot, hosts of both kinds


class Stopped:
    """An acquire of vlhook on real files that stands still after its `writes`-th write, until it `goes_on`."""

    def __init__(self, rig: Rig, want: Want, me: Identity, host: RigHost | None, writes: int) -> None:
        self.result: release.Held | None = None
        self.error: BaseException | None = None
        self._rig, self._want, self._me, self._host = rig, want, me, host
        self._left = writes
        self._here, self._go = threading.Event(), threading.Event()
        self._crash = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._here.wait(60)

    def _run(self) -> None:
        rig, want = self._rig, self._want
        path, lockspace = str(rig.path(want)), str(rig.lockspace)
        lease = Lease(SPACE, want.name.encode(), path, lockspace, FILE)
        with BlockFile(path) as file, BlockFile(lockspace, writable=False) as space:
            try:
                self.result = drive(
                    paxos.acquire(lease, self._me, shared=want.shared),
                    {RESOURCE: file, LOCKSPACE: space},
                    seen=self._host.lease.seen if self._host else lambda host_id: None,
                    trace=self._after,
                )
            except BaseException as error:  # told by `goes_on`
                self.error = error

    def _after(self, effect: Effect, answer: object) -> None:
        if isinstance(effect, Write) and effect.area == RESOURCE:
            self._left -= 1
            if not self._left:
                self._here.set()
                self._go.wait()
                if self._crash:
                    raise SystemExit

    def goes_on(self) -> None:
        self._go.set()
        self._thread.join(60)

    def crashes(self) -> None:
        """Nothing more happens, not even a clean-up."""
        self._crash = True
        self.goes_on()


def test_a_value_that_sanlock_committed_for_vlhook_is_vlhooks_and_released_by_the_flag(
    field_: Field, field11: Registered, field12: Registered
) -> None:
    """Format document, 7.4, both ways: sanlock finishes our ballot, and reads our flag as the release."""
    want = field_.disk()
    stopped = Stopped(field_.rig, want, field_.one.lease.identity, field_.one, writes=2)
    refused_by_sanlock(lambda: field11.acquire([resource(field_.rig, want)]))
    leader = field_.rig.leader(want)
    assert (leader.owner_id, leader.owner_generation, leader.write_id, leader.lver) == (1, 1, 11, 1)
    stopped.goes_on()
    held = stopped.result
    assert held, stopped.error
    assert (held.lver, field_.rig.owner(want)) == (1, (1, 1))
    assert refused_by_sanlock(lambda: field12.acquire([resource(field_.rig, want)])) in HELD
    lease = Lease(SPACE, want.name.encode(), "x", "y", FILE)
    with BlockFile(str(field_.rig.path(want))) as file:
        drive(release.release(lease, field_.one.lease.identity, held), {RESOURCE: file})
    assert not field_.rig.leader(want).free, "written by sanlock, so not ours to write"
    field12.acquire([resource(field_.rig, want)])
    assert field_.rig.owner(want) == (12, 1)
    field12.release([resource(field_.rig, want)])


def test_a_host_that_came_back_never_owns_under_its_dead_generation(field_: Field, field11: Registered) -> None:
    """Row 36, protocol safety 1, on real files with sanlock as the third party.

    Host 6, generation 1, writes phase 2 and dies. Host 2 adopts that value in its own phase 2 and stops. Host 6
    comes back as generation 2 and acquires. Were it content with (6, 1), sanlock would take the lease from it.
    """
    want = field_.disk()
    (six,) = field_.rig.join(6)
    Stopped(field_.rig, want, six.lease.identity, six, writes=2).crashes()
    Stopped(field_.rig, want, field_.two.lease.identity, field_.two, writes=2).crashes()
    block = field_.rig.sector(want, 2).dblock
    assert (block.inp, block.inp2, block.lver) == (6, 1, 1)
    assert field_.rig.leader(want).free
    six.lease.leave()
    (again,) = field_.rig.join(6)
    assert again.me == (6, 2)
    (owned,) = again.start("web", want)
    assert field_.rig.owner(want) == (6, 2)
    assert owned.lver == 2, "version 1 is the dead generation's"
    assert refused_by_sanlock(lambda: field11.acquire([resource(field_.rig, want)])) in HELD
    assert field_.rig.owner(want) == (6, 2)
    again.stop("web")
    field11.acquire([resource(field_.rig, want)])
    field11.release([resource(field_.rig, want)])
    again.lease.leave()


# ------------------------------------------------------------------- what vlhook adds to sectors, and sanlock


def test_the_holder_record_does_not_disturb_sanlock(field_: Field, field11: Registered, field12: Registered) -> None:
    want = field_.disk()
    path = field_.rig.path(want)
    field_.one.start("a guest with a name", want)
    at = FILE.dblock(1)
    record = path.read_bytes()[at + HOLDER_AT : at + 512]
    assert b"a guest with a name" in record
    dump = run_sanlock("direct", "dump", f"{path}:0:1048576", "-f", "2")
    assert "dblock[0000] mbal 1 bal 1 inp 1 inp2 1" in dump
    assert " SH" not in dump
    assert direct_leader(path, want.name, LOCKSPACE_NAME)["owner_id"] == "1"
    assert refused_by_sanlock(lambda: field11.acquire([resource(field_.rig, want)])) in HELD
    field_.one.stop("a guest with a name")
    assert any(path.read_bytes()[at + HOLDER_AT : at + 512]), "the last record stays"
    for holder in (field11, field12):
        holder.acquire([resource(field_.rig, want)])
        holder.release([resource(field_.rig, want)])
    field_.one.start("a guest with a name", want)
    field_.one.stop("a guest with a name")


def test_a_sharers_holder_record_does_not_disturb_sanlock(field_: Field, field11: Registered) -> None:
    want = field_.disk(shared=True)
    field_.one.start("a guest with a name", want)
    assert "0001 0001 SH" in direct_dump(field_.rig.path(want))
    field11.acquire([resource(field_.rig, want)])
    field_.one.stop("a guest with a name")
    field11.release([resource(field_.rig, want)])
    alone = Want(want.name, want.space, False, want.source)
    field11.acquire([resource(field_.rig, alone)])
    field11.release([resource(field_.rig, alone)])


def test_sanlock_takes_no_notice_of_anything_in_the_bytes_of_holder_records(field_: Field, field11: Registered) -> None:
    want = field_.disk()
    path = field_.rig.path(want)
    with path.open("r+b") as file:
        for host_id in range(1, 2001):
            file.seek(FILE.dblock(host_id) + HOLDER_AT)
            file.write(b"\xff" * (512 - HOLDER_AT))
    field11.acquire([resource(field_.rig, want)])
    assert field_.rig.owner(want) == (11, 1)
    field11.release([resource(field_.rig, want)])
    field11.acquire([any_resource(path, want.name, SHARED, LOCKSPACE_NAME)])
    field11.release([any_resource(path, want.name, SHARED, LOCKSPACE_NAME)])
    field_.one.start("web", want)
    field_.one.stop("web")


def test_sanlock_ignores_the_claim_bit_beside_shared(field_: Field, field11: Registered) -> None:
    """Safety rules, 19: flags 0x3 stop its exclusive acquires, as SHARED does, and not its shared ones."""
    want = field_.disk()
    path = field_.rig.path(want)
    me = field_.one.lease.identity
    with path.open("r+b") as file:
        file.seek(FILE.dblock(1))
        file.write(host_sector(FILE, Dblock(1, 1, 1, 1, 5, 0, 1), ModeBlock(0x3, me.generation)))
    assert "SH" in direct_dump(path)
    assert refused_by_sanlock(lambda: field11.acquire([resource(field_.rig, want)])) == AGAIN
    shared = any_resource(path, want.name, SHARED, LOCKSPACE_NAME)
    field11.acquire([shared])
    field11.release([shared])
    assert field_.rig.sector(want, 1).mode == ModeBlock(0x3, me.generation), "and leaves it as it is"


# -------------------------------------------------------------------------------------------------- contention


def contend(
    record: Record,
    who: str,
    wants: list[Want],
    until: float,
    take: Callable[[Want], Version | None],
    give: Callable[[Want], None],
) -> None:
    chance = random.Random(who)
    while time.monotonic() < until:
        want = chance.choice(wants)
        want = Want(want.name, want.space, chance.random() < 0.25, want.source)
        try:
            version = take(want)
            if not version:
                continue
            record.put("enter", who=who, disk=want.source, shared=want.shared, version=version)
            if chance.random() < 0.1:
                time.sleep(chance.random() * 0.01)
            record.put("leave", who=who, disk=want.source)
            give(want)
        except Exception as error:
            record.put("error", who=who, error=repr(error), text=str(error))
            return


def test_in_contention_of_both_kinds_no_two_holdings_overlap(field_: Field, tmp_path: Path) -> None:
    """Two vlhook hosts and two sanlock hosts, each in three threads, over nine leases, both modes.

    VLHOOK_CONTENTION_SECONDS sets for how long.
    """
    wants = [field_.disk() for _ in range(9)]
    record, until = Record(tmp_path / "record"), time.monotonic() + CONTENTION_SECONDS
    threads = []
    with ExitStack() as stack:
        for number in range(3):
            for host in (field_.one, field_.two):
                guest = f"{host.me[0]}-{number}"

                def start(want: Want, host: RigHost = host, guest: str = guest) -> Version | None:
                    try:
                        (owned,) = host.start(guest, want)
                    except Refused as refused:
                        ((_, error),) = refused.failures
                        assert isinstance(error, Busy), error
                        return None
                    return Version(*host.me, owned.lver)

                def stop(want: Want, host: RigHost = host, guest: str = guest) -> None:
                    host.stop(guest)

                threads.append(threading.Thread(target=contend, args=(record, guest, wants, until, start, stop)))
            for daemon in (field_.eleven, field_.twelve):
                registered = stack.enter_context(daemon.register())

                def acquire(want: Want, registered: Registered = registered) -> Version | None:
                    try:
                        registered.acquire([resource(field_.rig, want)], deadline=by())
                    except SanlockBusy:
                        return None
                    (held,) = registered.inquire()
                    return Version(lver=held.lver or 0)

                def give(want: Want, registered: Registered = registered) -> None:
                    registered.release([resource(field_.rig, want)], deadline=by())

                who = f"{daemon.name}-{number}"
                threads.append(threading.Thread(target=contend, args=(record, who, wants, until, acquire, give)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults(record) == []
    counts = Counter(held.who for held in holdings(record.events()))
    total = sum(counts.values())
    print(f"{total} holdings in {CONTENTION_SECONDS:.0f} s: {dict(counts)}")
    assert len(counts) == 12, "everybody got some"
    assert total >= CONTENTION_SECONDS * 10
    for want in wants:
        leader = field_.rig.leader(want)
        assert field_.rig.owner(want) is None, want
        assert leader == leader.sealed(), "whole to the end"
        assert leader.lver >= 10


# ----------------------------------------------------------------------------------- what came of the take-overs


def test_sanlock_takes_what_a_dead_vlhook_host_held_after_8n_and_60_seconds_and_not_before(
    takeovers: Takeovers,
) -> None:
    result = takeovers.outcome("vlhook dies")
    assert result["at once"] in HELD
    assert result["waited"] >= 68
    assert result["owner"] == (2, 1)
    assert result["sharer"] == ModeBlock(), "cleared"
    assert result["refused"].code == "VLH-L260", "the dead host knows that it is dead"


def test_vlhook_takes_what_a_dead_sanlock_host_held_after_8n_and_60_seconds_and_not_before(
    takeovers: Takeovers,
) -> None:
    result = takeovers.outcome("sanlock dies")
    held, shared = result["at once"]
    assert isinstance(held, HeldByOther)
    assert isinstance(shared, SharedByOthers)
    assert result["waited"] >= 68
    assert result["owners"] == ((1, 1), (1, 1))
    assert result["sharer"] == ModeBlock(), "cleared"
    last = [e for e in result["errors"] if isinstance(e, OwnerMaybeDead)][-1].__dict__["holder"]
    assert not last.alive
    assert last.silent_for > 60
    assert last.free_in < 8, "it said when"
