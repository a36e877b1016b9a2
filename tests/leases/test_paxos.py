# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking a lease (format document, 7.1, 7.2, 7.6), in interleavings chosen by hand on a disk in memory.

"Row N" in a docstring is the row of the list of the reference's past errors (protocol safety, 4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leases.disk import WHERE, Host, Task, World
from tests.leases.images import image, resource_name
from vlhook.leases import paxos
from vlhook.leases.effects import RESOURCE, Member, Random, Read, Sleep, Write
from vlhook.leases.errors import (
    Abandoned,
    BadDblockChecksum,
    BadLeaderChecksum,
    BadMagic,
    BadResourceName,
    BadSpaceName,
    BadVersion,
    Busy,
    ClaimedByOther,
    Cleared,
    HeldByOther,
    LeaseError,
    LockspaceLost,
    NotMember,
    NumHostsTooSmall,
    OwnerMaybeDead,
    RecordError,
    SharedByOthers,
    ShortHoldsGoOn,
    StorageError,
    UnsupportedFlags,
    VersionConditionFailed,
)
from vlhook.leases.geometry import MIB, geometry
from vlhook.leases.holder import RUNNING, HolderRecord, decode_holder
from vlhook.leases.records import PAXOS_VERSION, Dblock, ModeBlock, host_sector, pad_name
from vlhook.leases.release import Held

RECORD = HolderRecord(0, 0, 0, 1_700_000_000, bytes(16), RUNNING, "web1", "/images/web1.qcow2")


def three_hosts(**options: Any) -> tuple[World, Host, Host, Host]:
    world = World(**options)
    return world, world.host(1), world.host(2), world.host(3)


def refused(task: Task[Any]) -> None:
    """It ends because another host holds the lease, or may hold it."""
    with pytest.raises((HeldByOther, OwnerMaybeDead)):
        task.run()


def put_block(world: World, host_id: int, block: Dblock, mode: ModeBlock | None = None) -> None:
    world.put_sector(host_id, host_sector(world.geo, block, mode or ModeBlock()))


# --------------------------------------------------------------------------------------- the plain cases


def test_a_free_lease_is_taken_and_the_proof_is_what_stands_on_the_disk() -> None:
    """Row 35: the version was never copied back, and 0 was told."""
    world, one, _, _ = three_hosts()
    held = one.acquire().run()
    assert (held.lver, held.leader, held.dblock) == (1, world.leader, world.sector(1).dblock)
    assert world.owner() == (1, 1)
    assert not held.shared


def test_each_decision_raises_the_version_by_one() -> None:
    world, one, two, _ = three_hosts()
    versions = []
    for host, shared in ((one, False), (two, False), (one, True), (two, True)):
        held = host.acquire(shared=shared).run()
        versions.append(held.lver)
        host.release(held).run()
    assert versions == [1, 2, 3, 4]


def test_what_this_generation_owns_already_is_taken_again() -> None:
    """Trap 6: exclusion between guests of one host is the engine's own table's."""
    _, one, _, _ = three_hosts()
    one.acquire().run()
    assert one.acquire().run().lver == 2


def test_a_ballot_is_above_every_block_of_any_version() -> None:
    """Row 17: the new number was based on the own old one, not on the greatest of all."""
    world, one, _, _ = three_hosts()
    put_block(world, 9, Dblock(mbal=8009, lver=0))
    put_block(world, 1, Dblock(mbal=1, lver=0))
    one.acquire().run()
    assert world.sector(1).dblock.mbal == 10001


@pytest.mark.parametrize(("host_id", "greatest", "expected"), [(2000, 0, 2000), (2000, 1, 4000), (1, 2000, 4001)])
def test_ballot_numbers_are_the_host_id_modulo_the_number_of_hosts(host_id: int, greatest: int, expected: int) -> None:
    world = World()
    host = world.host(host_id)
    if greatest:
        put_block(world, 5, Dblock(mbal=greatest))
    host.acquire().run()
    assert world.sector(host_id).dblock.mbal == expected
    assert expected % 2000 == host_id % 2000


