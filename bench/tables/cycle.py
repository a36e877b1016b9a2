# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start and end of a guest in a real libvirtd: five calls of the hook, no lease."""

from __future__ import annotations

from ..lab import NOTHING, SHELL, VLHOOK, BenchHost, lab
from ..measure import Act, alternate
from ..processes import compile_all
from ..report import Row, Table

ROUNDS = 40
TARGET = 2.7


def measure(rounds: int) -> Table:
    table = Table(
        "cycle", "what five calls of the hook add to a start and an end in libvirtd; a guest without disks", "",
        rounds=rounds,
    )  # fmt: skip
    compile_all()
    with lab([BenchHost]) as (host,):
        host.guest_with("bare", 0)
        figures = alternate({script: _act(host, script) for script in (NOTHING, SHELL, VLHOOK)}, rounds, warm=2)
    table.rows.append(Row("start and end", figures, peer=SHELL, base=NOTHING, target=TARGET))
    table.remarks.append(f"{NOTHING}: the whole time, QEMU's in it. The others: what is added to that.")
    return table


def _act(host: BenchHost, script: str) -> Act:
    def act() -> float:
        host.use(script)
        return host.timed("start", "bare") + host.timed("destroy", "bare")

    return act
