# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ending a dead host's membership early (safety rules, 13), step by step on a disk in memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.leases.disk import Host, Task, World
from vlhook.leases.effects import LOCKSPACE, Now, Read, Sleep, Write
from vlhook.leases.errors import FenceRefused, HeldByOther, HostIdInUse, NotMember, OwnerMaybeDead
from vlhook.leases.fence import end_membership
from vlhook.leases.geometry import FILE


def ending(host: Host, host_id: int = 2, name: bytes = b"host-2") -> Task[Any]:
    return host.task(end_membership(host.member.space, host_id, name))


@pytest.fixture
def world() -> World:
    return World(io_timeout=2)


@pytest.fixture
def pair(world: World) -> tuple[Host, Host]:
    """Host 1, and host 2 that holds the lease; they know each other."""
    one, two = world.host(1), world.host(2)
    two.acquire().run()
    world.pass_time(12)
    return one, two


def test_what_a_dead_host_held_is_free_at_once_and_its_next_generation_is_another(
    world: World, pair: tuple[Host, Host]
) -> None:
    one, two = pair
    two.die()
    world.pass_time(25)
    with pytest.raises((OwnerMaybeDead, HeldByOther)):
        one.acquire(wait=False).run()
    began = world.now
    found = ending(one).run()
    assert (found.owner_id, found.owner_generation) == (2, 1)
    record = world.delta(2)
    assert record.free
    assert record.owner_generation == 2
    assert one.acquire(wait=False).run()
    assert world.owner() == (1, 1)
    assert world.now - began <= 2 * 2 + 2, "the silence that was seen before counts"


def test_nothing_is_written_before_8n_of_silence(world: World, pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.die()
    last = world.now
    task = ending(one)
    task.until(Write)
    assert world.now - last >= 8 * 2
    assert not [w for w in world.writes(1) if w == (LOCKSPACE, FILE.delta(2))]


def test_a_living_host_is_not_ended(world: World, pair: tuple[Host, Host]) -> None:
    one, two = pair
    before = world.delta(2)
    task = ending(one)
    task.until(Sleep)
    two.world.pass_time(5)
    with pytest.raises(FenceRefused, match="it is alive"):
        task.run()
    assert world.delta(2).owner_generation == before.owner_generation
    assert not [w for w in world.writes(1) if w == (LOCKSPACE, FILE.delta(2))]


@pytest.mark.parametrize(
    ("host_id", "name", "why"),
    [(2, b"host-3", "it is of host host-2"), (1, b"host-1", "own"), (3, b"host-3", "holds nothing")],
)
def test_a_wrong_host_is_not_ended(
    world: World, pair: tuple[Host, Host], host_id: int, name: bytes, why: str
) -> None:
    pair[1].die()
    world.pass_time(100)
    log = len(world.writes())
    with pytest.raises(FenceRefused, match=why):
        ending(pair[0], host_id, name).run()
    assert len(world.writes()) == log


def test_a_host_that_joins_again_meanwhile_keeps_what_it_took(world: World, pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.die()
    world.pass_time(25)
    task = ending(one)
    task.until(Sleep)
    world.host(2, generation=7)
    with pytest.raises(HostIdInUse):
        task.run()
    assert world.delta(2).owner_generation == 7
    assert not world.delta(2).free


def test_a_host_that_lost_its_own_lease_ends_nobody(world: World, pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.die()
    task = ending(one)
    one.die()
    with pytest.raises(NotMember):
        task.run()
    assert world.delta(2).owner_generation == 1


def test_a_process_that_stood_still_before_its_claim_reads_again(world: World, pair: tuple[Host, Host]) -> None:
    one, two = pair
    two.die()
    world.pass_time(25)
    task = ending(one)
    task.until(Read, count=3)
    task.step()
    assert isinstance(task.next, Now)
    world.now += 3
    world.host(2, generation=5)
    one.renew()
    with pytest.raises(FenceRefused, match="alive"):
        task.run()
    assert world.delta(2).owner_generation == 5
