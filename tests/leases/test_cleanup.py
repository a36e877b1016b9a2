# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lease is only ever removed when nobody uses it, and what was removed can never be had again."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.leases.disk import NAME, SPACE, Host, Task, World
from tests.leases.rig import Rig, RigHost, by, eventually, tenant
from vlhook.leases import cleanup, directory
from vlhook.leases.cleanup import NotRemoved, Wanted
from vlhook.leases.effects import RESOURCE, Read, Remove, Write
from vlhook.leases.errors import (
    BadDblockChecksum,
    Busy,
    Cleared,
    HeldByOther,
    HeldHere,
    InDoubtHere,
    LeaseError,
    NotMember,
    OwnerMaybeDead,
    SharedByOthers,
)
from vlhook.leases.holder import CLEANING, HolderRecord
from vlhook.leases.records import (
    CLEARED_MAGIC,
    REQUEST_MAGIC,
    REQUEST_VERSION,
    Dblock,
    ModeBlock,
    Request,
    host_sector,
)

RECORD = HolderRecord(0, 0, 0, 1, bytes(16), CLEANING, "", "")


def clean(host: Host) -> Task[bool]:
    return host.task(cleanup.clean(host.world.lease, host.me, RECORD))


def removed(world: World) -> bool:
    return any(io.op == "remove" for io in world.log)


def used(world: World, *host_ids: int) -> list[Host]:
    """Hosts that live and know each other, on a lease that has had its owners."""
    hosts = [world.host(host_id) for host_id in host_ids]
    for host in hosts:
        host.release(host.acquire().run()).run()
    world.jump(2)
    world.log.clear()
    return hosts


# ------------------------------------------------------------------------------- what is removed


def test_a_free_lease_is_taken_cleared_and_unlinked_and_nothing_of_it_is_released() -> None:
    world = World()
    (one,) = used(world, 1)
    assert clean(one).run()
    *before, last = [(io.op, io.area) for io in world.log if io.op != "read"]
    assert last == ("remove", RESOURCE)
    leader = world.leader
    assert leader.magic == CLEARED_MAGIC
    assert leader.checksum == leader.computed_checksum()
    assert (leader.write_id, leader.write_generation) == (1, 1)
    assert not world.sector(1).dblock.released
    assert before[-1] == ("write", RESOURCE)


def test_a_cleared_area_is_as_sanlock_writes_it_but_for_who_cleared_it() -> None:
    world = World()
    (one,) = used(world, 1)
    clean(one).run()
    blank = directory.format_resource(world.geo, SPACE, NAME, cleared_at=int(world.now))
    assert bytes(world.areas[RESOURCE][:176]) == blank[:176]


@pytest.mark.parametrize("how", ["left", "rejoined", "dead"])
def test_the_lease_of_a_host_that_is_gone_is_removed(how: str) -> None:
    world = World()
    one, two = used(world, 1, 2)
    two.acquire().run()
    if how == "left":
        two.leave()
    elif how == "rejoined":
        two.rejoin()
    else:
        two.die()
        for _ in range(100):
            world.pass_time(1)
    assert clean(one).run()


def test_what_a_dead_host_has_begun_keeps_nothing() -> None:
    world = World()
    one, two = used(world, 1, 2)
    two.acquire().until(Write, 0)
    two.die()
    for _ in range(100):
        world.pass_time(1)
    assert clean(one).run()


# --------------------------------------------------------------------------------- what stays


def stays(world: World, host: Host, kind: type[LeaseError]) -> LeaseError:
    before = world.owner(), world.leader.magic
    error: LeaseError = clean(host).raises(kind)
    assert not removed(world)
    assert (world.owner(), world.leader.magic) == before
    return error


def test_a_lease_that_a_live_host_holds_stays() -> None:
    world = World()
    one, two = used(world, 1, 2)
    two.acquire().run()
    world.jump(2)
    stays(world, one, HeldByOther)


