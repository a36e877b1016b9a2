# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock engine against real daemons: leases of guests, all or none, and what becomes of them."""

from __future__ import annotations

import itertools
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.sanlock_daemon import SanlockHost, direct_dump, direct_leader, resource, short_directory
from vlhook.leases.claimfiles import ClaimFiles
from vlhook.leases.delta import Space
from vlhook.leases.directory import Ownership, create_lockspace, lockspace_path
from vlhook.leases.driver import Cancel
from vlhook.leases.engine import Owned, Refused, Tenant, Want
from vlhook.leases.errors import (
    BadMagic,
    Busy,
    HeldByOther,
    HeldHere,
    LeaseError,
    LockspaceLost,
    NotMember,
    NotOurLockspace,
    SharedByOthers,
)
from vlhook.leases.files import LeaseFiles
from vlhook.leases.geometry import FILE
from vlhook.leases.membership import join as join_natively
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.native import NativeEngine
from vlhook.leases.sanlock import SanlockEngine
from vlhook.leases.sanlockclient import SanlockClient, StatusLevel
from vlhook.leases.sanlockending import end_failed
from vlhook.leases.sanlockerrors import SanlockNoAnswer
from vlhook.leases.sanlockmembership import DaemonLease, attach, join
from vlhook.leases.sanlockspace import SanlockSpaceEnding, SanlockSpaceLost, look
from vlhook.leases.sanlockstate import StateType
from vlhook.leases.sanlockwire import Config

pytestmark = [pytest.mark.sanlock, pytest.mark.xdist_group("sanlock-engine")]
N = 1
numbers = itertools.count(1)


