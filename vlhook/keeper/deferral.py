# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests whose leases libvirt's sanlock plugin takes: checked when they have started, and from then on.

The hook asks about `started` only while the file DEFERS is in the run
directory, so that on all other hosts that event costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.engine import Want
from ..leases.errors import LeaseError
from ..leases.sanlockerrors import SanlockError
from ..leases.sanlockmembership import DaemonLease
from .host import Host
from .log import Log
from .plugin import DaemonView, daemon_with_plugin, is_paused
from .protector import DAEMON_SECONDS, Protector, is_extra, name_of, want_of
from .qemu import Processes
from .state import ENDING, RUNNING, STARTING, Caller, Incarnation
from .table import Table

DEFERS = "defers"
TICK_SECONDS = 2.0
LOOKS = 2
"""A guest that is just being resumed or suspended may be seen between two states."""


class NotLocked(VlhookError):
    msg = "libvirt's sanlock plugin holds no lease for {what} (QEMU has pid {pid}), although it was to take it"
    hint = "see 'sanlock client status', and that libvirtd was restarted after its settings were changed"
    code = "VLH-K727"


class CannotCheck(VlhookError):
    msg = "it cannot be checked that libvirt's sanlock plugin has its leases: {why}"
    hint = "see 'systemctl status sanlock', then start the guest again"
    code = "VLH-K728"


