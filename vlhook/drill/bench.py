# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts for a drill: each has a keeper, a guard, a watchdog device, and storage of its own to lose."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from ..demo import DOMAIN, GUEST, UUID, install_hook
from ..errors import VlhookError
from ..keeper.client import call
from ..lastok import FILE_NAME, Page
from .layer import PACKAGE, Layer, spawn

IO_TIMEOUT = 2
GRACE = 6
DISK = "disk.img"
POLL = 0.05

# Looks like the guest's QEMU and writes to its disk twenty times a second, whatever happens to a write.
_QEMU = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "stubborn" else signal.SIG_DFL)
number = 0
while True:
    number += 1
    try:
        fd = os.open(sys.argv[2], os.O_WRONLY | os.O_SYNC)
        os.pwrite(fd, b"%016d" % number, 0)
        os.close(fd)
    except OSError:
        pass
    time.sleep(0.05)
"""


class BenchHost:
    """`base/shared` is the storage of all; what this host sees of it goes through two layers, leases and disks."""

    def __init__(self, base: Path, number: int) -> None:
        self.number = number
        self.dir = base / f"host{number}"
        for sub in ("etc", "run", "state", "proc", "libvirt/qemu"):
            (self.dir / sub).mkdir(parents=True)
        self.run_dir, self.proc = self.dir / "run", self.dir / "proc"
        self.disk_name = base / "shared/disks" / DISK
        self.log = self.dir / "log"
        self.log.touch()
        self.leases = Layer(base / "shared/leases", self.dir / "leases")
        self.disks = Layer(base / "shared/disks", self.dir / "disks")
        (self.dir / "watchdog").touch()
        self.watchdog_events: list[dict[str, Any]] = []
        self._watchdog = spawn("vlhook.drill.device", self.dir / "watchdog")
        threading.Thread(target=self._watch, daemon=True).start()
        self._write_settings()
        (self.proc / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
        self.qemu: Optional[subprocess.Popen[bytes]] = None
        self.is_reset = threading.Event()
        self._starts = 0
        self.guard = self._spawn("vlhook.guard", "--run-dir", self.run_dir, "--proc-dir", self.proc)
        self.keeper = self.start_keeper()

    def _write_settings(self) -> None:
        (self.dir / "etc/qemu-sanlock.conf").write_text(
            f'host_id = {self.number}\ndisk_lease_dir = "{self.leases.mountpoint}"\nio_timeout = {IO_TIMEOUT}\n'
        )
        (self.dir / "etc/qemu-vlhook.conf").write_text(f"watchdog = required\nlockfailure_grace = {GRACE}\n")
        install_hook(self.dir / "hook")

    def _spawn(self, module: str, *arguments: object) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": PACKAGE}, stdin=subprocess.DEVNULL, stderr=log, cwd="/",
            )  # fmt: skip

    def start_keeper(self) -> subprocess.Popen[bytes]:
        self.keeper = self._spawn(
            "vlhook.keeper", "--run-dir", self.run_dir, "--proc-dir", self.proc,
            "--config-dir", self.dir / "etc", "--state-dir", self.dir / "state",
            "--libvirt-run-dir", self.dir / "libvirt", "--libvirt-uri", "",
            "--wdmd-socket", self.dir / "none", "--watchdog-device", self.dir / "watchdog",
        )  # fmt: skip
        return self.keeper

    def kill_keeper(self) -> None:
        self.keeper.kill()
        self.keeper.wait()

    def _watch(self) -> None:
        assert self._watchdog.stdout
        for line in self._watchdog.stdout:
            event = json.loads(line)
            self.watchdog_events.append(event)
            if event["event"] == "fired":
                self.reset()

    def reset(self) -> None:
        """What the watchdog does: from now on nothing of this host reaches the storage, and all of it is gone."""
        for layer in (self.leases, self.disks):
            layer.set("cut")
        self.is_reset.set()
        for process in (self.keeper, self.guard, self.qemu):
            if process:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

    # -- what is known of it

    def joined(self) -> bool:
        try:
            return bool(call(self.run_dir, "status")["membership"]["state"] == "joined")
        except VlhookError:
            return False

    def last_ok(self) -> float:
        """The last good renewal, CLOCK_MONOTONIC seconds, from the page that keeper and guard share."""
        page = Page.open(str(self.run_dir / FILE_NAME))
        try:
            snapshot = page.load()
            return snapshot.last_ok_monotonic / 1e9 if snapshot else 0.0
        finally:
            page.close()

    def logged(self, pattern: str) -> bool:
        return bool(re.search(pattern, self.log.read_text("utf-8", "replace")))

    def qemu_lives(self) -> bool:
        return self.qemu is not None and self.qemu.poll() is None and not self.is_reset.is_set()

    def last_write(self) -> float:
        """When this host's QEMU last changed the disk itself."""
        return self.disks.last_write(DISK)

    # -- libvirt's part

    def _hook(self, operation: str, suboperation: str, xml: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(self.dir / "hook"), GUEST, operation, suboperation, "-"],
            input=xml.encode(), capture_output=True, check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "VLHOOK_RUN_DIR": str(self.run_dir)},
        )  # fmt: skip
        return done.returncode, done.stderr.decode().strip()

    def start(self, stubborn: bool = False) -> tuple[int, str]:
        """Start the guest; its QEMU runs if that is granted."""
        self._starts += 1
        xml = DOMAIN.format(id=self._starts, guest=GUEST, uuid=UUID, disk=self.disk_name)
        status, line = self._hook("prepare", "begin", xml)
        if status == 0:
            status, line = self._hook("start", "begin", xml)
        if status:
            self._hook("release", "end", xml)
            return status, line
        image = self.disks.mountpoint / DISK
        how = "stubborn" if stubborn else "-"
        command = ["qemu-system-x86_64", "-c", _QEMU, how, str(image), "-name", f"guest={GUEST}", "-uuid", UUID]
        self.qemu = subprocess.Popen(command, executable=sys.executable, stdin=subprocess.DEVNULL)
        (self.proc / str(self.qemu.pid)).symlink_to(f"/proc/{self.qemu.pid}")
        (self.dir / f"libvirt/qemu/{GUEST}.pid").write_text(str(self.qemu.pid))
        return 0, ""

    def close(self) -> None:
        for process in (self.qemu, self.keeper, self.guard):
            if process and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for layer in (self.leases, self.disks):
            layer.close()
        for process in (self.qemu, self.keeper, self.guard):
            if process:
                process.wait()
        self._watchdog.communicate(b"")


def wait_until(done: Callable[[], bool], seconds: float) -> Optional[float]:
    """The time at which it was seen done, CLOCK_MONOTONIC; None: not within `seconds`."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= until:
            return None
        time.sleep(POLL)
    return time.monotonic()
