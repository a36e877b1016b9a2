# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who still counts as an owner or sharer, and who is dead (format document, 6.4, 7.1 D and 7.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.leases.disk import Host, World
from vlhook.leases.effects import LOCKSPACE, RESOURCE, Read, Sleep, Write
from vlhook.leases.errors import (
    BadLeaderChecksum,
    BadSpaceName,
    HeldByOther,
    HostIdTooLarge,
    OwnerMaybeDead,
    RecordError,
    SharedByOthers,
)
from vlhook.leases.holder import RUNNING, HolderRecord
from vlhook.leases.owner import Holder
from vlhook.leases.records import ModeBlock, host_sector, pad_name

RECORD = HolderRecord(0, 0, 0, 1_700_000_000, bytes(16), RUNNING, "web1", "/images/web1.qcow2")


def held_by_one(io_timeout: int = 1) -> tuple[World, Host, Host]:
    """Host 1 holds the lease; host 2 has seen host 1 alive, but not at its last look."""
    world = World(io_timeout=io_timeout)
    one, two = world.host(1), world.host(2)
    two.renew()
    world.now += 1
    one.renew()
    one.acquire(record=RECORD).run()
    two.renew()
    two.renew()
    return world, one, two


def quiet(world: World, host: Host, seconds: float) -> None:
    """`host` dies; the others go on for that long."""
    host.die()
    world.jump(seconds)


# ------------------------------------------------------------------------------------ the owner lives


def test_an_owner_that_renewed_since_our_last_look_holds() -> None:
    world, one, two = held_by_one()
    world.now += 1
    one.renew()
    error = two.acquire().raises(HeldByOther)
    assert error.result == -243
    assert "is held by host 1 generation 1" in str(error)


def test_an_owner_that_changed_at_our_very_last_look_holds() -> None:
    world, one, two = held_by_one()
    world.now += 2
    one.renew()
    two.renew()
    two.acquire().raises(HeldByOther)


def test_an_owner_that_stood_there_at_our_first_look_is_neither_alive_nor_dead() -> None:
    world = World()
    world.host(1).acquire().run()
    two = world.host(2)
    two.renew()
    holder = two.acquire().raises(OwnerMaybeDead).holder
    assert (holder.alive, holder.silent_for, holder.free_in) == (False, None, 69)


def test_an_owner_that_joined_after_our_first_look_holds() -> None:
    world = World()
    two = world.host(2)
    two.renew()
    world.host(1).acquire().run()
    two.renew()
    two.acquire().raises(HeldByOther)


@pytest.mark.parametrize("silent", [2, 8, 9, 60, 68])
def test_a_silent_owner_may_be_dead_until_8n_and_60_seconds_are_over(silent: int) -> None:
    world, one, two = held_by_one()
    quiet(world, one, silent)
    error = two.acquire().raises(OwnerMaybeDead)
    assert error.result == -247
    assert world.owner() == (1, 1)


def test_an_owner_that_nobody_has_watched_is_not_dead() -> None:
    """Absence of knowledge is never death (invariant 7)."""
    world = World()
    one = world.host(1)
    one.acquire().run()
    quiet(world, one, 10_000)
    three = world.host(3)
    error = three.acquire().raises(OwnerMaybeDead)
    assert error.holder.silent_for is None


def test_no_ballot_is_begun_while_the_owner_may_live() -> None:
    world, one, two = held_by_one()
    quiet(world, one, 60)
    task = two.acquire()
    task.raises(OwnerMaybeDead)
    assert [io for io in task.log if io.op == "write"] == []


@pytest.mark.parametrize("now", [5, 10**9])
def test_the_owners_clock_is_never_compared_with_ours(now: int) -> None:
    """Row 2: expiry was judged by comparing the other host's timestamp with our clock."""
    world, one, two = held_by_one()
    world.write_delta(replace(world.delta(1), timestamp=now))
    two.renew()
    one.die()
    world.pass_time(3)
    two.acquire().raises(OwnerMaybeDead)
    world.pass_time(70)
    two.acquire().run()
    assert world.owner() == (2, 1)