def test_each_phase_is_one_write_then_one_read_of_all_sectors() -> None:
    """Row 10: blocks were read by several I/Os. Invariant 1: write first, then read."""
    world, one, _, _ = three_hosts(num_hosts=8)
    task = one.acquire()
    task.run()
    own, sectors = world.geo.dblock(1), 16 * 512
    assert [io[:3] for io in task.trace()] == [
        ("read", 0, MIB),
        ("write", own, 512), ("read", 0, sectors),
        ("write", own, 512), ("read", 0, sectors),
        ("write", 0, 512),
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
def test_every_write_is_preceded_by_the_question_whether_our_lease_is_good(shared: bool) -> None:
    """Invariant 13."""
    _, one, _, _ = three_hosts()
    task = one.acquire(shared=shared)
    task.run()
    for before, effect in zip(task.effects, task.effects[1:]):
        assert not isinstance(effect, Write) or isinstance(before, Member)


def test_a_host_writes_its_own_sector_and_the_leader_and_nothing_else() -> None:
    world, one, _, _ = three_hosts()
    for shared in (False, True):
        one.release(one.acquire(shared=shared).run()).run()
    assert {offset for area, offset in world.writes(1) if area == RESOURCE} == {0, 1024}


def test_a_host_that_stood_still_writes_no_further() -> None:
    """Invariant 13: a process that was stopped for minutes must not finish an old step."""
    world, one, _, _ = three_hosts()
    for count in range(1, 4):
        task = one.acquire().until(Member, count=count)
        written = len(world.writes())
        world.now += 8
        task.raises(NotMember)
        assert len(world.writes()) == written
        world.jump(0)


def test_an_acquire_on_condition_of_the_version() -> None:
    world, one, two, _ = three_hosts()
    held = one.acquire().run()
    one.release(held).run()
    error = two.acquire(want_lver=7).raises(VersionConditionFailed)
    assert error.result == -240
    assert "is at version 1, the condition was 7" in str(error)
    two.release(two.acquire(want_lver=held.lver).run()).run()
    one.acquire(want_lver=held.lver).raises(VersionConditionFailed)
    assert world.owner() is None


# ------------------------------------------------------------------------------------ who owns what was decided


def phase2_of_a_dead_host(world: World, generation: int = 1) -> None:
    """Host 1 of that generation died after the write of its phase 2 for version 1."""
    host = world.host(1, generation)
    host.acquire().until(Read, 0, count=3)
    host.die()


def test_who_finishes_the_ballot_of_another_does_not_own() -> None:
    """Row 1: a host that finished a ballot assumed that it owned."""
    world = World()
    phase2_of_a_dead_host(world)
    two = world.host(2)
    refused(two.acquire())
    assert (world.leader.owner_id, world.leader.owner_generation, world.leader.write_id) == (1, 1, 2)


def test_who_finishes_the_ballot_of_a_host_that_is_gone_owns_the_next_version() -> None:
    world = World()
    phase2_of_a_dead_host(world)
    world.hosts[1].rejoin()
    two = world.host(2)
    held = two.acquire().run()
    assert held.lver == 2
    assert world.owner() == (2, 1)


def test_a_host_is_not_the_owner_by_a_value_of_its_dead_generation() -> None:
    """Row 36, protocol safety 1: the hole in the reference.

    Host 1, generation 1, got to phase 2 of version 1. Host 2 adopted that value and stopped. Host 1 comes back
    as generation 2 and acquires: what it can only decide for version 1 is (1, 1). If it took that for its own,
    every third host could take the lease from under its guest.
    """
    world = World()
    one, two = world.host(1), world.host(2)
    one.acquire().until(Read, 0, count=3)
    two.acquire().until(Read, 0, count=3)
    assert (world.sector(2).dblock.inp, world.sector(2).dblock.inp2) == (1, 1)
    again = one.rejoin()
    two.die()
    held = again.acquire().run()
    assert again.me.owns(held.leader)
    assert world.owner() == (1, 2)
    assert held.lver == 2, "version 1 is the dead generation's"
    third = world.host(3)
    third.renew()
    refused(third.acquire())
    assert world.owner() == (1, 2)


def test_an_owner_whose_value_another_host_committed_knows_it() -> None:
    world, one, two, _ = three_hosts()
    task = one.acquire().until(Read, 0, count=3)
    two.acquire().until(Write, 0).step()
    held = task.run()
    assert (held.lver, world.leader.write_id) == (1, 2)
    assert world.owner() == (1, 1)


def test_after_a_commit_by_another_our_own_block_is_read_back() -> None:
    """Row 27: garbage was written back, and peers gave up for ever ('larger lver').

    Our later ballot has rewritten our block meanwhile: what is kept, and written at release, is what stands there.
    """
    world, one, two, three = three_hosts()
    task = one.acquire().until(Read, 0, count=3)  # phase 2 written
    helper = two.acquire().until(Write, 0)  # host 2 has adopted it
    task.until(Read, 0, count=3)  # lost, slept, read the leader, phase 1 of a greater ballot written
    three.acquire().until(Write, world.geo.dblock(3)).step()  # greater still
    task.until(Sleep)
    helper.step()  # host 2 commits our value
    refused(helper)
    held = task.run()
    assert (held.leader, held.dblock) == (world.leader, world.sector(1).dblock)
    assert held.dblock.mbal > world.sector(2).dblock.mbal
    one.release(held).run()
    assert world.sector(1).dblock == held.dblock.with_released()
    assert world.host(4).acquire().run().lver == held.lver + 1


def test_after_a_commit_by_another_sharers_are_looked_for() -> None:
    """No phase 1 read of ours, after which nobody can be missed, has seen them."""
    world, one, two, three = three_hosts()
    sharer = three.acquire(shared=True).run()
    assert sharer.shared
    whole = bytes(world.areas[RESOURCE])
    put_block(world, 3, sharer.dblock)
    task = one.acquire().until(Read, 0, count=3)
    other = two.acquire().until(Write, 0)
    other.step()
    at = world.geo.dblock(3)
    world.put(RESOURCE, at, whole[at : at + 512])
    three.renew()
    task.raises(SharedByOthers)
    assert world.owner() is None


# -------------------------------------------------------------------------------------------- ballots that meet


def test_only_the_latest_version_counts_in_a_ballot() -> None:
    """Row 7: ballots are per version; blocks of older versions hold no value and stop nobody."""
    world, one, two, _ = three_hosts()
    held = two.acquire().run()
    two.release(held).run()
    put_block(world, 9, Dblock(90009, 90009, 9, 1, 5, 1))  # version 1, far above
    late = one.acquire().run()
    assert (late.lver, world.owner()) == (2, (1, 1))


def test_the_value_of_the_greatest_ballot_is_adopted() -> None:
    world = World()
    for host_id in (5, 6, 7, 8):
        world.host(host_id)
    put_block(world, 5, Dblock(2005, 2005, 5, 1, 50, 1))
    put_block(world, 6, Dblock(4006, 4006, 6, 1, 60, 1))
    put_block(world, 7, Dblock(6007, 0, 0, 0, 0, 1))
    task = world.host(1).acquire().until(Write, 0)
    assert isinstance(task.next, Write)
    assert (world.sector(1).dblock.inp, world.sector(1).dblock.inp3) == (6, 60)
    assert world.sector(1).dblock.bal == world.sector(1).dblock.mbal > 6007


@pytest.mark.parametrize(
    "block", [Dblock(7, 0, 9, 1, 5, 1), Dblock(7, 7, 0, 1, 5, 1), Dblock(7, 7, 9, 1, 5, 0), Dblock(7)]
)
def test_a_block_without_an_accepted_value_of_this_version_is_no_candidate(block: Dblock) -> None:
    world = World()
    put_block(world, 7, block)
    one = world.host(1)
    one.acquire().run()
    assert world.owner() == (1, 1)


@pytest.mark.parametrize("phase", [1, 2])
def test_a_greater_ballot_of_another_host_aborts_ours(phase: int) -> None:
    world, one, two, _ = three_hosts()
    task = one.acquire().until(Read, 0, count=1 + phase)
    rival = two.acquire().until(Write, 1536)
    rival.step()  # its phase 1, with a number above ours
    task.until(Random)
    assert world.writes(1)[-1][1] == 1024, "no commit"
    task.until(Sleep)
    if phase == 1:
        rival.run()
        refused(task)
        assert world.owner() == (2, 1)
    else:
        refused(rival)  # it adopted our value, and committed it
        assert (world.leader.owner_id, world.leader.write_id) == (1, 2)
        assert task.run().lver == 1


def test_a_smaller_ballot_of_another_host_does_not_stop_ours() -> None:
    world, one, two, _ = three_hosts()
    slow = two.acquire().until(Write, 1536)  # has chosen its number
    task = one.acquire().until(Read, 0, count=2)
    put_block(world, 9, Dblock(mbal=0, lver=1))
    held = task.run()
    assert held.lver == 1
    refused(slow)
    assert world.owner() == (1, 1)


def test_after_an_aborted_ballot_comes_a_random_pause_of_at_most_a_second_and_a_greater_number() -> None:
    """Row 8: contenders went round for ever."""
    world, one, two, _ = three_hosts()
    world.random = lambda: 0.75
    task = one.acquire().until(Read, 0, count=2)
    two.acquire().until(Write, 1536).step()
    before = world.sector(1).dblock.mbal
    task.until(Sleep)
    assert task.next == Sleep(0.75)
    task.until(Write, 1024)
    task.step()
    after = world.sector(1).dblock.mbal
    assert after > max(before, world.sector(2).dblock.mbal)
    assert after % 2000 == 1


def test_contenders_with_different_pauses_come_to_an_end() -> None:
    """Row 8: livelock. Three hosts, a step each in turn, pauses that differ."""
    world, *hosts = three_hosts()
    pauses = iter(x / 100 for x in range(7, 10_000, 13))
    world.random = lambda: next(pauses) % 1
    tasks = [host.acquire() for host in hosts]
    waking = dict.fromkeys(range(3), 0.0)
    for _ in range(5000):
        for i, task in enumerate(tasks):
            if task.done or world.now < waking[i]:
                continue
            if isinstance(task.next, Sleep):
                waking[i] = world.now + task.next.seconds
                task.next = replace(task.next, seconds=0)
            else:
                task.step()
            if isinstance(task.next, Sleep) and not task.next.seconds:
                task.step()
        world.now += 0.01
        if all(task.done for task in tasks):
            break
    winners = [task for task in tasks if task.done and not task.error]
    assert all(task.done for task in tasks)
    assert len(winners) == 1
    assert winners[0].host.me.owns(world.leader)


def test_a_later_version_during_a_ballot_means_starting_over() -> None:
    """Row 28: a larger version was not retried."""
    world, one, two, _ = three_hosts()
    task = one.acquire().until(Write, 1024)
    for _ in range(2):
        two.release(two.acquire().run()).run()
    held = task.run()
    assert held.lver == 3
    assert world.owner() == (1, 1)


def test_a_leader_that_changed_during_the_pause_means_starting_over() -> None:
    """Row 16: after every wait the leader is read again."""
    world, one, two, _ = three_hosts()
    task = one.acquire().until(Read, 0, count=2)
    rival = two.acquire().until(Write, 0)
    task.until(Sleep)
    two.release(rival.run()).run()
    held = task.run()
    assert held.lver == 2
    assert world.owner() == (1, 1)


def test_the_version_comes_from_the_leader_that_was_judged() -> None:
    """Invariant 4: a host that read a free leader must not take what somebody decided meanwhile."""
    world, one, two, _ = three_hosts()
    task = one.acquire().until(Write, 1024)
    two.acquire().run()
    refused(task)
    assert world.owner() == (2, 1)


def given_up_in_phase_2(host: Host) -> None:
    attempt = host.acquire().until(Read, 0, count=3)
    attempt.cancel()
    attempt.raises(Abandoned)


def test_a_version_that_we_gave_up_is_not_ours_when_we_decide_it_ourselves() -> None:
    """Our value still has to be decided for it; but whoever saw the flag may rely on it."""
    world, one, _, _ = three_hosts()
    given_up_in_phase_2(one)
    assert one.acquire().run().lver == 2
    assert world.owner() == (1, 1)
    assert not world.sector(1).dblock.released


def test_a_version_that_we_gave_up_is_not_ours_when_another_commits_it() -> None:
    """The flag RELEASED stays for its version: host 3 has already relied on it when host 1 tries anew."""
    world, one, two, three = three_hosts()
    attempt = one.acquire().until(Read, 0, count=3)  # phase 2 written
    helper = two.acquire().until(Write, 0)  # adopted, about to commit
    attempt.cancel()
    attempt.raises(Abandoned)
    again = one.acquire().until(Read, 0, count=2)
    assert world.sector(1).dblock.released, "phase 1 of the same version keeps it"
    world.host(4).acquire().until(Write, world.geo.dblock(4)).step()  # a greater ballot
    again.until(Sleep)
    helper.step()  # the leader names host 1, and version 1
    taken = three.acquire().until(Write, 0)  # by the flag, version 2
    again.until(Read, 0)
    again.step()  # reads that leader
    taken.run()
    assert not (again.done and not again.error), "both hold"
    refused(again)
    assert world.owner() == (3, 1)


def test_a_late_commit_of_an_old_version_does_not_free_a_newer_one() -> None:
    """Row 23, and format document 7.4: the leader is behind; the latest version's blocks put it right."""
    world, one, two, three = three_hosts()
    owner = one.acquire().until(Read, 0, count=3)
    helper = two.acquire().until(Write, 0)
    one.release(owner.run()).run()
    three.acquire().run()
    assert (world.leader.lver, world.owner()) == (2, (3, 1))
    helper.step()
    assert world.leader.lver == 1, "an old version over a newer one"
    four = world.host(4)
    refused(four.acquire())
    assert (world.leader.lver, world.owner()) == (2, (3, 1))


def test_a_sector_of_ours_that_an_owner_emptied_during_our_ballot_costs_only_the_ballot() -> None:
    """An exclusive owner clears the mode block of our former generation just when we ballot."""
    world, one, two, three = three_hosts()
    one.acquire(shared=True).run()
    again = one.rejoin()
    owner = two.acquire().until(Write, 1024)  # it holds, and is about to zero sector 1
    loser = again.acquire()
    loser_at = world.leader
    assert not loser_at.free
    three.renew()
    world.edit_leader(timestamp=0)  # what host 1 reads in its slow first read
    loser.until(Write, 1024)
    world.leader = loser_at
    loser.step()
    owner.step()
    assert owner.done
    refused(loser)
    assert world.owner() == (2, 1)


def test_a_second_machine_with_our_id_is_noticed_in_the_ballot() -> None:
    world, one, _, _ = three_hosts()
    task = one.acquire().until(Read, 0, count=2)
    put_block(world, 1, Dblock(4001, 0, 0, 0, 0, 1))
    error = task.raises(LockspaceLost)
    assert "second machine with this id" in str(error)


def test_a_damaged_block_of_another_host_ends_the_ballot() -> None:
    """[stricter] than the reference, which skips it: it could hide a decision."""
    world, one, two, _ = three_hosts()
    two.release(two.acquire().run()).run()
    for count in (1, 2, 3):
        task = one.acquire().until(Read, 0, count=count)
        world.areas[RESOURCE][world.geo.dblock(2)] ^= 1
        error = task.raises(BadDblockChecksum)
        assert error.result == -214
        assert "dblock of host 2" in str(error)
        world.areas[RESOURCE][world.geo.dblock(2)] ^= 1
    assert world.owner() is None
    one.acquire().run()


# ---------------------------------------------------------------------------------------------- shared mode


def test_several_hosts_share() -> None:
    world, one, two, three = three_hosts()
    for host in (one, two, three):
        assert host.acquire(shared=True, record=RECORD).run().shared
    assert world.owner() is None
    assert [world.sector(h).mode for h in (1, 2, 3)] == [ModeBlock(1, 1)] * 3
    assert all(world.sector(h).dblock.released for h in (1, 2, 3))


def test_sharers_keep_exclusive_hosts_out_and_are_not_disturbed() -> None:
    world, one, two, _ = three_hosts()
    one.acquire(shared=True).run()
    before = bytes(world.areas[RESOURCE])
    task = two.acquire()
    error = task.raises(SharedByOthers)
    assert error.result == -11
    assert bytes(world.areas[RESOURCE]) == before, "no ballot that could only be given back"


def test_an_exclusive_owner_keeps_sharers_out() -> None:
    world, one, two, _ = three_hosts()
    one.acquire().run()
    two.renew()
    refused(two.acquire(shared=True))
    assert world.owner() == (1, 1)


def test_a_sharer_that_appears_during_the_ballot_is_seen() -> None:
    """Invariant 12: mode blocks count from the read that followed our phase 1 write."""
    world, one, two, _ = three_hosts()
    task = one.acquire().until(Write, 1024)
    sharer = two.acquire(shared=True).until(Write, 0)
    sharer.run()
    task.raises(SharedByOthers)
    assert world.owner() is None
    assert world.sector(2).mode.shared


def test_a_sharer_that_just_gave_up_does_not_count() -> None:
    """Row 30: a shared holder that had just released counted as held."""
    world, one, two, _ = three_hosts()
    held = two.acquire(shared=True).run()
    put_block(world, 2, held.dblock)  # not seen by the look before the ballot
    task = one.acquire().until(Write, 1024)
    put_block(world, 2, held.dblock, ModeBlock(1, 1))
    task.until(Write, 0)
    task.step()
    two.release(held).run()
    assert task.run()
    assert world.owner() == (1, 1)
    assert world.sector(2).dblock == held.dblock, "a living host's sector is not cleared"


def test_dead_sharers_are_cleared_only_when_no_living_one_is_left() -> None:
    world, one, two, three = three_hosts()
    one.acquire(shared=True).run()
    two.acquire(shared=True).run()
    three.renew()
    one.die()
    world.jump(70)
    three.acquire().raises(SharedByOthers)
    assert world.sector(1).mode.shared
    two.leave()
    three.acquire().run()
    assert world.sector(1) == replace(world.sector(1), dblock=Dblock(), mode=ModeBlock())
    assert world.owner() == (3, 1)


def test_a_sharer_leaves_the_dead_alone() -> None:
    world, one, two, _ = three_hosts()
    one.acquire(shared=True).run()
    two.renew()
    one.die()
    world.jump(70)
    two.acquire(shared=True).run()
    assert world.sector(1).mode.shared


def test_our_own_former_generations_mode_block_goes_with_our_next_ballot() -> None:
    world, one, _, _ = three_hosts()
    one.acquire(shared=True).run()
    again = one.rejoin()
    again.acquire().run()
    assert world.sector(1).mode == ModeBlock()
    assert world.owner() == (1, 2)


def test_the_mode_block_survives_the_release_of_others_and_carries_the_generation() -> None:
    """Row 24: a fix zeroed the mode block too, and a shared lease was lost."""
    world = World()
    one, two = world.host(1, generation=5), world.host(2)
    one.acquire(shared=True).run()
    held = two.acquire(shared=True).run()
    two.release(held).run()
    assert world.sector(1).mode == ModeBlock(1, 5)


def test_a_short_hold_of_another_sharer_is_waited_out() -> None:
    """Row 20: a shared acquire holds exclusively for a moment, and its peers failed."""
    world, one, two, _ = three_hosts()
    passing = one.acquire(shared=True).until(Write, 1024, count=3)  # the leader is written, the mode block not
    assert world.leader.short_hold
    task = two.acquire(shared=True).until(Sleep)
    passing.run()
    assert task.run().shared
    assert world.sector(1).mode.shared


def test_short_holds_are_waited_for_eight_times_and_no_more() -> None:
    """-246."""
    world, one, two, _ = three_hosts()
    one.acquire(shared=True).until(Write, 1024, count=3)
    task = two.acquire(shared=True)
    error = task.raises(ShortHoldsGoOn)
    assert error.result == -246
    assert len([e for e in task.effects if isinstance(e, Sleep)]) == 8
    assert world.owner() == (1, 1)


def test_an_exclusive_acquire_does_not_wait_for_a_short_hold() -> None:
    _, one, two, _ = three_hosts()
    one.acquire(shared=True).until(Write, 1024, count=3)
    task = two.acquire()
    refused(task)
    assert not [e for e in task.effects if isinstance(e, Sleep)]


def test_a_short_hold_left_by_a_dead_host_is_no_obstacle_once_it_is_gone() -> None:
    name = "resource_short_hold_leader_only_host1"
    world = World(image(name), name=resource_name(name))
    world.host(1, generation=4)
    assert world.host(2).acquire().run().lver == 2
    assert not world.leader.short_hold


# ---------------------------------------------------------------------------------------------------- claims


def claimed_by_two(world: World, claimer: Host) -> None:
    put_block(world, claimer.me.host_id, Dblock(flags=1), ModeBlock(0x3, claimer.me.generation))


def test_a_claim_keeps_exclusive_hosts_out() -> None:
    """Safety rules, 19."""
    world, _, two, three = three_hosts()
    claimed_by_two(world, two)
    three.acquire().raises(SharedByOthers)


def test_a_claim_keeps_sharers_out() -> None:
    """Safety rules, 19: vlhook refuses a shared acquire while a host that is not known dead shows it."""
    world, _, two, three = three_hosts()
    claimed_by_two(world, two)
    error = three.acquire(shared=True).raises(ClaimedByOther)
    assert "is claimed by host 2" in str(error)
    assert world.owner() is None
    assert not world.sector(3).mode.shared


def test_a_claim_of_a_host_that_is_gone_keeps_nobody_out() -> None:
    world, _, two, three = three_hosts()
    claimed_by_two(world, two)
    two.leave()
    assert three.acquire(shared=True).run().shared


# --------------------------------------------------------------------------------------------- the holder record


def test_the_holder_record_is_written_with_the_lease_and_tagged_with_it() -> None:
    world, one, _, _ = three_hosts()
    held = one.acquire(record=RECORD).run()
    found = decode_holder(world.sector(1).holder_bytes)
    assert found == RECORD.tagged(1, 1, held.lver)
    assert one.area().holder_record() == found


def test_a_sharers_holder_record_is_kept_beside_its_mode_block() -> None:
    world, one, _, _ = three_hosts()
    held = one.acquire(shared=True, record=RECORD).run()
    assert decode_holder(world.sector(1).holder_bytes) == RECORD.tagged(1, 1, held.lver)


def test_who_adopts_anothers_value_does_not_name_its_guest() -> None:
    world = World()
    phase2_of_a_dead_host(world)
    task = world.host(2).acquire(record=RECORD).until(Write, 0)
    assert isinstance(task.next, Write)
    assert decode_holder(world.sector(2).holder_bytes) is None


# --------------------------------------------------------------------------------------- areas that are refused


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"magic": 0}, BadMagic, "no lease here: magic 0x00000000"),
        ({"magic": 0x11282016}, Cleared, "was cleared by a clean-up"),
        ({"version": 0x00080000}, BadVersion, "version 0x00080000 is not one vlhook knows (6.x or 7.x)"),
        ({"version": 0x00050004}, BadVersion, "version 0x00050004 is not one vlhook knows"),
        ({"flags": 0x12}, UnsupportedFlags, "flags 0x2"),
        ({"flags": 0x410}, UnsupportedFlags, "which vlhook does not implement"),
        ({"space_name": pad_name(b"OTHER")}, BadSpaceName, "belongs to lockspace OTHER"),
        ({"resource_name": pad_name(b"0" * 32)}, BadResourceName, "is the lease 0000"),
        ({"num_hosts": 2}, NumHostsTooSmall, "serves host ids up to 2, this host is 3"),
        ({"max_hosts": 250}, RecordError, "number of hosts"),
    ],
)
def test_an_area_that_is_not_ours_to_understand_is_refused_and_left_alone(
    changes: dict[str, Any], error: type[LeaseError], text: str
) -> None:
    world, _, _, three = three_hosts()
    world.edit_leader(**changes)
    before = bytes(world.areas[RESOURCE])
    caught = three.acquire().raises(error)
    assert text in str(caught)
    assert WHERE in str(caught)
    assert "\n" not in str(caught)
    assert bytes(world.areas[RESOURCE]) == before