def test_a_lease_whose_owner_is_silent_stays_until_it_is_known_to_be_dead() -> None:
    world = World()
    one, two = used(world, 1, 2)
    two.acquire().run()
    two.die()
    for _ in range(30):
        world.pass_time(1)
    stays(world, one, OwnerMaybeDead)


def test_a_lease_that_is_held_shared_stays() -> None:
    world = World()
    one, two = used(world, 1, 2)
    two.acquire(shared=True).run()
    world.jump(2)
    stays(world, one, SharedByOthers)


def test_a_lease_that_is_claimed_for_a_migration_stays() -> None:
    world = World()
    one, two = used(world, 1, 2)
    block = world.sector(2).dblock
    world.put_sector(2, host_sector(world.geo, block.with_released(), ModeBlock(3, two.me.generation)))
    stays(world, one, SharedByOthers)


def test_a_lease_that_somebody_asks_for_stays() -> None:
    world = World()
    (one,) = used(world, 1)
    request = Request(REQUEST_MAGIC, REQUEST_VERSION, world.leader.lver + 1, 1)
    world.put(RESOURCE, world.geo.request, request.encode())
    assert "asks for it" in str(stays(world, one, Wanted))


def test_a_request_that_was_met_long_ago_does_not_count() -> None:
    world = World()
    (one,) = used(world, 1)
    request = Request(REQUEST_MAGIC, REQUEST_VERSION, world.leader.lver, 1)
    world.put(RESOURCE, world.geo.request, request.encode())
    assert clean(one).run()


@pytest.mark.parametrize("count", [1, 2])
def test_a_lease_whose_ballot_a_live_host_has_begun_stays(count: int) -> None:
    world = World()
    one, two = used(world, 1, 2)
    rival = two.acquire().until(Write, world.geo.dblock(2), count=count)
    rival.step()
    assert "about to take it" in str(stays(world, one, Wanted))
    assert rival.run()


def test_a_damaged_lease_stays() -> None:
    world = World()
    one, two = used(world, 1, 2)
    offset = world.geo.dblock(two.me.host_id)
    world.areas[RESOURCE][offset] ^= 1
    clean(one).raises(BadDblockChecksum)
    assert not removed(world)


def test_a_host_that_lost_its_own_lease_removes_nothing() -> None:
    world = World()
    (one,) = used(world, 1)
    task = clean(one).until(Write, 0, count=2)
    task.step()
    one.die()
    task.raises(NotMember)
    assert not removed(world)


# ------------------------------------------------------- rivals at every moment of the clean-up


def finish(task: Task[Any]) -> LeaseError | None:
    """To the end; None: it succeeded."""
    try:
        task.run()
    except LeaseError as error:
        return error
    return None


def to_next_io(task: Task[Any]) -> None:
    """One step, and on to where the next read or write is due."""
    if not task.done:
        task.step()
    while not task.done and not isinstance(task.next, (Read, Write, Remove)):
        task.step()


def play(turns: tuple[int, ...], cleaner_first: bool, shared: bool) -> None:
    """The clean-up and another host's acquire, which take turns of so many I/Os, then run to their ends."""
    world = World(num_hosts=8)
    one, two = used(world, 1, 2)
    tasks: list[Task[Any]] = [clean(one), two.acquire(shared=shared)]
    order = itertools.cycle(tasks if cleaner_first else tasks[::-1])
    for turn, task in zip(turns, order):
        for _ in range(turn):
            to_next_io(task)
    rest = [next(order), next(order)]
    errors = {id(task): finish(task) for task in rest}
    kept, refused = errors[id(tasks[0])], errors[id(tasks[1])]
    story = f"{turns} {cleaner_first} {shared}: clean-up {kept!r}, acquire {refused!r}"
    if kept is None:
        assert isinstance(refused, (Cleared, Busy)), story
        assert_nobody_gets_it(world, story)
    else:
        assert isinstance(kept, Busy), story
        assert not removed(world), story
        if refused is None:
            two.release(tasks[1].result).run()
        assert finish(world.host(3).acquire()) is None, f"{story}: it can be had afterwards"


