# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking at a whole lease directory: `vlhook leases` by number of files, `vlhook hosts` by number of hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from vlhook.leases.names import LOCKSPACE_NAME

from ..files import held_leases, lockspace
from ..measure import Act, alternate
from ..processes import PYTHON, compile_all, environment
from ..report import Row, Table
from ..storage import DISK, storage

ROUNDS = 3
LEASES = (10, 100, 1000, 10_000)
HOSTS = (10, 200, 2000)
LONG = 10_000
"""So many files the peer is not asked for: it takes minutes, and as long for each file as before."""
SECONDS = 900
OURS, PEER = "vlhook", "sanlock direct dump"


def measure(rounds: int) -> Table:
    table = Table("views", "everything in a lease directory shown; no keeper runs", rounds=0)
    compile_all()
    with storage(DISK) as base:
        for count in LEASES:
            with _filled(base, lambda at, n=count: (lockspace(at, 2000), held_leases(at, n, 2000))) as leases:
                acts = {PEER: _each_file(leases), OURS: _vlhook("leases", leases, count)}
                notes = {}
                if count >= LONG:
                    del acts[PEER]
                    notes[PEER] = "not run"
                what = f"leases: {count} files of 2000 hosts"
                row = Row(what, alternate(acts, rounds), "s", peer=PEER, x=count, curve="leases", notes=notes)
                table.rows.append(row)
        for count in HOSTS:
            with _filled(base, lambda at, n=count: lockspace(at, n)) as leases:
                acts = {PEER: _run(["sanlock", "direct", "dump", f"{leases}/{LOCKSPACE_NAME}:0:1048576"], count),
                        OURS: _vlhook("hosts", leases, count)}  # fmt: skip
                figures = alternate(acts, rounds)
                table.rows.append(Row(f"hosts: {count}", figures, "s", peer=PEER, x=count, curve="hosts"))
    table.remarks.append(
        "ext4, sparse files. sanlock direct dump is started once for each file and prints raw records; who holds a "
        "lease, for which guest and since when has then to be looked up by hand."
    )
    return table


class _filled:
    """A directory below `base` that `fill` has filled."""

    def __init__(self, base: Path, fill: Callable[[Path], object]) -> None:
        self._path = base / "leases"
        self._fill = fill

    def __enter__(self) -> Path:
        self._path.mkdir()
        self._fill(self._path)
        os.sync()
        return self._path

    def __exit__(self, *unused: object) -> None:
        shutil.rmtree(self._path)


def _vlhook(view: str, leases: Path, lines: int) -> Act:
    none = leases.parent / "no-keeper"
    return _run([PYTHON, "-m", "vlhook.cli", view, "--dir", str(leases), "--run-dir", str(none)], lines)


def _each_file(leases: Path) -> Act:
    script = f'for lease in "{leases}"/[0-9a-f]*; do sanlock direct dump "$lease:0:1048576"; done'
    return _run(["sh", "-c", script], len(os.listdir(leases)) - 1)


def _run(command: list[str], lines: int) -> Act:
    """Seconds until everything is printed, `lines` at least."""

    def act() -> float:
        begun = time.perf_counter()
        ran = subprocess.run(
            command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
        took = time.perf_counter() - begun
        if ran.stdout.count(b"\n") < lines:
            raise RuntimeError(f"{' '.join(command)}: {ran.stdout[-300:]!r} {ran.stderr[-300:]!r}")
        return took

    return act