def test_a_damaged_leader_is_refused_and_left_alone() -> None:
    name = "resource_corrupt_leader_checksum"
    world = World(image(name), name=resource_name(name))
    error = world.host(1).acquire().raises(BadLeaderChecksum)
    assert error.result == -229
    assert bytes(world.areas[RESOURCE]) == image(name)


def test_a_damaged_block_is_refused_and_left_alone() -> None:
    name = "resource_corrupt_dblock2_checksum"
    world = World(image(name), name=resource_name(name))
    error = world.host(1).acquire().raises(BadDblockChecksum)
    assert error.result == -214
    assert bytes(world.areas[RESOURCE]) == image(name)


@pytest.mark.parametrize("version", [0x00060000, 0x00060009, 0x00070000])
def test_the_version_that_is_found_is_kept(version: int) -> None:
    """Trap 12; what sanlock 5.x made is used and stays what it is."""
    world, one, two, _ = three_hosts()
    world.edit_leader(version=version)
    held = one.acquire().run()
    assert world.leader.version == version
    one.release(held).run()
    two.acquire(shared=True).run()
    assert world.leader.version == version != PAXOS_VERSION


def test_num_hosts_and_names_are_kept() -> None:
    world, one, _, _ = three_hosts(num_hosts=8)
    before = world.leader
    one.release(one.acquire().run()).run()
    after = world.leader
    for field in ("num_hosts", "max_hosts", "sector_size", "space_name", "resource_name", "flags", "version"):
        assert getattr(after, field) == getattr(before, field)


