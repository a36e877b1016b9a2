# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each party asks of the storage for one lease: what stands between the figures of the other tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..calls import KINDS, READ_BYTES, WRITTEN_BYTES, counted
from ..daemon import Daemon
from ..pair import Party, disks, pair
from ..report import Row, Table
from ..storage import MEMORY, directory, storage

ROUNDS = 3
GUEST = "guest"


def measure(rounds: int) -> Table:
    table = Table("ios", "what is asked of the storage for one lease", rounds=rounds)
    with storage(MEMORY) as leases, pair(leases) as parties, directory() as scratch:
        found: dict[str, dict[str, list[Counter[str]]]] = {}
        for party in parties:
            for what, counts in _of(party, rounds, leases, scratch).items():
                found.setdefault(what, {})[party.name] = counts
    for what, by_party in found.items():
        for kind in KINDS:
            unit = "KiB" if kind in (READ_BYTES, WRITTEN_BYTES) else ""
            figures = {party: [float(one[kind]) for one in counts] for party, counts in by_party.items()}
            if any(any(values) for values in figures.values()):
                table.rows.append(Row(f"{what}: {kind}", figures, unit, peer="sanlock"))
    table.remarks += [
        "Counted by strace(1) in the process that takes the leases, on files of the lease directory. The lease exists,"
        " and nobody holds it; host ids 1 and 2. vlhook opens the lockspace, too, to see that the name is still that of"
        " the file in which this host is renewed.",
        "Clean-up, sanlock: what its daemon does for virt-sanlock-cleanup, which removes the file while the lease is"
        " held, so that the release finds none. The two processes for each file are not counted.",
    ]
    return table


def _of(party: Party, rounds: int, leases: Path, scratch: Path) -> dict[str, list[Counter[str]]]:
    (disk,), unused = disks(party, 1), disks(party, rounds + 1, "unused")
    if isinstance(party, Daemon):
        party.make([disk, *unused])
        party.connect({GUEST: [disk], "clean": unused[:1]})
    guests = {GUEST: [disk]}
    acts: dict[str, Callable[[], object]] = {
        "acquire": lambda: party.acquire(guests),
        "release": lambda: party.release(guests),
        "clean-up": lambda: party.clean([unused.pop()]),
    }
    if not isinstance(party, Daemon):
        party.acquire({GUEST: unused})  # makes the files
        party.release([GUEST])
    found: dict[str, list[Counter[str]]] = {what: [] for what in acts}
    for number in range(-1, rounds):
        for what, act in acts.items():
            with counted(party.pid, leases, scratch) as count:
                act()
            if number >= 0:
                found[what].append(count)
    return found
