# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts made of real processes: a keeper, a guard, a process table, and stand-ins for QEMU."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sanlock_daemon import SanlockHost, short_directory
from vlhook.errors import VlhookError
from vlhook.keeper.client import call

ROOT = Path(__file__).resolve().parent.parent.parent
HOOK = ROOT / "hooks/qemu"
PYTHON = "/usr/bin/python3"
STAND_IN = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN)\nwhile True: signal.pause()"
_ids = itertools.count(1)


def wait_for(what: str, done: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer of `done`; fails the test after `seconds`."""
    until = time.monotonic() + seconds
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


ENGINES = ["native", pytest.param("sanlock", marks=pytest.mark.sanlock)]


def engines(group: str) -> list[object]:
    """ENGINES for the hosts of a module in that xdist_group; those of either engine may be up at the same time."""
    apart = [pytest.mark.sanlock, pytest.mark.xdist_group(f"{group}-sanlock")]
    return ["native", pytest.param("sanlock", marks=apart)]


"""For what is promised whoever takes the leases; with 'sanlock' every host has a daemon of its own."""


class Guest:
    """A guest with these disks; `disks` are paths, `shared` those that are shareable.

    `program`: what its QEMU runs, if it is to do more than wait.
    """

    def __init__(self, name: str, disks: Sequence[object], shared: Sequence[object] = (), more: str = "") -> None:
        self.name = name
        self.uuid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{next(_ids)}"))
        self.disks = [str(d) for d in disks]
        self.shared = [str(d) for d in shared]
        self.more = more
        self.program = ""

    def xml(self, number: int) -> str:
        disks = "".join(
            f"<disk type='file' device='disk'><source file='{path}'/><target dev='vd{chr(97 + i)}'/>"
            f"{'<shareable/>' if path in self.shared else ''}</disk>"
            for i, path in enumerate([*self.disks, *self.shared])
        )
        head = f"<domain type='qemu' id='{number}'><name>{self.name}</name><uuid>{self.uuid}</uuid>{self.more}"
        return f"{head}<devices>{disks}</devices></domain>"


class Host:
    """One host of a test. `start_daemons` brings it up; `down` leaves nothing behind."""

    def __init__(
        self, base: Path, number: int, leases: Path, io_timeout: int = 1, more: str = "", engine: str = "native"
    ) -> None:
        self.number = number
        self.engine = engine
        self.sanlock: SanlockHost | None = None
        self.leases = leases
        self.dir = base / f"host{number}"
        self.run_dir, self.proc = self.dir / "run", self.dir / "proc"
        for sub in ("etc", "run", "state", "proc", "libvirt/qemu", "libvirt/storage"):
            (self.dir / sub).mkdir(parents=True, exist_ok=True)
        self._be_libvirtd()
        self.config = self.dir / "etc/qemu-sanlock.conf"
        self.config.write_text(f'host_id = {number}\ndisk_lease_dir = "{leases}"\nio_timeout = {io_timeout}\n{more}')
        self.log = self.dir / "log"
        self.libvirt_uri = ""
        self.environment: dict[str, str] = {}
        self.keeper_options: list[object] = []
        if engine != "native":
            self._stack = contextlib.ExitStack()
            directory = self._stack.enter_context(short_directory())
            self.sanlock = SanlockHost(f"sanlock{number}.node{number}", directory / "run")
            self.environment["SANLOCK_RUN_DIR"] = str(directory / "run")
            self.settings("")
        self.guard: subprocess.Popen[bytes] | None = None
        self.keeper: subprocess.Popen[bytes] | None = None
        self.qemus: dict[str, subprocess.Popen[bytes]] = {}

    def _be_libvirtd(self) -> None:
        """This process runs the hooks, so it is the host's libvirtd, and alive in its process table."""
        link = self.proc / str(os.getpid())
        if not link.is_symlink():
            link.symlink_to(f"/proc/{os.getpid()}")

    def settings(self, text: str) -> None:
        """What stands in qemu-vlhook.conf; for the next start of the keeper."""
        engine = "" if self.engine == "native" else f"engine = {self.engine}\n"
        (self.dir / "etc/qemu-vlhook.conf").write_text(engine + text)

    # -- daemons

    def start_keeper(self) -> None:
        self.keeper = self._spawn(self.keeper_command())

    def _command(self, module: str, *arguments: object) -> list[str]:
        command = [PYTHON, "-m", module, "--run-dir", self.run_dir, "--proc-dir", self.proc, *arguments]
        return [str(word) for word in command]

    def daemon_environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.environment}

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command,
                env=self.daemon_environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
            )

    def start_guard(self) -> None:
        self.guard = self._spawn(self._command("vlhook.guard"))

    def keeper_command(self) -> list[str]:
        return self._command(
            "vlhook.keeper", "--config-dir", self.dir / "etc", "--state-dir", self.dir / "state",
            "--libvirt-run-dir", self.dir / "libvirt", *self.keeper_options,
            "--libvirt-uri", self.libvirt_uri,
            "--wdmd-socket", self.dir / "wdmd/wdmd.sock", "--watchdog-device", self.dir / "watchdog",
        )  # fmt: skip

    def start_daemons(self) -> Host:
        if self.sanlock and not self.sanlock.started:
            self.sanlock.start()
        self.start_guard()
        self.start_keeper()
        return self

    def status(self) -> dict[str, Any]:
        try:
            return call(self.run_dir, "status")
        except VlhookError:
            return {}

    def joined(self) -> bool:
        return bool(self.status().get("membership", {}).get("state") == "joined")

    def wait_joined(self, seconds: float = 40) -> Host:
        wait_for(f"host {self.number} to join; log:\n{self.log_text()}", self.joined, seconds)
        return self

    def generation(self) -> int:
        return int(self.status()["membership"]["generation"])

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def kill_keeper(self) -> None:
        assert self.keeper
        self.keeper.kill()
        self.keeper.wait()

    # -- libvirt's part

    def hook(self, *arguments: str, xml: bytes | str = b"", timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        data = xml.encode() if isinstance(xml, str) else xml
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "VLHOOK_RUN_DIR": str(self.run_dir)}
        return subprocess.run(
            [str(HOOK), *arguments],
            input=data,
            capture_output=True,
            env=environment,
            timeout=timeout,
            check=False,
        )

    def prepare(self, guest: Guest, number: int = 1) -> tuple[int, str]:
        done = self.hook(guest.name, "prepare", "begin", "-", xml=guest.xml(number))
        assert done.stdout == b""
        return done.returncode, one_line(done.stderr)

    def start(self, guest: Guest, stubborn: bool = False) -> tuple[int, str]:
        """prepare, start, QEMU, started, as libvirt does; what was refused is followed by stopped and release."""
        number = next(_ids)
        status, line = self.prepare(guest, number)
        if status == 0:
            done = self.hook(guest.name, "start", "begin", "-", xml=guest.xml(number))
            status, line = done.returncode, one_line(done.stderr)
        if status:
            self.after_end(guest)
            return status, line
        self.run_qemu(guest, stubborn)
        self.hook(guest.name, "started", "begin", "-", xml=guest.xml(number))
        return 0, ""

    def run_qemu(self, guest: Guest, stubborn: bool = False, more: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        code = guest.program or (STUBBORN if stubborn else STAND_IN)
        command = ["qemu-system-x86_64", "-c", code, "-name", f"guest={guest.name}", "-uuid", guest.uuid, *more]
        qemu = subprocess.Popen(command, executable=PYTHON, stdin=subprocess.DEVNULL)
        line = Path(f"/proc/{qemu.pid}/cmdline")
        wait_for("its command line, which is empty for a moment", lambda: guest.uuid.encode() in line.read_bytes())
        (self.proc / str(qemu.pid)).symlink_to(f"/proc/{qemu.pid}")
        (self.dir / f"libvirt/qemu/{guest.name}.pid").write_text(f"{qemu.pid}\n")
        self.qemus[guest.uuid] = qemu
        return qemu

    def end_qemu(self, guest: Guest, number: signal.Signals = signal.SIGKILL) -> None:
        qemu = self.qemus.pop(guest.uuid, None)
        if qemu:
            qemu.send_signal(number)
            qemu.wait()
            (self.dir / f"libvirt/qemu/{guest.name}.pid").unlink(missing_ok=True)

    def after_end(self, guest: Guest) -> None:
        for operation in ("stopped", "release"):
            done = self.hook(guest.name, operation, "end", "-", xml=guest.xml(-1))
            assert (done.returncode, done.stdout) == (0, b"")

    def stop(self, guest: Guest) -> None:
        self.end_qemu(guest)
        self.after_end(guest)

    def held(self) -> set[tuple[str, str]]:
        """(disk, mode) of all leases that the keeper says guests hold here."""
        leases = [lease for guest in self.status().get("guests", []) for lease in guest["leases"]]
        return {(lease["disk"], lease["mode"]) for lease in leases if lease["kind"] != "identity"}

    def phases(self) -> dict[str, str]:
        return {g["name"]: g["phase"] for g in self.status().get("guests", [])}

    def wait_found(self) -> None:
        """Until the keeper has found every QEMU; one that dies before that is no end that it could see."""
        wait_for("every QEMU to be found", lambda: set(self.phases().values()) <= {"running"})

    def wait_empty(self, seconds: float = 20) -> None:
        wait_for("no guest in the keeper's table", lambda: self.joined() and not self.phases(), seconds)

    # -- the end

    def crash(self) -> None:
        """Power failure: every process dies, and /run is empty at the next boot."""
        self._kill_all()
        if self.sanlock:
            self.sanlock.close()
        for directory in (self.run_dir, self.dir / "libvirt/qemu", self.proc):
            shutil.rmtree(directory)
            directory.mkdir()
        self._be_libvirtd()

    def down(self) -> None:
        self._kill_all()
        if self.sanlock:
            self.sanlock.close()
            self._stack.close()

    def _kill_all(self) -> None:
        for process in [self.keeper, self.guard, *self.qemus.values()]:
            if process and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        self.qemus.clear()


def one_line(data: bytes) -> str:
    """Standard error of a hook: at most one line, never a traceback."""
    text = data.decode()
    assert text.count("\n") <= 1, text
    assert "Traceback" not in text
    return text.rstrip("\n")


@contextlib.contextmanager
def hosts(base: Path, count: int, **options: Any) -> Iterator[list[Host]]:
    """`count` joined hosts on one lease directory."""
    leases = base / "leases"
    leases.mkdir(exist_ok=True)
    made = [Host(base, number, leases, **options) for number in range(1, count + 1)]
    try:
        for host in made:
            host.start_daemons()
        for host in made:
            host.wait_joined()
        yield made
    finally:
        for host in made:
            host.down()
