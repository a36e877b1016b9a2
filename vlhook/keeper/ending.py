# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of an incarnation: drained, then released, then forgotten (safety rules, 5).

Runs in the background and is tried for as long as it takes; until it has
worked the leases are kept and the incarnation stays in the table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Optional

from ..errors import VlhookError
from ..leases.engine import Engine
from .drain import Drain, Syncer
from .log import Log
from .state import Incarnation
from .table import Table

DRAIN_SECONDS = 30.0
RETRY_SECONDS = 5.0
POLL_SECONDS = 0.1
LAST_SECONDS = 2.0
"""What else a guest had, its emulated TPM for example, ends a moment after QEMU."""
RELEASE_SECONDS = 30.0


class StillAlive(VlhookError):
    msg = "{sign}"
    hint = "end that process"
    code = "VLH-K107"


class NotDrained(VlhookError):
    msg = "what it wrote to {image} is not known to be on the storage: {why}"
    hint = "the lease is given back when that image can be opened and synced; bring its storage back"
    code = "VLH-K108"


class Endings:
    """`engine` is asked for anew each time: it changes when the host rejoins.

    `taking_over`: a former keeper's leases are not all found again yet; until they are, there is
    nothing to give them back with, and nothing is forgotten.
    """

    def __init__(
        self,
        table: Table,
        engine: Callable[[], Engine | None],
        forget: Callable[[Incarnation], None],
        log: Log,
        dropped: Callable[[], None] = lambda: None,
        sign_of_life: Callable[[Incarnation], Optional[str]] = lambda life: None,
        syncer: Optional[Syncer] = None,
        taking_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._table = table
        self._engine = engine
        self._forget = forget
        self._log = log
        self._dropped = dropped
        self._sign_of_life = sign_of_life
        self._why: dict[str, str] = {}
        self._drains: dict[str, Drain] = {}
        self._syncer = syncer
        self._taking_over = taking_over
        self._lock = threading.Lock()
        self._ending: set[str] = set()

    def begin(self, life: Incarnation, ran: bool, why: str, since: str = "") -> None:
        """End `life` in the background. `ran`: a QEMU process of it may have written to its images.

        `since`: the phase in which it was judged to be over. If it has left that phase meanwhile (it
        went through the second gate, or was confirmed), it is not ended.
        """
        with self._lock:
            if life.key in self._ending:
                return
            self._ending.add(life.key)
        try:
            if not self._table.end(life, since):
                with self._lock:
                    self._ending.discard(life.key)
                return
        except VlhookError as error:
            self._log.error("state", error=error, guest=life.guest)
        self._log.info("guest-ends", guest=life.guest, uuid=life.uuid, why=why)
        threading.Thread(target=self._end, args=(life, ran), name="ending", daemon=True).start()

    def why(self, lives: list[Incarnation]) -> str:
        """Why one of these has not ended yet, "" if nothing stands in the way."""
        return next((self._why[life.key] for life in lives if life.key in self._why), "")

    def _end(self, life: Incarnation, ran: bool) -> None:
        while self._taking_over():
            time.sleep(POLL_SECONDS)
        while True:
            try:
                # A guest whose adoption failed runs on as it did before it, without leases.
                if not life.adopting:
                    self._check_gone(life)
                if ran:
                    self._drain(life)
                # The guard looks for itself: what it still finds running keeps its leases.
                self._forget(life)
                self._release(life)
                self._table.drop(life)
                self._dropped()
                break
            except Exception as error:  # whatever it was, an end that is not finished is tried again
                text = self._why[life.key] = str(error) or type(error).__name__
                self._log.alarm(f"ending {life.key}", f"guest {life.guest} is gone, its leases are kept: {text}")
                time.sleep(RETRY_SECONDS)
        self._log.calm(f"ending {life.key}")
        self._why.pop(life.key, None)
        with self._lock:
            self._ending.discard(life.key)

    def _check_gone(self, life: Incarnation) -> None:
        until = time.monotonic() + LAST_SECONDS
        while True:
            sign = self._sign_of_life(life)
            if not sign:
                return
            if time.monotonic() >= until:
                raise StillAlive(sign=sign)
            time.sleep(2 * POLL_SECONDS)

    def _drain(self, life: Incarnation) -> None:
        drain = self._drains.setdefault(life.key, Drain(life.images, life.devices, self._syncer))
        left = drain.run(DRAIN_SECONDS)
        if left:
            raise NotDrained(image=left[0].path, why=left[0].why)
        del self._drains[life.key]

    def _tell_released(self, life: Incarnation) -> None:
        if life.owned:
            which = {"lease": [one.want.name for one in life.owned], "lver": [one.lver for one in life.owned]}
            self._log.info("released", more=which, guest=life.guest, uuid=life.uuid, leases=len(life.owned))

    def _release(self, life: Incarnation) -> None:
        while life.wants:
            engine = self._engine()
            if engine is None:
                return
            if engine.release(life.tenant, time.monotonic() + RELEASE_SECONDS):
                self._tell_released(life)
                return
            self._log.error("not-released", guest=life.guest, why="the storage has not confirmed the release yet")
