# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stopping guests whose leases ran out: graceful first, SIGKILL by pidfd at the end of the grace.

Counted from last_ok + 8N, with a grace of G seconds (`lockfailure_grace`):

    0        libvirt is asked to shut the guest down, by a process of its own that may hang
    G - 5    SIGTERM to QEMU, which flushes its images if it can; at once where libvirt did not take the request
    G        SIGKILL
    G + 1    vlhook-guard does the same from outside, whatever has become of the keeper

Others take the disks at 60 and a watchdog resets the host before, so there is no step after these.
`pause` as a policy is not safe with any libvirt so far, and becomes poweroff: nothing keeps libvirt
from resuming a paused guest, and without its storage QEMU cannot show that none of its writes is
under way (safety rules, 11).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

import vlhook

from ..processes import Process
from .log import Log
from .state import Incarnation

TERM_BEFORE_KILL = 5.0
PAUSE = "pause"
WHY_NO_PAUSE = "libvirt lets anybody resume a paused guest without its leases, so it would not be safe"


def does(policy: str) -> tuple[str, str]:
    """What is really done for an `on_lockfailure` policy, and why that if it is something else."""
    return ("poweroff", WHY_NO_PAUSE) if policy == PAUSE else ("poweroff", "")


def due(overdue: float, grace: float, asked: bool) -> Optional[signal.Signals]:
    """The signal that is due `overdue` seconds after the limit; `asked`: libvirt took the request."""
    if overdue >= grace:
        return signal.SIGKILL
    if not asked or overdue >= grace - TERM_BEFORE_KILL:
        return signal.SIGTERM
    return None


class Request:
    """What became of asking libvirt; filled in by the helper's answers."""

    def __init__(self, uuids: Sequence[str], seconds: float) -> None:
        self.uuids = frozenset(uuids)
        self._until = time.monotonic() + seconds
        self._outcomes: dict[str, bool] = {}

    def asked(self, uuid: str) -> bool:
        """Whether libvirt may still see to it: it took the request, or has time left to answer."""
        known = self._outcomes.get(uuid)
        return time.monotonic() < self._until if known is None else known

    def settle(self, uuid: str, took: bool) -> None:
        self._outcomes.setdefault(uuid, took)


class LibvirtHelper:
    """The process that asks libvirt (`vlhook.stopguests`), started ahead of need; URI "": none."""

    def __init__(self, uri: str, log: Log) -> None:
        self._uri = uri
        self._log = log
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._requests: list[Request] = []

    def start(self) -> None:
        """Start it if it does not run. Only while the storage is well: see `vlhook.stopguests`."""
        with self._lock:
            if not self._uri or (self._process and self._process.poll() is None):
                return
            package = str(Path(vlhook.__file__).resolve().parent.parent)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-s", "-m", "vlhook.stopguests", self._uri],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", close_fds=False,
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": package},
                )  # fmt: skip
                os.set_blocking(self._process.stdin.fileno(), False)  # type: ignore[union-attr]
                threading.Thread(target=self._read, args=(self._process,), name="libvirt", daemon=True).start()
            except (OSError, RuntimeError) as error:
                self._log.warning("libvirt-helper", error=error)

    def ask(self, uuids: Sequence[str], seconds: float) -> Request:
        """Have libvirt asked to shut these guests down; never waits."""
        request = Request(uuids, seconds)
        with self._lock:
            self._requests.append(request)
            line = f"{len(self._requests) - 1} {' '.join(uuids)}\n".encode()
            process = self._process
        try:
            if not uuids:
                return request
            if process is None or process.stdin is None:
                raise OSError(0, "there is no libvirt to ask")
            os.write(process.stdin.fileno(), line)
        except OSError as error:
            self._log.warning("libvirt-not-asked", why=error.strerror)
            for uuid in uuids:
                request.settle(uuid, False)
        return request

    def stop(self) -> None:
        with self._lock:
            process, self._process, self._uri = self._process, None, ""
        if process and process.stdin:
            process.stdin.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            try:
                number, uuid, outcome, *why = line.decode("utf-8", "replace").split(" ", 3)
                request = self._requests[int(number)]
            except (ValueError, IndexError):
                continue
            if uuid not in request.uuids:
                continue
            took = outcome.strip() == "asked"
            request.settle(uuid, took)
            if took:
                self._log.warning("stopped", uuid=uuid, how="libvirt was asked to shut it down")
            else:
                self._log.warning("libvirt-not-asked", uuid=uuid, why=" ".join(why).strip())
        process.wait()


class Signals:
    """SIGTERM and SIGKILL by pidfd, each said once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._sent: dict[str, signal.Signals] = {}

    def send(self, life: Incarnation, process: Process, number: signal.Signals) -> None:
        try:
            process.send(number)
        except OSError as error:
            self._log.alarm(f"kill {life.key}", f"guest {life.guest}: process {process.pid} cannot be ended: {error}")
            return
        if self._sent.get(life.key) != number:
            self._sent[life.key] = number
            self._log.warning("stopped", guest=life.guest, uuid=life.uuid, pid=process.pid, signal=number.name)


def kill_now(process: Process, log: Log) -> None:
    """SIGKILL, for a guest that must not run a moment longer."""
    try:
        process.send(signal.SIGKILL)
    except OSError as error:
        log.alarm(f"kill {process.pid}", f"process {process.pid} cannot be ended: {error}")


Ask = Callable[[Sequence[str], float], Request]
"""(UUIDs, seconds within which libvirt is to answer)"""
