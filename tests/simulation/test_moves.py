# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that move, leases that are removed and hosts whose end is confirmed, in runs made by hand."""

from __future__ import annotations

from tests.faults import planted
from vlhook.leases.owner import dead_seconds, fail_seconds
from vlhook.simulate import plan, run
from vlhook.simulate.history import ACQUIRED, CONVERTED, RELEASE
from vlhook.simulate.plan import BOOT, CALM, CLEAN, CONFIRM, CRASH, MOVE, RESTART, START, Action, Plan


def made(*actions: Action, hosts: int = 3) -> Plan:
    """Lease a, hosts that have joined long ago, calm at the end."""
    end = Action(max(a.at for a in actions) + 400, CALM)
    return Plan(1, plan.MOVES, hosts, 10, ("a",), False, (*actions, end))


def told(what: Plan) -> run.Result:
    result = run.run(what, tell=True, whole_areas=False)
    assert not result.wrong, "\n".join([*result.lines, result.wrong])
    return result


RUNS = Action(1.0, START, 1, "a", seconds=300.0, patience=20.0)
MOVES = Action(10.0, MOVE, 2, "a", seconds=5.0, patience=20.0)
RIVALS = tuple(Action(at, START, 3, "a", shared=at % 2 == 0, seconds=1.0, patience=5.0) for at in range(8, 30))


def holders(result: run.Result) -> list[tuple[int, str]]:
    return [(e.host, e.what) for e in result.events if e.what in (ACQUIRED, CONVERTED, RELEASE)]


def test_a_guest_takes_its_lease_along_and_rivals_are_refused_throughout() -> None:
    moved = holders(told(made(RUNS, MOVES, *RIVALS)))
    assert moved[:4] == [(1, ACQUIRED), (1, RELEASE), (2, ACQUIRED), (2, CONVERTED)]
    assert [host for host, what in moved[4:] if what == ACQUIRED] in ([], [1], [2], [3]), "only after the calm"


def test_a_keeper_that_is_restarted_finds_its_claim_and_converts_it() -> None:
    restarted = told(made(RUNS, MOVES, Action(12.0, RESTART, 2), *RIVALS))
    assert holders(restarted)[:4] == [(1, ACQUIRED), (1, RELEASE), (2, ACQUIRED), (2, CONVERTED)]


def test_the_source_dies_after_the_guest_has_gone_and_nobody_gets_between() -> None:
    result = told(made(RUNS, MOVES, Action(15.06, CRASH, 1), *RIVALS))
    assert any(event.what == CONVERTED and event.host == 2 for event in result.events)


def test_an_unused_lease_is_removed_and_the_next_start_has_a_new_file() -> None:
    result = told(made(Action(1.0, CLEAN, 2, "a"), Action(5.0, START, 1, "a", seconds=1.0, patience=5.0)))
    assert any("has removed a" in line for line in result.lines)
    assert holders(result)[0] == (1, ACQUIRED)


def test_what_a_host_had_that_is_confirmed_to_be_off_is_free_after_8n_and_not_after_8n_60() -> None:
    starts = tuple(Action(float(at), START, 2, "a", seconds=1.0, patience=5.0) for at in range(70, 200, 2))
    events = told(made(RUNS, Action(40.0, CRASH, 1), Action(41.0, CONFIRM, 3, count=1), *starts)).events
    taken = next(e.at for e in events if e.what == ACQUIRED and e.host == 2)
    assert 20 + fail_seconds(10) <= taken < 20 + dead_seconds(10)


def test_a_host_that_lives_is_not_ended_by_a_false_word() -> None:
    rivals = (Action(float(at), START, 2, "a", seconds=1.0, patience=5.0) for at in range(31, 60))
    false = made(RUNS, Action(30.0, CONFIRM, 3, count=1), *rivals)
    result = told(false)
    assert any("has not ended host 1" in line for line in result.lines)
    with planted("a host is ended on somebody's word alone"):
        assert run.run(false, whole_areas=False).wrong


def test_a_host_that_returns_while_its_end_is_confirmed_keeps_what_it_takes_then() -> None:
    actions = (RUNS, Action(20.0, CRASH, 1), Action(21.0, CONFIRM, 3, count=1))
    for at in (22.0, 60.0, 100.0, 101.0, 103.0, 110.0, 125.0):
        told(made(*actions, Action(at, BOOT, 1), *(Action(t, START, 2, "a", patience=5.0) for t in range(60, 300, 3))))
