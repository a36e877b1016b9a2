# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts with a real libvirtd and real QEMUs, each with another protector of its disks.

Made of the hosts of the tests: namespaces with a process 1 that buries orphans at once, which `virsh destroy`
waits for. What is timed is libvirt's own API, from a process inside the host that is started once.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.guests.host import ENVIRONMENT, LEASES, PYTHON, SHARED, Host
from tests.guests.pluginhost import PluginDaemon
from tests.guests.waiting import wait_for
from vlhook.leases.names import LOCKSPACE_NAME

from . import domains
from .storage import ON_DISK, directory

IO_TIMEOUT = 5
NO_OP = "#!/bin/sh\nexit 0\n"
NOTHING, SHELL, VLHOOK = "no hook", "sh no-op", "vlhook"
HOOK = "etc/libvirt/hooks/qemu.d/10-vlhook"


class BenchHost(Host):
    """With vlhook; what its hook script is can be changed between two calls, libvirtd looks anew each time."""

    def _install(self, io_timeout: int) -> None:
        super()._install(io_timeout)
        hooks = self.dir / HOOK
        (hooks.parent / "20-second").unlink()
        self._scripts = {VLHOOK: hooks.read_text(), SHELL: NO_OP}

    def use(self, script: str) -> None:
        """NOTHING, SHELL or VLHOOK."""
        path = self.dir / HOOK
        if script == NOTHING:
            path.unlink(missing_ok=True)
            return
        new = self.dir / "hook.new"
        new.write_text(self._scripts[script])
        new.chmod(0o755)
        new.rename(path)

    def bring_up(self, libvirt: bool = True) -> None:
        """Everything but the joining, which is waited for by `wait_joined`."""
        self.boot()
        self.start_guard()
        self.start_keeper()
        if not libvirt:
            return
        self.start_libvirtd()
        self.keep_capabilities()
        command = [*self._command([PYTHON, "-m", "bench.starter"])]
        self._starter = subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._running.append(self._starter)
        assert self._starter.stdout
        self._starter.stdout.readline()

    def timed(self, verb: str, guest: str) -> float:
        """Seconds of libvirt's start or destroy. Raises RuntimeError with its message."""
        assert self._starter.stdin
        assert self._starter.stdout
        self._starter.stdin.write(f"{verb} {guest}\n")
        self._starter.stdin.flush()
        said = self._starter.stdout.readline().strip()
        try:
            return float(said)
        except ValueError:
            raise RuntimeError(f"{self.name}: {verb} {guest}: {said}") from None

    def run_long(self, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(list(command)), env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def guest_with(self, name: str, disks: int) -> str:
        """Define a guest with so many images of its own; returns its name."""
        paths = []
        for number in range(disks):
            image = self.shared / "images" / f"{self.name}-{name}-{number}"
            with open(image, "wb") as file:
                file.truncate(1 << 20)
            paths.append(f"{SHARED}/images/{image.name}")
        path = self.shared / f"{self.name}-{name}.xml"
        path.write_text(domains.definition(name, str(uuid.uuid4()), paths))
        self.virsh("define", f"{SHARED}/{path.name}")
        return name


class PluginHost(PluginDaemon, BenchHost):
    """libvirt's sanlock plugin and its daemon, without vlhook."""

    def _install(self, io_timeout: int) -> None:
        super()._install(io_timeout)
        self.use(NOTHING)
        etc = self.dir / "etc/libvirt"
        settings = f'host_id = {self.number}\nauto_disk_leases = 1\ndisk_lease_dir = "{LEASES}"\n'
        settings += f'io_timeout = {io_timeout}\nuser = "root"\ngroup = "root"\n'
        (etc / "qemu-sanlock.conf").write_text(settings)
        (etc / "qemu.conf").write_text((etc / "qemu.conf").read_text() + 'lock_manager = "sanlock"\n')

    def add_lockspace(self) -> None:
        """What libvirtd does when it starts."""
        path = f"{LEASES}/{LOCKSPACE_NAME}"
        wait_for("the lockspace", (self.shared / "leases" / LOCKSPACE_NAME).exists)
        self.run(f"sanlock client add_lockspace -s {LOCKSPACE_NAME}:{self.number}:{path}:0 -o {IO_TIMEOUT}")


class EngineHost(BenchHost):
    """vlhook over the sanlock daemon."""

    def _install(self, io_timeout: int) -> None:
        super()._install(io_timeout)
        (self.dir / "etc/libvirt/qemu-vlhook.conf").write_text('engine = "sanlock"\n')

    def start_guard(self) -> None:
        self.run("mkdir -p /run/sanlock")
        self.start_sanlock()
        super().start_guard()


class PathsHost(BenchHost):
    """vlhook with a lease for each disk by its path alone, as libvirt's plugin has it."""

    def _install(self, io_timeout: int) -> None:
        super()._install(io_timeout)
        (self.dir / "etc/libvirt/qemu-vlhook.conf").write_text("identity_leases = no\n")


class LockdHost(BenchHost):
    """libvirt's virtlockd, without vlhook: locks of the images themselves, on a file system that has them."""

    def _install(self, io_timeout: int) -> None:
        super()._install(io_timeout)
        self.use(NOTHING)
        etc = self.dir / "etc/libvirt"
        (etc / "qemu.conf").write_text((etc / "qemu.conf").read_text() + 'lock_manager = "lockd"\n')

    def start_guard(self) -> None:
        self.daemon("virtlockd", "virtlockd")

    def start_keeper(self) -> None:
        socket = Path(f"/proc/{self._init}/root/run/libvirt/virtlockd-sock")
        wait_for("virtlockd", socket.exists)

    def wait_joined(self) -> None:
        """There is nothing to join."""


@contextlib.contextmanager
def lab(kinds: Sequence[type[BenchHost]], libvirt: bool = True) -> Iterator[list[BenchHost]]:
    """Hosts of these kinds on one shared directory of the local disk, all of them ready."""
    with directory(ON_DISK) as base:
        shared = base / "shared"
        for sub in ("leases", "images"):
            (shared / sub).mkdir(parents=True)
        hosts = [kind(base, number, shared, base / "capabilities", IO_TIMEOUT) for number, kind in enumerate(kinds, 1)]
        try:
            for host in hosts:
                host.bring_up(libvirt)
            for host in hosts:
                if isinstance(host, PluginHost) and not libvirt:
                    host.add_lockspace()
                host.wait_joined()
            yield hosts
        finally:
            for host in hosts:
                host.end()
            shutil.rmtree(base / "shared", ignore_errors=True)