def until(what: str, done: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        select.select([], [], [], 0.02)


@dataclass
class Engines:
    """Two hosts with a daemon, and one without, on one directory."""

    directory: Path
    daemons: list[SanlockHost]
    leases: list[DaemonLease]
    one: SanlockEngine
    two: SanlockEngine
    native: NativeEngine


def space_of(directory: Path, host_id: int, name: str = "") -> Space:
    path = lockspace_path(str(directory))
    return Space(LOCKSPACE_NAME.encode(), path, host_id, (name or f"host{host_id}").encode(), N)


def files_of(directory: Path) -> LeaseFiles:
    return LeaseFiles(str(directory), LOCKSPACE_NAME, lockspace_path(str(directory)), Ownership())


def no_alarm(what: str) -> None:
    raise AssertionError(what)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with short_directory() as base:
        directory = base / "leases"
        directory.mkdir()
        create_lockspace(str(directory), FILE, N, Ownership())
        daemons = [SanlockHost(f"host{n}.node{n}", base / str(n)).start() for n in (1, 2)]
        try:
            leases = [join(daemon.client, space_of(directory, n), Cancel()) for n, daemon in enumerate(daemons, 1)]
            native = join_natively(space_of(directory, 3), None)
            for lease in (*leases, native):
                lease.start()
            yield Engines(
                directory, daemons, leases,
                *(SanlockEngine(lease, files_of(directory), print) for lease in leases),
                NativeEngine(native, files_of(directory), no_alarm),
            )  # fmt: skip
        finally:
            for daemon in daemons:
                daemon.close()


@pytest.fixture(autouse=True)
def all_see_all_alive(engines: Engines) -> None:
    """A holder is named as alive only by who has seen its record change."""
    for lease in engines.leases:
        for host_id in (1, 2, 3):
            until("the others' renewals", lambda h=host_id, t=lease.table: (v := t.get(h)) and v.ever_changed)


def tenant(name: str = "web") -> Tenant:
    number = next(numbers)
    return Tenant(f"{name}.{number}", name, f"00000000-0000-0000-0000-{number:012d}")


def wants(count: int = 1, shared: bool = False) -> list[Want]:
    return [Want(f"{next(numbers):032x}", LOCKSPACE_NAME, shared, f"/images/{i}") for i in range(count)]


def take(engine: SanlockEngine | NativeEngine, who: Tenant, what: list[Want], seconds: float = 30) -> list[str]:
    owned = engine.acquire(who, what, time.monotonic() + seconds, lambda: False)
    assert engine.holds(who, what)
    return [one.want.name for one in owned]


def give(engine: SanlockEngine | NativeEngine, who: Tenant, what: list[Want] | None = None) -> None:
    assert engine.release(who, time.monotonic() + 30, what)


def refused(engine: SanlockEngine | NativeEngine, who: Tenant, what: list[Want]) -> list[LeaseError]:
    with pytest.raises(Refused) as error:
        engine.acquire(who, what, time.monotonic() + 30, lambda: False)
    assert not engine.holds(who, what)
    give(engine, who)
    return [why for _, why in error.value.failures]


def in_the_way(engine: SanlockEngine, want: Want) -> Any:
    why = refused(engine, tenant(), [want])[0]
    assert isinstance(why, HeldByOther)
    return vars(why)["holder"]


def listed(daemon: SanlockHost) -> set[tuple[str, str]]:
    return {(one.resource.name, one.state) for one in daemon.client.leases()}


def test_leases_are_persistent_and_named_in_the_file(engines: Engines) -> None:
    guest, what = tenant("mail"), wants(2)
    take(engines.one, guest, what)
    for want in what:
        path = engines.directory / want.name
        assert direct_leader(path, want.name, LOCKSPACE_NAME)["owner_id"] == "1"
        until("the owner to be seen alive", lambda w=want: in_the_way(engines.two, w).alive)
        holder = in_the_way(engines.two, want)
        assert (holder.host_id, holder.record.guest) == (1, "mail")
        assert holder.record.disk == want.source
        assert holder.name == b"host1.node1"
    give(engines.one, guest)
    assert not listed(engines.daemons[0])
    take(engines.two, guest, what)
    give(engines.two, guest)


def test_the_holder_record_changes_nothing_that_sanlock_reads(engines: Engines) -> None:
    guest, what = tenant(), wants(1)
    take(engines.one, guest, what)
    path = engines.directory / what[0].name
    before = direct_dump(path)
    assert " 0001 0001 " in before
    give(engines.one, guest)
    assert direct_leader(path, what[0].name, LOCKSPACE_NAME)["timestamp"] == "0"
    for engine in (engines.two, engines.native, engines.one):
        take(engine, guest, what)
        give(engine, guest)


def test_all_leases_or_none(engines: Engines) -> None:
    a, b = tenant("a"), tenant("b")
    what = wants(20)
    take(engines.one, a, what[13:14])
    why = refused(engines.two, b, what)
    assert len(why) == 1
    assert isinstance(why[0], HeldByOther)
    assert not listed(engines.daemons[1])
    give(engines.one, a)
    take(engines.two, b, what)
    give(engines.two, b)


def test_guests_of_one_host_exclude_each_other_and_share_what_is_shared(engines: Engines) -> None:
    first, second = tenant("first"), tenant("second")
    alone, common = wants(1), wants(1, shared=True)
    take(engines.one, first, alone + common)
    why = refused(engines.one, second, alone)[0]
    assert isinstance(why, HeldHere)
    assert "first" in str(why)
    take(engines.one, second, common)
    give(engines.one, first)
    assert engines.one.holds(second, common)
    assert isinstance(refused(engines.two, tenant(), wants_like(common, shared=False))[0], SharedByOthers)
    take(engines.two, first, common)
    assert isinstance(refused(engines.native, tenant(), wants_like(common, shared=False))[0], SharedByOthers)
    take(engines.native, second, common)
    for engine in (engines.one, engines.two, engines.native):
        give(engine, first)
        give(engine, second)
    take(engines.one, first, wants_like(common, shared=False))
    give(engines.one, first)


def wants_like(what: list[Want], shared: bool) -> list[Want]:
    return [Want(want.name, want.space, shared, want.source) for want in what]


def test_sixty_four_leases_come_and_go_in_batches(engines: Engines) -> None:
    guest, what = tenant(), wants(64)
    take(engines.one, guest, what)
    assert len(listed(engines.daemons[0])) == 64
    give(engines.one, guest, what[:20])
    assert engines.one.holds(guest, what[20:])
    give(engines.one, guest)
    assert not listed(engines.daemons[0])


def test_native_and_sanlock_engines_keep_each_other_out(engines: Engines) -> None:
    here, there, what = tenant("here"), tenant("there"), wants(3)
    take(engines.native, here, what)
    why = refused(engines.one, there, what)
    assert {vars(one)["holder"].record.guest for one in why} == {"here"}
    give(engines.native, here)
    take(engines.one, there, what)
    why = refused(engines.native, here, what)
    assert {vars(one)["holder"].record.guest for one in why} == {"there"}
    give(engines.one, there)


def test_another_program_of_this_host_that_has_it_from_sanlock_is_named(engines: Engines) -> None:
    guest, what = tenant(), wants(1)
    take(engines.one, guest, what)
    give(engines.one, guest)
    with engines.daemons[0].holder() as other:
        theirs = resource(engines.directory / what[0].name, what[0].name, space=LOCKSPACE_NAME)
        other.acquire(theirs)
        why = refused(engines.one, guest, what)[0]
        assert isinstance(why, HeldHere)
        assert f"pid {other.pid}" in str(why)
        other.release(theirs)
    take(engines.one, guest, what)
    give(engines.one, guest)


def test_a_file_that_is_no_lease_is_refused_with_file_and_offset(engines: Engines) -> None:
    what = wants(1)
    (engines.directory / what[0].name).write_bytes(b"no lease".ljust(1 << 20, b"."))
    why = refused(engines.one, tenant(), what)[0]
    assert isinstance(why, BadMagic)
    assert what[0].name in str(why)


def test_a_lease_of_another_lockspace_is_not_ours_to_take(engines: Engines) -> None:
    other = Want("x", "elsewhere", False, "/images/x", "/nowhere/x")
    assert isinstance(refused(engines.one, tenant(), [other])[0], NotOurLockspace)


def incoming(what: list[Want]) -> list[Want]:
    return [Want(want.name, want.space, False, want.source, claim=True) for want in what]


def nobody_else_gets(engines: Engines, what: list[Want]) -> None:
    """Neither by the daemon of host 2 nor natively on host 3, and there not shared either."""
    for engine in (engines.two, engines.native):
        assert isinstance(refused(engine, tenant(), wants_like(what, shared=False))[0], Busy)
    assert isinstance(refused(engines.native, tenant(), wants_like(what, shared=True))[0], Busy)


@pytest.mark.parametrize("source", ["native", "two"])
def test_a_guest_takes_its_leases_along_to_a_host_with_the_daemon(engines: Engines, source: str) -> None:
    guest, what = tenant("mover"), wants(2)
    there: SanlockEngine | NativeEngine = getattr(engines, source)
    rival = engines.two if source == "native" else engines.native
    take(there, guest, what)
    converted: list[Owned] = []
    engines.one.moves.seconds = 1000.0
    engines.one.claims.on_converted = lambda who, owned: converted.append(owned)
    take(engines.one, guest, incoming(what))
    engines.one.convert(guest)
    assert isinstance(refused(rival, tenant(), what)[0], Busy)
    give(there, guest)
    until("the conversion", lambda: all(entry.held for entry in engines.one.entries()))
    nobody_else_gets(engines, what)
    assert not listed(engines.daemons[0]), "the daemon is kept waiting"
    owner = direct_leader(engines.directory / what[0].name, what[0].name, LOCKSPACE_NAME)
    give(engines.one, guest)
    assert owner["owner_id"] == "1"
    assert not converted


def test_the_daemon_takes_over_what_was_converted_and_its_host_owns_it_throughout(engines: Engines) -> None:
    guest, what = tenant("mover"), wants(2)
    take(engines.native, guest, what)
    converted: list[Owned] = []
    engines.one.moves.seconds = 0.2
    engines.one.claims.on_converted = lambda who, owned: converted.append(owned)
    take(engines.one, guest, incoming(what))
    engines.one.convert(guest)
    assert engines.one.mark_running(guest, time.monotonic() + 10)
    give(engines.native, guest)
    tries = 0
    while len(converted) < len(what):
        assert isinstance(refused(engines.two, tenant(), what[:1])[0], Busy)
        tries += 1
    assert tries > 1
    assert {(want.name, "held") for want in what} <= listed(engines.daemons[0])
    assert not any(owned.claim for owned in converted)
    nobody_else_gets(engines, what)
    holder = in_the_way(engines.two, what[0])
    assert (holder.host_id, holder.record.guest) == (1, "mover")
    give(engines.one, guest)
    assert not listed(engines.daemons[0])
    take(engines.two, guest, what)
    give(engines.two, guest)


def test_a_claim_that_is_withdrawn_leaves_nothing_behind(engines: Engines) -> None:
    guest, what = tenant("mover"), wants(2)
    take(engines.two, guest, what)
    take(engines.one, guest, incoming(what))
    engines.one.convert(guest)
    give(engines.one, guest)
    give(engines.two, guest)
    take(engines.native, tenant(), what)
    assert isinstance(refused(engines.one, tenant(), incoming(what))[0], HeldByOther), "of another guest"
    engines.native.release(next(iter(engines.native.entries()[0].tenants.values())), time.monotonic() + 10)
    take(engines.one, guest, incoming(what))
    give(engines.one, guest)


def test_a_restarted_keeper_goes_on_with_its_claims_wherever_they_stand(engines: Engines) -> None:
    guest, what = tenant("mover"), wants(1)
    take(engines.native, guest, what)
    granted = engines.one.acquire(guest, incoming(what), time.monotonic() + 30, lambda: False)
    assert granted[0].claim
    for step in ("claimed", "converted", "with the daemon"):
        engines.one.close()
        converted: list[Owned] = []
        successor = engines.one = SanlockEngine(engines.leases[0], files_of(engines.directory), print)
        successor.moves.seconds = 0.0 if step == "converted" else 1000.0
        successor.claims.on_converted = lambda who, owned, into=converted: into.append(owned)
        until("the orphans", lambda: {state for _, state in listed(engines.daemons[0])} <= {"orphan"})
        assert successor.restore(guest, granted) == []
        assert successor.holds(guest, incoming(what))
        nobody_else_gets(engines, what)
        if step == "claimed":
            give(engines.native, guest)
            (entry,) = successor.entries()
            until("the conversion", lambda one=entry: one.held)
        else:
            until("the daemon", lambda into=converted: into)
    give(engines.one, guest)
    assert not listed(engines.daemons[0])


def test_a_hand_over_that_the_daemon_cannot_do_is_told_and_tried_until_it_can(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper's own look meets what the daemon is to meet, so it is left out."""
    monkeypatch.setattr(ClaimFiles, "elsewhere", lambda *_: [])
    guest, what = tenant("mover"), wants(1)
    path, stranger = engines.directory / what[0].name, FILE.dblock(9)
    take(engines.native, guest, what)
    engines.one.moves.seconds = 1000.0
    granted = engines.one.acquire(guest, incoming(what), time.monotonic() + 30, lambda: False)
    engines.one.convert(guest)
    give(engines.native, guest)
    (entry,) = engines.one.entries()
    until("the conversion", lambda: entry.held)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"no ballot" * 5, stranger)
    entry.give_up("killed")
    engines.one.close()
    alarms: list[str] = []
    successor = engines.one = SanlockEngine(engines.leases[0], files_of(engines.directory), alarms.append)
    successor.moves.seconds = 0.0
    assert successor.restore(guest, granted) == []
    until("the alarm", lambda: any("the checksum of a host's ballot is wrong" in alarm for alarm in alarms))
    assert successor.owns(guest, what)
    assert not any(state == "held" for _, state in listed(engines.daemons[0]))
    assert direct_leader(path, what[0].name, LOCKSPACE_NAME)["owner_id"] == "1"
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), bytes(512), stranger)
    until("the daemon", lambda: (what[0].name, "held") in listed(engines.daemons[0]))
    until("its word", lambda: not any(entry.converting for entry in successor.entries()))
    nobody_else_gets(engines, what)
    give(successor, guest)
    assert not listed(engines.daemons[0])