@pytest.mark.parametrize("mib", [1, 2, 4, 8])
def test_leases_with_4_kib_sectors_are_taken_shared_and_given_back(mib: int) -> None:
    """Row 32: mix-ups of sizes wrote to wrong places and read owners as none."""
    world, one, two, _ = three_hosts(geo=geometry(4096, mib * MIB))
    held = one.acquire().run()
    two.renew()
    refused(two.acquire())
    one.release(held).run()
    one.acquire(shared=True).run()
    two.acquire(shared=True).run()
    assert {offset % 4096 for _, offset in world.writes()} == {0}
    assert world.sector(2).mode.shared


def test_a_lease_of_other_sizes_than_expected_is_read_by_its_own() -> None:
    """Row 32: sizes come from the leader's flags only."""
    world = World(geo=geometry(4096, 8 * MIB))
    one = world.host(1)
    held = one.task(paxos.acquire(world.lease, one.me)).run()  # expects 512 bytes and 1 MiB
    assert held.geometry == world.geo
    assert world.owner() == (1, 1)


@pytest.mark.parametrize(
    "block", [Dblock(mbal=(1 << 64) - 1), Dblock(mbal=(1 << 64) - 1999), Dblock(lver=(1 << 64) - 1)]
)
def test_numbers_at_the_end_of_all_numbers_are_damage(block: Dblock) -> None:
    """The disk may be hostile (architecture, safety rule 8): an error, not an exception of Python's."""
    world, one, _, _ = three_hosts()
    put_block(world, 9, block)
    try:
        one.acquire().run()
    except LeaseError as error:
        assert "< 2^64" in str(error)
    with pytest.raises(LeaseError, match=r"< 2\^64"):
        one.acquire().run()


