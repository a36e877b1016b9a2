# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lease that moves with a migrating guest: claim and conversion (safety rules, 16 to 21)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leases.disk import Host, Task, World
from vlhook.leases import claims
from vlhook.leases.claims import Claimed
from vlhook.leases.effects import LOCKSPACE, RESOURCE, Member, Read, Sleep, Write
from vlhook.leases.errors import (
    Busy,
    ClaimDisturbed,
    ClaimedByOther,
    ClaimLost,
    ClaimRefused,
    HeldByOther,
    NothingToClaim,
    NotMember,
    SharedByOthers,
    StorageError,
)
from vlhook.leases.geometry import MIB, geometry
from vlhook.leases.holder import INCOMING, RUNNING, HolderRecord, decode_holder
from vlhook.leases.records import Dblock, ModeBlock, host_sector
from vlhook.leases.release import Held

UUID, OTHER = bytes(range(16)), bytes(16)
RECORD = HolderRecord(0, 0, 0, 1_700_000_000, UUID, RUNNING, "web1", "/images/web1.qcow2")
GEO = geometry(4096, MIB)
"""Fewer hosts than with small sectors: each look at an area costs less."""


class Move:
    """Host 1 runs the guest, host 2 is where it goes, 3 and 4 want its disk too. All have seen each other live."""

    def __init__(self, record: HolderRecord | None = RECORD, shared: bool = False) -> None:
        self.world = World(geo=GEO, num_hosts=8)
        self.source, self.target, self.rival, self.fourth = (self.world.host(n) for n in (1, 2, 3, 4))
        for host in self.world.hosts.values():
            host.renew()
        self.world.pass_time(3)
        self.held = self.source.acquire(record=record, shared=shared).run()

    def claim(self, host: Host | None = None, **options: Any) -> Task[Claimed]:
        who = host or self.target
        options.setdefault("record", RECORD)
        return who.task(claims.claim(self.world.lease, who.me, guess=GEO, **options))

    def convert(self, host: Host | None = None) -> Task[Held]:
        who = host or self.target
        return who.task(claims.convert(self.world.lease, who.me, RECORD, GEO))

    def once(self, host: Host | None = None) -> Task[Held | None]:
        who = host or self.target
        return who.task(claims.try_convert(self.world.lease, who.me, RECORD, GEO))

    def standing(self) -> Task[Any]:
        return self.target.task(claims.still_claimed(self.world.lease, self.target.me, GEO))

    def elsewhere(self, host: Host | None = None) -> list[tuple[int, int]]:
        """(host id, state of the record) of those that run the guest or are about to."""
        who = host or self.source
        found = who.task(claims.elsewhere(self.world.lease, who.me, UUID, GEO)).run()
        return [(h.host_id, h.record.state) for h in found if h.record]

    def claims_now(self, host_id: int = 2) -> bool:
        return self.world.sector(host_id).mode == ModeBlock(0x3, 1)

    def leave(self) -> None:
        """The guest has gone from its source."""
        self.source.release(self.held).run()


def write_record(move: Move, record: HolderRecord | None) -> None:
    own = move.world.sector(1)
    tagged = record.tagged(1, 1, move.held.lver).encode() if record else b""
    move.world.put_sector(1, host_sector(GEO, own.dblock, own.mode, tagged))


def whole(move: Move) -> bytes:
    return bytes(move.world.areas[RESOURCE])


# ----------------------------------------------------------------------------------------------- making the claim


def test_a_claim_stands_beside_the_owner_and_takes_nothing_from_it() -> None:
    move = Move()
    leader = move.world.leader
    claimed = move.claim().run()
    assert claimed.lver == move.held.lver
    assert move.world.leader == leader
    own = move.world.sector(2)
    assert own.mode == ModeBlock(0x3, 1)
    assert own.dblock == Dblock(), "a block that was blank stays blank"
    record = decode_holder(own.holder_bytes)
    assert record is not None
    assert (record.uuid, record.state, record.host_id, record.generation) == (UUID, INCOMING, 2, 1)


def test_a_claim_keeps_the_values_of_our_block_and_marks_them_released() -> None:
    move = Move()
    move.leave()
    before = move.target.acquire().run()
    move.target.release(before).run()
    move.held = move.source.acquire(record=RECORD).run()
    move.claim().run()
    assert move.world.sector(2).dblock == before.dblock.with_released()


def test_a_claim_is_one_write_between_two_reads_of_the_whole_area() -> None:
    task = Move().claim()
    task.run()
    ios = [(io.op, io.area, io.offset, io.length) for io in task.log]
    area, own = ("read", RESOURCE, 0, MIB), ("write", RESOURCE, GEO.dblock(2), 4096)
    assert ios == [area, own, area, ("read", LOCKSPACE, GEO.delta(1), 4096)]