# --------------------------------------------------------------------------------------- the owner is gone


def test_a_dead_owners_lease_is_taken_after_8n_and_60_seconds() -> None:
    world, one, two = held_by_one()
    quiet(world, one, 69)
    two.acquire().run()
    assert world.owner() == (2, 1)
    assert world.leader.lver == 2


def test_the_owners_io_timeout_says_when_it_is_dead_not_ours() -> None:
    """Row 19: it was assumed that every host has my io_timeout."""
    world, one, two = held_by_one()
    world.write_delta(replace(world.delta(1), io_timeout_raw=20))
    two.renew()
    quiet(world, one, 219)
    two.acquire().raises(OwnerMaybeDead)
    world.pass_time(3)
    two.acquire().run()


def test_only_the_low_8_bits_of_the_io_timeout_count() -> None:
    world, one, two = held_by_one()
    world.write_delta(replace(world.delta(1), io_timeout_raw=0x4001))
    two.renew()
    quiet(world, one, 70)
    two.acquire().run()


def test_an_owner_that_left_the_lockspace_holds_nothing_any_more() -> None:
    _, one, two = held_by_one()
    one.leave()
    assert two.acquire().run().lver == 2


def test_an_owner_that_came_back_under_a_later_generation_holds_nothing_any_more() -> None:
    """Traps 7 and 8: a new generation frees at once what the old one held."""
    _, one, two = held_by_one()
    one.rejoin()
    assert two.acquire().run().lver == 2


def test_our_own_earlier_generation_is_free_at_once() -> None:
    """Row 18: a host waited for the death of its own previous generation."""
    world, one, _ = held_by_one()
    again = one.rejoin()
    begun = world.now
    assert again.acquire().run().lver == 2
    assert world.now == begun
    assert world.owner() == (1, 2)


def test_a_record_of_another_owner_in_the_owners_place_ends_that_incarnation() -> None:
    world, one, two = held_by_one()
    one.die()
    world.write_delta(replace(world.delta(1), owner_id=9), 1)
    assert two.acquire().run().lver == 2


def test_knowledge_of_an_earlier_generation_says_nothing_of_this_one() -> None:
    """Host 1 was silent for long under generation 1; the lease is held by its generation 2, just joined."""
    world = World()
    one, two = world.host(1), world.host(2)
    two.renew()
    quiet(world, one, 68)
    one.rejoin().acquire().run()
    view = two.table.get(1)
    assert view
    assert view.generation == 1, "host 2 has not looked since"
    two.acquire().raises(OwnerMaybeDead)


# ------------------------------------------------------------------------------- released by the flag only


def committed_by_two(world: World, one: Host, two: Host) -> None:
    """Host 2 finishes the ballot of host 1: owner 1, writer 2."""
    owner = one.acquire().until(Read, 0, count=3)
    two.acquire().until(Write, 0).step()
    owner.run()
    assert (world.leader.owner_id, world.leader.write_id) == (1, 2)


@pytest.mark.parametrize("watched", [True, False])
def test_where_another_wrote_the_leader_the_owners_flag_is_its_release(watched: bool) -> None:
    """Row 23 and format document 7.4; whether the owner is known to be alive makes no difference."""
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    committed_by_two(world, one, two)
    if watched:
        three.renew()
        world.now += 1
        one.renew()
        three.renew()
    with pytest.raises((HeldByOther, OwnerMaybeDead)):
        three.acquire().run()
    one.settle().run()
    three.acquire().run()
    assert world.owner() == (3, 1)


def test_where_the_owner_wrote_the_leader_the_flag_alone_is_no_release() -> None:
    """A release that met an error half-way is still held in the eyes of all (format document, 7.3)."""
    world = World()
    one, two = world.host(1), world.host(2)
    held = one.acquire().run()
    one.release(held).until(Read)  # the flag is written, the leader not yet
    assert world.sector(1).dblock.released
    two.acquire().raises(OwnerMaybeDead)
    two.renew()
    world.now += 1
    one.renew()
    two.acquire().raises(HeldByOther)