@given(st.binary(min_size=512, max_size=512), st.sampled_from([0, 512, 1024, 1536, 2048]))
@settings(max_examples=60)
def test_a_sector_of_garbage_ends_an_acquire_in_a_lease_error_at_worst(garbage: bytes, offset: int) -> None:
    world = World(num_hosts=8)
    one = world.host(1)
    world.put(RESOURCE, offset, garbage)
    task = one.acquire()
    while not task.done:
        task.step()
    assert task.error is None or isinstance(task.error, LeaseError), repr(task.error)


# ------------------------------------------------------------------- broken off at every step, in every way


def free(world: World) -> None:
    """Nobody ever had it."""


def of_a_dead_owner(world: World) -> None:
    world.host(4).acquire().run()
    world.hosts[4].rejoin()


def of_our_dead_generation(world: World) -> None:
    world.host(1).acquire().run()


def with_a_value_of_a_dead_host(world: World) -> None:
    world.host(4).acquire().until(Read, 0, count=3)
    world.hosts[4].rejoin()


def with_a_dead_sharer(world: World) -> None:
    world.host(4).acquire(shared=True).run()
    world.hosts[4].leave()


def with_a_living_sharer(world: World) -> None:
    world.host(4).acquire(shared=True).run()


def released_by_the_flag(world: World) -> None:
    four, five = world.host(4), world.host(5)
    owner = four.acquire().until(Read, 0, count=3)
    five.acquire().until(Write, 0).step()
    four.release(owner.run()).run()


