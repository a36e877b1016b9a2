# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook's engine and the sanlock daemon in one lockspace, on the same storage; each with lease files of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Union

from tests.leases.rig import Rig
from tests.sanlock_daemon import short_directory

from .daemon import Daemon
from .engine import Engine
from .measure import Act

IO_TIMEOUT = 5
"""Renewals every 10 s: seldom beside what is measured, and joining does not take long."""
Party = Union[Engine, Daemon]


@contextlib.contextmanager
def pair(directory: Path) -> Iterator[tuple[Engine, Daemon]]:
    """Both have joined."""
    Rig(directory)  # the lockspace
    with short_directory() as run_dir:
        engine = Engine(directory, 1, IO_TIMEOUT)
        try:
            daemon = Daemon(directory, 2, IO_TIMEOUT, run_dir)
            try:
                engine.joined()
                daemon.joined()
                yield engine, daemon
            finally:
                daemon.close()
        finally:
            engine.close()


def disks(party: Party, count: int, stem: str = "disk") -> list[str]:
    return [f"/images/{party.name}/{stem}{number}" for number in range(count)]


def taking_turns(
    party: Party, guests: Mapping[str, Sequence[str]], kept: list[float], clock: Callable[[], float] = time.perf_counter
) -> Act:
    """An act that measures taking all leases of `guests`; what giving them back took goes to `kept`."""
    if isinstance(party, Daemon):
        party.make(disk for names in guests.values() for disk in names)
        party.connect(guests)

    def act() -> float:
        begun = clock()
        party.acquire(guests)
        taken = clock()
        party.release(guests)
        kept.append(clock() - taken)
        return taken - begun

    return act
