# SPDX-License-Identifier: LGPL-2.1-or-later
"""The points at which a host of the model can stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vlhook.leases.claims import Claimed
from vlhook.leases.release import Held

from .runs import Run

READ, WRITE, SEEN, HOLDS, DONE, CRASHED, DEAD, REMOVE, WAITS, CURRENT = range(10)
NOTHING, SHARED, EXCLUSIVE, CLAIMED, RUNS, LEFT = range(6)
"""What a host believes. CLAIMED: its claim stands, the guest's CPUs do not run here; RUNS: they do, though
the lease is only claimed; LEFT: it owns the lease, and the guest's CPUs run where it is claimed."""
SCHEDULED = (READ, WRITE, SEEN, REMOVE, CURRENT)
OWNS = (SHARED, EXCLUSIVE, LEFT)
CPUS = (SHARED, EXCLUSIVE, RUNS)
CLAIMS = (CLAIMED, RUNS)


def conflict(one: Node, other: Node) -> str:
    """Why two hosts must not believe what they do at once; empty if they may."""
    if one.belief > other.belief:
        one, other = other, one
    a, b = one.belief, other.belief
    if not a or (a == b == SHARED):
        return ""
    if a in CPUS and b in CPUS:
        return "both hold the lease"
    if a in OWNS and b in OWNS:
        return "both own the lease"
    if a in CLAIMS and b in CLAIMS:
        return "both claim the lease"
    claim, owner = (one, other) if a in CLAIMS else (other, one)
    if owner.belief == SHARED or owner.lver != claim.lver:
        return "have got the lease although the other claims it"
    return ""


@dataclass(frozen=True)
class Op:
    """An operation under way: `kind` is acquire, release, settle, find, keep (until the end) or leave;
    with claims claim, wait, look (one try of the conversion), refind, withdraw, await or hand over (to the
    daemon); or clean.

    `then` is the rest of the script, `belief` what the host believes meanwhile. `told`: the
    keeper knows that the guest's CPUs run here; `marked`: its claim says so on disk. `since`: what
    other hosts were about when the claim was converted, all of which is over before the daemon takes over.
    """

    kind: str
    host: int
    generation: int
    letter: str
    then: str
    held: Held | None = None
    claimed: Claimed | None = None
    belief: int = NOTHING
    told: bool = False
    marked: bool = False
    since: tuple[Op | None, ...] = ()


@dataclass
class Node:
    """Where one host stands, and what it asks for next.

    A read that has looked at some of its sectors already is a variant of the node (`base`) at which it
    was issued: `got` has what it found, in the order of `wants`, or -1.
    """

    ident: int
    kind: int
    host: int
    generation: int
    then: str
    op: Op | None = None
    belief: int = NOTHING
    lver: int = 0
    wants: tuple[int, ...] = ()
    got: tuple[int, ...] = ()
    slot: int = 0
    content: int = 0
    about: int = 0
    fresh: bool = False
    told: bool = False
    clears: bool = False
    trail: tuple[Any, ...] | None = None
    run: Run | None = None
    base: Node | None = None
    decides: tuple[int, tuple[int, int, int]] | None = None
    wrong: str = ""
    ended: str = ""
    edges: dict[Any, int] = field(default_factory=dict)
    looks: dict[tuple[int, ...], int] = field(default_factory=dict)
