# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every order of the I/O of 2 hosts, completely, and of 3 hosts as far as the time goes.

The bounds of a run: what each host does (letters: see program.py), how many crashes,
restarts, abandons, errors and repeated writes there are in all, and how many pauses and
attempts an acquire may make before it is given up. VLHOOK_MODEL_STATES: how many states of
3 hosts are visited; `python -m tests.model` searches with other bounds.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.model.explore import Model, State, tiny_areas
from tests.model.nodes import READ, Node
from tests.model.runs import Setup
from tests.model.search import by_switches, complete, without_collector

STATES = int(os.environ.get("VLHOOK_MODEL_STATES", "80000"))

TWO_HOSTS = [
    Setup(("x", "x"), ticking=True),
    Setup(("x", "x"), repeats=1),
    Setup(("x", "x"), errors=1, abandons=1, pauses=1, attempts=2),
    Setup(("x", "X"), restarts=1, abandons=1, pauses=1, attempts=2),
    Setup(("x", "s"), crashes=1),
    Setup(("s", "x"), crashes=1),
    Setup(("s", "s"), crashes=1),
    Setup(("x", "s"), abandons=1),
    Setup(("s", "x"), abandons=1, repeats=1, pauses=1, attempts=2),
    Setup(("s", "s"), restarts=1),
    Setup(("xl", "x")),
    Setup(("x", "sl")),
    Setup(("xx", "x"), pauses=1, attempts=2),
    Setup(("xx", "x"), crashes=1, pauses=0, attempts=2),
    Setup(("x", "x"), repeats=1, brief=True),
    Setup(("x", "X"), restarts=1, abandons=1, pauses=1, attempts=2, brief=True),
    Setup(("x", "s"), crashes=1, brief=True),
    Setup(("s", "x"), abandons=1, repeats=1, pauses=1, attempts=2, brief=True),
    Setup(("xl", "x"), brief=True),
    Setup(("xx", "x"), crashes=1, pauses=0, attempts=2, brief=True),
]

THREE_HOSTS = [
    Setup(("x", "x", "x"), crashes=1),
    Setup(("s", "x", "x"), abandons=1),
    Setup(("xx", "x", "s"), repeats=1),
    Setup(("xx", "x", "x"), crashes=1, brief=True),
]


@pytest.mark.parametrize("setup", TWO_HOSTS, ids=Setup.show)
def test_two_hosts_in_every_order_of_their_steps(setup: Setup) -> None:
    with without_collector():
        outcome = complete(setup)
    print(outcome)
    assert not outcome.wrong, str(outcome)
    assert outcome.complete


@pytest.mark.parametrize("setup", THREE_HOSTS, ids=Setup.show)
def test_three_hosts_in_the_orders_with_the_fewest_switches(setup: Setup) -> None:
    with without_collector():
        outcome = by_switches(setup, STATES)
    print(outcome)
    assert not outcome.wrong, str(outcome)
    assert outcome.complete or outcome.states >= STATES


class Literal(Model):
    """Without the reductions of reads: each sector is looked at in a step of its own, at any time."""

    def _answers(self, state: Any, host: int, node: Node, left: Any) -> Iterator[tuple[int, str, State]]:
        if node.kind != READ:
            yield from super()._answers(state, host, node, left)
            return
        got = node.got or (-1,) * len(node.wants)
        for i, slot in enumerate(node.wants):
            if got[i] < 0:
                looked = self.programs.look(node, (*got[:i], state[slot], *got[i + 1 :]))
                yield host, "look", self._after(state, host, looked)
        if min(got) >= 0:
            yield host, "read", self._after(state, host, self.programs.take(node, ("read", got)))

    def _read_before(self, state: Any, writer: int, slot: int, content: int) -> list[list[int]]:
        new = list(state)
        new[slot] = content
        return [new]

    def _lasting(self, state: list[int], node: Node) -> None:
        return None


def reachable(model: Model) -> tuple[set[Any], set[Any], int]:
    """What the disk can look like, the same with who holds the lease then, and how many states there are."""
    first = model.first()
    known, queue, disks, holdings = {first}, deque([first]), set(), set()
    while queue:
        state = queue.popleft()
        disk = tuple(model.programs.sectors.contents[s] for s in state[: 2 * model.hosts + 1])
        disks.add(disk)
        holdings.add((disk, tuple((n.generation, n.belief, n.lver) for n in model.nodes(state))))
        for _, _, new in model.moves(state):
            if new not in known:
                known.add(new)
                queue.append(new)
    return disks, holdings, len(known)


@pytest.mark.parametrize(
    "setup",
    [Setup(("x", "x"), pauses=1, attempts=2), Setup(("s", "x"), pauses=0, attempts=2, abandons=1)],
    ids=Setup.show,
)
def test_points_taken_for_the_same_have_the_same_future(setup: Setup) -> None:
    """The search that merges local states and the one that compares whole histories reach the same."""
    with tiny_areas():
        *merged, fewer = reachable(Model(setup))
        *histories, more = reachable(Model(setup, merge=False))
    assert merged == histories
    assert fewer < more


@pytest.mark.parametrize(
    "setup",
    [
        Setup(("x", "x"), pauses=1, attempts=2),
        Setup(("s", "x"), crashes=1, pauses=0, attempts=1),
        Setup(("x", "x"), pauses=1, attempts=2, brief=True),
    ],
    ids=Setup.show,
)
def test_the_reduction_of_reads_leaves_out_nothing(setup: Setup) -> None:
    with tiny_areas():
        disks, holdings, fewer = reachable(Model(setup))
        literal_disks, literal_holdings, more = reachable(Literal(setup))
    assert disks == literal_disks
    assert holdings <= literal_holdings
    assert {h for h in literal_holdings if _holders(h) > 1} <= holdings
    assert fewer < more


def _holders(holding: Any) -> int:
    return sum(belief > 0 for _, belief, _ in holding[1])


def test_a_lone_host_takes_the_lease_and_gives_it_back() -> None:
    """The model itself moves: 1 host, acquire and release, in one order only."""
    outcome = complete(Setup(("x",)))
    assert outcome.complete
    assert outcome.states == outcome.steps + 1