def test_a_claim_of_another_host_is_left_alone_by_shared_acquires(engines: Engines) -> None:
    guest, what = tenant("mover"), wants(1)
    take(engines.one, guest, what)
    claim = [Want(want.name, want.space, False, want.source, claim=True) for want in what]
    take(engines.native, guest, claim)
    assert [(h.host_id, h.record and h.record.guest) for h in engines.one.elsewhere(guest, time.monotonic() + 10)] == [
        (3, "mover")
    ]
    give(engines.one, guest)
    engines.native.convert(guest)
    until("the conversion", lambda: not engines.native.entries()[0].claimed)
    assert isinstance(refused(engines.one, tenant(), wants_like(what, shared=True))[0], HeldByOther)
    give(engines.native, guest)


def test_a_dead_keepers_leases_are_adopted_and_nothing_changes_on_disk(engines: Engines) -> None:
    alone, sharers = tenant("alone"), [tenant("s1"), tenant("s2")]
    what, common = wants(9), wants(1, shared=True)
    owned = {alone: engines.one.acquire(alone, what, time.monotonic() + 30, lambda: False)}
    for sharer in sharers:
        owned[sharer] = engines.one.acquire(sharer, common, time.monotonic() + 30, lambda: False)
    before = [direct_leader(engines.directory / want.name, want.name, LOCKSPACE_NAME) for want in what]
    engines.one.close()
    daemon = engines.daemons[0]
    until("the orphans", lambda: {state for _, state in listed(daemon)} == {"orphan"})
    generation = engines.leases[0].identity.generation
    successor = SanlockEngine(
        attach(daemon.client, space_of(engines.directory, 1), generation), files_of(engines.directory), no_alarm
    )
    for who, theirs in owned.items():
        assert successor.restore(who, theirs) == []
    assert {state for _, state in listed(daemon)} == {"held"}
    assert [direct_leader(engines.directory / want.name, want.name, LOCKSPACE_NAME) for want in what] == before
    give(successor, sharers[0])
    assert isinstance(refused(engines.two, tenant(), wants_like(common, shared=False))[0], SharedByOthers)
    for who in owned:
        give(successor, who)
    assert not listed(daemon)
    engines.one = SanlockEngine(engines.leases[0], files_of(engines.directory), print)