def test_a_flag_left_from_an_earlier_version_is_no_release() -> None:
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    committed_by_two(world, one, two)
    block = world.sector(1).dblock
    world.put_sector(1, host_sector(world.geo, replace(block, lver=block.lver - 1).with_released()))
    three.acquire().raises(OwnerMaybeDead)
    three.renew()
    world.now += 1
    one.renew()
    three.acquire().raises(HeldByOther)


# ------------------------------------------------------------------------------------------- waiting for it


def test_waiting_ends_exactly_when_the_owner_is_dead() -> None:
    world = World()
    one = world.host(1)
    one.acquire().run()
    one.die()
    two = world.host(2)
    begun = world.now
    two.acquire(wait=True).run()
    assert world.now - begun == 8 + 60 + 1
    assert world.owner() == (2, 1)


def test_a_sign_of_life_ends_the_waiting() -> None:
    world = World()
    one = world.host(1)
    one.acquire().run()
    one.alive = False
    task = world.host(2).acquire(wait=True)
    task.until(Sleep, count=30)
    one.alive = True
    world.write_delta(replace(world.delta(1), timestamp=int(world.now)))
    one.member = replace(one.member, record=world.delta(1))
    task.raises(HeldByOther)


def test_a_release_ends_the_waiting_at_once() -> None:
    world = World()
    one, two = world.host(1), world.host(2)
    held = one.acquire().run()
    task = two.acquire(wait=True)
    task.until(Sleep)
    one.release(held).run()
    begun = world.now
    assert task.run().lver == 2
    assert world.now - begun == 1


def test_a_lease_that_changed_hands_during_the_wait_is_judged_anew() -> None:
    """Row 16: a stale version after sleeping; the lease has moved on."""
    world = World()
    one, two, three = world.host(1), world.host(2), world.host(3)
    held = one.acquire().run()
    task = two.acquire(wait=True)
    task.until(Sleep, count=1)
    one.release(held).run()
    three.acquire().run()
    two.renew()
    task.raises(HeldByOther)
    assert world.owner() == (3, 1)
    assert not [io for io in task.log if io.op == "write"]


# ---------------------------------------------------------------------------------- records that do not check out


def test_an_owners_record_that_went_back_in_time_is_damage_not_death() -> None:
    """Row 37."""
    world, one, two = held_by_one()
    one.die()
    world.edit_leader(owner_generation=5)
    error = two.acquire().raises(RecordError)
    assert "generation of the host" in str(error)
    assert "at least 5" in str(error)


@pytest.mark.parametrize("io_timeout", [0, 1])
def test_a_damaged_record_of_the_owner_is_not_death(io_timeout: int) -> None:
    world, one, two = held_by_one()
    quiet(world, one, 1000)
    world.areas[LOCKSPACE][40] ^= 1
    error = two.acquire().raises(BadLeaderChecksum)
    assert "__LIBVIRT__DISKS__, host id 1" in str(error)
    assert world.owner() == (1, 1)


def test_a_record_of_another_lockspace_is_not_death() -> None:
    world, one, two = held_by_one()
    one.die()
    world.write_delta(replace(world.delta(1), space_name=pad_name(b"OTHER")))
    two.acquire().raises(BadSpaceName)


@pytest.mark.parametrize("owner", [0, 2001, 1 << 63])
def test_an_owner_that_cannot_be_is_damage(owner: int) -> None:
    world = World()
    world.edit_leader(owner_id=owner, owner_generation=1, timestamp=5, lver=3)
    world.host(2).acquire().raises(HostIdTooLarge)
    assert world.leader.owner_id == owner


# ------------------------------------------------------------------------------------------ what the refusal tells


def test_the_refusal_tells_who_holds_since_when_and_when_it_is_free_at_the_latest() -> None:
    world, one, two = held_by_one(io_timeout=2)
    quiet(world, one, 21)
    error = two.acquire().raises(OwnerMaybeDead)
    holder = error.holder
    assert isinstance(holder, Holder)
    assert (holder.host_id, holder.generation, holder.name) == (1, 1, b"host-1")
    assert (holder.alive, holder.shared) == (False, False)
    assert holder.silent_for == 21
    assert holder.free_in == 8 * 2 + 60 + 1 - 21
    assert holder.record
    assert (holder.record.guest, holder.record.disk) == ("web1", "/images/web1.qcow2")


