# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper's part of `vlhook fence-ack`: checked, carried out, and written down (safety rules, 13).

`fence-ack.log` in the state directory has one line of JSON for each step, made
durable before the step is taken: who said what about which host, and how it went.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import VlhookError
from ..leases.blockio import BlockFile
from ..leases.driver import drive
from ..leases.effects import LOCKSPACE
from ..leases.errors import LeaseError
from ..leases.fence import end_membership
from ..leases.records import show_name
from .host import Host
from .log import Log

AUDIT = "fence-ack.log"
TEXT_MAX = 500


class FenceNotDone(VlhookError):
    msg = "{why}"
    code = "VLH-K901"


class FenceAck:
    """One at a time: a write whose answer is still awaited must not be followed by another."""

    def __init__(self, host: Host, state_dir: Path, log: Log) -> None:
        self._host = host
        self._audit = state_dir / AUDIT
        self._log = log
        self._busy = threading.Lock()

    def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call `fence-ack`: host_id, host (its name, or that its node), how, by. Waits up to 8N+2N seconds.

        Raises FenceNotDone.
        """
        host_id, name = arguments.get("host_id"), str(arguments.get("host", "")).strip()
        how, by = str(arguments.get("how", "")).strip()[:TEXT_MAX], str(arguments.get("by", "?"))[:TEXT_MAX]
        if not isinstance(host_id, int) or not 1 <= host_id <= 2000 or not name or not how:
            raise FenceNotDone(why="a host id, the host's name and how it was fenced are needed")
        if not self._busy.acquire(blocking=False):
            raise FenceNotDone(why="another host is being ended at this moment; try again when that is over")
        try:
            return self._end(host_id, name, how, by)
        finally:
            self._busy.release()

    def _end(self, host_id: int, name: str, how: str, by: str) -> dict[str, Any]:
        lease = self._host.lease
        why_not = self._host.why_not()
        if lease is None or why_not:
            raise FenceNotDone(why=f"this host has no good lease of its own: {why_not}")
        view = lease.seen(host_id)
        full = view.name if view else b""
        if view is None or name not in (show_name(full), show_name(full).partition(".")[2]):
            known = f"it is used by {show_name(full)}" if full else "this host has not seen it in use"
            raise FenceNotDone(why=f"host id {host_id} is not used by a host {name}: {known}")
        said = {"host_id": host_id, "name": show_name(full), "generation": view.generation, "how": how, "by": by}
        self._write("begun", said)
        try:
            with BlockFile(lease.space.where) as file:
                steps = end_membership(lease.space, host_id, full)
                found = drive(steps, {LOCKSPACE: file}, member=lease.check, seen=lease.seen)
        except LeaseError as error:
            self._write("refused", {**said, "why": str(error)})
            raise FenceNotDone(why=str(error)) from error
        self._write("done", said)
        return {"name": show_name(full), "generation": found.owner_generation}

    def _write(self, event: str, said: dict[str, Any]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **said}) + "\n"
        self._log.error("fence-ack", step=event, **said)
        try:
            fd = os.open(self._audit, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if event == "begun":
                raise FenceNotDone(why=f"{self._audit}: the audit cannot be written: {error.strerror}") from error