def test_a_lease_that_nobody_else_holds_is_not_claimed() -> None:
    move = Move()
    before = whole(move)
    move.claim(move.source).raises(NothingToClaim)
    assert whole(move) == before
    move.leave()
    before = whole(move)
    move.claim().raises(NothingToClaim)
    assert whole(move) == before


def test_a_lease_that_its_owner_released_by_the_flag_is_not_claimed() -> None:
    move = Move()
    move.world.edit_leader(write_id=3, write_generation=1)
    own = move.world.sector(1)
    move.world.put_sector(1, host_sector(GEO, own.dblock.with_released(), own.mode, own.holder_bytes))
    move.claim().raises(NothingToClaim)


def test_the_lease_of_another_guest_is_refused_and_its_holder_named() -> None:
    """So `virsh migrate --xml` cannot point at another guest's image."""
    move = Move(replace(RECORD, uuid=OTHER, guest="db1"))
    before = whole(move)
    for foreign in (False, True):
        error = move.claim(foreign=foreign).raises(HeldByOther)
        assert (error.holder.record.guest, error.holder.host_id, error.holder.alive) == ("db1", 1, True)
    assert whole(move) == before


def test_an_owner_that_says_nothing_of_its_guest_is_claimed_from_only_by_setting() -> None:
    move = Move(None)
    before = whole(move)
    error = move.claim().raises(ClaimRefused)
    assert "claim_foreign" in str(error)
    assert whole(move) == before
    move.claim(foreign=True).run()
    assert move.claims_now()


def test_a_record_of_an_earlier_version_says_nothing() -> None:
    move = Move()
    own = move.world.sector(1)
    stale = RECORD.tagged(1, 1, move.held.lver - 1).encode()
    move.world.put_sector(1, host_sector(GEO, own.dblock, own.mode, stale))
    move.claim().raises(ClaimRefused)


def test_a_guest_that_is_still_on_its_way_there_is_not_claimed_on() -> None:
    move = Move()
    write_record(move, replace(RECORD, state=INCOMING))
    move.claim().raises(ClaimRefused)


def test_of_two_hosts_only_one_may_claim() -> None:
    move = Move()
    move.claim().run()
    before = whole(move)
    assert "host 2" in str(move.claim(move.rival).raises(ClaimRefused))
    assert whole(move) == before


def test_of_two_claims_at_once_none_overlooks_the_other() -> None:
    move = Move()
    first, second = move.claim().until(Write), move.claim(move.rival).until(Write)
    first.step()
    second.step()
    first.raises(ClaimRefused)
    second.run()
    assert (move.claims_now(2), move.claims_now(3)) == (False, True)


def test_the_claim_of_a_host_that_is_gone_is_no_obstacle() -> None:
    move = Move()
    move.claim(move.rival).run()
    move.rival.leave()
    move.claim().run()
    assert move.claims_now()


def meanwhile(change: Callable[[Move], object]) -> Move:
    """`change` happens between the first read and the write of the claim, which is then withdrawn."""
    move = Move()
    task = move.claim().until(Write)
    change(move)
    with pytest.raises(ClaimRefused, match="cannot be claimed"):
        task.run()
    assert move.world.sector(2).mode == ModeBlock()
    return move


def test_a_claim_is_withdrawn_when_the_owner_releases_meanwhile() -> None:
    move = meanwhile(Move.leave)
    assert move.rival.acquire().run()


def test_a_claim_is_withdrawn_when_the_owner_leaves_meanwhile() -> None:
    meanwhile(lambda move: move.source.leave())


def test_a_claim_is_withdrawn_when_the_owner_comes_back_as_another_generation() -> None:
    meanwhile(lambda move: move.source.rejoin())


def test_a_claim_is_withdrawn_when_a_rival_has_begun_to_decide_the_next_version() -> None:
    meanwhile(lambda move: move.world.put_sector(3, host_sector(GEO, Dblock(mbal=3, lver=move.held.lver + 1))))


@pytest.mark.parametrize("change", ["flags", "write_timestamp", "unused1", "lver"])
def test_a_claim_is_withdrawn_when_any_byte_of_the_leader_changes(change: str) -> None:
    value = {"flags": 0x11 ^ 0x1, "unused1": 5}.get(change)

    def act(move: Move) -> None:
        now = getattr(move.world.leader, change)
        move.world.edit_leader(**{change: value if value is not None and value != now else now ^ 1})

    meanwhile(act)


