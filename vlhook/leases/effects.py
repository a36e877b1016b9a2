# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a protocol generator asks its driver for.

`delta.py`, `paxos.py` and their neighbours do no I/O, read no clock and draw
no random number: they yield one of these and are sent the answer, or have an
error thrown into them. The keeper, the simulator and the model checker are
three drivers of the same generators.

The contract of a driver:

- A `Write` that is answered is on shared storage. A `Write` or `Read` that
  raises StorageError is over: each sector of a failed write is old or new, and
  nothing of it lands later. While an I/O may still land, the driver does not
  answer, so no generator can decide anything on it (safety rules, 12).
- Single sectors are read and written whole; longer reads are not atomic.
- `Member` is answered only while the host's own lease is good; otherwise
  NotMember is thrown. It precedes each write of a ballot or leader (format
  document, 8.13).
- A driver may throw Abandoned at any yield; the generator then cleans up what
  it left on disk (format document, 7.5) and raises.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Optional, TypeVar, Union

LOCKSPACE = "lockspace"
RESOURCE = "resource"


@dataclass(frozen=True)
class Read:
    """Answered with exactly `length` bytes; AreaTooShort if the file ends before.

    `sparse`: what is read are all of them, too, but zeros at the end of the answer may be left out.
    """

    area: str
    offset: int
    length: int
    sparse: bool = False


@dataclass(frozen=True)
class Write:
    """Answered with None. `data` is a whole number of sectors."""

    area: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Remove:
    """Answered with True when the area's file has no name any more; False: the name is another file's.

    A crash of the file server may bring the name back, as long as the directory is not synced.
    """

    area: str


@dataclass(frozen=True)
class Sleep:
    """Answered with None, not before `seconds` of CLOCK_MONOTONIC have gone by."""

    seconds: float


@dataclass(frozen=True)
class Now:
    """Answered with CLOCK_MONOTONIC of this host in seconds (float)."""


@dataclass(frozen=True)
class Random:
    """Answered with a float of [0, 1)."""


@dataclass(frozen=True)
class Member:
    """Answered with None while the host's own lease is good, else NotMember is thrown."""


@dataclass(frozen=True)
class Seen:
    """Answered with what this host's own renewals saw of `host_id`: a HostView or None."""

    host_id: int


@dataclass(frozen=True)
class HostView:
    """One row of the table of format document 6.4; times are this host's own clock."""

    owner_id: int
    generation: int
    timestamp: int
    io_timeout: int
    first_check: float
    last_check: float
    last_live: float
    ever_changed: bool
    name: bytes = b""


Effect = Union[Read, Write, Remove, Sleep, Now, Random, Member, Seen]
T = TypeVar("T")
Steps = Generator[Effect, object, T]
"""A protocol operation: yields effects, is sent answers, returns a T."""

Maybe = Optional[HostView]


def read(area: str, offset: int, length: int, sparse: bool = False) -> Steps[bytes]:
    data = yield Read(area, offset, length, sparse)
    assert isinstance(data, bytes)
    return data


def now() -> Steps[float]:
    value = yield Now()
    assert isinstance(value, float)
    return value


def random() -> Steps[float]:
    value = yield Random()
    assert isinstance(value, float)
    return value


def seen(host_id: int) -> Steps[Maybe]:
    view = yield Seen(host_id)
    assert view is None or isinstance(view, HostView)
    return view


def guarded_write(area: str, offset: int, data: bytes) -> Steps[None]:
    """Write only while the host's own lease is good (format document, 8.13)."""
    yield Member()
    yield Write(area, offset, data)