def test_what_a_dead_keeper_was_taking_is_given_back_and_what_is_gone_is_lost(engines: Engines) -> None:
    daemon, guest = engines.daemons[0], tenant()
    finished, unfinished = wants(2), wants(2)
    owned = engines.one.acquire(guest, finished, time.monotonic() + 30, lambda: False)
    take(engines.one, guest, unfinished)
    engines.one.close()
    until("the orphans", lambda: len(listed(daemon)) == 4)
    successor = SanlockEngine(engines.leases[0], files_of(engines.directory), no_alarm)
    assert len(successor.strays()) == 4
    with daemon.client.register() as registered:
        registered.release_orphan(resource(engines.directory / finished[0].name, finished[0].name, 0, LOCKSPACE_NAME))
    until("the release", lambda: len(listed(daemon)) == 3)
    lost = successor.restore(guest, owned)
    assert [lease.want for lease, _ in lost] == finished[:1]
    assert isinstance(lost[0][1], NotMember)
    successor.settle(guest, unfinished)
    until("the clean-up", lambda: listed(daemon) == {(finished[1].name, "held")})
    give(successor, guest)
    engines.one = SanlockEngine(engines.leases[0], files_of(engines.directory), print)


def test_a_daemon_that_does_not_answer_holds_up_nobody_past_the_deadline(engines: Engines) -> None:
    guest, what = tenant(), wants(1)
    take(engines.two, guest, what)
    begun = time.monotonic()
    engines.daemons[1].sigstop()
    try:
        with pytest.raises(Refused):
            engines.two.acquire(tenant(), wants(1), begun + 1, lambda: False)
        assert not engines.two.release(guest, begun + 1.2)
    finally:
        engines.daemons[1].sigcont()
    until("what was asked to be done after all", lambda: not engines.two.entries())
    assert not listed(engines.daemons[1])


