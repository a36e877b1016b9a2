# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the keeper is started with, and whether it can start: options, settings, the lock of the run directory."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..config.settings import Settings, load
from ..errors import VlhookError
from .host import NoHostId
from .watchdog import Places

LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    config_dir: Path
    run_dir: Path
    state_dir: Path
    libvirt_run_dir: Path
    proc_dir: str
    protocol_log: Optional[str] = None
    protocol_log_mib: int = 64
    watchdogs: Places = Places()
    libvirt_uri: str = ""


class AlreadyRunning(VlhookError):
    msg = "{path}: another vlhookd runs here, or its last I/O has not been answered yet"
    hint = "stop it first; a process that is stuck in the kernel holds the lock until the storage answers"
    code = "VLH-K305"


def check(options: Options) -> Settings:
    """The settings, if the keeper can start with them. Raises VlhookError."""
    settings = load(options.config_dir)
    if not settings.host_id:
        raise NoHostId(path=options.config_dir / "qemu-sanlock.conf")
    return settings


def take_lock(path: Path) -> int:
    """Only one keeper, and not before the last thread of the former one is gone (format document, 9).

    Raises AlreadyRunning.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + LOCK_SECONDS if os.environ.get("VLHOOK_WAIT_LOCK") else 0.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                raise AlreadyRunning(path=path) from None
            time.sleep(0.1)
