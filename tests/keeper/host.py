# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole host on this machine: its keeper, its guard, its libvirtd and its QEMU processes.

    with KeeperHost(tmp_path / "h1", 1, tmp_path / "leases") as host:
        host.wait_joined()
        done = host.hook(["demo", "prepare", "begin", "-"], xml)

Everything is a real process. A host has its own run directory, state directory
and process table; several hosts share one lease directory. The hook is executed
by a stand-in for libvirtd, so that who calls it is a process that can be killed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sanlock_daemon import SanlockHost, short_directory
from tests.standin import HostProcesses
from vlhook.errors import VlhookError
from vlhook.keeper.client import call

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "hooks/qemu"
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 60.0

# Runs hooks as its children, side by side, for as long as its standard input is open.
_LIBVIRTD = """
import json, subprocess, sys, threading
lock = threading.Lock()
def say(**what):
    with lock:
        print(json.dumps(what), flush=True)
def run(number, argv, xml, errors, output, env):
    with open(xml, "rb") as stdin, open(errors, "wb") as stderr, open(output, "wb") as stdout:
        hook = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, env=env)
    say(number=number, pid=hook.pid)
    say(number=number, status=hook.wait())
say(ready=True)
for line in sys.stdin:
    threading.Thread(target=run, kwargs=json.loads(line), daemon=True).start()
"""

# The gate: the process is there, with its parent and start time, but asks the keeper only when told.
_unique = itertools.count(1)
_GATE = 'read -r go < "$0" || exit 99; exec "$@"'


class TookTooLong(AssertionError):
    """What was waited for did not happen."""


