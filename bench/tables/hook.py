# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook's process, against a shell script that does nothing: what every event of every guest costs."""

from __future__ import annotations

import uuid

from tests.keeper.hosts import HOOK, hosts

from .. import domains
from ..measure import Act
from ..processes import PYTHON, ROOT, compile_all, run_time
from ..report import Row, Table
from ..storage import directory

ROUNDS = 100
IDLE_TARGET = 6.5
ASKING_TARGET = 7.5
SHELL, FLOOR, IMPORTED, OURS = "sh no-op", "python3 -IS", "and its modules", "vlhook"
IMPORTS = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import vlhook.hook"
"""What the hook does before it looks at its arguments."""


def measure(rounds: int) -> Table:
    table = Table("hook", "one run of the hook, the domain XML (6.4 KB) on its standard input", "", rounds=rounds)
    compile_all()
    # In memory, as /run is.
    with directory() as base, hosts(base, 1) as (host,):
        xml = base / "guest.xml"
        xml.write_text(domains.live("bench", str(uuid.uuid4()), 7))
        shell = base / "sh"
        shell.write_text("#!/bin/sh\nexit 0\n")
        shell.chmod(0o755)
        extra = {"VLHOOK_RUN_DIR": str(host.run_dir)}

        def hook(*words: str) -> Act:
            return lambda: run_time([str(HOOK), "bench", *words, "-"], extra, xml)

        acts: dict[str, Act] = {
            SHELL: lambda: run_time([str(shell)], {}, xml),
            FLOOR: lambda: run_time([PYTHON, "-IS", "-c", "pass"], {}, xml),
            IMPORTED: lambda: run_time([PYTHON, "-IS", "-c", IMPORTS], {}, xml),
            "stopped": hook("stopped", "end"),
            "prepare": hook("prepare", "begin"),
            "start": hook("start", "begin"),
            "release": hook("release", "end"),
        }
        figures = _in_order(acts, rounds)
    _rows(table, figures)
    return table


def _in_order(acts: dict[str, Act], rounds: int) -> dict[str, list[float]]:
    """prepare, start and release are one life of a guest; the others stand between them, so that all take turns."""
    order = [SHELL, "prepare", FLOOR, "start", IMPORTED, "stopped", "release"]

    def round_() -> dict[str, float]:
        return {name: acts[name]() for name in order}

    found: dict[str, list[float]] = {name: [] for name in order}
    for number in range(-2, rounds):
        for name, took in round_().items():
            if number >= 0:
                found[name].append(took)
    return found


def _rows(table: Table, figures: dict[str, list[float]]) -> None:
    texts = {
        "stopped": ("an event that needs nothing (stopped)", IDLE_TARGET),
        "prepare": ("prepare, a guest without disks: two questions, two state records", ASKING_TARGET),
        "start": ("start: one question", ASKING_TARGET),
        "release": ("release: one question, and the guest is over", ASKING_TARGET),
    }
    for event, (what, target) in texts.items():
        values = {party: figures[party] for party in (SHELL, FLOOR, IMPORTED)}
        values[OURS] = figures[event]
        table.rows.append(Row(what, values, peer=SHELL, target=target))


