# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the keeper counts since its start, for `vlhook metrics`: renewals and starts of guests."""

from __future__ import annotations

import threading
import time
from typing import Any, Protocol

from ..leases.membership import Renewal
from .gates import HookCall, Verdict
from .state import Incarnation

SCHEMA = 1
BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 60.0)
GRANTED, REFUSED = "granted", "refused"


class Histogram:
    """Counts by upper bound in seconds, cumulative as Prometheus wants them."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        place = next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        self._counts[place] += 1
        self._sum += seconds

    def as_dict(self) -> dict[str, Any]:
        total, buckets = 0, []
        for bound, count in zip(BOUNDS, self._counts):
            total += count
            buckets.append([bound, total])
        return {"buckets": buckets, "count": sum(self._counts), "sum": self._sum}


class Metrics:
    """May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._write, self._acquire = Histogram(), Histogram(), Histogram()
        self._errors = 0
        self._acquires = {GRANTED: 0, REFUSED: 0}

    def renewed(self, renewal: Renewal) -> None:
        with self._lock:
            if renewal.error:
                self._errors += 1
            else:
                self._read.add(renewal.read_seconds)
                self._write.add(renewal.write_seconds)

    def acquired(self, result: str, seconds: float) -> None:
        with self._lock:
            self._acquires[result] += 1
            self._acquire.add(seconds)

    def report(self, _: dict[str, Any]) -> dict[str, Any]:
        """The answer to call `metrics`."""
        with self._lock:
            return {
                "schema": SCHEMA,
                "renewal_read_seconds": self._read.as_dict(),
                "renewal_write_seconds": self._write.as_dict(),
                "renewal_errors": self._errors,
                "acquires": dict(self._acquires),
                "acquire_seconds": self._acquire.as_dict(),
            }


class Handler(Protocol):
    def handle(self, call: HookCall) -> Verdict: ...
    def confirm(self, life: Incarnation) -> None: ...
    def unconfirmed(self, life: Incarnation) -> None: ...


class Measured:
    """The gates, with every prepare counted and timed."""

    def __init__(self, gates: Handler, metrics: Metrics) -> None:
        self._gates = gates
        self._metrics = metrics
        self.confirm = gates.confirm
        self.unconfirmed = gates.unconfirmed

    def handle(self, call: HookCall) -> Verdict:
        begun = time.monotonic()
        verdict = self._gates.handle(call)
        if (call.operation, call.suboperation) == ("prepare", "begin"):
            self._metrics.acquired(REFUSED if verdict.status else GRANTED, time.monotonic() - begun)
        return verdict
