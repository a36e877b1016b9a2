# SPDX-License-Identifier: LGPL-2.1-or-later
"""All guests of a host at once, as after a power failure."""

from __future__ import annotations

from ..measure import alternate
from ..pair import Party, disks, pair, taking_turns
from ..report import Row, Table
from ..storage import DISK, SLOW, storage

ROUNDS = 10
DISKS = 4
GUESTS = (1, 8, 32)
TARGET = {DISK: 0.85}


def measure(rounds: int) -> Table:
    table = Table("storm", f"guests of {DISKS} disks each start at once: until all have their leases", rounds=rounds)
    for kind in (DISK, SLOW):
        with storage(kind) as directory, pair(directory) as parties:
            for count in GUESTS:
                acts = {party.name: taking_turns(party, _guests(party, count), []) for party in parties}
                table.rows.append(
                    Row(
                        f"{kind}, {count} guests" if count > 1 else f"{kind}, 1 guest", alternate(acts, rounds),
                        peer="sanlock", target=TARGET.get(kind) if count == max(GUESTS) else None,
                        x=count, curve=kind,
                    )
                )  # fmt: skip
    table.remarks.append(
        "sanlock's daemon is asked over one connection a guest, all at the same time; it has 8 worker threads."
    )
    return table


def _guests(party: Party, count: int) -> dict[str, list[str]]:
    return {f"guest{number}": disks(party, DISKS, f"{number}-") for number in range(count)}
