# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check is, and what it may look at."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ...config import settings
from ...config.settings import Settings
from ...errors import VlhookError
from ...keeper.client import call
from ...leases.sanlockclient import default_socket

GOOD, NOTE, WARN, FAIL = "good", "note", "warn", "fail"
PROGRAM_SECONDS = 5.0
ASK_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """A verdict: `what` in a few words with its evidence, and `mend`, the exact command, if there is one."""

    verdict: str
    what: str
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """`name` never changes: scripts and documents use it."""

    name: str
    run: Callable[[Host], Iterator[Finding]]


@dataclass
class Host:
    """Where the parts of a host are. Tests point it at a host of their own."""

    config_dir: Path = Path("/etc/libvirt")
    run_dir: Path = Path("/run/vlhook")
    state_dir: Path = Path("/var/lib/vlhook")
    libvirt_run_dir: Path = Path("/run/libvirt")
    proc_dir: str = "/proc"
    root: Path = Path("/")
    sanlock_socket: str = field(default_factory=default_socket)
    _status: dict[str, Any] = field(default_factory=dict)
    _why: str = ""

    @property
    def settings(self) -> Settings:
        return settings.examine(self.config_dir)[0]

    @property
    def lease_dir(self) -> Path:
        return Path(self.settings.disk_lease_dir)

    def path(self, absolute: str) -> Path:
        """A path of the system's own, below `root`."""
        return self.root / absolute.lstrip("/")

    def status(self) -> Optional[dict[str, Any]]:
        """What the keeper says, asked once; None if it does not answer (then `why_no_status`)."""
        if not self._status and not self._why:
            try:
                self._status = call(self.run_dir, "status", ASK_SECONDS)
            except VlhookError as error:
                self._why = error.what_and_why()
        return self._status or None

    @property
    def why_no_status(self) -> str:
        return self._why


def output(*command: str) -> Optional[str]:
    """What a program prints, None if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PROGRAM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