def wait_for(what: str, done: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= until:
            raise TookTooLong(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


@dataclass
class HookRun:
    """One execution of the hook. `status` is None if its libvirtd did not live to see it."""

    pid: int
    pidfd: int
    errors: Path
    output: Path
    gate: int
    ended: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    closed: bool = False

    @property
    def line(self) -> str:
        """What it said on standard error."""
        return self.errors.read_text("utf-8", "replace").strip()

    @property
    def printed(self) -> str:
        """What it printed for libvirt: the XML of an incoming guest, else nothing."""
        return self.output.read_text("utf-8", "replace")

    def open_gate(self) -> None:
        os.write(self.gate, b"\n")

    def gone(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.pidfd)
            os.close(self.gate)


class Libvirtd:
    """One incarnation of libvirtd: a process of its own that runs hooks as its children."""

    def __init__(self, host: KeeperHost) -> None:
        self._host = host
        self._number = 0
        self._runs: dict[int, HookRun] = {}
        self._pids: dict[int, int] = {}
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LIBVIRTD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.process.stdout.readline()
        host.processes.add(self.process.pid)
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            said = json.loads(line)
            with self._news:
                if "pid" in said:
                    self._pids[said["number"]] = said["pid"]
                else:
                    run = self._runs.get(said["number"])
                    if run:
                        run.status = said["status"]
                        run.ended.set()
                self._news.notify_all()
        with self._news:
            for run in self._runs.values():
                run.ended.set()

    def begin(self, arguments: Sequence[str], xml: str) -> HookRun:
        """Start the hook and leave it waiting at its gate."""
        self._number += 1
        number = self._number
        base = self._host.dir / "hooks" / f"{self.process.pid}-{number}-{next(_unique)}"  # a pid may come again
        base.parent.mkdir(exist_ok=True)
        files = {end: Path(f"{base}.{end}") for end in ("xml", "err", "out", "gate")}
        files["xml"].write_text(xml)
        os.mkfifo(files["gate"])
        gate = os.open(files["gate"], os.O_RDWR)
        request = {
            "number": number,
            "argv": ["/bin/sh", "-c", _GATE, str(files["gate"]), str(HOOK), *arguments],
            "xml": str(files["xml"]),
            "errors": str(files["err"]),
            "output": str(files["out"]),
            "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "VLHOOK_RUN_DIR": str(self._host.run_dir)},
        }
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        with self._news:
            if not self._news.wait_for(lambda: number in self._pids, PATIENCE_SECONDS):
                raise TookTooLong("the hook was not started")
            pid = self._pids[number]
            run = HookRun(pid, os.pidfd_open(pid), files["err"], files["out"], gate)
            self._runs[number] = run
        self._host.processes.add(pid)
        return run

    def finish(self, run: HookRun) -> HookRun:
        """Wait for the end of a hook whose gate is open, whether or not its libvirtd lives."""
        wait_for("the end of a hook", run.gone)
        if not run.ended.wait(PATIENCE_SECONDS):
            raise TookTooLong("the exit status of a hook")
        self._host.processes.remove(run.pid)
        run.close()
        return run

    def kill(self) -> None:
        """As in kill -9: the hooks that run now go on as orphans."""
        if self.alive:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self._host.processes.remove(self.process.pid)
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class KeeperHost:
    """One host. `leases` is the lease directory that the hosts share; nothing is waited for at start."""

    def __init__(
        self, directory: Path, number: int, leases: Path, io_timeout: int = 1, engine: str = "native"
    ) -> None:
        self.dir = directory
        self.number = number
        self.leases = leases
        self.run_dir = directory / "run"
        self.libvirt_dir = directory / "libvirt"
        for sub in ("etc", "run", "state", "libvirt/qemu", "libvirt/storage"):
            (directory / sub).mkdir(parents=True, exist_ok=True)
        leases.mkdir(parents=True, exist_ok=True)
        (directory / "etc/qemu-sanlock.conf").write_text(
            f'host_id = {number}\ndisk_lease_dir = "{leases}"\nio_timeout = {io_timeout}\n'
        )
        (directory / "etc/qemu-vlhook.conf").write_text(f"engine = {engine}\n")
        self._stack = contextlib.ExitStack()
        self.sanlock: SanlockHost | None = None
        if engine == "sanlock":
            short = self._stack.enter_context(short_directory())
            self.sanlock = SanlockHost(f"sanlock{number}.node{number}", short / "run")
        self.processes = HostProcesses(directory / "proc")
        self.processes.add(1)
        self.keeper: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None
        self._libvirtd: Libvirtd | None = None
        self.qemus: dict[str, subprocess.Popen[bytes]] = {}
        self.start()

    def __enter__(self) -> KeeperHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    # -- keeper and guard

    def start(self) -> None:
        if self.sanlock and not self.sanlock.started:
            self.sanlock.start()
        if self.guard is None:
            self.start_guard()
        if self.keeper is None:
            self.start_keeper()

    def start_guard(self) -> None:
        self.guard = self._spawn("vlhook.guard", "--run-dir", self.run_dir, "--proc-dir", self.processes.proc_dir)

    def start_keeper(self) -> None:
        program = "tests.guests.eagerkeeper" if self.sanlock else "vlhook.keeper"
        self.keeper = self._spawn(
            program, "--run-dir", self.run_dir, "--proc-dir", self.processes.proc_dir,
            "--config-dir", self.dir / "etc", "--state-dir", self.dir / "state",
            "--libvirt-run-dir", self.libvirt_dir,
            "--libvirt-uri", "", "--wdmd-socket", self.dir / "no-wdmd", "--watchdog-device", self.dir / "no-watchdog",
        )  # fmt: skip

    def _spawn(self, module: str, *arguments: object) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if self.sanlock:
            environment["SANLOCK_RUN_DIR"] = str(self.sanlock.run_dir)
        name = "vlhook.keeper" if "keeper" in module else module
        with open(self.dir / f"{name}.log", "ab") as log:
            command = [sys.executable, "-m", module, *map(str, arguments)]
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=log, cwd="/")

    def log(self) -> str:
        """What the keeper wrote since the host was made."""
        return (self.dir / "vlhook.keeper.log").read_text("utf-8", "replace")

    def stop_keeper(self) -> None:
        """As for a restart: it leaves everything to a successor. Waits for the end."""
        _end(self.keeper, signal.SIGHUP)
        self.keeper = None

    def kill_keeper(self) -> None:
        _end(self.keeper, signal.SIGKILL)
        self.keeper = None

    def stop_guard(self) -> None:
        _end(self.guard, signal.SIGTERM)
        self.guard = None

    def kill_guard(self) -> None:
        _end(self.guard, signal.SIGKILL)
        self.guard = None

    def freeze_keeper(self) -> None:
        assert self.keeper
        self.keeper.send_signal(signal.SIGSTOP)

    def thaw_keeper(self) -> None:
        assert self.keeper
        self.keeper.send_signal(signal.SIGCONT)

    def status(self) -> dict[str, Any]:
        """What the keeper tells of itself. Raises VlhookError."""
        return call(self.run_dir, "status")

    def joined(self) -> bool:
        try:
            return bool(self.status()["membership"]["state"] == "joined")
        except VlhookError:
            return False

    def wait_joined(self, seconds: float = PATIENCE_SECONDS) -> None:
        wait_for(f"host {self.number} joining", self.joined, seconds)

    def held(self) -> set[tuple[str, str, str]]:
        """(UUID, lease, mode) of every lease that the keeper says it holds."""
        return {
            (guest["uuid"], lease["lease"], lease["mode"])
            for guest in self.status()["guests"]
            for lease in guest["leases"]
        }

    def phases(self) -> dict[str, str]:
        return {guest["uuid"]: guest["phase"] for guest in self.status()["guests"]}

    # -- libvirt

    @property
    def libvirtd(self) -> Libvirtd:
        """The libvirtd of this host; a new incarnation if there is none."""
        if self._libvirtd is None:
            self._libvirtd = Libvirtd(self)
        return self._libvirtd

    def kill_libvirtd(self) -> None:
        if self._libvirtd:
            self._libvirtd.kill()
            self._libvirtd = None

    def hook(self, arguments: Sequence[str], xml: str) -> HookRun:
        """Run hooks/qemu to its end."""
        libvirtd = self.libvirtd
        run = libvirtd.begin(arguments, xml)
        run.open_gate()
        return libvirtd.finish(run)

    def start_qemu(
        self, guest: str, uuid: str, incoming: bool = False, files: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """A stand-in for the guest's QEMU, with libvirt's pid file. `files`: what it opens, by its command line."""
        words = ["-incoming", "defer"] if incoming else []
        for path in files:
            words += ["-blockdev", json.dumps({"driver": "file", "filename": path})]
        process = self.processes.start(uuid, guest, extra_args=words)
        self.qemus[guest] = process
        self._pid_file(guest).write_text(str(process.pid))
        return process

    def end_qemu(self, guest: str) -> None:
        """SIGKILL; nothing if the guest has none."""
        process = self.qemus.pop(guest, None)
        if process:
            self.processes.stop(process)
            self.processes.processes.remove(process)
            self._pid_file(guest).unlink(missing_ok=True)

    def _pid_file(self, guest: str) -> Path:
        return self.libvirt_dir / "qemu" / f"{guest}.pid"

    # -- the end

    def lose_power(self) -> None:
        """Everything dies at once, and what is kept in memory only is gone."""
        self.kill_keeper()
        self.kill_guard()
        if self.sanlock:
            self.sanlock.kill9()
        self.kill_libvirtd()
        for guest in list(self.qemus):
            self.end_qemu(guest)
        for directory in (self.run_dir, self.libvirt_dir):
            shutil.rmtree(directory)
        for sub in ("run", "libvirt/qemu", "libvirt/storage"):
            (self.dir / sub).mkdir(parents=True)

    def down(self) -> None:
        self.kill_libvirtd()
        for guest in list(self.qemus):
            self.end_qemu(guest)
        self.processes.close()
        for process in (self.keeper, self.guard):
            if process:
                process.send_signal(signal.SIGCONT)
        self.stop_keeper()
        self.stop_guard()
        if self.sanlock:
            self.sanlock.close()
        self._stack.close()


def _end(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    if process is None:
        return
    process.send_signal(number)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