def test_used_stands_before_any_guest_and_until_it_is_taken_back(engines: Engines) -> None:
    daemon, lease = engines.daemons[0], engines.leases[0]
    state = look(daemon.client, LOCKSPACE_NAME).space
    assert state
    assert state.used
    lease.let_go()
    assert not look(daemon.client, LOCKSPACE_NAME).space.used  # type: ignore[union-attr]
    lease.hold()
    assert look(daemon.client, LOCKSPACE_NAME).space.used  # type: ignore[union-attr]


def test_a_lockspace_that_fails_runs_the_killpath_and_does_not_end_while_a_guest_runs(engines: Engines) -> None:
    woken = threading.Event()
    before = signal.signal(signal.SIGURG, lambda *_: woken.set())
    try:
        with short_directory() as base, SanlockHost("host5.node5", base / "5").start() as daemon:
            lease = join(daemon.client, space_of(engines.directory, 5), Cancel())
            lease.start()
            engine = SanlockEngine(lease, files_of(engines.directory), print)
            guest, what = tenant(), wants(1)
            take(engine, guest, what)
            with open(lockspace_path(str(engines.directory)), "r+b") as file:
                file.seek(4 * 512)
                file.write(b"X" * 512)
            until("the killpath", woken.is_set)
            until("the loss", lambda: lease.lost)
            assert lease.overdue() is None, "who damages the record may have taken what it stands for"
            assert not engine.holds(guest, what) or lease.why_not()
            give(engine, guest)
            until("no connection of ours to be left", lambda: not connections(daemon))
            assert look(daemon.client, LOCKSPACE_NAME).space, "USED holds it"
            space = space_of(engines.directory, 5)
            assert not end_failed(daemon.client, space, lambda: False), "a guest may run"
            assert not end_failed(daemon.client, replace(space, host_id=6), lambda: True), "it is not ours"
            assert not end_failed(engines.daemons[0].client, space_of(engines.directory, 1), lambda: True), "it is well"
            assert all(look(one.client, LOCKSPACE_NAME).space.used for one in (daemon, engines.daemons[0]))  # type: ignore[union-attr]
            with pytest.raises(SanlockSpaceEnding):
                join(daemon.client, space_of(engines.directory, 5), Cancel(), lambda: False)
            assert look(daemon.client, LOCKSPACE_NAME).space.used  # type: ignore[union-attr]
            with pytest.raises(SanlockSpaceEnding):
                join(daemon.client, space_of(engines.directory, 5), Cancel(), lambda: True)
            until("the end of the lockspace", lambda: look(daemon.client, LOCKSPACE_NAME).space is None)
    finally:
        signal.signal(signal.SIGURG, before)


