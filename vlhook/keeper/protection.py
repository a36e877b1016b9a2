# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who protects which guest at this moment, for `vlhook status`: every QEMU of the host is accounted for."""

from __future__ import annotations

import threading
import time
from typing import Any, Optional

from ..config.settings import SettingsError
from ..leases.engine import Want
from ..leases.sanlockerrors import SanlockError
from ..processes import command_line
from .host import Host
from .plugin import DaemonView
from .protector import DAEMON_SECONDS, Protector
from .qemu import Processes
from .state import Incarnation
from .table import Table

VLHOOK, PLUGIN, BOTH, NOBODY = "vlhook", "sanlock", "vlhook and sanlock", "nobody"


SCAN_SECONDS = 1.0


class Protection:
    def __init__(self, protector: Protector, table: Table, processes: Processes, host: Host) -> None:
        self._protector = protector
        self._table = table
        self._processes = processes
        self._host = host
        self._scanned = threading.Condition()
        self._scanning = False
        self._found: list[dict[str, Any]] = []
        self._failed = ""

    def lock_manager(self) -> Optional[str]:
        """What qemu.conf says; None where it cannot be read."""
        try:
            return self._protector.lock_manager() or "nop"
        except SettingsError:
            return None

    def guests(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """`guests`: the rows of the table's guests with `protector` and `deferred`; `others`: QEMUs not in the table.

        A guest's `protector` is nobody while libvirt's plugin has none of the leases that were
        left to it (it is suspended, or there is an alarm); None for one that needs no lease.
        """
        lives = {life.key: life for life in self._table.all()}
        known = {life.uuid for life in lives.values()}
        found, failed = self._scan()
        others = [dict(other) for other in found if other["uuid"] not in known]
        deferred = any(life.deferred for life in lives.values())
        view = self._view() if deferred or others else None
        for row in rows:
            life = lives.get(row.pop("key"))
            row.update(self._shares(life, view) if life else {"protector": None, "deferred": []})
        for other in others:
            held = view is not None and view.holds_any(other["pid"])
            other["protector"] = PLUGIN if held else NOBODY
        return {"guests": rows, "others": others, "others_unknown": failed or None}

    def _view(self) -> Optional[DaemonView]:
        try:
            return self._protector.view(time.monotonic() + DAEMON_SECONDS)
        except SanlockError:
            return None

    def _shares(self, life: Incarnation, view: Optional[DaemonView]) -> dict[str, Any]:
        where = self._host.where.directory
        missing = set(view.missing(life.qemu, life.deferred, where)) if view else set(life.deferred)
        plugin = bool(life.deferred) and not missing
        protector: Optional[str] = NOBODY
        if not life.wants and not life.deferred:
            protector = None
        elif life.wants and plugin:
            protector = BOTH
        elif life.wants or plugin:
            protector = VLHOOK if life.wants else PLUGIN
        return {
            "protector": protector,
            "deferred": [_row(want, where, view is not None and want not in missing) for want in life.deferred],
        }

    def _scan(self) -> tuple[list[dict[str, Any]], str]:
        """Every QEMU of the host; and why not, where a process that is stuck makes the scan wait."""
        with self._scanned:
            if not self._scanning:
                self._scanning = True
                threading.Thread(target=self._scan_once, name="scan", daemon=True).start()
            if not self._scanned.wait_for(lambda: not self._scanning, SCAN_SECONDS):
                return [], "a process does not let itself be looked at"
            return self._found, self._failed

    def _scan_once(self) -> None:
        found: list[dict[str, Any]] = []
        failed = ""
        try:
            for uuid, processes in sorted(self._processes.guests().items()):
                for pid, _ in processes:
                    found.append({"name": _name(pid, self._processes.proc_dir), "uuid": uuid, "pid": pid})
        except OSError as error:
            failed = f"the process table cannot be read: {error.strerror}"
        finally:
            with self._scanned:
                self._scanning, self._found, self._failed = False, found, failed
                self._scanned.notify_all()


def _row(want: Want, directory: str, held: bool) -> dict[str, Any]:
    return {
        "lease": want.name,
        "file": want.path or f"{directory}/{want.name}",
        "disk": want.source,
        "mode": "shared" if want.shared else "exclusive",
        "held": held,
    }


def _name(pid: int, proc_dir: str) -> str:
    """The guest's name on QEMU's command line: `-name guest=NAME,…`, where a comma is written twice."""
    try:
        arguments = command_line(pid, proc_dir)
    except OSError:
        return "?"
    for option, value in zip(arguments, arguments[1:]):
        if option == b"-name":
            text = value.decode("utf-8", "replace").replace(",,", "\0").split(",")[0].replace("\0", ",")
            return text.partition("guest=")[2] or text
    return "?"