def given_up_before(world: World) -> None:
    four = world.host(4)
    attempt = four.acquire().until(Read, 0, count=3)
    attempt.cancel()
    attempt.raises(Abandoned)


STATES = [
    free,
    of_a_dead_owner,
    of_our_dead_generation,
    with_a_value_of_a_dead_host,
    with_a_dead_sharer,
    with_a_living_sharer,
    released_by_the_flag,
    given_up_before,
]


def prepared(state: Any, shared: bool) -> tuple[World, Task[Held], Host]:
    """A lease in that state, host 1 (generation 2) about to acquire it, host 3 to see what is left."""
    world = World(geo=geometry(4096, MIB), num_hosts=8)  # fewer hosts: each look at the lockspace costs less
    three = world.host(3)
    three.renew()
    state(world)
    one = world.hosts[1].rejoin() if 1 in world.hosts else world.host(1, 2)
    three.renew()
    return world, one.acquire(shared=shared, record=RECORD), three


def length(state: Any, shared: bool) -> int:
    _, task, _ = prepared(state, shared)
    while not task.done:
        task.step()
    return len(task.effects)


def assert_nothing_left(world: World, three: Host, because: str) -> None:
    """Host 1 holds nothing, and host 3 gets the lease without any wait (shared, where host 4 shares it)."""
    assert world.owner() != (1, 2), because
    assert not world.sector(1).mode.shared, because
    living = world.sector(4).mode.shared and world.hosts[4].alive
    task = three.acquire(shared=living)
    try:
        task.run()
    except LeaseError as error:
        raise AssertionError(f"{because}: {error!r}") from error
    assert not [e for e in task.effects if isinstance(e, Sleep)], because
    if not living:
        assert world.owner() == (3, 1), because


