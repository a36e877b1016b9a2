# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lease of a host that died: from its end until another host has it."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from tests.leases.rig import Rig
from tests.sanlock_daemon import short_directory
from vlhook.leases.sanlockerrors import SanlockBusy

from ..daemon import Daemon
from ..engine import Engine
from ..report import Row, Table
from ..storage import MEMORY, storage

ROUNDS = 1
IO_TIMEOUTS = (1, 2)
POLL_SECONDS = 0.2
OURS, PEER, RULE = "vlhook", "sanlock", "8N + 60"


def measure(rounds: int) -> Table:
    table = Table("takeover", "a lease of a host that died: until another host has it", rounds=rounds)
    for io_timeout in IO_TIMEOUTS:
        figures: dict[str, list[float]] = {OURS: [], PEER: [], RULE: [8.0 * io_timeout + 60] * rounds}
        for _ in range(rounds):
            with storage(MEMORY) as directory:
                for party, took in _both(directory, io_timeout).items():
                    figures[party].append(took)
        what = f"io_timeout {io_timeout}"
        table.rows.append(Row(what, figures, "s", peer=PEER, x=io_timeout, curve="takeover"))
    table.remarks += [
        "From the kill of the owner; its last renewal was up to 2 io_timeouts before that. Both at the same time.",
        "At the default io_timeout of 10 both wait until 140 s after the last renewal; less would not be safe.",
    ]
    return table


def _both(directory: Path, io_timeout: int) -> dict[str, float]:
    Rig(directory)
    took: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        engines = [Engine(directory, host_id, io_timeout) for host_id in (1, 2)]
        for engine in engines:
            stack.callback(engine.close)
        daemons = []
        for host_id in (3, 4):
            run_dir = stack.enter_context(short_directory())
            daemons.append(Daemon(directory, host_id, io_timeout, run_dir))
            stack.callback(daemons[-1].close)
        for party in (*engines, *daemons):
            party.joined()
        threads = [
            threading.Thread(target=lambda: took.update({OURS: _ours(*engines)})),
            threading.Thread(target=lambda: took.update({PEER: _sanlock(*daemons)})),
        ]
        time.sleep(4 * io_timeout)  # each has seen the others alive
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return took


def _ours(owner: Engine, heir: Engine) -> float:
    guests = {"web": ["/images/vlhook"]}
    owner.acquire(guests)
    begun = time.perf_counter()
    owner.close()
    while True:
        try:
            heir.acquire(guests)
            return time.perf_counter() - begun
        except RuntimeError:
            time.sleep(POLL_SECONDS)


def _sanlock(owner: Daemon, heir: Daemon) -> float:
    guests = {"web": ["/images/sanlock"]}
    owner.make(guests["web"])
    owner.connect(guests)
    owner.acquire(guests)
    heir.connect(guests)
    begun = time.perf_counter()
    owner.host.kill9()
    while True:
        try:
            heir.acquire(guests)
            return time.perf_counter() - begun
        except SanlockBusy:
            time.sleep(POLL_SECONDS)
