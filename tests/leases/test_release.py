# SPDX-License-Identifier: LGPL-2.1-or-later
"""Giving up, cleaning up, finding again (format document, 7.3 to 7.6 and 10)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.leases.disk import Host, World
from tests.leases.images import image, resource_name
from vlhook.leases.effects import RESOURCE, Member, Read, Sleep, Write
from vlhook.leases.errors import (
    BadLeaderChecksum,
    BadMagic,
    BadResourceName,
    NotMember,
    ReleaseMismatch,
    StorageError,
)
from vlhook.leases.holder import RUNNING, WAS_RELEASED, HolderRecord, decode_holder
from vlhook.leases.records import Dblock, ModeBlock
from vlhook.leases.release import Held, become_shared, still_held

RECORD = HolderRecord(0, 0, 0, 1_700_000_000, bytes(16), RUNNING, "web1", "/images/web1.qcow2")


def holding(shared: bool = False, **options: Any) -> tuple[World, Host, Held]:
    world = World()
    one = world.host(1)
    held = one.acquire(shared=shared, **options).run()
    return world, one, held


def committed_by_two() -> tuple[World, Host, Host, Held]:
    """Host 1 owns; host 2 wrote the leader."""
    world = World()
    one, two = world.host(1), world.host(2)
    owner = one.acquire().until(Read, 0, count=3)
    two.acquire().until(Write, 0).step()
    return world, one, two, owner.run()


# ---------------------------------------------------------------------------------------------- release


def test_release_sets_the_flag_then_frees_the_leader() -> None:
    world, one, held = holding()
    before = world.leader
    world.now += 5
    task = one.release(held)
    task.run()
    assert [io[:2] for io in task.trace()] == [("write", 1024), ("read", 0), ("write", 0)]
    expected = replace(before, timestamp=0, write_id=1, write_generation=1, write_timestamp=1005).sealed()
    assert world.leader == expected, "owner, version and everything else stay"
    assert world.owner() is None


def test_release_keeps_the_values_of_the_block() -> None:
    """Row 25: a zeroed dblock let a running ballot miss the commit; a second host owned the same version again."""
    world, one, held = holding()
    before = world.sector(1).dblock
    one.release(held).run()
    assert world.sector(1).dblock == before.with_released()


def test_an_acquire_that_races_with_a_release_never_decides_the_same_version_again() -> None:
    """Rows 25 and 26: host 2 read the area before host 1 won; host 1 releases; host 2 goes on with its ballot."""
    world = World()
    one, two = world.host(1), world.host(2)
    late = two.acquire().until(Write, 1536)
    held = one.acquire().run()
    one.release(held).run()
    assert late.run().lver == 2
    assert (world.leader.lver, world.owner()) == (2, (2, 1))


def test_release_by_the_owner_that_did_not_write_the_leader_only_sets_the_flag() -> None:
    """Rows 23 and 29: writing the leader could put an old version over a newer one."""
    world, one, _, held = committed_by_two()
    leader = world.leader
    task = one.release(held)
    task.run()
    assert [io[:2] for io in task.trace()] == [("write", 1024), ("read", 0)]
    assert world.leader == leader
    assert world.owner() is None


def test_a_leader_that_another_host_wrote_again_after_our_release_does_not_bring_the_lease_back() -> None:
    """Row 23: B's late write of the leader owned A's released lease again."""
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    owner = one.acquire().until(Read, 0, count=3)
    helper = two.acquire().until(Write, 0)  # it will commit host 1's value, later
    held = owner.run()
    one.release(held).run()
    helper.step()
    assert (world.leader.owner_id, world.leader.write_id, world.leader.free) == (1, 2, False)
    assert world.owner() is None
    assert three.acquire().run().lver == 2


def test_a_leader_that_another_host_wrote_again_between_our_read_and_our_write_does_no_harm() -> None:
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    owner = one.acquire().until(Read, 0, count=3)
    helper = two.acquire().until(Write, 0)
    held = owner.run()
    task = one.release(held).until(Write, 0)
    helper.step()
    task.run()
    assert world.owner() is None
    three.acquire().run()


@pytest.mark.parametrize(
    "changes",
    [
        {"lver": 2},
        {"owner_id": 2},
        {"owner_generation": 2},
        {"timestamp": 7},
        {"write_timestamp": 7},
        {"flags": 0x11},
        {"num_hosts": 8},
    ],
)
def test_a_leader_that_is_not_as_we_left_it_is_not_written(changes: dict[str, Any]) -> None:
    """-250 and -251; row 4: release wrote a leader it had not verified."""
    world, one, held = holding()
    world.edit_leader(**changes)
    leader = world.leader
    task = one.release(held)
    error = task.raises(ReleaseMismatch)
    assert world.leader == leader
    assert "is not as this host left it" in str(error)


def behind() -> tuple[World, Host, Held]:
    """Host 1 owns version 2; then host 3 commits version 1, which it had helped to decide, late."""
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    first = two.acquire().until(Read, 0, count=3)
    late = three.acquire().until(Write, 0)
    two.release(first.run()).run()
    held = one.acquire().run()
    late.step()
    assert (held.lver, world.leader.lver) == (2, 1)
    return world, one, held


def test_a_leader_that_a_late_commit_put_back_is_not_written_and_the_flag_is_the_release() -> None:
    world, one, held = behind()
    leader = world.leader
    one.release(held).run()
    assert world.leader == leader
    assert world.sector(1).dblock.released
    four = world.host(4)
    four.acquire().run()
    assert (world.leader.lver, world.owner()) == (3, (4, 1))


def test_a_leader_that_a_late_commit_put_back_takes_nothing_from_a_restarted_owner() -> None:
    world, one, held = behind()
    again = found(world, one, held.lver)
    assert again
    assert again.dblock == held.dblock
    one.release(again).run()
    assert found(world, one, held.lver) is None


def test_a_leader_that_cannot_be_read_is_not_written() -> None:
    """Row 4: release wrote a leader that it had failed to read."""
    world, one, held = holding()
    task = one.release(held).until(Read)
    task.fail()
    with pytest.raises(StorageError):
        _ = task.result
    assert world.owner() == (1, 1)


@pytest.mark.parametrize(
    ("damage", "error"), [((40, 1), BadLeaderChecksum), ((0, 0xFF), BadMagic), ((104, 1), BadResourceName)]
)
def test_a_damaged_leader_is_not_written(damage: tuple[int, int], error: type[Exception]) -> None:
    world, one, held = holding()
    world.areas[RESOURCE][damage[0]] ^= damage[1]
    before = bytes(world.areas[RESOURCE][:512])
    with pytest.raises(error):
        one.release(held).run()
    assert bytes(world.areas[RESOURCE][:512]) == before


def test_a_release_after_the_own_lease_ran_out_writes_nothing() -> None:
    """Invariant 10: whoever is past 8N may be dead to others, and the lease theirs."""
    world, one, held = holding()
    one.alive = False
    before = len(world.log)
    world.now += 8
    one.release(held).raises(NotMember)
    assert len(world.log) == before


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("at", range(3))
def test_a_release_that_met_a_storage_error_is_repeated_until_it_works(at: int, landed: bool, shared: bool) -> None:
    """Row 21: an error in release left the lease owned on disk by a live host, unmanaged."""
    world, one, held = holding(shared)
    task = one.release(held)
    ios = 0
    while not task.done:
        if isinstance(task.next, (Read, Write)):
            if ios == at:
                if landed and isinstance(task.next, Write):
                    task.fail_landed()
                else:
                    task.fail()
                break
            ios += 1
        task.step()
    one.release(held).run()
    assert world.owner() is None
    assert not world.sector(1).mode.shared
    world.host(2).acquire().run()
    assert world.owner() == (2, 1)


def test_a_lease_of_which_only_the_flag_was_written_is_still_held_by_others_judgement() -> None:
    world, one, held = holding()
    task = one.release(held).until(Read)
    task.fail()
    assert world.sector(1).dblock.released
    assert world.owner() == (1, 1)


def test_release_of_a_shared_lease_does_not_touch_the_leader() -> None:
    world, one, held = holding(shared=True)
    leader = world.leader
    task = one.release(held)
    task.run()
    assert [io[:2] for io in task.trace()] == [("write", 1024)]
    assert world.leader == leader
    assert world.sector(1).mode == ModeBlock()
    assert world.sector(1).dblock.released


def test_release_of_one_sharer_leaves_the_other() -> None:
    world, one, held = holding(shared=True)
    two = world.host(2)
    two.acquire(shared=True).run()
    one.release(held).run()
    assert not world.sector(1).mode.shared
    assert world.sector(2).mode == ModeBlock(1, 1)


def test_the_holder_record_of_a_released_lease_says_so() -> None:
    world, one, held = holding(record=RECORD)
    one.release(held, record=RECORD).run()
    found = decode_holder(world.sector(1).holder_bytes)
    assert found
    assert (found.state, found.guest, found.lver) == (WAS_RELEASED, "web1", 1)


# ------------------------------------------------------------------------------- from exclusive to shared


def test_the_mode_block_is_there_before_the_leader_is_free() -> None:
    """Invariant 12: at no moment does an exclusive acquire of another host find nothing."""
    world, one, held = holding()
    two = world.host(2)
    two.renew()
    world.now += 1
    one.renew()
    task = one.task(become_shared(world.lease, one.me, held, RECORD))
    refusals = []
    while not task.done:
        try:
            two.acquire().run()
        except Exception as error:
            refusals.append(type(error).__name__)
        task.step()
    assert set(refusals) <= {"HeldByOther", "SharedByOthers"}
    assert len(refusals) > 3
    assert world.sector(1).mode == ModeBlock(1, 1)
    assert world.sector(1).dblock.released
    assert world.leader.free


def test_a_shared_lease_whose_leader_another_host_wrote_is_free_for_sharers() -> None:
    world, one, _, held = committed_by_two()
    one.task(become_shared(world.lease, one.me, held, None)).run()
    assert not world.leader.free, "not ours to write"
    world.host(3).acquire(shared=True).run()
    assert world.sector(1).mode.shared
    assert world.sector(3).mode.shared


# --------------------------------------------------------------------------------------------------- settle


def test_nothing_to_settle_where_we_never_wrote() -> None:
    world = World()
    one = world.host(1)
    task = one.settle()
    task.run()
    assert [io[:2] for io in task.trace()] == [("read", 1024)]


def test_settle_gives_back_what_the_disk_says_is_ours() -> None:
    world, one, _ = holding()
    one.settle().run()
    assert world.owner() is None
    assert world.sector(1).dblock.released


def test_settle_touches_no_leader_that_is_another_hosts() -> None:
    world, one, held = holding()
    one.release(held).run()
    world.host(2).acquire().run()
    leader = world.leader
    one.settle().run()
    assert world.leader == leader
    assert world.owner() == (2, 1)


def test_settle_touches_no_leader_that_our_dead_generation_owns() -> None:
    world, one, _ = holding()
    again = one.rejoin()
    leader = world.leader
    again.settle().run()
    assert world.leader == leader


def test_settle_drops_a_shared_mode_that_an_unfinished_acquire_left() -> None:
    world = World(
        image("resource_short_hold_mode_written_host1"), name=resource_name("resource_short_hold_mode_written_host1")
    )
    one = world.host(1, generation=4)
    one.settle().run()
    assert world.sector(1).mode == ModeBlock()
    assert world.owner() is None


def test_settle_leaves_the_flag_where_others_may_still_commit_us() -> None:
    """Phase 2 was written, and host 2 adopted it; we give up; host 2 commits us: nobody holds."""
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    one.acquire().until(Read, 0, count=3)
    helper = two.acquire().until(Write, 0)
    one.settle().run()
    helper.step()
    assert world.leader.owner_id == 1
    assert world.owner() is None
    three.acquire().run()


def test_settle_is_tried_on_until_the_storage_answers() -> None:
    """Format document, 7.5: retried until that I/O works; each error is followed by a pause."""
    world, one, _ = holding()
    task = one.settle()
    for _ in range(20):
        while not isinstance(task.next, (Read, Write)):
            task.step()
        task.fail()
        assert isinstance(task.next, Sleep)
    task.run()
    assert world.owner() is None


def test_settle_ends_when_the_own_lease_has_run_out() -> None:
    world, one, _ = holding()
    task = one.settle().until(Member)
    one.alive = False
    world.now += 8
    task.raises(NotMember)
    assert world.owner() == (1, 1)


# -------------------------------------------------------------------------------------- found after a restart


def found(world: World, one: Host, lver: int, shared: bool = False) -> Held | None:
    return one.task(still_held(world.lease, one.me, world.geo, lver, shared)).run()


def test_what_is_found_after_a_restart_is_the_proof_that_was_lost() -> None:
    world, one, held = holding()
    assert found(world, one, held.lver) == held


def test_a_shared_lease_is_found_by_its_mode_block() -> None:
    world, one, held = holding(shared=True)
    again = found(world, one, held.lver, shared=True)
    assert again
    one.release(again).run()
    assert not world.sector(1).mode.shared


def test_a_lease_that_another_host_committed_for_us_is_found() -> None:
    world, one, _, held = committed_by_two()
    again = found(world, one, held.lver)
    assert again
    one.release(again).run()
    assert world.owner() is None


@pytest.mark.parametrize("lver", [0, 2])
def test_another_version_is_lost(lver: int) -> None:
    world, one, _ = holding()
    assert found(world, one, lver) is None


@pytest.mark.parametrize("changes", [{"owner_id": 2}, {"owner_generation": 2}, {"timestamp": 0}])
def test_a_lease_that_is_not_ours_any_more_is_lost(changes: dict[str, Any]) -> None:
    world, one, held = holding()
    world.edit_leader(**changes)
    assert found(world, one, held.lver) is None


def test_a_lease_whose_release_had_begun_is_lost() -> None:
    world, one, held = holding()
    one.release(held).until(Read)
    assert found(world, one, held.lver) is None


def test_a_shared_lease_of_another_generation_is_lost() -> None:
    world, one, held = holding(shared=True)
    assert found(world, one.rejoin(), held.lver, shared=True) is None


def test_a_shared_lease_whose_sector_was_cleared_is_lost() -> None:
    world, one, held = holding(shared=True)
    world.put_sector(1, b"")
    assert world.sector(1).dblock == Dblock()
    assert found(world, one, held.lver, shared=True) is None
