# SPDX-License-Identifier: LGPL-2.1-or-later
"""All hosts and the disk together: which steps there are. What must hold after each: `invariants.py`.

A state is a tuple of small numbers: what each sector contains, at which node each
host stands (`program.py`), which budgets are left, and which value each version was
decided for. A step is one landing of one I/O of one host, or an event of one host.
Every order of steps is explored, except those that differ in nothing that another
host or an invariant could notice:

- Looking at the clock, drawing a number, pausing and the check of the host's own
  lease touch nothing that another host can see; they happen with the step before.
  (A host that lost its own lease does no more I/O: to others it has crashed.)
- A read finds in each sector something that stood there between its issue and its answer, each sector
  independently of the others. So it is issued as early as can be, right after the step before, and looks
  at a sector as late as can be: right before somebody else's write to that sector, or when it is answered.
- A read of sectors that nobody else will ever write again (`_lasting`) is answered with the step before,
  unless an error, an accident or the like may still happen right there.
- Between two writes of a host others cannot tell when it crashes or is restarted; it
  does so at the beginning of an operation and right after a write, which gives them
  the most time. Its write that lands after its death is a crash after that write: no
  write is on its way when a host is dead to others or rejoins (format document, 8).
- A guest counts as running from the last answer of the acquire to the step before the
  first I/O of the release, or until its crashed host is dead to others or has rejoined:
  no real guest runs longer.

There is no reduction by symmetry of hosts: ballot numbers are ordered by host id, so
exchanging two hosts is no symmetry. That states need only hold nodes, and not whole
histories, is argued in `localstate.py`. Time is: hosts do not drift, and a host's view of
another is that it was seen alive just now, or that it is dead; which of the two changes
only at the step "dead", after a crash (bounded survival). Views and clocks in
between, and what renewals do, are the simulator's part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from vlhook.leases import area, ballot, holder, records

from .nodes import (
    CLAIMED,
    CLAIMS,
    CRASHED,
    CURRENT,
    DEAD,
    DONE,
    EXCLUSIVE,
    HOLDS,
    LEFT,
    READ,
    REMOVE,
    RUNS,
    SCHEDULED,
    SEEN,
    WAITS,
    WRITE,
    Node,
    Op,
)
from .program import Programs
from .runs import TINY, Setup

ALONE_KEYS = {CURRENT: "current"}
State = tuple[int, ...]
Label = str
"""What kind of step it was: one of the words that `moves` uses."""
CRASHES, RESTARTS, ABANDONS, ERRORS, REPEATS = range(5)
RESTARTED = ("acquire", "release", "find", "claim", "look", "refind", "withdraw", "clean")
CLEARED, REMOVED = -2, -3
"""In the history: the lease was cleared, to be removed; its file was removed."""


@contextmanager
def tiny_areas() -> Iterator[None]:
    """Leaders state a tiny area, and what is computed from bytes alone is computed once."""
    real = records.of_leader, records.crc32c, records.host_sectors, holder.crc32c
    summed = lru_cache(maxsize=1 << 16)(records.crc32c)
    decoded = lru_cache(maxsize=1 << 16)(lambda *args: tuple(real[2](*args)))
    records.of_leader = lambda sector_size, flags, where: TINY
    records.crc32c = holder.crc32c = lambda data: summed(bytes(data))
    area.host_sectors = ballot.host_sectors = decoded
    try:
        yield
    finally:
        records.of_leader, records.crc32c, area.host_sectors, holder.crc32c = real
        ballot.host_sectors = real[2]


class Model:
    """The transition system of one setup."""

    def __init__(self, setup: Setup, merge: bool = True) -> None:
        self.setup = setup
        self.programs = Programs(setup, merge)
        hosts = self.hosts = setup.hosts
        self.at_node, self.at_budget, self.at_history = 2 * hosts, 3 * hosts + 1, 3 * hosts + 2
        leaving = setup.crashes or any("l" in script for script in setup.scripts)
        shared = [leaving and not set("sScCDTU").isdisjoint(script) for script in setup.scripts]
        self.claims = any(not set("cCDTU").isdisjoint(script) for script in setup.scripts)
        self.unshared = [False, *(not s for s in shared)]
        """Of each host: will nobody ever empty its sector, because there is no mode block of a dead generation?"""
        self._budgets: list[tuple[int, ...]] = []
        self._budget_ids: dict[tuple[int, ...], int] = {}
        self._spent: dict[tuple[int, int], int] = {}
        self.histories: list[dict[int, Any]] = [{}]
        self._history_ids: dict[Any, int] = {(): 0}
        self._decided: dict[Any, int] = {}

    def first(self) -> State:
        p, setup, hosts = self.programs, self.setup, range(1, self.hosts + 1)
        state = [p.sectors.first_leader(), *(p.sectors.blank() for _ in hosts), *(p.sectors.delta(h, 1) for h in hosts)]
        state += [p.start(h, 1, setup.scripts[h - 1]) for h in hosts]
        left = (setup.crashes, setup.restarts, setup.abandons, setup.errors, setup.repeats)
        state += [self._budget(left), 0]
        for host in hosts:
            if setup.scripts[host - 1].startswith("M"):
                self._alone(state, host)
        return tuple(state)

    def _alone(self, state: list[int], host: int) -> None:
        """`host` goes on until its guest runs; the others have not begun."""
        node = self.programs.nodes[state[self.at_node + host]]
        while node.kind != HOLDS:
            if node.kind == WRITE:
                state[node.slot] = node.content
            key = ("read", self.found(state, node)) if node.kind == READ else ALONE_KEYS.get(node.kind, "done")
            state[self.at_node + host] = self.programs.take(node, key)
            node = self.programs.nodes[state[self.at_node + host]]
            if node.decides:
                state[self.at_history] = self._decide(state[self.at_history], node.decides)

    def nodes(self, state: State) -> list[Node]:
        known = self.programs.nodes
        return [known[i] for i in state[self.at_node + 1 : self.at_budget]]

    # ------------------------------------------------------------------ steps

    def moves(self, state: State) -> Iterator[tuple[int, Label, State]]:
        """(host, label, next state) for each step there is."""
        left = self._budgets[state[self.at_budget]]
        nodes, programs = self.programs.nodes, self.programs
        for host in range(1, self.hosts + 1):
            node = nodes[state[self.at_node + host]]
            if node.kind in SCHEDULED:
                yield from self._answers(state, host, node, left)
                if any(left[:3]) and not node.got:
                    yield from self._accidents(state, host, node, left)
            elif node.kind in (HOLDS, WAITS):
                yield from self._standing(state, host, node)
                if left[CRASHES]:
                    yield host, "crash", self._after(state, host, programs.crashed(node), CRASHES)
                if left[RESTARTS]:
                    yield host, "restart", self._after(state, host, programs.restarted(node), RESTARTS)
                    if node.kind == HOLDS and node.op and node.op.letter in "cC":
                        unaware = programs.restarted_unaware(node)
                        yield host, "restart", self._after(state, host, unaware, RESTARTS)
            elif node.kind != DONE:
                yield from self._afterlife(state, host, node)
            if node.belief in CLAIMS and node.kind not in (CRASHED, DEAD):
                yield from self._switches(state, host, node)

    def _standing(self, state: State, host: int, node: Node) -> Iterator[tuple[int, Label, State]]:
        programs = self.programs
        assert node.op
        if node.kind == WAITS:
            yield host, "look", self._after(state, host, programs.looks(node))
            if node.op.letter == "c":
                yield host, "withdraw", self._after(state, host, programs.withdraws(node))
        elif node.op.kind == "await":
            if node.op.letter == "U" or all(self._is_past(state, n, op) for n, op in enumerate(node.op.since, 1)):
                yield host, "hand over", self._after(state, host, programs.hands_over(node))
        elif node.op.kind == "release":
            yield host, "ends", self._after(state, host, programs.give_up(node))

    def _is_past(self, state: State, host: int, op: Op | None) -> bool:
        """Is what `host` was about over? All that was under way has landed 8N+60 later (bounded survival)."""
        node = self.programs.nodes[state[self.at_node + host]]
        return op is None or node.kind not in SCHEDULED or node.op != op

    def _switches(self, state: State, host: int, node: Node) -> Iterator[tuple[int, Label, State]]:
        """The CPUs of the guest stop at its source and run at `host`, which claims it; or the other way round.

        That no two hosts run them at once is QEMU's and libvirt's to see to.
        """
        for other in range(1, self.hosts + 1):
            source = self.programs.nodes[state[self.at_node + other]]
            if source.kind != HOLDS or not source.op or source.op.letter not in "mM" or source.lver != node.lver:
                continue
            if (source.belief, node.belief) == (EXCLUSIVE, CLAIMED):
                after = list(state)
                after[self.at_node + other] = self.programs.believes(source, LEFT)
                yield host, "switch", self._after(after, host, self.programs.believes(node, RUNS))
            elif (source.belief, node.belief) == (LEFT, RUNS):
                after = list(state)
                after[self.at_node + other] = self.programs.believes(source, EXCLUSIVE)
                yield host, "back", self._after(after, host, self.programs.believes(node, CLAIMED))

    def _answers(
        self, state: State, host: int, node: Node, left: tuple[int, ...]
    ) -> Iterator[tuple[int, Label, State]]:
        take = self.programs.take
        if node.kind == READ:
            yield host, "read", self._after(state, host, take(node, ("read", self.found(state, node))))
            if left[ERRORS] and not node.got:
                yield host, "eio", self._after(state, host, take(node, "eio"), ERRORS)
        elif node.kind == WRITE:
            for before in self._read_before(state, host, node.slot, node.content):
                if node.clears:
                    before[self.at_history] = self._decide(before[self.at_history], (CLEARED, (0, 0, 0)))
                yield host, "write", self._after(before, host, take(node, "done"))
                if left[ERRORS]:
                    yield host, "eio", self._after(before, host, take(node, "eio"), ERRORS)
                if left[REPEATS] and state[node.slot] != node.content:
                    yield host, "repeat", self._after(before, host, node.ident, REPEATS)
            if left[ERRORS]:
                yield host, "eio", self._after(state, host, take(node, "eio"), ERRORS)
        elif node.kind == REMOVE:
            before = list(state)
            before[self.at_history] = self._decide(state[self.at_history], (REMOVED, (0, 0, 0)))
            yield host, "remove", self._after(before, host, take(node, "removed"))
            if left[ERRORS]:
                yield host, "eio", self._after(state, host, take(node, "eio"), ERRORS)
        elif node.kind == CURRENT:
            gone = REMOVED in self.histories[state[self.at_history]]
            yield host, "current", self._after(state, host, take(node, "gone" if gone else "current"))
        else:
            dead = self.programs.nodes[state[self.at_node + node.about]].kind == DEAD
            key = ("view", dead, state[self.hosts + node.about])
            yield host, "view", self._after(state, host, take(node, key))

    def _accidents(
        self, state: State, host: int, node: Node, left: tuple[int, ...]
    ) -> Iterator[tuple[int, Label, State]]:
        programs, op = self.programs, node.op
        assert op
        if left[ABANDONS] and op.kind in ("acquire", "claim", "look") and not node.told:
            yield host, "abandon", self._after(state, host, programs.take(node, "abandon"), ABANDONS)
        if not node.fresh:
            return
        if left[CRASHES]:
            yield host, "crash", self._after(state, host, programs.crashed(node), CRASHES)
        if left[RESTARTS] and op.kind in RESTARTED:
            yield host, "restart", self._after(state, host, programs.restarted(node), RESTARTS)

    def _afterlife(self, state: State, host: int, node: Node) -> Iterator[tuple[int, Label, State]]:
        programs, generation = self.programs, node.generation + 1
        if node.kind == CRASHED:
            yield host, "dead", self._after(state, host, programs.dead(node))
        if node.then:
            record = programs.sectors.delta(host, generation)
            for before in self._read_before(state, host, self.hosts + host, record):
                yield host, "rejoin", self._after(before, host, programs.start(host, generation, node.then))

    def overtaken(self, state: State, new: State, host: int) -> int:
        """How many reads of others looked right before this step of `host`, which writes."""
        others = (self.at_node + h for h in range(1, self.hosts + 1) if h != host)
        return sum(state[at] != new[at] for at in others)

    def found(self, state: Sequence[int], node: Node) -> tuple[int, ...]:
        """The contents with which the read of `node` is answered now."""
        if not node.got:
            return tuple(map(state.__getitem__, node.wants))
        return tuple(state[slot] if got < 0 else got for slot, got in zip(node.wants, node.got))

    def _read_before(self, state: State, writer: int, slot: int, content: int) -> list[list[int]]:
        """`state` with `content` written; each other host's read of that slot looked before it, or did not."""
        new = list(state)
        new[slot] = content
        states = [new]
        if state[slot] != content:
            for host in range(1, self.hosts + 1):
                node = self.programs.nodes[state[self.at_node + host]]
                if host != writer and node.kind == READ and slot in node.wants:
                    states += self._looked(states, node, slot, state[slot])
        return states

    def _looked(self, states: list[list[int]], node: Node, slot: int, content: int) -> list[list[int]]:
        at = node.wants.index(slot)
        if node.got and node.got[at] >= 0:
            return []
        got = node.got or (-1,) * len(node.wants)
        ident = self.programs.look(node, (*got[:at], content, *got[at + 1 :]))
        looked = [list(state) for state in states]
        for state in looked:
            state[self.at_node + node.host] = ident
        return looked

    def _after(self, state: Sequence[int], host: int, ident: int, spend: int = -1) -> State:
        new = list(state)
        if spend >= 0:
            new[self.at_budget] = self._spend(state[self.at_budget], spend)
        new[self.at_node + host] = ident
        node = self.programs.nodes[ident]
        while node.kind in (READ, SEEN):
            key = self._lasting(new, node)
            if key is None:
                break
            new[self.at_node + host] = ident = self.programs.take(node, key)
            node = self.programs.nodes[ident]
        if node.kind == HOLDS and node.op and node.op.kind == "await" and not node.op.since:
            others = [self.programs.nodes[new[self.at_node + h]] for h in range(1, self.hosts + 1)]
            busy = tuple(n.op if n.host != host and n.kind in SCHEDULED else None for n in others)
            new[self.at_node + host] = self.programs.awaits(node, busy)
        if node.decides:
            new[self.at_history] = self._decide(state[self.at_history], node.decides)
        return tuple(new)

    def _lasting(self, state: list[int], node: Node) -> Any:
        """What answers `node`, if it cannot be answered otherwise in any future; else None."""
        left = self._budgets[state[self.at_budget]]
        if left[ABANDONS] or left[ERRORS] or (node.fresh and any(left)):
            return None
        nodes = self.programs.nodes
        others = [nodes[state[self.at_node + h]] for h in range(1, self.hosts + 1) if h != node.host]
        if node.kind == SEEN:
            about = nodes[state[self.at_node + node.about]]
            lasts = self._stays(about, left)
            return ("view", about.kind == DEAD, state[self.hosts + node.about]) if lasts else None
        if not all(_is_over(other, left) for other in others):
            for slot in node.wants:
                delta = slot > self.hosts and self._stays(nodes[state[self.at_node + slot - self.hosts]], left)
                if not delta and not (slot == node.host and self.unshared[slot]):
                    return None
        return "read", self.found(state, node)

    def _stays(self, node: Node, left: tuple[int, ...]) -> bool:
        """Will this host neither join, leave nor die any more?"""
        if node.kind in (CRASHED, DEAD):
            return node.kind == DEAD and not node.then
        leaves = "l" in node.then or (node.op is not None and node.op.kind == "leave")
        return not leaves and (not left[CRASHES] or node.kind == DONE)

    def _budget(self, left: tuple[int, ...]) -> int:
        if left not in self._budget_ids:
            self._budget_ids[left] = len(self._budgets)
            self._budgets.append(left)
        return self._budget_ids[left]

    def _spend(self, ident: int, which: int) -> int:
        if (ident, which) not in self._spent:
            left = list(self._budgets[ident])
            left[which] -= 1
            self._spent[ident, which] = self._budget(tuple(left))
        return self._spent[ident, which]

    def _decide(self, ident: int, decides: tuple[int, Any]) -> int:
        """The history once a ballot has been completed. Key -1: a decided value did not stay decided."""
        if (ident, decides) not in self._decided:
            lver, value = decides
            history = dict(self.histories[ident])
            if history.setdefault(lver, value) != value:
                history[-1] = (lver, history[lver], value)
            frozen = tuple(sorted(history.items()))
            if frozen not in self._history_ids:
                self._history_ids[frozen] = len(self.histories)
                self.histories.append(history)
            self._decided[ident, decides] = self._history_ids[frozen]
        return self._decided[ident, decides]


def _is_over(node: Node, left: tuple[int, ...]) -> bool:
    """Will this host do nothing any more?"""
    keeps = node.kind == HOLDS and node.op is not None and node.op.kind == "keep" and not any(left)
    return node.kind == DONE or keeps or (node.kind == DEAD and not node.then)