def test_a_living_holder_is_told_as_living() -> None:
    world, one, two = held_by_one()
    world.now += 1
    one.renew()
    holder = two.acquire().raises(HeldByOther).holder
    assert (holder.alive, holder.silent_for) == (True, 0.0)
    assert holder.free_in == 69, "at the latest, if it dies now"


# -------------------------------------------------------------------------------------------------- sharers


def shared_by_one() -> tuple[World, Host, Host]:
    world = World()
    one, two = world.host(1), world.host(2)
    one.acquire(shared=True, record=RECORD).run()
    two.renew()
    return world, one, two


@pytest.mark.parametrize("silent", [0, 8, 68])
def test_a_sharer_counts_until_it_has_been_silent_for_8n_and_60_seconds(silent: int) -> None:
    world, one, two = shared_by_one()
    quiet(world, one, silent)
    error = two.acquire().raises(SharedByOthers)
    assert error.result == -11
    assert "held shared by host 1" in str(error)
    assert (error.holders[0].host_id, error.holders[0].shared) == (1, True)
    assert error.holders[0].record.guest == "web1"


def test_a_dead_sharer_is_cleared() -> None:
    world, one, two = shared_by_one()
    quiet(world, one, 69)
    two.acquire().run()
    assert world.owner() == (2, 1)
    at = world.geo.dblock(1)
    assert bytes(world.areas[RESOURCE][at : at + 512]) == bytes(512), "the whole sector"


def test_a_sharer_that_nobody_has_watched_counts() -> None:
    world = World()
    one = world.host(1)
    one.acquire(shared=True).run()
    quiet(world, one, 10_000)
    three = world.host(3)
    error = three.acquire().raises(SharedByOthers)
    assert (error.holders[0].alive, error.holders[0].silent_for) == (True, None)


def test_a_sharer_that_left_does_not_count() -> None:
    _, one, two = shared_by_one()
    one.leave()
    two.acquire().run()


def test_a_sharer_that_came_back_under_a_later_generation_does_not_count() -> None:
    world, one, two = shared_by_one()
    one.rejoin()
    two.acquire().run()
    assert world.sector(1).mode == ModeBlock()


def test_a_sharer_is_judged_by_a_fresh_read_and_not_by_the_table_alone() -> None:
    """A host that left and came back may look free or dead in a table that is one renewal old."""
    world, one, two = shared_by_one()
    one.leave()
    two.renew()
    again = one.rejoin()
    again.acquire(shared=True).run()
    again.die()
    two.acquire().raises(SharedByOthers)

    world, one, two = shared_by_one()
    quiet(world, one, 69)
    one.alive = True
    world.now += 1
    world.write_delta(replace(world.delta(1), timestamp=int(world.now)))
    two.acquire().raises(SharedByOthers)


def test_a_mode_block_of_a_generation_that_never_was_counts() -> None:
    """Unknown counts as alive."""
    world, one, two = shared_by_one()
    block = world.sector(1).dblock
    world.put_sector(1, host_sector(world.geo, block, ModeBlock(1, 9)))
    one.die()
    two.acquire().raises(SharedByOthers)


def test_a_damaged_record_of_a_sharer_is_not_death() -> None:
    world, one, two = shared_by_one()
    quiet(world, one, 1000)
    world.areas[LOCKSPACE][40] ^= 1
    two.acquire().raises(BadLeaderChecksum)
    assert world.sector(1).mode.shared


def test_a_sharers_holder_record_of_another_generation_is_not_shown() -> None:
    world, one, two = shared_by_one()
    sector = world.sector(1)
    stale = RECORD.tagged(1, 7, 1).encode()
    world.put_sector(1, host_sector(world.geo, sector.dblock, sector.mode, stale))
    error = two.acquire().raises(SharedByOthers)
    assert error.holders[0].record is None
    assert one.alive
