# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a holder of a lease does while it holds it, and how that shows whether two held it at once.

Two judges, and neither asks a lease. The kernel: each holder takes an flock of the disk, exclusive or shared, without
waiting, and keeps it until just before it gives the lease back; the kernel drops it with the process, however that
ends. And the history: each holder writes a line when it has the lease and one before it gives it back, into one
file for all, with the machine's clock. So what is written down lies within what was held, and an overlap is one.
The history is checked as the simulator's is (`vlhook.simulate.history`), with versions where a holder knows them.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlhook.leases.replay import Holding as Logged
from vlhook.simulate import history
from vlhook.simulate.history import Event


class Version(NamedTuple):
    """Under which identity and version a lease is held; 0: not known."""

    host: int = 0
    generation: int = 0
    lver: int = 0


UNKNOWN = Version()



@dataclass(frozen=True)
class Holding:
    """Seconds of CLOCK_MONOTONIC. A holder that was killed may have held it longer than `until`."""

    who: str
    disk: str
    shared: bool
    since: float
    until: float
    version: Version = UNKNOWN


class Record:
    """The file of all events. A line is one write: it is whole, also if its writer is killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def put(self, what: str, **words: object) -> None:
        line = json.dumps({"at": time.monotonic(), "what": what, **words}) + "\n"
        os.write(self._fd, line.encode())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@contextmanager
def section(
    record: Record, who: str, disks: Sequence[tuple[str, bool]], version: Version = UNKNOWN
) -> Iterator[None]:
    """The body is run while the leases of `disks` (path, shared) are held. Nothing it does may write to them."""
    locks = []
    try:
        for disk, shared in disks:
            fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
            locks.append(fd)
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                record.put("overlap", who=who, disk=disk, shared=shared)
            record.put("enter", who=who, disk=disk, shared=shared, version=version)
        yield
        for disk, _ in disks:
            record.put("leave", who=who, disk=disk)
    finally:
        for fd in locks:
            os.close(fd)


def holdings(events: Iterable[dict[str, Any]]) -> list[Holding]:
    """One for each `enter`. Without a `leave` it lasted for an instant: nobody knows when its holder was killed."""
    found: list[Holding] = []
    inside: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        if event["what"] not in ("enter", "leave"):
            continue
        key = event["who"], event["disk"]
        before = inside.pop(key, None)
        if before:
            found.append(_holding(before, event["at"] if event["what"] == "leave" else before["at"]))
        if event["what"] == "enter":
            inside[key] = event
    return found + [_holding(before, before["at"]) for before in inside.values()]


def _holding(enter: dict[str, Any], until: float) -> Holding:
    version = Version(*enter.get("version", ()))
    return Holding(enter["who"], enter["disk"], enter["shared"], enter["at"], until, version)


def as_history(held: Iterable[Holding]) -> list[Event]:
    events: list[Event] = []
    for one in held:
        mode = history.SHARED if one.shared else history.EXCLUSIVE
        host, generation, lver = one.version
        over = history.RELEASE if one.until > one.since else history.LOST
        for at, what in ((one.since, history.ACQUIRED), (one.until, over)):
            events.append(Event(at, host, generation, one.disk, what, mode, lver, one.who))
    return sorted(events, key=lambda event: event.at)


def of_logs(logged: Iterable[Logged]) -> list[Holding]:
    """What protocol logs of several hosts tell. One whose end is not in the log lasted for an instant."""
    return [
        Holding("", h.name, h.shared, h.since, h.until or h.since, Version(h.host_id, h.generation, h.lver))
        for h in logged
    ]


def faults(record: Record) -> list[str]:
    """Everything that the judges say."""
    events = record.events()
    said = [str(event) for event in events if event["what"] in ("overlap", "error")]
    return said + list(history.faults(as_history(holdings(events))))
