# SPDX-License-Identifier: LGPL-2.1-or-later
"""One run, many runs, and making a failed run as small as it gets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from multiprocessing import get_context

from ..leases import area, ballot, holder, records
from ..leases.crc32c import crc32c
from ..leases.geometry import Geometry
from ..leases.records import HostSector
from . import history, plan
from .disk import SECTOR, Violation
from .plan import Plan
from .world import World

CHUNK = 200
BLANK = bytes(SECTOR)
MOST_HOSTS = 50


@dataclass(frozen=True)
class Result:
    """What became of one run. `wrong`: what must never happen and did, in one line; empty if nothing."""

    plan: Plan
    wrong: str
    effects: int
    grants: int
    refusals: int
    simulated: float
    events: tuple[history.Event, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass
class Figures:
    """Sums over runs. `effects` counts what the protocol asked for; `simulated` and `seconds` are seconds."""

    runs: int = 0
    effects: int = 0
    grants: int = 0
    refusals: int = 0
    simulated: float = 0.0
    seconds: float = 0.0
    failed: list[Plan] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.runs += other.runs
        self.effects += other.effects
        self.grants += other.grants
        self.refusals += other.refusals
        self.simulated += other.simulated
        self.failed += other.failed
        self.wrong += other.wrong

    def take(self, result: Result) -> None:
        one = Figures(1, result.effects, result.grants, result.refusals, result.simulated)
        if result.wrong:
            one.failed, one.wrong = [result.plan], [result.wrong]
        self.add(one)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.simulated / 3600:.1f} simulated hours in {self.seconds:.1f} s:"
            f" {self.effects} protocol steps, {self.grants} leases granted, {self.refusals} refused,"
            f" {len(self.failed)} failed"
        )


def run(what: Plan, tell: bool = False, whole_areas: bool = True) -> Result:
    """Carry `what` out. `tell`: with its story in `lines`."""
    world = World(what, whole_areas, tell)
    wrong = ""
    try:
        world.run()
    except Violation as violation:
        wrong = str(violation)
    wrong = wrong or next(history.faults(world.events), "")
    return Result(
        what, wrong, world.effects, world.grants, world.refusals, world.now,
        tuple(world.events) if tell else (), tuple(world.lines or ()),
    )  # fmt: skip


@contextmanager
def remembered() -> Iterator[None]:
    """Checksums and decoded sectors are pure functions of bytes that are read again and again.

    To compute each only once saves more than half of a short run's time.
    """
    summed = lru_cache(maxsize=4096)(crc32c)
    decoded = lru_cache(maxsize=4096)(records.decode_host_sector)

    def host_sectors(area: bytes, geo: Geometry, num_hosts: int, where: str) -> list[HostSector]:
        data = area[2 * geo.sector : (2 + num_hosts) * geo.sector]
        found = []
        if data.strip(b"\0"):
            for number in range(num_hosts):
                sector = data[number * geo.sector : (number + 1) * geo.sector]
                if sector != BLANK:
                    found.append(decoded(sector, number + 1, where))
        return found

    quick = {"crc32c": lambda data: summed(bytes(data)), "host_sectors": host_sectors}
    places = ((records, "crc32c"), (holder, "crc32c"), (area, "host_sectors"), (ballot, "host_sectors"))
    real = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, quick[name])
    try:
        yield
    finally:
        for (module, name), function in zip(places, real):
            setattr(module, name, function)


def several(first: int, count: int, profile: str, hosts: int, hours: float) -> Figures:
    """The runs of `count` seeds from `first` on. `hosts` 0: 2, 3 or 4, as the seed says."""
    figures = Figures()
    with remembered():
        for seed in range(first, first + count):
            drawn = plan.draw(seed, profile, hosts or 2 + seed % 3, hours)
            figures.take(run(drawn, whole_areas=False))
    return figures


def many(
    first: int, count: int, profile: str, hosts: int = 0, hours: float = 1.0, jobs: int = 1, chunk: int = CHUNK
) -> Iterator[Figures]:
    """As `several`, on `jobs` processors; yields what has been summed up so far, after each chunk."""
    begun = time.monotonic()
    total = Figures()
    starts = range(first, first + count, chunk)
    work = partial(_chunk, first + count, chunk, profile, hosts, hours)
    if jobs == 1:
        done = map(work, starts)
        yield from _sums(total, done, begun)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from _sums(total, pool.imap_unordered(work, starts), begun)


def _chunk(end: int, chunk: int, profile: str, hosts: int, hours: float, first: int) -> Figures:
    return several(first, min(chunk, end - first), profile, hosts, hours)


def _sums(total: Figures, done: Iterator[Figures], begun: float) -> Iterator[Figures]:
    for figures in done:
        total.add(figures)
        total.seconds = time.monotonic() - begun
        yield total


def shrink(failed: Plan) -> Plan:
    """The same run with as few of its actions as still fail: first large parts are left out, then single ones."""
    kept = [number for number, action in failed.chosen() if action.what != plan.CALM]
    size = max(1, len(kept) // 2)
    while True:
        smaller = False
        for at in range(0, len(kept), size):
            trial = kept[:at] + kept[at + size :]
            if run(failed.keep(tuple(trial)), whole_areas=False).wrong:
                kept, smaller = trial, True
                break
        if not smaller:
            if size == 1:
                return failed.keep(tuple(kept))
            size //= 2