def test_a_lease_that_is_being_taken_is_not_claimed() -> None:
    move = Move()
    move.world.put_sector(3, host_sector(GEO, Dblock(mbal=3, lver=move.held.lver + 1)))
    before = whole(move)
    move.claim().raises(ClaimDisturbed)
    move.world.put_sector(3, b"")
    move.world.put_sector(2, host_sector(GEO, Dblock(mbal=3, lver=move.held.lver + 1, flags=1)))
    before = whole(move)
    move.claim().raises(ClaimDisturbed)
    assert whole(move) == before


@pytest.mark.parametrize("silent", [9, 30, 60])
def test_the_lease_of_a_host_that_has_been_silent_for_8n_is_not_claimed(silent: int) -> None:
    move = Move()
    move.source.die()
    move.world.jump(silent)
    assert "silent" in str(move.claim().raises(ClaimRefused))
    assert not move.claims_now()


def length_of(make: Callable[[Move], Task[Any]]) -> int:
    task = make(Move())
    while not task.done:
        task.step()
    return len(task.effects)


@pytest.mark.parametrize("how", ["cancelled", "error", "error after landing"])
def test_a_claim_that_fails_at_any_step_leaves_nothing(how: str) -> None:
    for at in range(length_of(Move.claim)):
        move = Move()
        task = move.claim().steps(at)
        if how == "cancelled":
            task.cancel()
        elif isinstance(task.next, Write) and how == "error after landing":
            task.fail_landed()
        elif isinstance(task.next, (Read, Write)) and how == "error":
            task.fail()
        else:
            continue
        while not task.done:
            task.step()
        assert task.error is not None
        assert move.world.sector(2).mode == ModeBlock()
        assert move.world.owner() == (1, 1)


def test_a_claim_whose_host_lost_its_own_lease_writes_nothing() -> None:
    move = Move()
    task = move.claim().until(Member)
    before = whole(move)
    move.target.die()
    task.raises(NotMember)
    assert whole(move) == before


# ------------------------------------------------------------------------------------------------ what it stops


def test_while_the_source_holds_and_after_it_released_nobody_else_gets_the_lease() -> None:
    move = Move()
    move.claim().run()
    for shared in (False, True):
        move.rival.acquire(shared=shared).raises(HeldByOther)
    move.leave()
    move.rival.acquire().raises(SharedByOthers)
    assert move.rival.acquire(shared=True).raises(ClaimedByOther).holder.host_id == 2
    assert move.claims_now()
    assert move.convert().run().lver > move.held.lver
    assert move.world.owner() == (2, 1)
    move.rival.acquire().raises(HeldByOther)


def test_a_withdrawn_claim_leaves_the_lease_to_the_source() -> None:
    move = Move()
    move.claim().run()
    move.target.settle().run()
    assert (move.world.sector(2).mode, move.world.owner()) == (ModeBlock(), (1, 1))
    move.leave()
    assert move.rival.acquire().run()


# --------------------------------------------------------------------------------------------------- conversion


def test_while_the_source_holds_a_conversion_looks_on_and_writes_nothing() -> None:
    move = Move()
    move.claim().run()
    task = move.once()
    assert task.run() is None
    assert {io.length for io in task.log} == {4096}, "cheap: no whole area"
    assert not [io for io in task.log if io.op == "write"]
    waiting = move.convert().until(Sleep, count=5)
    move.leave()
    assert waiting.run().lver == move.held.lver + 1


def test_every_write_of_a_conversion_but_the_last_carries_the_claim() -> None:
    move = Move()
    move.claim().run()
    move.leave()
    task = move.convert()
    while not task.done:
        owned_before = move.world.owner() == (2, 1)
        assert move.claims_now() or owned_before
        task.step()
    assert move.world.sector(2).mode == ModeBlock()
    record = decode_holder(move.world.sector(2).holder_bytes)
    assert record is not None
    assert record.belongs_to(2, 1, task.result.lver)
    assert record.state == RUNNING


def test_what_was_converted_is_released_like_any_lease() -> None:
    move = Move()
    move.claim().run()
    move.leave()
    held = move.convert().run()
    move.target.release(held).run()
    assert move.world.owner() is None
    assert move.rival.acquire().run()


def test_the_source_dies_and_the_claim_holds_until_it_is_over() -> None:
    move = Move()
    move.claim().run()
    move.source.die()
    for _ in range(4):
        move.world.jump(16)
        assert move.once().run() is None
    move.world.jump(16)
    assert move.rival.acquire().raises(SharedByOthers)
    assert move.convert().run()
    assert move.world.owner() == (2, 1)


