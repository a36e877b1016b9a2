# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory and idle processor time of the keeper and of the sanlock daemon, by number of leases held."""

from __future__ import annotations

from tests.sanlock_daemon import short_directory

from ..daemon import Daemon
from ..keeper import Keeper, keeper, pids
from ..processes import compile_all, family, idle_ticks, memory
from ..report import Row, Table
from ..storage import directory

ROUNDS = 1
IO_TIMEOUT = 10
COUNTS = (0, 250, 500, 1000, 2000)
EACH = 8
TARGET = 1.3
A_LEASE_TARGET = 512.0
IDLE_SECONDS = 20
IDLE_TARGET = 0.0
LOCKED = ("-l", "1")
"""Its memory locked, as it is by default."""
ALONE, ALL, PEER = "vlhookd", "all of vlhook", "sanlock"


def measure(rounds: int) -> Table:
    table = Table("memory", f"resident memory by leases held, and processor time in {IDLE_SECONDS} s of doing nothing")
    compile_all()
    with directory() as base, short_directory() as run_dir, keeper(base, io_timeout=IO_TIMEOUT) as ours:
        daemon = Daemon(ours.leases, 2, IO_TIMEOUT, run_dir, LOCKED)
        try:
            daemon.joined()
            for count in COUNTS:
                ours.fill(count, EACH)
                _fill(daemon, count)
                ours.wait_found()
                _rows(table, count, ours, daemon, rounds)
        finally:
            daemon.close()
    _growth(table)
    table.remarks += [
        f"Guests of {EACH} leases. Io_timeout {IO_TIMEOUT}: one renewal in those {IDLE_SECONDS} s.",
        "all of vlhook: with reader, prober and guard; pages that they share are counted in each.",
        "sanlock has all its memory locked. vlhook's is resident, and locked by its service's settings.",
    ]
    return table


def _fill(daemon: Daemon, count: int) -> None:
    while daemon.guests * EACH < count:
        name = f"guest{daemon.guests}"
        disks = [f"/images/sanlock/{name}-{number}" for number in range(EACH)]
        daemon.make(disks)
        daemon.connect({name: disks})
        daemon.acquire({name: disks})


def _rows(table: Table, count: int, ours: Keeper, daemon: Daemon, rounds: int) -> None:
    processes = pids(ours)
    idle: dict[str, list[float]] = {ALONE: [], ALL: [], PEER: []}
    for _ in range(rounds):
        for party, used in _idle(processes, daemon.pid).items():
            idle[party].append(used)
    sizes = {
        ALONE: [float(memory(processes["vlhookd"]))],
        ALL: [float(sum(memory(one) for pid in processes.values() for one in family(pid)))],
        PEER: [float(memory(daemon.pid))],
    }
    what = f"{count} leases"
    table.rows.append(Row(f"memory, {what}", sizes, "MB", ALONE, PEER, TARGET, x=count, curve="memory"))
    target = IDLE_TARGET if count == COUNTS[-1] else None
    row = Row(f"idle, {what}", idle, "ticks", ALONE, "", target, absolute=True, x=count, curve="idle")
    table.rows.append(row)


def _idle(processes: dict[str, int], daemon: int) -> dict[str, float]:
    """All at the same time."""
    parties = {ALONE: [processes["vlhookd"]], ALL: list(processes.values()), PEER: [daemon]}
    counted = {party: [one for pid in pids_ for one in family(pid)] for party, pids_ in parties.items()}
    counted[ALONE] = parties[ALONE]
    return idle_ticks(counted, IDLE_SECONDS)


def _growth(table: Table) -> None:
    rows = [row for row in table.rows if row.curve == "memory"]
    first, last = rows[0], rows[-1]
    assert first.x is not None
    assert last.x is not None
    leases = last.x - first.x
    grown = {party: [(last.median(party) - first.median(party)) / leases] for party in first.figures}
    row = Row("memory of one lease more", grown, "KB", ALONE, PEER, A_LEASE_TARGET / 1000, absolute=True)
    table.rows.append(row)


