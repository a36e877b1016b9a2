# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the simulator promises: runs that repeat, a driver that keeps its contract, hosts that die in time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults import planted
from vlhook.leases.owner import dead_seconds, fail_seconds
from vlhook.simulate import keeper, plan, run
from vlhook.simulate.disk import Area
from vlhook.simulate.history import ACQUIRED, LOST
from vlhook.simulate.plan import CALM, CRASH, DARK, START, STOP, TRAP, WEAK, Action, Plan
from vlhook.simulate.storage import Io, Link
from vlhook.simulate.world import World

PROFILES = [(plan.CONTEND, 4), (plan.ACCIDENTS, 3), (plan.DAY, 5)]


def made(*actions: Action, hosts: int = 2, io_timeout: int = 10) -> Plan:
    """A plan of our own: lease a, hosts that have joined long ago, calm at the end."""
    end = Action(max(a.at for a in actions) + 400, CALM)
    return Plan(1, plan.ACCIDENTS, hosts, io_timeout, ("a",), False, (*actions, end))


def told(what: Plan) -> run.Result:
    result = run.run(what, tell=True, whole_areas=False)
    assert not result.wrong, "\n".join([*result.lines, result.wrong])
    return result


@pytest.mark.parametrize(("profile", "hosts"), PROFILES)
@pytest.mark.parametrize("seed", [3, 8])
def test_a_seed_is_a_run(profile: str, hosts: int, seed: int) -> None:
    first = told(plan.draw(seed, profile, hosts, 0.3))
    assert told(plan.draw(seed, profile, hosts, 0.3)) == first
    assert told(plan.draw(seed + 1, profile, hosts, 0.3)).events != first.events


@pytest.mark.parametrize(("profile", "hosts"), PROFILES)
def test_reads_that_end_after_the_last_used_sector_change_nothing(profile: str, hosts: int) -> None:
    drawn = plan.draw(11, profile, hosts, 0.3)
    whole, short = run.run(drawn, tell=True), run.run(drawn, tell=True, whole_areas=False)
    assert whole == short


def test_an_io_is_answered_only_when_nothing_of_it_can_land_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is answered without an error has landed."""
    answered: set[Io] = set()
    landed: set[Io] = set()
    land, answer, write = Link.land, Link.answer, Area.write
    kinds = {"twice": 0, "failed": 0, "late": 0, "torn": 0}
    current: list[Any] = [None]

    def landing(self: Link, io: Io) -> None:
        assert io not in answered
        current[0] = io
        land(self, io)
        current[0] = None
        kinds["twice"] += io.twice
        kinds["torn"] += bool(io.later)

    def answering(self: Link, io: Io) -> None:
        before = len(self.inflight)
        answer(self, io)
        if len(self.inflight) == before or io.orphan:
            kinds["late"] += 1
            return
        answered.add(io)
        kinds["failed"] += io.failed
        assert io.failed or io.data is None or io in landed

    def writing(self: Area, first: int, data: bytes) -> None:
        if current[0]:
            landed.add(current[0])
        write(self, first, data)

    monkeypatch.setattr(Link, "land", landing)
    monkeypatch.setattr(Link, "answer", answering)
    monkeypatch.setattr(Area, "write", writing)
    for seed in range(40):
        for profile in (plan.CONTEND, plan.ACCIDENTS):
            told(plan.draw(seed, profile, 3))
    assert len(answered) > 3000
    assert all(kinds.values()), kinds


def test_guests_are_dead_before_others_may_take_their_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage disappears for a host with a guest: the guest ends between 8N and 8N+60, the lease is taken later."""
    actions = (
        Action(1.0, START, 1, "a", seconds=500.0, patience=20.0),
        Action(30.0, DARK, 1, seconds=1000.0),
        *(Action(at, START, 2, "a", seconds=5.0, patience=20.0) for at in range(40, 300, 5)),
    )
    events = told(made(*actions)).events
    (taken, lost, again) = [e for e in events if e.what in (ACQUIRED, LOST)][:3]
    assert (taken.host, lost.what, again.host) == (1, LOST, 2)
    last_renewal = 20.0
    assert last_renewal + fail_seconds(10) <= lost.at <= last_renewal + dead_seconds(10) + 1
    assert again.at >= last_renewal + dead_seconds(10)


