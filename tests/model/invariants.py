# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must hold after each step of the model, and that a lease which nobody holds can be taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlhook.leases.records import Leader

from .explore import CLEARED, Model, State
from .nodes import DEAD, DONE, HOLDS, OWNS, READ, SCHEDULED, SEEN, WAITS, WRITE, Node, conflict
from .program import ALONE

TWO_HOLDERS = "both hold"
TWO_VALUES = "was decided for"
DECIDED_ANEW = "and later for"
UNAVAILABLE = "cannot be taken"
SLIPPED_IN = "have got the lease although the other claims it"
REMOVED = "cleared to be removed, and is had again"
"""Words by which a search can be told what to look for."""


class Invariants:
    """Of the states of one model. What was found out once is kept."""

    def __init__(self, model: Model) -> None:
        self._model, self._programs, self._hosts = model, model.programs, model.hosts
        self._alone_known: dict[Any, str] = {}
        self._leaders: dict[int, tuple[int, tuple[int, int]]] = {}

    def wrong(self, state: State, host: int) -> str:
        """What is wrong with `state`, into which a step of `host` led; empty if nothing."""
        nodes = self._programs.nodes
        node = nodes[state[self._model.at_node + host]]
        if node.wrong:
            return f"host {host}: {node.wrong}"
        if node.belief:
            for other in range(1, self._hosts + 1):
                rival = nodes[state[self._model.at_node + other]]
                why = conflict(node, rival) if other != host else ""
                if why:
                    return f"hosts {min(host, other)} and {max(host, other)} {why}"
        history = self._model.histories[state[self._model.at_history]]
        if -1 in history:
            lver, old, new = history[-1]
            return f"version {lver} was decided for {_value(old)}, and later for {_value(new)}"
        lver, owner = self._leader(state[0])
        if CLEARED in history and any(n.belief for n in self._model.nodes(state)):
            return "the lease was cleared to be removed, and is had again"
        if lver and history.get(lver, ())[:2] != owner:
            return f"the leader says that version {lver} belongs to host {owner[0]} generation {owner[1]}"
        decided = history.get(node.lver)
        if node.belief in OWNS and (not decided or decided[:2] != (node.host, node.generation)):
            was = f"decided for {_value(decided)}" if decided else "never decided"
            return f"host {host} generation {node.generation} holds version {node.lver}, which was {was}"
        return ""

    def _leader(self, content: int) -> tuple[int, tuple[int, int]]:
        if content not in self._leaders:
            leader = Leader.decode(self._programs.sectors.contents[content])
            self._leaders[content] = leader.lver, (leader.owner_id, leader.owner_generation)
        return self._leaders[content]

    def quiet(self, state: State) -> bool:
        """Nobody is about anything."""
        return all(node.kind in (DONE, HOLDS, DEAD, WAITS) for node in self._model.nodes(state))

    def unavailable(self, state: State) -> str:
        """In a quiet state: who cannot take the lease although nobody holds it; empty if all can."""
        nodes = self._model.nodes(state)
        if any(node.kind == HOLDS for node in nodes) or CLEARED in self._model.histories[state[self._model.at_history]]:
            return ""
        slots = state[: 2 * self._hosts + 1]
        key = (slots, tuple(node.kind for node in nodes))
        if key not in self._alone_known:
            waiting = [n for n in nodes if n.kind == WAITS]
            asked = waiting or [n for n in nodes if n.kind == DONE]
            refused = [f"host {n.host} ({w})" for n in asked for w in self._refusals(n, slots, nodes)]
            text = "all is quiet and nobody holds the lease, but it cannot be taken by " + ", ".join(refused)
            self._alone_known[key] = text if refused else ""
        return self._alone_known[key]

    def _refusals(self, idle: Node, slots: State, nodes: list[Node]) -> Iterator[str]:
        programs = self._programs
        tries = {"exclusive": "X", "shared": "S"} if idle.kind == DONE else {"which claims it": ""}
        for mode, letter in tries.items():
            state = list(slots)
            first = programs.probe(idle.host, idle.generation, letter) if letter else programs.looks(idle)
            node = programs.nodes[first]
            looks = ALONE
            while node.kind in SCHEDULED or (node.kind == WAITS and looks):
                key: Any = "done"
                if node.kind == WAITS:
                    looks -= 1
                    node = programs.nodes[programs.looks(node)]
                    continue
                if node.kind == WRITE:
                    state[node.slot] = node.content
                elif node.kind == READ:
                    key = ("read", self._model.found(state, node))
                elif node.kind == SEEN:
                    key = ("view", nodes[node.about - 1].kind == DEAD, state[self._hosts + node.about])
                node = programs.nodes[programs.take(node, key)]
            if node.kind != HOLDS:
                yield mode


def _value(value: tuple[int, int, int]) -> str:
    return f"host {value[0]} generation {value[1]} at {value[2]}"
