# SPDX-License-Identifier: LGPL-2.1-or-later
"""Searches all states of a setup, or as many as were asked for.

`complete` goes breadth first, so that a counter-example has as few steps as
possible. `by_switches` goes by the number of times that the turn passes from one
host to another although the first could have gone on, or that a write overtakes a read
of another host: where the states are too many
to visit all, most faults need few switches, and a counter-example with few is the
easiest to read. It can say "all runs with up to n switches".
"""

from __future__ import annotations

import gc
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from .explore import Model, State, tiny_areas
from .invariants import Invariants
from .runs import Setup
from .tell import story


@dataclass
class Outcome:
    """`complete`: every state was visited. `switches`: all runs with up to so many were. `seconds` of CPU."""

    setup: Setup
    states: int
    steps: int
    seconds: float
    complete: bool
    switches: int = -1
    wrong: str = ""
    story: str = ""

    def __str__(self) -> str:
        if self.complete:
            bound = "all of them"
        elif self.switches >= 0:
            bound = f"all with up to {self.switches} switches"
        else:
            bound = "stopped there"
        found = f"WRONG: {self.wrong}\n{self.story}" if self.wrong else "nothing wrong"
        return (
            f"{self.setup.hosts} hosts, {self.setup.show()}: {self.states} states ({bound}),"
            f" {self.steps} steps, {self.seconds:.1f} s: {found}"
        )


def complete(setup: Setup, limit: int = 0, sought: str = "") -> Outcome:
    """Breadth first. `limit`: stop after so many states (0: never). `sought`: pass over other faults than this."""
    with tiny_areas():
        return _complete(Model(setup), limit, sought)


def _complete(model: Model, limit: int, sought: str) -> Outcome:
    begun, must = time.process_time(), Invariants(model)
    parents: dict[State, State | None] = {model.first(): None}
    queue = deque(parents)
    steps = 0

    def outcome(is_complete: bool, wrong: str = "", last: State | None = None) -> Outcome:
        seconds = time.process_time() - begun
        text = _story(model, parents, last) if wrong else ""
        return Outcome(model.setup, len(parents), steps, seconds, is_complete, -1, wrong, text)

    while queue:
        state = queue.popleft()
        before = steps
        for host, _, new in model.moves(state):
            steps += 1
            if new in parents:
                continue
            parents[new] = state
            wrong = must.wrong(new, host)
            if wrong and sought in wrong:
                return outcome(False, wrong, new)
            queue.append(new)
        if (steps == before or model.claims) and must.quiet(state):
            wrong = must.unavailable(state)
            if wrong and sought in wrong:
                return outcome(False, wrong, state)
        if limit and len(parents) >= limit:
            return outcome(False)
    return outcome(True)


def by_switches(setup: Setup, limit: int, sought: str = "") -> Outcome:
    """By the number of switches, up to `limit` states (a state counts once for each host whose turn it is)."""
    with tiny_areas():
        return _by_switches(Model(setup), limit, sought)


def _by_switches(model: Model, limit: int, sought: str) -> Outcome:
    begun, must = time.process_time(), Invariants(model)
    first = (model.first(), 0)
    parents: dict[Any, Any] = {first: None}
    waiting: list[list[Any]] = [[first]]
    visited: set[Any] = set()
    steps = cost = 0

    def outcome(is_complete: bool, wrong: str = "", last: Any = None) -> Outcome:
        seconds = time.process_time() - begun
        text = _story(model, parents, last) if wrong else ""
        return Outcome(model.setup, len(visited), steps, seconds, is_complete, cost - 1, wrong, text)

    while cost < len(waiting):
        if not waiting[cost]:
            cost += 1
            continue
        key = waiting[cost].pop()
        if key in visited:
            continue
        visited.add(key)
        state, turn = key
        found = list(model.moves(state))
        goes_on = any(host == turn for host, _, _ in found)
        for host, _, new in found:
            steps += 1
            after = (new, host)
            if after in visited:
                continue
            if after not in parents:
                parents[after] = key
                wrong = must.wrong(new, host)
                if wrong and sought in wrong:
                    return outcome(False, wrong, after)
            more = cost + (goes_on and host != turn) + model.overtaken(state, new, host)
            while len(waiting) <= more:
                waiting.append([])
            waiting[more].append(after)
        if (not found or model.claims) and must.quiet(state):
            wrong = must.unavailable(state)
            if wrong and sought in wrong:
                return outcome(False, wrong, key)
        if len(visited) >= limit:
            return outcome(False)
    return outcome(True)


def _story(model: Model, parents: dict[Any, Any], last: Any) -> str:
    path = []
    while last is not None:
        path.append(last[0] if isinstance(last[0], tuple) else last)
        last = parents[last]
    return "\n".join(story(model, path[::-1]))


class without_collector:
    """States are many, live long and form no cycles: looking for cycles among them only costs time."""

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