def test_a_source_that_came_back_as_another_generation_holds_nothing() -> None:
    move = Move()
    move.claim().run()
    move.source.rejoin()
    assert move.convert().run()


def test_a_dead_sharer_is_cleared_by_the_conversion() -> None:
    move = Move()
    move.claim().run()
    move.world.put_sector(4, host_sector(GEO, Dblock(), ModeBlock(0x1, 1)))
    move.fourth.leave()
    move.leave()
    assert move.convert().run()
    assert move.world.sector(4).mode == ModeBlock()


def test_a_living_sharer_that_does_not_know_claims_is_waited_for() -> None:
    """sanlock's own shared acquires ignore the claim."""
    move = Move()
    move.claim().run()
    move.world.put_sector(4, host_sector(GEO, Dblock(), ModeBlock(0x1, 1)))
    move.leave()
    task = move.convert().until(Sleep, count=4)
    assert move.world.owner() is None
    assert move.claims_now()
    move.world.put_sector(4, b"")
    assert task.run()


def test_a_living_sharer_that_appears_during_the_ballot_gets_the_lease_back_and_the_claim_stays() -> None:
    move = Move()
    move.claim().run()
    move.leave()
    task = move.convert().until(Write, GEO.dblock(2))
    move.world.put_sector(4, host_sector(GEO, Dblock(), ModeBlock(0x1, 1)))
    task.until(Sleep)
    assert move.claims_now()
    assert move.world.owner() is None
    assert move.world.sector(2).dblock.released
    move.world.put_sector(4, b"")
    assert task.run().lver == move.held.lver + 2


def test_a_claim_that_another_host_cleared_is_lost() -> None:
    move = Move()
    move.claim().run()
    move.world.put_sector(2, b"")
    move.once().raises(ClaimLost)
    move.world.put_sector(2, host_sector(GEO, Dblock(), ModeBlock(0x3, 7)))
    move.once().raises(ClaimLost)


def test_a_conversion_that_is_given_up_at_any_step_leaves_nothing_that_holds() -> None:
    def ready() -> Move:
        move = Move()
        move.claim().run()
        move.leave()
        return move

    first = ready().convert()
    first.run()
    for at in range(len(first.effects)):
        move = ready()
        task = move.convert().steps(at)
        task.cancel()
        while not task.done:
            task.step()
        assert move.world.sector(2).mode == ModeBlock()
        assert move.world.owner() is None, f"given up at {at}"
        assert move.rival.acquire().run()


@pytest.mark.parametrize("how", ["error", "error after landing", "crash"])
def test_a_conversion_goes_on_after_an_error_or_crash_at_any_step_and_is_never_lost(how: str) -> None:
    def ready() -> Move:
        move = Move()
        move.claim().run()
        move.leave()
        return move

    first = ready().once()
    first.run()
    for at in range(len(first.effects)):
        move = ready()
        task = move.once().steps(at)
        if how == "error after landing" and isinstance(task.next, Write):
            task.fail_landed()
        elif how == "error" and isinstance(task.next, (Read, Write)):
            task.fail()
        elif how != "crash":
            continue
        if how != "crash":
            task.raises(StorageError)
        move.standing().run()
        rival = move.rival.acquire()
        while not rival.done:
            rival.step()
        assert isinstance(rival.error, Busy), f"{how} at {at}"
        held = move.convert().run()
        assert move.world.owner() == (2, 1)
        move.target.release(held).run()
        assert move.world.owner() is None


def test_a_restarted_engine_finds_the_claim_or_what_became_of_it() -> None:
    move = Move()
    move.claim().run()
    assert isinstance(move.standing().run(), Claimed)
    move.leave()
    held = move.convert().run()
    assert move.standing().run() == held
    move.target.release(held).run()
    move.standing().raises(ClaimLost)


def test_a_late_commit_of_an_old_version_takes_nothing_from_what_was_converted() -> None:
    """Format document, 7.4: another host puts an old version over the leader."""
    move = Move()
    old = move.world.leader
    move.claim().run()
    move.leave()
    held = move.convert().run()
    move.world.leader = old
    found = move.standing().run()
    assert isinstance(found, Held)
    assert found.lver == held.lver


# --------------------------------------------------------------------------------------------- who runs the guest


def test_the_source_sees_whether_the_guest_runs_at_its_claimer() -> None:
    move = Move()
    assert move.elsewhere() == []
    move.claim().run()
    assert move.elsewhere() == [(2, INCOMING)]
    sector = move.world.sector(2)
    move.target.task(claims.mark_running(move.world.lease, move.target.me, RECORD, GEO)).run()
    assert move.elsewhere() == [(2, RUNNING)]
    after = move.world.sector(2)
    assert (after.dblock, after.mode) == (sector.dblock, sector.mode)
    move.target.leave()
    assert move.elsewhere() == []


