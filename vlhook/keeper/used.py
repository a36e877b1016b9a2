# SPDX-License-Identifier: LGPL-2.1-or-later
"""With the sanlock engine: USED, and what the daemon has that no guest knows of (safety rules, 25).

USED is set when the host joins and before each guest gets leases; it is taken back
only when no guest of the table holds leases and a scan finds no QEMU that the table
does not know. The same look finds orphans of guests of which the keeper knows
nothing: they are given back only when no such QEMU runs. Else there is an alarm.

A lockspace that has failed is ended as soon as nobody runs, whatever the storage does:
else the daemon's watchdog would reset a host whose guests were ended in time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Optional

from ..leases.errors import LeaseError
from ..leases.sanlock import SanlockEngine
from ..leases.sanlockclient import SanlockClient
from ..leases.sanlockending import end_failed
from ..leases.sanlockerrors import SanlockUnreachable
from ..leases.sanlockmembership import ANSWER_SECONDS, DaemonLease
from .host import Host
from .log import Log
from .natively import NAME as NATIVE
from .qemu import Processes
from .state import Incarnation
from .table import Table

LOOK_SECONDS = 5.0


class Used:
    def __init__(self, host: Host, table: Table, processes: Processes, log: Log) -> None:
        self._host = host
        self._table = table
        self._processes = processes
        self._log = log
        self._lock = threading.Lock()
        self._holds = 0
        self._let_go: Optional[DaemonLease] = None
        self.taken_over = False
        """The guests of a former keeper are known again: from now on an empty table means no guests."""
        self.lost: Callable[[Incarnation], None] = lambda life: None

    def hold(self) -> None:
        """Before a guest that is in the table gets leases. Raises SanlockError."""
        lease = self._host.lease
        if isinstance(lease, DaemonLease):
            with self._lock:
                self._holds += 1
                lease.hold()
                self._let_go = None

    def nobody_runs(self) -> bool:
        """No guest holds leases, and every QEMU of this host is known to need none."""
        if not self.taken_over or any(life.wants for life in self._table.all()):
            return False
        known = {life.uuid for life in self._table.all()}
        try:
            return not set(self._processes.guests()) - known
        except OSError:
            return False

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_SECONDS):
            try:
                self._turn()
            except (LeaseError, OSError) as error:
                self._log.warning("sanlock", error=error)
            except Exception as error:  # a fault in one look must not be the last one
                self._log.error("fault", error=repr(error))

    def _turn(self) -> None:
        lease, engine = self._host.lease, self._host.engine
        if lease is None:
            self._end_failed()
        if not isinstance(lease, DaemonLease) or not isinstance(engine, SanlockEngine) or lease.why_not():
            self._log.calm("strays")
            return
        if not self.taken_over or self._host.taking_over:
            return
        holds, nobody = self._holds, self.nobody_runs()
        self._mend(lease, engine)
        self._strays(engine, nobody)
        with self._lock:
            # A guest that came since is in the table before it asks for USED.
            still = holds == self._holds and not any(life.wants for life in self._table.all())
            if nobody and still and self._let_go is not lease:
                lease.let_go()
                self._let_go = lease

    def _end_failed(self) -> None:
        host = self._host
        if host.where.engine == NATIVE or host.aside or not self.taken_over or host.taking_over:
            return
        with self._lock, contextlib.suppress(SanlockUnreachable):
            # A guest that comes meanwhile is in the table before it asks for USED, for which it needs the lock.
            if end_failed(SanlockClient(timeout=ANSWER_SECONDS), host.where.space(), self.nobody_runs):
                self._log.notice("lockspace-ends", why="it has failed, and no guest of this host is left")

    def _mend(self, lease: DaemonLease, engine: SanlockEngine) -> None:
        for tenant in engine.broken():
            lost = engine.mend(tenant)
            if lease.why_not():
                return  # the daemon has ended: all guests are lost, and what grace they have is not judged here
            self._log.warning("connection", guest=tenant.guest, uuid=tenant.uuid, lost=len(lost))
            if lost:
                for life in self._table.of(tenant.uuid):
                    if life.key == tenant.key:
                        self.lost(life)

    def _strays(self, engine: SanlockEngine, nobody: bool) -> None:
        strays = engine.strays()
        if not strays:
            self._log.calm("strays")
            return
        names = ", ".join(stray.resource.name for stray in strays[:3])
        if not nobody and self._unknown():
            self._log.alarm(
                "strays",
                f"sanlock holds {len(strays)} leases of which vlhookd knows no guest ({names}), and QEMU processes run"
                " that it does not know; they are given back when those have ended",
            )
            return
        for stray in strays:
            engine.release_stray(stray)
            self._log.notice("stray", lease=stray.resource.name, why="no guest of this host uses it")
        self._log.calm("strays")

    def _unknown(self) -> bool:
        known = {life.uuid for life in self._table.all()}
        try:
            return bool(set(self._processes.guests()) - known)
        except OSError:
            return True
