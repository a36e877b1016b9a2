# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way of an I/O from a host to the disk and back; the driver's contract is kept here.

An I/O is issued, lands (for a read: its sectors are looked at) and is answered,
each at a time of its own. On the way it may be slow, be repeated (a write lands,
and lands again later), be torn (a read looks at some sectors now and at the
others later), end with an error having landed or not, and wait for storage that
has disappeared for this host. What `effects.py` promises holds all the same: an
I/O is answered only when nothing of it can land any more, and what was answered
without an error has landed. An I/O that a crashed machine leaves behind lands
within LINGER seconds or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

from ..leases.effects import Read, Write
from ..leases.errors import StorageError
from .disk import SECTOR, Area

if TYPE_CHECKING:
    from .host import Host, Task

LINGER = 1.0
LATE_TIMES = 30
"""An I/O that is very late takes so many times as long as others."""


class Io:
    """One I/O under way. `orphan`: its machine crashed, so nobody is waiting for it."""

    __slots__ = ("area", "count", "data", "failed", "first", "host", "later", "orphan", "parts", "task", "twice")

    def __init__(self, task: Task, area: Area, effect: Union[Read, Write]) -> None:
        self.task, self.host, self.area = task, task.host, area
        self.first = effect.offset // SECTOR
        self.data = effect.data if isinstance(effect, Write) else None
        length = effect.length if isinstance(effect, Read) else len(effect.data)
        self.count = length // SECTOR
        self.parts: list[bytes] = []
        self.later: Sequence[int] = ()
        self.failed = self.orphan = self.twice = False


class Link:
    """One host's path to the disk. `lag`: mean seconds of each way; `fail`, `repeat`, `tear`, `late`: chances."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.random = host.rng.random
        self.inflight: set[Io] = set()
        self.clean(0.01)

    def clean(self, lag: float) -> None:
        """From now on nothing goes wrong."""
        self.lag = lag
        self.fail = self.repeat = self.tear = self.late = 0.0
        self.dark_until = 0.0

    def submit(self, task: Task, area: Area, effect: Union[Read, Write]) -> None:
        io = Io(task, area, effect)
        self.inflight.add(io)
        wait = self.lag * 2 * self.random()
        if self.late and self.random() < self.late:
            wait *= LATE_TIMES
        self.world.push(wait, self.land, io)

    def land(self, io: Io) -> None:
        now = self.world.now
        if self.dark_until > now and not io.orphan:
            self.world.push(self.dark_until - now + self.lag * self.random(), self.land, io)
            return
        if self.fail and self.random() < self.fail:
            io.failed = True
        if io.data is not None:
            if not io.failed or self.random() < 0.5:
                self._write(io, io.data)
            again = not io.failed and not io.twice and self.repeat and self.random() < self.repeat
        else:
            again = self._look(io)
        if again:
            io.twice = True
            self.world.push(self.lag * 6 * self.random(), self.land, io)
        elif not io.orphan:
            self.world.push(self.lag * self.random(), self.answer, io)

    def _write(self, io: Io, data: bytes) -> None:
        for i in range(io.count):
            io.area.write(io.first + i, data[i * SECTOR : (i + 1) * SECTOR])
        if io.area.lease:
            self.host.wrote()

    def _look(self, io: Io) -> bool:
        """Look at sectors; True if some are left to be looked at later."""
        if io.twice:
            now = io.area.read(io.first, io.count)
            for i in io.later:
                io.parts[i] = now[i]
            return False
        io.parts = io.area.read(io.first, io.count)
        if self.tear and len(io.parts) > 1 and self.random() < self.tear:
            io.later = [i for i in range(len(io.parts)) if self.random() < 0.5]
            return True
        return False

    def answer(self, io: Io) -> None:
        if io.orphan:
            return
        now = self.world.now
        late = max(self.dark_until, self.host.stopped_until)
        if late > now:
            self.world.push(late - now + self.lag * self.random(), self.answer, io)
            return
        self.inflight.discard(io)
        task = io.task
        if task.epoch != self.host.epoch:
            return
        if io.failed:
            op = "read" if io.data is None else "write"
            task.step(error=StorageError(op=op, where=io.area.lease or "lockspace", why="simulated"))
        elif io.data is None:
            task.step(io.area.finish(io.parts, io.first, io.count))
        else:
            task.step()

    def crash(self) -> None:
        """The machine is gone; each of its writes lands soon or never."""
        for io in self.inflight:
            io.orphan = True
            if io.data is not None and self.random() < 0.5:
                self.world.push(LINGER * self.random(), self.land, io)
        self.inflight.clear()

    def writing(self) -> bool:
        """Is a write to a lease under way?"""
        return any(io.data is not None and io.area.lease for io in self.inflight)