@pytest.mark.slow
def test_a_daemon_that_dies_is_noticed_and_its_generation_is_over(engines: Engines, tmp_path: Path) -> None:
    with short_directory() as base, SanlockHost("host4.node4", base / "4").start() as daemon:
        space = space_of(engines.directory, 4)
        lease = join(daemon.client, space, Cancel())
        lease.start()
        engine = SanlockEngine(lease, files_of(engines.directory), print)
        guest, what = tenant(), wants(1)
        take(engine, guest, what)
        until("a look of the lease", lambda: lease.latest is not None)
        daemon.kill9()
        until("the loss", lambda: lease.lost)
        assert lease.daemon_gone
        assert lease.overdue() is None, "no watchdog: others may have the leases as soon as somebody joins"
        assert not engine.holds(guest, what)
        why = refused(engine, tenant(), wants(1))[0]
        assert isinstance(why, NotMember)
        assert "sanlock daemon has ended" in str(why)
        give(engine, guest)
        daemon.start()
        with pytest.raises(SanlockSpaceLost):
            attach(daemon.client, space, lease.identity.generation)
        again = join(daemon.client, space, Cancel())
        assert again.identity.generation == lease.identity.generation + 1
        again.leave()
        assert not daemon.client.get_lockspaces()


@pytest.mark.slow
def test_nothing_is_left_open_where_joining_or_leaving_fails(engines: Engines) -> None:
    place, space = lockspace_path(str(engines.directory)), space_of(engines.directory, 6)
    open_before = files_open(place)
    with short_directory() as base, SanlockHost("host6.node6", base / "6").start() as daemon:
        with pytest.raises(SanlockNoAnswer):
            join(NeverUsed(daemon.socket_path), space, Cancel())
        assert files_open(place) == open_before
        lease = join(daemon.client, space, Cancel())
        lease.start()
        until("a look of the lease", lambda: lease.latest is not None)
        assert files_open(place) == open_before + 1
        daemon.sigstop()
        try:
            with pytest.raises(SanlockNoAnswer):
                lease.leave()
        finally:
            daemon.sigcont()
        until("no connection of ours to be left", lambda: not connections(daemon))
        assert files_open(place) == open_before


