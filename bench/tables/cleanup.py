# SPDX-License-Identifier: LGPL-2.1-or-later
"""Removing lease files that nobody uses, by number of files."""

from __future__ import annotations

import os
import time

from ..files import free_leases
from ..lab import BenchHost, PluginHost, lab
from ..measure import Act, alternate
from ..processes import compile_all
from ..report import Row, Table

ROUNDS = 3
COUNTS = (10, 100, 1000, 10_000)
LONG = 1000
"""From so many files on there is one round, and no warming up: the peer takes minutes."""
TARGETS = {1000: 0.10}
PEER, OURS = "virt-sanlock-cleanup", "vlhook"
SECONDS = 1800


def measure(rounds: int) -> Table:
    table = Table("cleanup", "lease files that nobody uses removed, by number of files", rounds=0)
    compile_all()
    with lab([BenchHost, PluginHost], libvirt=False) as (ours, plugin):
        for count in COUNTS:
            acts = {
                PEER: _act(plugin, count, ["virt-sanlock-cleanup", "-q"]),
                OURS: _act(ours, count, ["/usr/bin/python3", "-m", "vlhook.cli", "cleanup", "-q"]),
            }
            long = count >= LONG
            figures = alternate(acts, 1 if long else rounds, warm=0 if long else 1)
            table.rows.append(
                Row(f"{count} files", figures, "s", peer=PEER, target=TARGETS.get(count), x=count, curve="clean-up")
            )
    table.remarks.append(
        "The files lie on ext4 and are sparse. virt-sanlock-cleanup starts a sanlock client and rm for each file; "
        "it removes lease files under the feet of whoever waits for them, which vlhook does not (docs/safety.md)."
    )
    return table


def _act(host: BenchHost, count: int, command: list[str]) -> Act:
    leases = host.shared / "leases"

    def act() -> float:
        free_leases(leases, count)
        os.sync()
        begun = time.perf_counter()
        ran = host.run_long(command, SECONDS)
        took = time.perf_counter() - begun
        left = [name for name in os.listdir(leases) if len(name) == 32]
        if ran.returncode or left:
            raise RuntimeError(f"{' '.join(command)}: {len(left)} files are left: {ran.stderr[-500:]}")
        return took

    return act