all_states = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
modes = pytest.mark.parametrize("shared", [False, True], ids=["exclusive", "shared"])


@all_states
@modes
def test_an_acquire_that_is_cancelled_at_any_step_leaves_nothing(state: Any, shared: bool) -> None:
    """Format document 7.5; safety rules, 3."""
    for at in range(length(state, shared)):
        world, task, three = prepared(state, shared)
        task.steps(at).cancel()
        with pytest.raises(LeaseError):
            task.run()
        assert_nothing_left(world, three, f"cancelled at {at}")


@all_states
@modes
@pytest.mark.parametrize("landed", [False, True], ids=["not-written", "written"])
def test_an_acquire_that_meets_a_storage_error_at_any_io_leaves_nothing(state: Any, shared: bool, landed: bool) -> None:
    """Rows 9 and 21: whether the write that failed is on disk or not."""
    for at in range(length(state, shared)):
        world, task, three = prepared(state, shared)
        task.steps(at)
        if not isinstance(task.next, (Read, Write)) or (landed and isinstance(task.next, Read)):
            continue
        if landed:
            task.fail_landed()
        else:
            task.fail()
        with pytest.raises(StorageError):
            task.run()
        assert_nothing_left(world, three, f"error at {at}")


@all_states
@modes
def test_an_acquire_whose_clean_up_meets_storage_errors_too_leaves_nothing(state: Any, shared: bool) -> None:
    """Invariant 9: an uncertain acquire is resolved, not forgotten."""
    for at in range(length(state, shared)):
        world, task, three = prepared(state, shared)
        task.steps(at).cancel()
        errors = 0
        while not task.done:
            if isinstance(task.next, (Read, Write)) and errors < 5:
                errors += 1
                if isinstance(task.next, Write) and errors % 2:
                    task.fail_landed()
                else:
                    task.fail()
            else:
                task.step()
        assert_nothing_left(world, three, f"cancelled at {at}")


@all_states
@modes
def test_what_a_crash_at_any_step_left_is_settled_by_the_restarted_engine(state: Any, shared: bool) -> None:
    """Format document 10.3: the same generation resolves what it had begun."""
    for at in range(length(state, shared)):
        world, task, three = prepared(state, shared)
        task.steps(at)
        world.hosts[1].settle().run()
        assert_nothing_left(world, three, f"crashed at {at}")


@all_states
@modes
def test_what_a_crash_at_any_step_left_is_free_after_the_hosts_death(state: Any, shared: bool) -> None:
    for at in range(length(state, shared)):
        world, task, three = prepared(state, shared)
        task.steps(at)
        world.hosts[1].die()
        world.jump(70)
        living = world.sector(4).mode.shared and world.hosts[4].alive
        three.acquire(shared=living).run()


@all_states
@modes
def test_what_a_crash_at_any_step_left_is_free_after_the_hosts_return(state: Any, shared: bool) -> None:
    for at in range(length(state, shared)):
        world, task, three = prepared(state, shared)
        task.steps(at)
        again = world.hosts[1].rejoin()
        living = world.sector(4).mode.shared and world.hosts[4].alive
        three.acquire(shared=living).run()
        with pytest.raises((HeldByOther, OwnerMaybeDead, SharedByOthers)):
            again.acquire().run()


