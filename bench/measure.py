# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rounds in which the parties take turns, and what is told of them."""

from __future__ import annotations

import gc
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DRAWS = 400
Act = Callable[[], float]
"""Does one round for one party and returns the figure: seconds, bytes, a count."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def alternate(acts: Mapping[str, Act], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """`rounds` figures of each party. Each round begins with the next party, so none always follows the same one.

    The `warm` rounds before are not counted: caches are filled, files made, threads started.
    """
    names = list(acts)
    found: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for number in range(-warm, rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                figure = acts[name]()
                if number >= 0:
                    found[name].append(figure)
    finally:
        gc.enable()
    return found


def quotients(ours: Sequence[float], peer: Sequence[float]) -> Spread | None:
    """Of the rounds, one by one; None where the peer's figure is nothing."""
    if min(peer) <= 0:
        return None
    return spread([mine / theirs for mine, theirs in zip(ours, peer)])


def added(ours: Sequence[float], peer: Sequence[float], base: Sequence[float]) -> Spread | None:
    """The quotient of what is added to `base`, by medians. None where the peer adds no more than noise.

    A difference of two single rounds is mostly noise, so the spread is that of medians of rounds drawn again
    and again from those that were measured.
    """
    zero = statistics.median(base)
    if statistics.median(peer) <= zero:
        return None
    source = random.Random(1)
    found = []
    for _ in range(DRAWS):
        mine, theirs, nothing = (_redrawn(source, values) for values in (ours, peer, base))
        if theirs > nothing:
            found.append((mine - nothing) / (theirs - nothing))
    drawn = spread(found)
    return Spread((statistics.median(ours) - zero) / (statistics.median(peer) - zero), drawn.low, drawn.high)


def _redrawn(source: random.Random, values: Sequence[float]) -> float:
    return statistics.median(source.choices(values, k=len(values)))
