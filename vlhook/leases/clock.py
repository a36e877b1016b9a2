# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two clocks by which a host judges its own lease.

On disk stand CLOCK_MONOTONIC seconds. MONOTONIC stands still while the machine
is suspended and BOOTTIME does not, so the age of the last renewal is the worse
of the two (safety rules, 8).
"""

from __future__ import annotations

import time
from dataclasses import dataclass


def boottime_offset() -> float:
    """CLOCK_BOOTTIME minus CLOCK_MONOTONIC in seconds: the time spent suspended in this boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


@dataclass(frozen=True)
class Moment:
    """A point in time on both clocks, in seconds."""

    monotonic: float
    boottime: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))

    def age(self) -> float:
        """Seconds since then, by the clock that says more."""
        now = Moment.now()
        return max(now.monotonic - self.monotonic, now.boottime - self.boottime)