@all_states
@modes
def test_an_acquire_whose_host_lost_its_own_lease_at_any_step_writes_no_more(state: Any, shared: bool) -> None:
    for at in range(length(state, shared)):
        world, task, _ = prepared(state, shared)
        task.steps(at)
        while not task.done and not isinstance(task.next, Member):
            task.step()
        if task.done:
            continue
        written = len(world.writes(1))
        world.hosts[1].die()
        world.now += 8
        task.raises(NotMember)
        assert len(world.writes(1)) == written


# ------------------------------------------------------------------------------------ interleavings by chance


@given(
    st.lists(st.integers(0, 2), min_size=20, max_size=400),
    st.tuples(*[st.booleans()] * 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=120)
def test_in_no_interleaving_two_hosts_hold_at_once(schedule: list[int], shared: tuple[bool, ...], chance: Any) -> None:
    """At most one exclusive holder, and never one beside a sharer."""
    world = World(num_hosts=8)
    world.random = chance.random
    hosts = [world.host(host_id) for host_id in (1, 2, 3)]
    tasks: dict[int, Task[Any]] = {}
    held: dict[int, Held] = {}
    for turn in schedule:
        host, task = hosts[turn], tasks.get(turn)
        if task is None or task.done:
            if turn in held:
                tasks[turn] = host.release(held.pop(turn))
            else:
                tasks[turn] = host.acquire(shared=shared[turn])
            continue
        if isinstance(task.next, Sleep):
            task.next = replace(task.next, seconds=0)
        acquiring = turn not in held
        task.step()
        if task.done and not task.error and isinstance(task.result, Held) and acquiring:
            held[turn] = task.result
        assert task.error is None or isinstance(task.error, Busy), repr(task.error)
        exclusive = [t for t in held if not held[t].shared]
        assert len(exclusive) <= 1
        assert not exclusive or len(held) == 1


# ------------------------------------------------------------------------------------- the brief way in


def test_brief_reads_leader_and_own_sector_and_after_each_phase_everything() -> None:
    world, _, two, _ = three_hosts(num_hosts=8)
    task = two.acquire(brief=True)
    task.run()
    own, sectors = world.geo.dblock(2), 16 * 512
    assert [io[:3] for io in task.trace()] == [
        ("read", 0, own + 512),
        ("write", own, 512), ("read", 0, sectors),
        ("write", own, 512), ("read", 0, sectors),
        ("write", 0, 512),
    ]  # fmt: skip
    assert world.owner() == (2, 1)


def test_brief_reads_everything_of_a_lease_that_is_not_free() -> None:
    world, one, two, _ = three_hosts()
    two.acquire().run()
    task = one.acquire(brief=True)
    refused(task)
    assert [io[:3] for io in task.trace()] == [("read", 0, world.geo.dblock(1) + 512), ("read", 0, MIB)]


@pytest.mark.parametrize("options", [{"shared": True}, {"want_lver": 0, "shared": True}])
def test_brief_is_for_exclusive_leases_only(options: dict[str, Any]) -> None:
    _, one, _, _ = three_hosts()
    task = one.acquire(brief=True, **options)
    task.run()
    assert task.trace()[0][:3] == ("read", 0, MIB)


def test_brief_meets_a_later_version_loses_and_then_reads_everything() -> None:
    """The leader is behind: a version that it does not know of has been begun by another host."""
    world, one, _, _ = three_hosts()
    put_block(world, 3, Dblock(mbal=2003, lver=7))
    task = one.acquire(brief=True)
    held = task.run()
    assert held.lver == 7
    own = world.geo.dblock(1)
    writes = [Dblock.decode(io[3].ljust(56, b"\0"), 1, WHERE) for io in task.trace() if io[:2] == ("write", own)]
    assert [(block.lver, bool(block.inp)) for block in writes] == [(1, False), (7, False), (7, True)]


def test_brief_goes_on_with_the_own_block_of_a_later_version() -> None:
    """What this host has written, and others may have adopted, is never overwritten by an earlier version."""
    world, one, _, _ = three_hosts()
    put_block(world, 1, Dblock(mbal=4001, bal=4001, inp=3, inp2=1, inp3=9, lver=7))
    task = one.acquire(brief=True)
    refused(task)
    own = world.geo.dblock(1)
    writes = [Dblock.decode(io[3].ljust(56, b"\0"), 1, WHERE) for io in task.trace() if io[:2] == ("write", own)]
    assert [(block.lver, block.inp) for block in writes[:2]] == [(7, 3), (7, 3)]
    assert writes[0].mbal == 6001


def test_brief_loses_to_greater_ballot_numbers_and_comes_back_with_a_greater_one() -> None:
    world, one, _, _ = three_hosts()
    put_block(world, 9, Dblock(mbal=8009, lver=1))
    assert one.acquire(brief=True).run().dblock.mbal == 10001


@pytest.mark.parametrize("shows", [ModeBlock(1, 1), ModeBlock(3, 1)], ids=["shared", "claimed"])
def test_brief_accepts_nothing_where_another_host_holds_the_lease_shared_or_claims_it(shows: ModeBlock) -> None:
    world, one, _, _ = three_hosts()
    put_block(world, 2, Dblock(), shows)
    task = one.acquire(brief=True)
    task.raises(SharedByOthers)
    assert world.owner() is None
    assert ("write", 0) not in [io[:2] for io in task.trace()]
    assert world.sector(1).dblock.inp == 0


def test_brief_a_host_that_shares_after_phase_1_is_refused() -> None:
    world, one, two, _ = three_hosts()
    task = one.acquire(brief=True)
    task.until(Write, offset=0)
    late = two.acquire(shared=True)
    task.run()
    refused(late)
    assert world.owner() == (1, 1)