@pytest.mark.slow
def test_a_daemon_that_renews_where_nobody_looks_is_no_membership() -> None:
    """It has another file open than the one that has the name, a copy with the same record."""
    with short_directory() as base, SanlockHost("host1.node1", base / "1").start() as daemon:
        (base / "leases").mkdir()
        create_lockspace(str(base / "leases"), FILE, N, Ownership())
        space = space_of(base / "leases", 1)
        lease = join(daemon.client, space, Cancel())
        with open(space.where, "rb") as renewed:

            def attach_to_copy() -> DaemonLease | None:
                """None: it was renewed at that very moment, so the copy is old."""
                (base / "copy").write_bytes(os.pread(renewed.fileno(), FILE.area, 0))
                os.rename(base / "copy", space.where)
                try:
                    return attach(daemon.client, space, lease.identity.generation)
                except LockspaceLost as error:
                    assert "another file" in str(error)
                    return None

            attached = next(filter(None, (attach_to_copy() for _ in range(20))))
        attached.start()
        until("the loss", lambda: attached.lost)
        assert "another file" in str(attached.lost)
        with pytest.raises(LockspaceLost, match="another file"):
            attach(daemon.client, space, lease.identity.generation)
        lease.close()
        attached.wind_up()
        assert look(daemon.client, LOCKSPACE_NAME).space, "who did not have it join does not have it leave"
        lease.wind_up()
        assert look(daemon.client, LOCKSPACE_NAME).space is None


class NeverUsed(SanlockClient):
    """A daemon that does not answer when it is told of USED."""

    def set_config(self, space: str, config: Config, *, deadline: float | None = None) -> None:
        raise SanlockNoAnswer(path=self.socket_path, command="set config", subject=space, why="a test")


def files_open(path: str) -> int:
    """How often this process has the file open, but for a moment."""
    links = Path("/proc/self/fd")
    return min(sum(os.path.realpath(link) == path for link in links.iterdir()) for _ in range(20))


def connections(daemon: SanlockHost) -> int:
    """Those that this process has registered."""
    items = daemon.client.status(StatusLevel.CLIENTS)
    return sum(item.type is StateType.CLIENT and item.pid == os.getpid() for item in items)
