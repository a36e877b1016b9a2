# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holdings as a history, and the check that a lock can have had this history.

An event is one line of JSON:

    {"at": 12.5, "host": 3, "generation": 1, "lease": "a", "what": "acquired", "mode": "x", "lver": 7}

`what` is acquire-begin, acquired, refused, converted, release-begin, released or lost. `at`
is in seconds, on one clock for all hosts: simulated time, or the clock of the one
machine on which all "hosts" of a test run. `guest`, if there is one, tells guests of
one host apart. A lease is held from `acquired` (the operation had returned) to
`release-begin` (nothing had been written yet) or `lost` (the guest had ended, because
the host's own lease ran out or the host died).

A history is linearizable as a lock's if each operation can be given one instant between
its begin and its end, such that at these instants a lock taken and given back one
operation at a time would have answered the same. A refusal, and an acquire or release
that never ended, allow any answer; so what has to fit is that a holder of a lease that
is held exclusively is alone between the instant of its acquire and that of its release.
The choice of instants that leaves the most room is the end of every acquire and the
begin of every release. Hence a history is linearizable if, and only if, no two
intervals from `acquired` to `release-begin` or `lost` conflict; that is checked:

- while a lease is held exclusively, nobody else holds it at all.

And beside it what Disk Paxos promises of versions (`lver` 0: not known, not checked):

- a version is granted once, to one (host, generation);
- versions rise: an exclusive grant is of a later version than every grant before it, a
  shared one than every exclusive grant before it. (Two hosts that share may learn of
  their grants in either order.)

A test with real programs writes its history with `Recorder`, one for each process, all
into one file, and ends with `assert list(faults(read_history(path))) == []`. `acquired`
is recorded after the program has answered, `release-begin` before it is asked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

EXCLUSIVE, SHARED = "x", "s"
BEGIN, ACQUIRED, REFUSED = "acquire-begin", "acquired", "refused"
RELEASE, RELEASED, LOST = "release-begin", "released", "lost"
CONVERTED = "converted"
"""A claim became the lease: says the version of what the guest may have used since `acquired`."""


class Event(NamedTuple):
    at: float
    host: int
    generation: int
    lease: str
    what: str
    mode: str = EXCLUSIVE
    lver: int = 0
    guest: str = ""

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, line: str) -> Event:
        """Raises ValueError, TypeError or KeyError for a line that is no event."""
        fields = json.loads(line)
        return cls(**{**fields, "at": float(fields["at"])})

    def __str__(self) -> str:
        mode = "shared" if self.mode == SHARED else "exclusive"
        version = f" version {self.lver}" if self.lver else ""
        who = f"host {self.host} generation {self.generation}" + (f" guest {self.guest}" if self.guest else "")
        return f"{self.at:.3f} s: {who} {self.what} {self.lease} {mode}{version}"


@dataclass
class _Lease:
    holders: dict[tuple[int, str], Event] = field(default_factory=dict)
    granted: dict[int, Event] = field(default_factory=dict)
    greatest: int = 0
    greatest_exclusive: int = 0


def faults(events: Iterable[Event]) -> Iterator[str]:
    """What is wrong with a history, in the order of its events; nothing if it is a lock's."""
    leases: dict[str, _Lease] = {}
    last: float | None = None
    for event in events:
        if last is not None and event.at < last:
            yield f"time goes back: {event}"
        last = event.at
        lease = leases.setdefault(event.lease, _Lease())
        if event.what == ACQUIRED:
            yield from _conflicts(lease, event)
            yield from _versions(lease, event)
            lease.holders[event.host, event.guest] = event
        elif event.what == CONVERTED:
            yield from _versions(lease, event)
        elif event.what in (RELEASE, LOST):
            held = lease.holders.pop((event.host, event.guest), None)
            if held is None and event.what == RELEASE:
                yield f"released without being held: {event}"


def _conflicts(lease: _Lease, event: Event) -> Iterator[str]:
    for held in lease.holders.values():
        if EXCLUSIVE in (held.mode, event.mode) or (held.host, held.guest) == (event.host, event.guest):
            yield f"two holders: {event}, while held: {held}"


def _versions(lease: _Lease, event: Event) -> Iterator[str]:
    if not event.lver:
        return
    twice = lease.granted.setdefault(event.lver, event)
    if twice is not event and not _share_one_grant(twice, event):
        yield f"one version granted twice: {event}, before: {twice}"
        return
    before = lease.greatest if event.mode == EXCLUSIVE else lease.greatest_exclusive
    if event.lver < before:
        yield f"versions go back: {event}, before: {lease.granted[before]}"
    lease.greatest = max(lease.greatest, event.lver)
    if event.mode == EXCLUSIVE:
        lease.greatest_exclusive = max(lease.greatest_exclusive, event.lver)


def _share_one_grant(one: Event, other: Event) -> bool:
    """Guests of one host that share a lease share the host's mode block, one after another too."""
    same = (one.host, one.generation) == (other.host, other.generation)
    return same and one.mode == other.mode == SHARED


class Recorder:
    """Appends events to a file, which many processes of one machine may do at once.

    `host` and `generation` are those of the events that this process records.
    """

    def __init__(self, path: str | os.PathLike[str], host: int, generation: int = 0) -> None:
        self.host, self.generation = host, generation
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def note(self, what: str, lease: str, mode: str = EXCLUSIVE, lver: int = 0, guest: str = "") -> Event:
        """Record that now, on CLOCK_MONOTONIC, `what` happened. Raises OSError."""
        event = Event(time.monotonic(), self.host, self.generation, lease, what, mode, lver, guest)
        os.write(self._fd, f"{event.to_json()}\n".encode())
        return event

    def close(self) -> None:
        os.close(self._fd)


def read_history(path: str | os.PathLike[str]) -> list[Event]:
    """The events of a file of several recorders, in the order of time. Raises OSError and what `from_json` raises."""
    with open(path, encoding="utf-8") as lines:
        return sorted(read_events(lines), key=lambda event: event.at)


def read_events(lines: Iterable[str]) -> Iterator[Event]:
    """Events from JSON lines; blank lines are skipped."""
    return (Event.from_json(line) for line in lines if line.strip())
