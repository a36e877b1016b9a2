# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps the host from being suspended while guests hold leases (safety rules, 8).

After a resume the guests' CPUs run before anybody can act, and others may have
their disks. logind's inhibitor is held by systemd-inhibit, which holds it as
long as its child lives, a `cat` on a pipe of ours: so it ends with the keeper,
too, and the next keeper takes its own. Where there is no logind, status says
so; a suspend is then treated as a loss of the storage.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from typing import Optional

from .log import Log

COMMAND = (
    "systemd-inhibit", "--what=sleep", "--mode=block", "--who=vlhookd",
    "--why=guests on this host hold leases, which run out while it sleeps", "cat",
)  # fmt: skip
RETRY_SECONDS = 60.0


class Inhibitor:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._program = shutil.which(COMMAND[0])
        self._failed = False
        self._tried = self._not_before = 0.0

    def hold(self) -> None:
        """Take the inhibitor if it is not held. What fails is said once, and tried again for a guest a minute later."""
        with self._lock:
            if self._process and self._process.poll() is None:
                return
            self._failed = self._ended_by_itself() or not self._program
            if not self._program or time.monotonic() < self._not_before:
                self._failed = True
                return
            self._tried = time.monotonic()
            try:
                self._process = subprocess.Popen(
                    (self._program, *COMMAND[1:]), stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", close_fds=False,
                )  # fmt: skip
            except OSError as error:
                self._failed = True
                self._log.info("sleep", what="not inhibited", why=error.strerror)

    def _ended_by_itself(self) -> bool:
        """As it does where there is no logind; to start it in vain for every guest would slow all starts down."""
        if self._process is None or self._process.poll() is None:
            return False
        self._not_before = self._tried + RETRY_SECONDS
        return True

    def release(self) -> None:
        with self._lock:
            self._ended_by_itself()
            process, self._process = self._process, None
        if process and process.stdin:
            process.stdin.close()
            process.wait()

    def state(self) -> str:
        """`held`, `free` (no guest needs it), or `missing`: it is needed and cannot be had."""
        process = self._process
        if process:
            return "held" if process.poll() is None else "missing"
        return "missing" if self._failed else "free"
