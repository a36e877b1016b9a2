# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the storage answers, and how much of the 8N seconds is used up: the stages before guests are stopped.

Of the limit of 8N seconds after the last good renewal (N: io_timeout)

    4N   a warning with the figures
    6N   another, which names the guests that are going to be stopped
    8N   they are stopped (`expiry`)

A storage that answers before 8N ends the warning, and nothing happened to any guest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..leases.blockio import pending
from ..leases.clock import Moment
from ..leases.membership import HostLease
from .log import Log

HALF, LATE = 1 / 2, 6 / 8
_WEIGHT = 1 / 8


class Budget:
    """`directory` and `guests` for the text: the lease directory, and who has leases in it."""

    def __init__(self, directory: Callable[[], str], guests: Callable[[], Sequence[str]], log: Log) -> None:
        self._directory = directory
        self._guests = guests
        self._log = log
        self._stage = 0.0
        self._slow = False
        self.average = 0.0
        self.worst = 0.0

    def renewed(self, lease: HostLease) -> None:
        """A renewal that reached the disk; its latency is in seconds."""
        latency = lease.latest.latency if lease.latest else 0.0
        self.average = latency if not self.average else self.average + (latency - self.average) * _WEIGHT
        self.worst = max(self.worst, latency)
        slow = latency >= lease.space.io_timeout
        if slow and not self._slow:
            self._log.warning(
                "slow-storage", directory=self._directory(), renewal=f"{latency:.1f}s",
                usual=f"{self.average:.2f}s", io_timeout=lease.space.io_timeout,
            )  # fmt: skip
        self._slow = slow

    def look(self, lease: HostLease) -> None:
        """Say so when another stage is reached."""
        age, limit = lease.age(), lease.limit
        stage = LATE if age >= LATE * limit else HALF if age >= HALF * limit else 0.0
        if stage == self._stage:
            return
        self._stage = stage
        if not stage:
            self._log.calm("late")
            return
        text = (
            f"the storage of {self._directory()} has confirmed no renewal for {age:.0f} s of {limit}"
            f" (usual answer {self.average * 1000:.0f} ms, longest {self.worst * 1000:.0f} ms){_waiting()}"
        )
        if stage == LATE:
            names = self._guests()
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            text += f"; stopped in {max(0.0, limit - age):.0f} s: {shown or 'no guest'}"
        self._log.alarm("late", text)

    def over(self) -> None:
        """The limit was reached, or the membership ended otherwise."""
        self._stage = 0.0
        self._log.calm("late")


def _waiting() -> str:
    now = Moment.now().monotonic
    oldest = max(pending(), key=lambda io: now - io.since, default=None)
    return f", a {oldest.op} unanswered for {now - oldest.since:.0f} s" if oldest else ""