def test_the_source_whose_lease_was_taken_over_sees_the_new_owner() -> None:
    move = Move()
    move.claim().run()
    move.source.rejoin()
    move.convert().run()
    assert move.elsewhere(move.world.hosts[1]) == [(2, RUNNING)]


def test_a_former_owner_of_the_same_guest_runs_nothing() -> None:
    move = Move()
    move.claim().run()
    move.leave()
    move.convert().run()
    assert move.elsewhere(move.target) == []


def test_the_claim_of_another_guest_is_not_this_guests() -> None:
    move = Move()
    other = replace(RECORD, uuid=OTHER, state=RUNNING).tagged(3, 1, move.held.lver)
    move.world.put_sector(3, host_sector(GEO, Dblock(), ModeBlock(0x3, 1), other.encode()))
    assert move.elsewhere() == []


def test_what_was_converted_meanwhile_needs_no_mark() -> None:
    move = Move()
    move.claim().run()
    move.leave()
    move.convert().run()
    before = whole(move)
    move.target.task(claims.mark_running(move.world.lease, move.target.me, RECORD, GEO)).run()
    assert whole(move) == before


# -------------------------------------------------------------------------------------------------- interleavings


def io_steps(task: Task[Any]) -> bool:
    """Go on to just behind the next I/O, or to the end; False: it has ended already."""
    if task.done:
        return False
    while not task.done:
        io = isinstance(task.next, (Read, Write))
        if isinstance(task.next, Sleep):
            task.next = replace(task.next, seconds=0)
        task.step()
        if io:
            break
    return True


def rival_after_release(move: Move) -> Iterator[str]:
    """The source releases, then the rival acquires; yields after each I/O."""
    leaving: Task[Any] = move.source.release(move.held)
    while io_steps(leaving):
        yield "release"
    taking = move.rival.acquire()
    while io_steps(taking):
        yield "rival"
    if taking.error is None:
        yield "taken"


@pytest.mark.slow
def test_in_no_order_of_steps_a_claim_stands_and_a_rival_has_the_lease() -> None:
    """The race of safety rules, 18, whole: claim against release and a rival's acquire, every interleaving."""
    probe = Move()
    total = sum(1 for _ in rival_after_release(probe))
    claim_ios = 4
    both = refused = claimed = 0
    for at in itertools.combinations_with_replacement(range(total + 1), claim_ios):
        move = Move()
        task, taken = move.claim(), False
        others = rival_after_release(move)
        done = 0
        for place in at:
            while done < place:
                taken = next(others, "") == "taken" or taken
                done += 1
            io_steps(task)
        for what in others:
            taken = what == "taken" or taken
        while not task.done:
            io_steps(task)
        assert task.error is None or isinstance(task.error, Busy), repr(task.error)
        assert not (task.error is None and taken), f"claim I/O after {at} of the others"
        assert move.claims_now() == (task.error is None)
        both += taken
        claimed += task.error is None
        refused += task.error is not None
    assert both
    assert claimed
    assert refused


@given(st.lists(st.integers(0, 3), min_size=30, max_size=300), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_in_no_interleaving_anybody_but_the_claimer_follows_the_source(
    schedule: list[int], shared: bool, chance: Any
) -> None:
    """From a claim that was granted to the end of the guest at its new host no rival holds the lease."""
    move = Move()
    move.world.random = chance.random
    tasks: dict[int, Task[Any]] = {1: move.claim()}
    claimed = converted = released = False
    for turn in schedule:
        task = tasks.get(turn)
        if task is None and turn == 0:
            task = tasks[0] = move.source.release(move.held)
        elif task is None or (task.done and turn > 1):
            rival = move.rival if turn == 2 else move.fourth
            task = tasks[turn] = rival.acquire(shared=shared and turn == 3)
        if task.done:
            if turn != 1 or converted or not claimed:
                continue
            task = tasks[1] = move.convert()
        if isinstance(task.next, Sleep):
            task.next = replace(task.next, seconds=0)
        task.step()
        if not task.done:
            continue
        if turn == 1:
            assert task.error is None or (isinstance(task.error, Busy) and not claimed), repr(task.error)
            claimed, converted = task.error is None, claimed
        elif turn == 0:
            assert task.error is None
            released = True
        elif task.error is None:
            assert not claimed
            return
        else:
            assert isinstance(task.error, Busy), repr(task.error)
        if converted:
            assert released
            assert move.world.owner() == (2, 1)
