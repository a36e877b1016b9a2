# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taking and giving back the leases of one guest."""

from __future__ import annotations

from ..measure import alternate
from ..pair import disks, pair, taking_turns
from ..report import Row, Table
from ..storage import DISK, KINDS, MEMORY, SLOW, storage

COUNTS = (1, 8, 64)
ROUNDS = 20
TARGETS = {
    ("acquire", DISK): {1: 0.45, 8: 0.42, 64: 0.38},
    ("acquire", SLOW): {8: 0.13, 64: 0.02},
    ("release", SLOW): {8: 0.13, 64: 0.02},
}


def measure(rounds: int) -> Table:
    table = Table("leases", "all leases of one guest taken, and given back", rounds=rounds)
    for kind in KINDS:
        with storage(kind) as directory, pair(directory) as (engine, daemon):
            for count in COUNTS:
                _one(table, kind, count, rounds, engine, daemon)
    table.rows.sort(key=lambda row: row.what.split(",")[0])
    return table


def _one(table: Table, kind: str, count: int, rounds: int, *parties: object) -> None:
    released: dict[str, list[float]] = {}
    acts = {}
    for party in parties:
        guests = {f"guest{count}": disks(party, count)}  # type: ignore[arg-type]
        acts[party.name] = taking_turns(party, guests, released.setdefault(party.name, []))  # type: ignore[attr-defined,arg-type]
    # What the kernel and the allocator do at first sight is not the question here.
    acquired = alternate(acts, rounds, warm=2)
    given = {name: values[-rounds:] for name, values in released.items()}
    for verb, figures in (("acquire", acquired), ("release", given)):
        plural = "lease" if count == 1 else "leases"
        table.rows.append(
            Row(
                f"{verb}, {kind}, {count} {plural}", figures, peer="sanlock", x=count, curve=f"{verb}, {kind}",
                target=TARGETS.get((verb, kind), {}).get(count),
            )
        )  # fmt: skip


def smallest() -> Table:
    """Of the parts that all tables need, the least: for the test that the bench still runs."""
    table = Table("leases", "one lease taken, and given back", rounds=1)
    with storage(MEMORY) as directory, pair(directory) as (engine, daemon):
        _one(table, MEMORY, 1, 1, engine, daemon)
    return table