class Deferrals:
    def __init__(
        self,
        *,
        protector: Protector,
        table: Table,
        host: Host,
        processes: Processes,
        run_dir: Path,
        libvirt_run_dir: Path,
        rejoin: Callable[[], object],
        log: Log,
    ) -> None:
        self._protector = protector
        self._table = table
        self._host = host
        self._processes = processes
        self._mark = run_dir / DEFERS
        self._libvirt = libvirt_run_dir
        self._rejoin = rejoin
        self._log = log
        self._failed: dict[str, int] = {}
        self.tidy: Callable[[], None] = lambda: None

    # -- at a start

    def expect(self, life: Incarnation) -> None:
        """From now on the hook asks about `started`. After `life` is in the table. Raises CannotCheck."""
        if not life.deferred:
            return
        try:
            with self._table.changed:
                self._mark.touch(mode=0o600)
        except OSError as error:
            raise CannotCheck(why=f"{self._mark} cannot be made: {error.strerror}") from error

    def started(self, guest: str, caller: Caller, deadline: float) -> None:
        """Raises NotLocked, CannotCheck: the guest must not run (safety rules, 22)."""
        for life in self._table.all():
            if life.guest == guest and life.caller == caller and life.phase in (STARTING, RUNNING) and life.deferred:
                self._check(life, deadline)

    def _check(self, life: Incarnation, deadline: float) -> None:
        process = self._processes.look(life, thoroughly=True)
        if process is None:
            raise CannotCheck(why="QEMU was not found")
        try:
            view = self._protector.view(deadline)
        except SanlockError as error:
            raise CannotCheck(why=error) from error
        finally:
            process.close()
        missing = self._missing(view, process.pid, life)
        if missing and not self._suspended(view, process.pid, life):
            raise NotLocked(what=name_of(missing[0]), pid=process.pid)
        self._log.info("deferred", guest=life.guest, uuid=life.uuid, pid=process.pid, leases=len(life.deferred))

    def _missing(self, view: DaemonView, pid: int, life: Incarnation) -> list[Want]:
        return view.missing(pid, life.deferred, self._host.where.directory)

    def _suspended(self, view: DaemonView, pid: int, life: Incarnation) -> bool:
        """The plugin gives a suspended guest's leases back, and keeps its QEMU registered."""
        return pid in view.registered and not view.holds_any(pid) and is_paused(self._libvirt, life.guest)

    # -- while it runs

    def follow(self, life: Incarnation, leases: list[dict[str, Any]], attach: bool) -> list[dict[str, Any]]:
        """Of all leases that a running guest needs now, those that are vlhook's to take.

        The plugin follows the disks of its guests by itself: libvirt asks it before a disk is used.
        `attach`: one of the disks is only about to be attached. Raises VlhookError.
        """
        own, deferred = self._protector.divide_running(life, leases)
        if not attach and deferred != life.deferred:
            life.deferred = deferred
            self._table.put(life, RUNNING)
            self.expect(life)
        return own

    def plugin_has(self, uuid: str, leases: Sequence[dict[str, Any]]) -> bool:
        """Whether the one QEMU of this guest holds all of them by the plugin, for a guest unknown to vlhook."""
        try:
            found = self._processes.guests().get(uuid, [])
            view = self._protector.view(time.monotonic() + DAEMON_SECONDS)
        except (OSError, SanlockError):
            return False
        wants = [want_of(lease) for lease in leases if not is_extra(lease)]
        return len(found) == 1 and not view.missing(found[0][0], wants, self._host.where.directory)


    def run(self, stop: threading.Event) -> None:
        while not stop.wait(TICK_SECONDS):
            try:
                self._step_aside()
                self._look_at_all()
                self.tidy()
            except (VlhookError, LeaseError, OSError) as error:
                self._log.warning("protector", error=error)
            except Exception as error:  # a fault in one look must not be the last one
                self._log.error("fault", error=repr(error))

    def _step_aside(self) -> None:
        why = self._protector.aside()
        if why is None:
            return
        self._protector.note_aside()

        def nobody() -> bool:
            return not any(life.wants for life in self._table.all())

        lease = self._host.lease
        if lease is None:
            return
        if isinstance(lease, DaemonLease) and lease.added and daemon_with_plugin(self._processes.proc_dir):
            # The plugin joins only when libvirtd starts: were the daemon to leave now, no guest could start any more.
            lease.added = False
        try:
            if not self._host.step_aside(nobody, self._table.changed):
                return
        except LeaseError as error:
            self._log.error("leave", error=error)
        self._rejoin()

    def _look_at_all(self) -> None:
        lives = self._deferring()
        if not lives:
            self._clear()
            return
        running = [life for life in lives if life.phase == RUNNING]
        if not running:
            return
        view: Optional[DaemonView] = None
        why = ""
        try:
            view = self._protector.view(time.monotonic() + DAEMON_SECONDS)
        except SanlockError as error:
            why = f"libvirt's sanlock plugin protects it, and the sanlock daemon does not answer: {error}"
        for life in running:
            self._judge(life, why if view is None else self._trouble(view, life))
        for key in set(self._failed) - {life.key for life in running}:
            self._forget(key)

    def _trouble(self, view: DaemonView, life: Incarnation) -> str:
        missing = self._missing(view, life.qemu, life)
        if not missing:
            return ""
        if self._suspended(view, life.qemu, life):
            if daemon_with_plugin(self._processes.proc_dir) is not None:
                return ""
            return (
                "it is suspended, so libvirt's sanlock plugin holds none of its leases, and the plugin is not loaded"
                f" any more: before it is resumed run 'vlhook adopt {life.guest}'"
            )
        return (
            f"libvirt's sanlock plugin holds no lease for {name_of(missing[0])}: stop the guest, or protect it"
            f" with 'vlhook adopt {life.guest}'"
        )

    def _judge(self, life: Incarnation, trouble: str) -> None:
        self._failed[life.key] = self._failed.get(life.key, 0) + 1 if trouble else 0
        if not trouble:
            self._log.calm(f"deferred {life.key}")
        elif self._failed[life.key] >= LOOKS:
            self._log.alarm(f"deferred {life.key}", f"guest {life.guest} may not be protected: {trouble}")

    def _clear(self) -> None:
        for key in list(self._failed):
            self._forget(key)
        if self._mark.exists():
            with self._table.changed:
                if not self._deferring():
                    self._mark.unlink(missing_ok=True)

    def _forget(self, key: str) -> None:
        del self._failed[key]
        self._log.calm(f"deferred {key}")

    def _deferring(self) -> Sequence[Incarnation]:
        return [life for life in self._table.all() if life.deferred and life.phase != ENDING]