def assert_nobody_gets_it(world: World, story: str) -> None:
    """On the unlinked inode: not while the host that cleared it lives, and not when it has left."""
    assert removed(world), story
    assert world.leader.magic == CLEARED_MAGIC, story
    assert isinstance(finish(world.host(3).acquire()), Cleared), story
    world.hosts[1].leave()
    assert isinstance(finish(world.host(3, 2).acquire()), Cleared), story


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cleaner_first", [True, False])
def test_clean_up_and_acquire_never_both_succeed_however_they_meet(cleaner_first: bool, shared: bool) -> None:
    for first, second in itertools.product(range(11), range(1, 11)):
        play((first, second), cleaner_first, shared)


def test_clean_up_and_acquire_never_both_succeed_in_many_turns() -> None:
    choice = random.Random(14)
    for _ in range(100):
        turns = tuple(choice.randint(1, 4) for _ in range(choice.randint(3, 8)))
        play(turns, choice.random() < 0.5, choice.random() < 0.3)


def test_a_host_that_adopts_the_cleaners_value_cannot_commit_it_over_the_cleared_leader() -> None:
    """It has read the leader before us and ballots after the bar: the one way to undo a clean-up."""
    world = World()
    one, two = used(world, 1, 2)
    rival = two.acquire().until(Write, world.geo.dblock(2))
    assert clean(one).run()
    assert isinstance(finish(rival), Cleared)
    assert world.leader.magic == CLEARED_MAGIC


