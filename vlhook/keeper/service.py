# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper as a service: when it may stop, and how the service manager knows that it works.

SIGTERM and SIGINT   stop as soon as no guest holds leases; before that they are refused, with the reason
SIGHUP               end now and leave everything to a successor: what a restart sends. Without a successor
                     the guests are ended when the host's lease runs out, and a watchdog resets the host
SIGURG               the sanlock daemon has run its killpath: look at once what it says of the lockspace
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Optional

from ..config.settings import Settings
from ..leases.membership import HostLease
from ..notify import notify, watchdog_interval
from .log import Log

START_MARGIN_SECONDS = 30
RENEWAL_MARGIN_SECONDS = 10.0


def start_seconds(io_timeout: int) -> int:
    """The longest that joining takes with storage that answers: 8N+60, then 2N, and some more."""
    return 8 * io_timeout + 60 + 2 * io_timeout + START_MARGIN_SECONDS


class Service:
    """`guests()` names the guests that hold leases; `lease()` is this host's, if it has one."""

    def __init__(
        self,
        guests: Callable[[], Sequence[str]],
        lease: Callable[[], Optional[HostLease]],
        ended_by_sanlock: Callable[[], bool],
        log: Log,
    ) -> None:
        self._guests = guests
        self._ended_by_sanlock = ended_by_sanlock
        self._lease = lease
        self._log = log
        self._interval = watchdog_interval()
        self._fed_at = 0.0
        self._refused = False

    def turn(self, signals: Signals) -> None:
        """With each turn of the loop that judges the host's lease."""
        if signals.asked and self._ended_by_sanlock():
            # It cannot be told from a wish to stop us, and who ends the guests must not be stopped before.
            signals.asked = False
            self._log.warning("signal-ignored", signal="SIGTERM", why="a lockspace of the sanlock daemon has failed")
        if signals.asked and not signals.stop.is_set():
            self._stop_if_free(signals)
        now = time.monotonic()
        if self._interval and now - self._fed_at >= self._interval / 2 and self._renews():
            self._fed_at = now
            notify("WATCHDOG=1")

    def _renews(self) -> bool:
        """A thread that waits for the storage does its work; one that stands still for nothing does not."""
        lease = self._lease()
        return lease is None or not lease.stands_still(RENEWAL_MARGIN_SECONDS)

    def _stop_if_free(self, signals: Signals) -> None:
        guests = self._guests()
        if not guests:
            signals.stop.set()
        elif not self._refused:
            self._refused = True
            why = f"guests hold leases ({', '.join(guests[:5])}{', …' if len(guests) > 5 else ''})"
            self._log.warning(
                "stop-refused", why=f"{why}; it stops when they are gone",
                restart="systemctl restart vlhookd leaves them alone",
                force="systemctl kill -s SIGHUP vlhookd: they are ended at the limit, and a watchdog resets the host",
            )  # fmt: skip
            notify(f"STATUS=stop refused: {why}")


class Signals:
    """What the process was told: `asked` to stop, or to `stop` at once."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ask())
        signal.signal(signal.SIGHUP, lambda *_: self.stop.set())
        self.on_killpath: Callable[[], None] = lambda: None
        signal.signal(signal.SIGURG, lambda *_: self.on_killpath())

    def _ask(self) -> None:
        self.asked = True


def starts(settings: Settings) -> None:
    """Ask for the time that joining with these settings may take."""
    notify(f"EXTEND_TIMEOUT_USEC={start_seconds(settings.io_timeout) * 1_000_000}")
