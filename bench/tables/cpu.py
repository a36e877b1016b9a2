# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processor time of taking one lease and giving it back."""

from __future__ import annotations

from collections.abc import Callable

from ..measure import Act, alternate
from ..pair import Party, disks, pair, taking_turns
from ..processes import cpu_seconds
from ..report import Row, Table
from ..storage import DISK, MEMORY, storage

ROUNDS = 10
AT_ONCE = (1, 8)
TURNS = 40
TARGET = 0.30


def measure(rounds: int) -> Table:
    table = Table("cpu", "processor time of one lease taken and given back, all threads", rounds=rounds)
    for kind in (DISK, MEMORY):
        with storage(kind) as directory, pair(directory) as parties:
            for count in AT_ONCE:
                acts = {party.name: _act(party, count) for party in parties}
                what = f"{kind}, one by one" if count == 1 else f"{kind}, {count} at once"
                target = TARGET if (kind, count) == (DISK, 1) else None
                table.rows.append(Row(what, alternate(acts, rounds), peer="sanlock", target=target))
    table.remarks.append(f"A round is {TURNS} turns. The kernel's part, copying above all, is in it.")
    return table


def _act(party: Party, count: int) -> Act:
    once: Callable[[], float] = taking_turns(party, {f"guest{count}": disks(party, count)}, [])

    def act() -> float:
        before = cpu_seconds(party.pid)
        for _ in range(TURNS):
            once()
        return (cpu_seconds(party.pid) - before) / (TURNS * count)

    return act