def test_without_the_bar_the_late_commit_would_undo_the_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without the bar, so that it is known what it is for."""

    def look_only(*_: Any) -> Any:
        return None
        yield

    monkeypatch.setattr(cleanup, "_bar_and_look", look_only)
    world = World()
    one, two = used(world, 1, 2)
    # A greater ballot than the cleaner's, as a host with a greater id has.
    rival = two.acquire().until(Write, world.geo.dblock(2))
    assert clean(one).run()
    finish(rival)
    assert world.leader.magic != CLEARED_MAGIC


# -------------------------------------------------------------------------------- broken storage


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
def test_a_write_that_fails_leaves_the_lease_free_or_removed(number: int, landed: bool) -> None:
    world = World()
    one, two = used(world, 1, 2)
    task = clean(one).until(Write, count=number)
    is_leader = isinstance(task.next, Write) and task.next.offset == 0
    cleared = is_leader and landed and number == 5
    task.fail_landed() if landed else task.fail()
    error = finish(task)
    if error is None:
        assert cleared or number in (1, 2), "only what was repeated by itself"
        assert removed(world)
    else:
        assert not removed(world)
        assert finish(two.acquire()) is None, "it can be had"


def test_a_file_that_cannot_be_unlinked_is_reported_and_its_lease_never_to_be_had() -> None:
    world = World()
    one, two = used(world, 1, 2)
    task = clean(one).until(Remove)
    task.fail()
    assert isinstance(finish(task), NotRemoved)
    assert isinstance(finish(two.acquire()), Cleared)


def test_what_a_clean_up_left_cleared_is_removed_when_its_host_is_gone_and_not_before() -> None:
    world = World()
    one, two = used(world, 1, 2)
    clean(one).until(Remove).fail()
    steps = lambda host: host.task(cleanup.remove_cleared(world.lease, host.me))  # noqa: E731
    steps(two).raises(Wanted)
    assert not removed(world)
    one.leave()
    assert steps(two).run()
    assert removed(world)


def test_what_is_not_cleared_is_not_taken_for_a_left_over() -> None:
    world = World()
    (one,) = used(world, 1)
    one.task(cleanup.remove_cleared(world.lease, one.me)).raises(Wanted)
    world.leader = replace(world.leader, magic=CLEARED_MAGIC, resource_name=b"other".ljust(48, b"\0"))
    one.task(cleanup.remove_cleared(world.lease, one.me)).raises(Wanted)


def test_the_bar_is_a_ballot_of_our_own_that_promises_nothing() -> None:
    world = World()
    (one,) = used(world, 1)
    lver = world.leader.lver + 1
    clean(one).until(Write, 0, count=2)
    block = world.sector(1).dblock
    assert block == Dblock(mbal=block.mbal, lver=lver + 1)


# ------------------------------------------------------------------------- real files, real threads


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("leases"))
    made.join(1, 2)
    yield made
    made.stop()


def had(rig: Rig, host: RigHost, disk: str) -> Any:
    """A lease that was used and given back."""
    want = rig.want(disk)
    host.start("old", want)
    assert host.engine.release(tenant("old"), by())
    return want


def test_the_engine_removes_the_file_and_the_next_start_makes_a_new_one(rig: Rig) -> None:
    one, two = rig.hosts[1], rig.hosts[2]
    want = had(rig, two, "removed")
    inode = rig.path(want).stat().st_ino
    assert one.engine.clean(want)
    assert not rig.path(want).exists()
    two.start("new", want)
    assert rig.path(want).stat().st_ino != inode or rig.leader(want).lver == 1
    assert rig.owner(want) == two.me
    assert not one.engine.clean(rig.want("never made"))


def test_the_engine_does_not_touch_what_a_guest_of_its_own_host_holds(rig: Rig) -> None:
    one = rig.hosts[1]
    want = rig.want("own")
    one.start("web", want)
    before = rig.path(want).read_bytes()
    with pytest.raises(HeldHere):
        one.engine.clean(want)
    assert rig.path(want).read_bytes() == before
    shared = rig.want("own shared", shared=True)
    one.start("cluster", shared)
    with pytest.raises(Busy):
        one.engine.clean(shared)
    assert rig.path(shared).exists()


@pytest.mark.parametrize("local", [True, False])
def test_a_start_that_meets_a_clean_up_waits_for_it_and_gets_a_new_lease(
    rig: Rig, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = rig.hosts[1], rig.hosts[2]
    want = had(rig, one, f"met {local}")
    starter = one if local else two
    reached, go = threading.Event(), threading.Event()
    real = cleanup._remove

    def halt(lease: Any) -> Any:
        reached.set()
        assert go.wait(60)
        return (yield from real(lease))

    bar = cleanup._bar_and_look

    def halt_at_bar(*arguments: Any) -> Any:
        reached.set()
        assert go.wait(60)
        return (yield from bar(*arguments))

    # A start on this host is kept away by the engine; one on another host sees the holder record.
    monkeypatch.setattr(cleanup, *(("_remove", halt) if local else ("_bar_and_look", halt_at_bar)))
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(one.engine.clean(want)))]
    threads[0].start()
    assert reached.wait(60)
    threads.append(threading.Thread(target=lambda: results.append(starter.start("new", want))))
    threads[1].start()
    if local:
        eventually(lambda: isinstance(one.engine._conflict(want), InDoubtHere), "the engine keeps it away")
    threads[1].join(0.3)
    assert threads[1].is_alive(), "it waits"
    go.set()
    for thread in threads:
        thread.join(60)
    assert True in results
    assert rig.owner(want) == starter.me
    starter.engine.release(tenant("new"), by())


def test_a_file_that_was_replaced_meanwhile_is_not_removed(rig: Rig, tmp_path: Path) -> None:
    one = rig.hosts[1]
    want = had(rig, one, "replaced")
    path = rig.path(want)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    real = cleanup._remove

    def replace_first(lease: Any) -> Any:
        other.rename(path) if other.stat().st_dev == path.stat().st_dev else path.write_bytes(b"")
        return (yield from real(lease))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleanup, "_remove", replace_first)
        assert not one.engine.clean(want)
    assert path.exists()
