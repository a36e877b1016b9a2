# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest's connection to the sanlock daemon: its leases, one exchange after another.

The connection is registered by this process, which the daemon is forbidden to
kill: this process alone can end guests. When a lockspace fails the daemon runs
the killpath, which only wakes us (`WAKE`); what is to be done is decided here,
from what the daemon says. Every lease is persistent: if this process dies the
daemon keeps it as an orphan, which the next keeper adopts.

A call that the daemon does not answer in time is waited for: what it was asked
may still happen, so nothing else is asked meanwhile. The methods block for as
long as that takes, in threads that may hang; an alarm tells of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .engine import Tenant
from .errors import LeaseError
from .sanlockclient import SanlockClient
from .sanlockerrors import (
    SanlockHungUp,
    SanlockNoAnswer,
    SanlockUnreachable,
    SanlockUnusable,
    refusal,
)
from .sanlockregistered import Registered
from .sanlockstate import HeldLease
from .sanlockwire import RESTRICT_SIGKILL, Resource

ANSWER_SECONDS = 3.0
SHELL, WAKE = "/bin/sh", "kill -URG $1"
"""Run by the daemon's helper as SHELL -c WAKE UUID PID, PID being this process, which ignores it unless it listens."""


class GuestConnection:
    """Not for two threads at once: `turn` is held over every use. `lost()`: the host's membership is over.

    `asked`: leases were asked for, so some may be held.
    """

    def __init__(
        self, client: SanlockClient, tenant: Tenant, lost: Callable[[], bool], alarm: Callable[[str], None]
    ) -> None:
        self.tenant = tenant
        self.turn = threading.RLock()
        self.asked = False
        self._client = client
        self._lost = lost
        self._alarm = alarm
        self._registered: Registered | None = None

    def open(self) -> None:
        """Register if need be. Raises SanlockError; then there is no connection."""
        if self._registered and not self._registered.hung_up():
            return
        self.close()
        deadline = time.monotonic() + ANSWER_SECONDS
        registered = self._client.register(deadline)
        try:
            registered.restrict(RESTRICT_SIGKILL, deadline)
            words = ["-c", WAKE, self.tenant.uuid or "-"]
            registered.killpath(SHELL, words, append_pid=True, deadline=deadline)
        except BaseException:
            registered.close()
            raise
        self._registered = registered

    def close(self) -> None:
        """Leases that are still held become orphans."""
        if self._registered:
            self._registered.close()
            self._registered = None

    def good(self) -> bool:
        """Whether the daemon still has this connection; does not wait."""
        registered = self._registered
        return registered is not None and not registered.hung_up()

    # -- leases; at most BATCH at once

    def acquire(self, batch: Sequence[Resource]) -> None:
        """All of them or none. Raises SanlockError: none, but after SanlockHungUp nobody knows."""
        self.asked = True
        self._ask("acquire", batch, lambda r, deadline: r.acquire(batch, deadline=deadline))

    def release(self, batch: Sequence[Resource]) -> None:
        """Raises SanlockError; the leases may be on their way all the same."""
        self._ask("release", batch, lambda r, deadline: r.release(batch, deadline=deadline))

    def adopt(self, resource: Resource) -> None:
        """Take an orphan over, without I/O. Raises SanlockNotOrphan, SanlockError."""
        self.asked = True
        self._ask("acquire", [resource], lambda r, deadline: r.adopt([resource], deadline=deadline))

    def release_orphan(self, resource: Resource) -> None:
        """The daemon takes note, and does it a moment later. Raises SanlockError."""
        self._ask("release", [resource], lambda r, deadline: r.release_orphan(resource, deadline=deadline))

    def _ask(
        self, words: str, batch: Sequence[Resource], call: Callable[[Registered, float], object]
    ) -> None:
        registered = self._registered
        if registered is None:
            raise SanlockUnusable(path=self._client.socket_path, why="it was never made, or is closed")
        try:
            call(registered, time.monotonic() + ANSWER_SECONDS)
        except SanlockNoAnswer as unanswered:
            self._alarm(f"leases of guest {self.tenant.guest}: {unanswered}; its answer is waited for")
            result = self._late(registered, unanswered)
            if result < 0:
                raise refusal(words, result, ", ".join(one.name for one in batch)) from None

    def _late(self, registered: Registered, unanswered: SanlockNoAnswer) -> int:
        """The result of a call that met its deadline, however long it takes."""
        while True:
            try:
                result = registered.late_answer(time.monotonic() + ANSWER_SECONDS)
            except SanlockNoAnswer:
                if self._lost():
                    raise
                continue
            if result is None:
                raise unanswered  # it was never sent
            return result


def listed(client: SanlockClient, resource: Resource) -> list[HeldLease]:
    """What the daemon has of this lease. Raises SanlockError."""
    found = client.leases(time.monotonic() + ANSWER_SECONDS)
    return [one for one in found if (one.resource.space, one.resource.name) == (resource.space, resource.name)]


def silent(error: LeaseError) -> bool:
    """Whether the error says nothing about the lease: the daemon cannot be talked to."""
    return isinstance(error, (SanlockNoAnswer, SanlockHungUp, SanlockUnreachable, SanlockUnusable))
