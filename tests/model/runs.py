# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is explored, and the shipped generators under way, with what the engine adds around them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vlhook.leases import claims, release
from vlhook.leases.area import Identity, Lease
from vlhook.leases.claims import Claimed
from vlhook.leases.effects import LOCKSPACE, RESOURCE, Member, Now, Random, Read, Sleep, Steps, Write
from vlhook.leases.errors import Abandoned, LeaseError, StorageError
from vlhook.leases.geometry import Geometry
from vlhook.leases.holder import CLEANING, INCOMING, RUNNING, HolderRecord
from vlhook.leases.records import REQUEST_MAGIC, Request
from vlhook.leases.release import Held

SECTOR = 512
TINY_FLAG = 0x10


class Tiny(Geometry):
    """A small area, so that reading all of it costs little. `explore.tiny_areas` makes leaders state it."""

    @property
    def flag(self) -> int:
        return TINY_FLAG


TINY = Tiny(SECTOR, 16 * SECTOR, 2000)
GUEST = HolderRecord(0, 0, 0, 1, bytes(range(16)), RUNNING, "guest", "/disk")
"""The guest that moves."""
CLEANER = HolderRecord(0, 0, 0, 1, bytes(16), CLEANING, "", "")
NO_REQUEST = Request(REQUEST_MAGIC, 0x00010001, 0, 0).encode().ljust(SECTOR, b"\0")
"""Nobody writes the request record here."""


@dataclass(frozen=True)
class Setup:
    """What is explored. `scripts`: one for each host. The budgets are of a whole run, all hosts together.

    crashes: a host stops for good, its guests live on until it is dead or rejoins. restarts: the process
    dies and starts again in the same generation, and settles. abandons: Abandoned is thrown into an
    acquire. errors: a read or write ends with StorageError, a write having landed or not. repeats: a write
    lands, and lands again later, before it is answered. Of a guest that moves: its CPUs may pass to where it is
    claimed, and back, at any time. `pauses` and `attempts` bound one acquire:
    at its next pause, or its next read of the whole area, it is given up (Abandoned), as at a deadline.
    `ticking`: each look at the clock shows a second more; else the clocks stand still. `brief`: acquires
    of a free lease begin without a read of the whole area.
    """

    scripts: tuple[str, ...]
    crashes: int = 0
    restarts: int = 0
    abandons: int = 0
    errors: int = 0
    repeats: int = 0
    pauses: int = 2
    attempts: int = 3
    ticking: bool = False
    brief: bool = False

    @property
    def hosts(self) -> int:
        return len(self.scripts)

    def show(self) -> str:
        budgets = [(n, getattr(self, n)) for n in ("crashes", "restarts", "abandons", "errors", "repeats")]
        spent = "".join(f", {n} {v}" for n, v in budgets if v)
        ticking = (", ticking clocks" if self.ticking else "") + (", brief" if self.brief else "")
        scripts = " ".join(self.scripts)
        return f"scripts {scripts}{spent}, pauses {self.pauses}, attempts {self.attempts}{ticking}"


class Run:
    """A generator under way. Effects that no other host can notice are answered here."""

    def __init__(self, steps: Steps[Any], bounds: tuple[int, int], ticking: bool) -> None:
        """`bounds`: of pauses and attempts; (0, 0): none."""
        self.steps, self.bounds, self.ticking = steps, bounds, ticking
        self.effect: object = None
        self.finished = self.told = False
        self.value: object = None
        self.error: BaseException | None = None
        self.pauses = self.starts = self.looks = 0

    def feed(self, answer: object = None, error: BaseException | None = None) -> None:
        while True:
            try:
                effect = self.steps.throw(error) if error else self.steps.send(answer)
            except StopIteration as stop:
                self.finished, self.value = True, stop.value
                return
            except LeaseError as failure:
                self.finished, self.error = True, failure
                return
            answer = error = None
            if self._is_over(effect):
                self.told, error = True, Abandoned(name="lease", why="deadline of the model")
            elif isinstance(effect, Now):
                self.looks += self.ticking
                answer = 1000.0 + self.looks
            elif isinstance(effect, Random):
                answer = 0.0
            elif isinstance(effect, Read) and (effect.area, effect.offset, effect.length) == (RESOURCE, SECTOR, SECTOR):
                answer = NO_REQUEST
            elif not isinstance(effect, (Sleep, Member)):
                self.effect = effect
                return

    def asks_in(self, name: str) -> bool:
        """Whether the effect that it stands at is asked for by a generator of that name."""
        steps: Any = self.steps
        while steps is not None:
            if steps.gi_code.co_name == name:
                return True
            steps = steps.gi_yieldfrom
        return False

    def _is_over(self, effect: object) -> bool:
        """Has this acquire used up its bounds?"""
        if self.bounds == (0, 0) or self.told:
            return False
        if isinstance(effect, Sleep):
            self.pauses += 1
            return self.pauses > self.bounds[0]
        if isinstance(effect, Read) and effect.length == TINY.area:
            self.starts += 1
            return self.starts > self.bounds[1]
        return False


@dataclass(frozen=True)
class Current:
    """Asked of the model: does the file of the lease still have its name?"""


def take(steps: Steps[Held], lease: Lease, me: Identity) -> Steps[Held | None]:
    """Acquire, and give back what was got in a file that had been removed, as the engine does."""
    held = yield from steps
    if (yield Current()):  # type: ignore[misc]
        return held
    yield from release.release(lease, me, held)
    return None


def leave(offset: int, gone: bytes, back: bytes) -> Steps[None]:
    yield Write(LOCKSPACE, offset, gone)
    yield Write(LOCKSPACE, offset, back)


def give_back(lease: Lease, me: Identity, held: Held) -> Steps[None]:
    """Release, again and again until the storage has confirmed it, as the engine does."""
    while True:
        try:
            return (yield from release.release(lease, me, held))
        except StorageError:
            yield Sleep(1.0)


def find(lease: Lease, me: Identity, held: Held) -> Steps[Held | None]:
    """What a restarted engine does about a lease that it remembers."""
    while True:
        try:
            return (yield from release.still_held(lease, me, TINY, held.lver, held.shared))
        except StorageError:
            yield Sleep(1.0)


def look(lease: Lease, me: Identity, claimed: Claimed, told: bool, marked: bool) -> Steps[Held | None]:
    """One look of the thread that has the claim, as the engine does it (`claiming.Claims._look`)."""
    record = replace(GUEST, state=RUNNING if told else INCOMING)
    if told and not marked:
        yield from claims.mark_running(lease, me, GUEST, claimed.geometry)
    return (yield from claims.try_convert(lease, me, record, claimed.geometry))


def refind(lease: Lease, me: Identity) -> Steps[Claimed | Held]:
    """What a restarted engine does about a claim that it remembers."""
    while True:
        try:
            return (yield from claims.still_claimed(lease, me, TINY))
        except StorageError:
            yield Sleep(1.0)