def test_a_keeper_that_stands_still_between_check_and_write_is_reset_before_others_go_on() -> None:
    actions = (
        Action(1.0, TRAP, 1, seconds=1000.0),
        Action(2.0, START, 1, "a", seconds=50.0, patience=900.0),
        *(Action(at, START, 2, "a", seconds=5.0, patience=20.0) for at in range(3, 300, 7)),
    )
    result = told(made(*actions))
    assert any("host 1 reset by its watchdog" in line for line in result.lines)
    assert any(e.what == ACQUIRED and e.host == 2 for e in result.events)


def test_a_lease_is_had_again_in_its_time_after_its_host_has_crashed() -> None:
    actions = (Action(1.0, START, 1, "a", seconds=900.0, patience=20.0), Action(10.0, CRASH, 1))
    calm = Action(11.0, CALM)
    crashed = Plan(1, plan.ACCIDENTS, 2, 10, ("a",), False, (*actions, calm))
    (first, lost, second) = [e for e in told(crashed).events if e.what in (ACQUIRED, LOST)]
    assert (first.host, lost.host, second.host) == (1, 1, 2)
    assert dead_seconds(10) < second.at <= 10.0 + dead_seconds(10) + 2 * 10 + 5


def test_storage_can_be_slow_and_a_stopped_keeper_renews_in_time() -> None:
    actions = (
        Action(0.0, WEAK, 1, lag=3.0),
        Action(1.0, START, 1, "a", seconds=300.0, patience=60.0),
        Action(60.0, STOP, 1, seconds=50.0),
    )
    events = told(made(*actions)).events
    assert [e.what for e in events if e.host == 1 and e.what in (ACQUIRED, LOST)][0] == ACQUIRED
    assert not any(e.what == LOST for e in events)


def test_a_failed_run_is_made_small_and_is_repeated_by_its_command() -> None:
    with planted("success on another host's commit"):
        figures = run.several(0, 60, plan.CONTEND, 3, 0.0)
        assert figures.failed
        failed = figures.failed[0]
        small = run.shrink(failed)
        assert small.only is not None
        assert len(small.only) < len(failed.actions) - 1
        assert run.run(small).wrong
        assert f"--seed {failed.seed} --only " in small.command()
        again = plan.draw(failed.seed, plan.CONTEND, 3).keep(small.only)
        assert run.run(again).wrong == run.run(small).wrong
    assert not run.run(small).wrong


def test_hosts_that_never_come_to_rest_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "gone", lambda *_: None)
    result = run.run(made(Action(1.0, START, 1, "a", seconds=1.0, patience=5.0)), whole_areas=False)
    assert result.wrong.startswith("coming to rest did not happen")


def test_a_second_owner_of_a_version_is_found() -> None:
    world = World(made(Action(1.0, START, 1, "a", seconds=1.0, patience=5.0)), whole_areas=False)
    world.run()
    area = world.leases["a"]
    leader = bytearray(area.sectors[0])
    leader[32:40] = (2 if leader[32] == 1 else 1).to_bytes(8, "little")
    with pytest.raises(Exception, match=r"version \d belonged to host"):
        area.write(0, bytes(leader))


def test_many_runs_on_two_processors_are_the_same_runs() -> None:
    one = list(run.many(0, 60, plan.CONTEND, chunk=20))[-1]
    two = list(run.many(0, 60, plan.CONTEND, jobs=2, chunk=20))[-1]
    assert (one.runs, one.effects, one.grants) == (two.runs, two.effects, two.grants)
    assert one.runs == 60
