# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our steps against sanlock's own: the same reads and writes in the same order, with the same bytes.

Each test starts from the lease as sanlock found it, lets a host of ours do the same at the same time, and
compares I/O by I/O with what sanlock issued; where there is an image of the result, it must be the same to the
byte. The recorded releases begin after their first write (the images show that sanlock made it).
"""

from __future__ import annotations

from tests.leases.disk import World
from tests.leases.images import image, resource_name, trace
from vlhook.leases import paxos
from vlhook.leases.ballot import Won, ballot
from vlhook.leases.effects import RESOURCE, Read, Write
from vlhook.leases.errors import HeldByOther, SharedByOthers
from vlhook.leases.geometry import MIB, geometry
from vlhook.leases.records import MODE_AT, ModeBlock
from vlhook.leases.release import Held, become_shared, still_held

GARBAGE = slice(MODE_AT + 4, MODE_AT + 8)
"""Padding of the mode block: sanlock writes what was in memory."""


def world(name: str, now: int) -> World:
    return World(image(name), name=resource_name(name), now=now)


def assert_lease(world: World, name: str) -> None:
    """The lease file is that image, but for padding."""
    ours, theirs = bytearray(world.areas[RESOURCE]), bytearray(image(name))
    for area in (ours, theirs):
        area[532:536] = bytes(4)
        for host_id in (1, 2, 7):
            at = world.geo.dblock(host_id) + MODE_AT
            area[at + 4 : at + 8] = bytes(4)
    assert ours == theirs


def held(world: World, host_id: int, shared: bool = False) -> Held:
    found = world.hosts[host_id].task(
        still_held(world.lease, world.hosts[host_id].me, world.geo, world.leader.lver, shared)
    )
    result = found.run()
    assert result
    return result


def masked(ios: list[tuple[str, int, int, bytes]], dblock_at: int) -> list[tuple[str, int, int, bytes]]:
    """Without the padding of mode blocks."""
    found = []
    for op, offset, length, data in ios:
        if offset == dblock_at and len(data) > MODE_AT:
            clean = bytearray(data)
            clean[GARBAGE] = bytes(len(clean[GARBAGE]))
            data = bytes(clean).rstrip(b"\0")
        found.append((op, offset, length, data))
    return found


def test_acquire_of_a_free_lease() -> None:
    here = world("resource_fresh_512_1M", 1579)
    task = here.host(1).acquire()
    task.run()
    assert task.trace() == trace("acquire_free_host1", 1)
    assert_lease(here, "resource_acquired_host1")


def test_acquire_of_a_lease_that_a_living_host_holds() -> None:
    here = world("resource_acquired_host1", 1579)
    one, two = here.host(1), here.host(2)
    two.renew()
    here.now += 1
    one.renew()
    task = two.acquire()
    task.raises(HeldByOther)
    assert task.trace() == trace("acquire_held_by_live_host1_tried_by_host2 (result -243)", 2)


def test_release() -> None:
    here = world("resource_acquired_host1", 1579)
    one = here.host(1)
    task = one.release(held(here, 1))
    task.run()
    assert [io[:3] for io in task.trace()[:1]] == [("write", 1024, 512)]
    assert task.trace()[1:] == trace("release_host1", 1)
    assert_lease(here, "resource_released_host1")


def test_acquire_after_another_host() -> None:
    here = world("resource_released_host1", 1579)
    here.host(1)
    task = here.host(2).acquire()
    task.run()
    assert task.trace() == trace("reacquire_host2_lver2", 2)
    assert_lease(here, "resource_acquired_host2_lver2")


def test_shared_acquire_of_a_free_lease() -> None:
    here = World(name=resource_name("resource_shared_host1"), now=1587)
    task = here.host(1).acquire(shared=True)
    task.run()
    assert task.trace() == masked(trace("shared_acquire_host1", 1), 1024)
    assert_lease(here, "resource_shared_host1")


def test_shared_acquire_beside_another_sharer() -> None:
    here = world("resource_shared_host1", 1587)
    here.host(1)
    task = here.host(2).acquire(shared=True)
    task.run()
    assert task.trace() == masked(trace("shared_acquire_host2", 2), 1536)
    assert_lease(here, "resource_shared_hosts_1_2")


def test_exclusive_acquire_that_meets_living_sharers_in_its_ballot() -> None:
    """We look at the sharers before the ballot too; here they appear just after that look."""
    here = world("resource_shared_hosts_1_2", 1587)
    for host_id in (1, 2):
        here.host(host_id)
    seven = here.host(7)
    seven.renew()
    whole = bytes(here.areas[RESOURCE])
    for host_id in (1, 2):
        at = here.geo.dblock(host_id) + MODE_AT
        here.areas[RESOURCE][at : at + 16] = bytes(16)
    task = seven.acquire().until(Write)
    here.areas[RESOURCE][:] = whole
    error = task.raises(SharedByOthers)
    assert error.hosts == "1, 2"
    assert task.trace() == trace("exclusive_tried_by_host7_while_shared (result -EAGAIN)", 7)


def test_release_of_a_shared_lease() -> None:
    here = world("resource_shared_hosts_1_2", 1587)
    task = here.host(1).release(held(here, 1, shared=True))
    task.run()
    assert [io[:3] for io in task.trace()] == [("write", 1024, 512)]
    assert here.sector(1).dblock.released
    assert here.sector(1).mode == ModeBlock()
    at = here.geo.dblock(1)
    assert here.areas[RESOURCE][at : at + 512] == image("resource_shared_host2_only")[at : at + 512]


def test_the_ballot_of_a_conversion_carries_the_mode_block_throughout() -> None:
    here = world("resource_shared_host2_only", 1587)
    two = here.host(2)
    steps = ballot(here.lease, two.me, here.geo, 2000, 4, 6002, here.sector(2).dblock, None, mode=ModeBlock(1, 1))
    task = two.task(steps)
    assert isinstance(task.run(), Won)
    expected = masked(trace("convert_shared_to_exclusive_host2", 2)[1:5], 1536)
    assert masked(task.trace(), 1536) == expected


def test_from_exclusive_to_shared() -> None:
    here = World(name=resource_name("resource_shared_host2_only"), now=1587)
    here.put(RESOURCE, 0, trace("convert_shared_to_exclusive_host2", 2)[5][3])
    here.put_sector(2, trace("convert_shared_to_exclusive_host2", 2)[6][3])
    two = here.host(2)
    task = two.task(become_shared(here.lease, two.me, held(here, 2), None))
    assert task.run().shared
    assert task.trace() == masked(trace("convert_exclusive_to_shared_host2", 2), 1536)


def test_acquire_with_4_kib_sectors_and_8_mib() -> None:
    name = "resource_fresh_4K_8M"
    here = World(image(name), name=resource_name(name), geo=geometry(4096, 8 * MIB), now=1596)
    task = here.host(7).acquire()
    task.run()
    assert task.trace() == trace("acquire_free_host7_4K_8M", 7)


def test_a_host_that_expects_other_sizes_reads_once_more_and_is_right() -> None:
    name = "resource_fresh_4K_8M"
    here = World(image(name), name=resource_name(name), geo=geometry(4096, 8 * MIB), now=1596)
    seven = here.host(7)
    task = seven.task(paxos.acquire(here.lease, seven.me))
    task.run()
    assert task.trace() == [("read", 0, MIB, b""), *trace("acquire_free_host7_4K_8M", 7)]


def test_the_value_of_a_dead_host_is_adopted_and_committed() -> None:
    """-245: the recorded step ends there; ours goes on to the next version at once."""
    here = world("resource_ballot_phase2_only_host1", 1631)
    here.host(1, generation=3)
    two = here.host(2, generation=2)
    task = two.acquire().until(Write, 0)
    task.step()
    assert task.trace() == trace("host2_adopts_value_of_host1", 2)
    assert_lease(here, "resource_ballot_phase2_adopted_by_host2")
    task.run()
    assert here.owner() == (2, 2)
    assert here.leader.lver == 2


def test_a_ballot_that_another_host_finished_and_the_release_after_it() -> None:
    here = world("resource_fresh_512_1M", 1638)
    here.lease = World(name=resource_name("resource_phase2_host2_paused")).lease
    here.areas[RESOURCE][:] = World(name=resource_name("resource_phase2_host2_paused")).areas[RESOURCE]
    one, two = here.host(1, generation=5), here.host(2, generation=2)
    owner = two.acquire().until(Read, 0, count=3)
    assert_lease(here, "resource_phase2_host2_paused")
    here.now = 1640.0
    helper = one.acquire().until(Write, 0)
    helper.step()
    assert helper.trace() == trace("other_commit", 1)
    assert_lease(here, "resource_committed_by_other")
    proof = owner.run()
    theirs = trace("other_commit", 2)
    assert owner.trace()[:6] == theirs[:6]
    reread = [("read", 1536, 512, b""), ("read", 0, MIB, b"")]
    assert owner.trace()[6:] == reread, "our own block and the sharers, which no ballot of ours has seen"
    release = two.release(proof)
    release.run()
    assert release.trace() == theirs[6:]
    assert_lease(here, "resource_released_by_dblock_only")


def test_acquire_after_a_release_that_only_the_flag_tells() -> None:
    here = world("resource_released_by_dblock_only", 1641)
    here.host(2, generation=2)
    one = here.host(1, generation=5)
    one.renew()
    task = one.acquire()
    task.run()
    assert task.trace() == trace("acquire_after_dblock_release", 1)
    assert_lease(here, "resource_acquired_host1_after_dblock_release")


def test_two_hosts_commit_the_same_value() -> None:
    here = World(name=resource_name("resource_phase2_host2_paused"), now=1641)
    one, two = here.host(1, generation=5), here.host(2, generation=2)
    owner = two.acquire().until(Write, 0)
    here.now = 1643.0
    helper = one.acquire().until(Write, 0)
    helper.step()
    assert helper.trace() == trace("two_commits", 1)
    here.now = 1641.0
    owner.run()
    assert owner.trace() == trace("two_commits", 2)
    assert here.owner() == (2, 2)
