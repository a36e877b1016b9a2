# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the keeper tells of itself: one JSON object, its shape numbered by `schema`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import vlhook

from ..leases.blockio import pending
from ..leases.effects import HostView
from ..leases.engine import Owned
from ..leases.hosts import state
from ..leases.membership import HostLease
from ..leases.owner import dead_seconds
from ..leases.records import show_name
from ..leases.sanlockmembership import DaemonLease
from .host import Host
from .log import Log
from .protection import Protection
from .state import Incarnation
from .stopping import does
from .table import Table

SCHEMA = 1


class Status:
    def __init__(
        self, host: Host, table: Table, log: Log, fencing: Callable[[], dict[str, Any]], protection: Protection
    ) -> None:
        self._host = host
        self._table = table
        self._log = log
        self._fencing = fencing
        self._protection = protection
        self._since = time.time()

    def report(self, _: dict[str, Any]) -> dict[str, Any]:
        """The answer to call `status`. Ages in seconds, `since` in seconds of the epoch."""
        where, lease = self._host.where, self._host.lease
        return {
            "schema": SCHEMA,
            "version": vlhook.__version__,
            "engine": self._host.engine_name,
            "since": self._since,
            "host_id": where.host_id,
            "host_name": show_name(lease.member.record.resource_name) if lease else where.host_name,
            "lease_directory": where.directory,
            "io_timeout": where.io_timeout,
            "fencing": self._fencing(),
            "membership": self._membership(),
            "lock_manager": self._protection.lock_manager(),
            **self._protection.guests([_guest(life) for life in self._table.all()]),
            "pending_io": [
                {"op": io.op, "where": io.where, "seconds": time.monotonic() - io.since} for io in pending()
            ],
            "alarms": self._log.alarms(),
        }

    def hosts(self, _: dict[str, Any]) -> dict[str, Any]:
        """The answer to call `hosts`: what the renewals saw of every host id in use.

        Times in seconds. `silent`: since its record last changed; `watched`: since this keeper first
        looked; `dead_in`: until its leases are free for others, if it stays silent.
        """
        lease = self._host.lease
        now = time.monotonic()
        rows = lease.table.rows() if lease else {}
        return {
            "schema": SCHEMA,
            "lease_directory": self._host.where.directory,
            "host_id": self._host.where.host_id,
            "hosts": [host_row(host_id, view, now) for host_id, view in sorted(rows.items())],
        }

    def _membership(self) -> dict[str, Any]:
        lease = self._host.lease
        if lease is None:
            return {"state": "aside" if self._host.aside else "out", "why": self._host.aside or self._host.why_not()}
        latest = lease.latest
        why = lease.why_not()
        return {
            "state": "lost" if why else "joined",
            "why": why,
            "generation": lease.identity.generation,
            "last_ok_age": lease.age(),
            "limit": lease.limit,
            "latency": latest.latency if latest else None,
            "error": str(latest.error) if latest and latest.error else None,
            "sanlock": _sanlock(lease),
        }


def _sanlock(lease: HostLease) -> dict[str, Any] | None:
    """The daemon that keeps the host's id, None where vlhookd itself does. `kill_grace` in seconds."""
    if not isinstance(lease, DaemonLease):
        return None
    return {"version": lease.version, "use_watchdog": lease.watchdog_elsewhere, "kill_grace": lease.grace}


def host_row(host_id: int, view: HostView, now: float) -> dict[str, Any]:
    """One host id as an observer knows it; `now` and the times of `view` are the observer's clock."""
    silent = now - view.last_live
    return {
        "host_id": host_id,
        "name": show_name(view.name),
        "generation": view.generation,
        "state": state(view, now),
        "silent": silent,
        "io_timeout": view.io_timeout,
        "watched": now - view.first_check,
        "dead_in": max(0.0, dead_seconds(view.io_timeout) - silent) if view.timestamp else None,
    }


def _mode(owned: Owned) -> str:
    if owned.claim:
        return "claimed"
    return "shared" if owned.want.shared else "exclusive"


def _guest(life: Incarnation) -> dict[str, Any]:
    return {
        "key": life.key,
        "name": life.guest,
        "uuid": life.uuid,
        "phase": life.phase,
        "since": life.since,
        "pid": life.qemu or None,
        "on_lockfailure": {"asked": life.policy, "does": does(life.policy)[0], "why": does(life.policy)[1]},
        "incoming": life.incoming,
        "leases": [
            {
                "lease": owned.want.name,
                "file": owned.path,
                "disk": owned.want.source,
                "kind": owned.want.kind,
                "mode": _mode(owned),
                "lver": owned.lver,
            }
            for owned in life.owned
        ],
    }
