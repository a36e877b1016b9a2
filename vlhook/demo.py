# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job on one machine: two hosts, one disk, real processes and real files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .errors import VlhookError
from .keeper.client import call
from .leases.names import lease_name

IO_TIMEOUT = 1
GUEST, UUID = "demo", "6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10"
STAND_IN = "import signal; signal.pause()"
DOMAIN = """\
<domain type='qemu' id='{id}'>
  <name>{guest}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>65536</memory>
  <vcpu placement='static'>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <boot dev='hd'/>
  </os>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
  </devices>
</domain>
"""


class DemoFailed(VlhookError):
    msg = "the demo did not go as it must: {why}"
    hint = "the files and logs are in {directory}"
    code = "VLH-C205"


class DemoHost:
    """One 'host': its own configuration, run directory, process table, guard and keeper."""

    def __init__(self, number: int, base: Path, leases: Path) -> None:
        self.number = number
        self.dir = base / f"host{number}"
        self.run_dir = self.dir / "run"
        self.proc = self.dir / "proc"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._guest_id = 0
        for sub in ("etc", "run", "state", "proc", "libvirt/qemu"):
            (self.dir / sub).mkdir(parents=True)
        (self.dir / "etc/qemu-sanlock.conf").write_text(
            f'host_id = {number}\ndisk_lease_dir = "{leases}"\nio_timeout = {IO_TIMEOUT}\n'
        )
        install_hook(self.dir / "hook")
        # This process plays libvirtd, which runs the hooks.
        (self.proc / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
        guard = self._spawn("vlhook.guard", "--run-dir", self.run_dir, "--proc-dir", self.proc)
        keeper = self._spawn(
            "vlhook.keeper", "--run-dir", self.run_dir, "--proc-dir", self.proc,
            "--config-dir", self.dir / "etc", "--state-dir", self.dir / "state",
            "--libvirt-run-dir", self.dir / "libvirt",
            "--libvirt-uri", "", "--wdmd-socket", self.dir / "none", "--watchdog-device", self.dir / "none",
        )  # fmt: skip
        self.guard, self.keeper = guard, keeper

    def _spawn(self, module: str, *arguments: object) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": package}
        with open(self.dir / f"{module}.log", "ab") as log:
            command = [sys.executable, "-m", module, *map(str, arguments)]
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=log, cwd="/")

    def joined(self) -> bool:
        try:
            return bool(call(self.run_dir, "status")["membership"]["state"] == "joined")
        except VlhookError:
            return False

    def hook(self, operation: str, suboperation: str, xml: str) -> tuple[int, str]:
        """Run hooks/qemu as libvirt runs it: its arguments, the XML on stdin, next to no environment."""
        done = subprocess.run(
            [str(self.dir / "hook"), GUEST, operation, suboperation, "-"],
            input=xml.encode(),
            capture_output=True,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "VLHOOK_RUN_DIR": str(self.run_dir)},
            check=False,
        )
        return done.returncode, done.stderr.decode().strip()

    def start(self, disk: Path) -> tuple[int, str]:
        """What libvirt does at a guest's start; on success the stand-in for QEMU runs."""
        self._guest_id += 1
        xml = DOMAIN.format(id=self._guest_id, guest=GUEST, uuid=UUID, disk=disk)
        status, line = self.hook("prepare", "begin", xml)
        if status == 0:
            status, line = self.hook("start", "begin", xml)
        if status:
            self.hook("stopped", "end", xml)
            self.hook("release", "end", xml)
            return status, line
        command = ["qemu-system-x86_64", "-c", STAND_IN, "-name", f"guest={GUEST}", "-uuid", UUID]
        self._qemu = subprocess.Popen(command, executable=sys.executable, stdin=subprocess.DEVNULL)
        (self.proc / str(self._qemu.pid)).symlink_to(f"/proc/{self._qemu.pid}")
        (self.dir / f"libvirt/qemu/{GUEST}.pid").write_text(str(self._qemu.pid))
        self.hook("started", "begin", xml)
        return 0, ""

    def stop(self, disk: Path) -> None:
        """What libvirt does at a guest's end."""
        self._end_qemu()
        xml = DOMAIN.format(id=-1, guest=GUEST, uuid=UUID, disk=disk)
        self.hook("stopped", "end", xml)
        self.hook("release", "end", xml)

    def _end_qemu(self) -> None:
        if self._qemu:
            self._qemu.kill()
            self._qemu.wait()
            (self.proc / str(self._qemu.pid)).unlink(missing_ok=True)
            (self.dir / f"libvirt/qemu/{GUEST}.pid").unlink(missing_ok=True)
            self._qemu = None

    def crash(self) -> None:
        """Everything of this host dies at once, as in a power failure."""
        for process in (self.keeper, self.guard):
            process.kill()
            process.wait()
        self._end_qemu()

    def down(self) -> None:
        self._end_qemu()
        for process in (self.keeper, self.guard):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (self.keeper, self.guard):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def install_hook(target: Path) -> None:
    """A copy of hooks/qemu, from the checkout or as installed, that finds this very vlhook.

    Raises DemoFailed.
    """
    library = Path(__file__).resolve().parent.parent
    places = [
        library / "hooks/qemu",
        Path(sysconfig.get_path("data")) / "share/vlhook/hooks/qemu",
        Path("/usr/share/vlhook/hooks/qemu"),
        Path("/etc/libvirt/hooks/qemu.d/10-vlhook"),
    ]
    source = next((path for path in places if path.exists()), None)
    if source is None:
        raise DemoFailed(why="hooks/qemu is not installed", directory=target.parent)
    text = re.sub(r'^LIBRARY = ".*"$', f"LIBRARY = {str(library)!r}", source.read_text(), count=1, flags=re.MULTILINE)
    target.write_text(text)
    target.chmod(0o755)


class Demo:
    """`say` prints one line."""

    def __init__(self, directory: Path | None, keep: bool, say: Callable[[str], object]) -> None:
        self._made = directory is None
        self._keep = keep
        self._say = say
        self.dir = directory or Path(tempfile.mkdtemp(prefix="vlhook-demo-"))
        self.disk = self.dir / "shared" / "demo.img"
        self._begun = time.monotonic()
        self._step_number = 0

    def run(self) -> int:
        """0 when everything went as it must."""
        hosts: list[DemoHost] = []
        well = False
        try:
            self._play(hosts)
            well = True
        except VlhookError as error:
            self._say(f"vlhook demo: {error}")
        except OSError as error:
            self._say(f"vlhook demo: {error.filename or self.dir}: {error.strerror}; choose another place with --dir")
        except KeyboardInterrupt:
            self._say("vlhook demo: interrupted")
        finally:
            for host in hosts:
                host.down()
        self._end(well)
        return 0 if well else 1

    def _play(self, hosts: list[DemoHost]) -> None:
        leases = self.dir / "shared" / "leases"
        leases.mkdir(parents=True)
        self.disk.write_bytes(bytes(1 << 20))
        self._step("two hosts, each with its keeper and its guard, share one lease directory")
        hosts += [DemoHost(1, self.dir, leases), DemoHost(2, self.dir, leases)]
        one, two = hosts
        self._wait("joining the lockspace", lambda: one.joined() and two.joined(), 60)
        self._note(f"both joined; the disk's lease is {lease_name(str(self.disk).encode())}")

        self._step(f"host 1 starts guest {GUEST}")
        self._must(one.start(self.disk), 0)
        self._note(f"it runs; host 1 holds the lease of {self.disk}")

        self._step("host 2 starts the same guest")
        self._note(self._must(two.start(self.disk), 1))

        self._step("host 1 stops the guest, then host 2 starts it")
        one.stop(self.disk)
        self._must(two.start(self.disk), 0)
        self._note("it runs on host 2")

        self._step("host 2 stops it, host 1 starts it again, then host 1 is killed hard (as in a power failure)")
        two.stop(self.disk)
        self._must(one.start(self.disk), 0)
        one.crash()
        self._note("host 1 is dead; it still owns the lease on the disk")

        self._step("host 2 starts the guest: refused while host 1 may be alive, and told until when")
        line = self._must(two.start(self.disk), 1)
        self._wait("host 1 falling silent", lambda: "is free at" in two.start(self.disk)[1], 20)
        line = self._must(two.start(self.disk), 1)
        self._note(line)

    def _step(self, text: str) -> None:
        self._step_number += 1
        self._say(f"{self._step_number}. {text}")

    def _note(self, text: str) -> None:
        self._say(f"   {text}")

    def _must(self, outcome: tuple[int, str], status: int) -> str:
        if outcome[0] != status or (status and not outcome[1]):
            raise DemoFailed(why=f"exit status {outcome[0]}, {outcome[1] or 'no reason'}", directory=self.dir)
        return outcome[1]

    def _wait(self, what: str, done: Callable[[], bool], seconds: float) -> None:
        begun = said = time.monotonic()
        while not done():
            now = time.monotonic()
            if now - begun > seconds:
                raise DemoFailed(why=f"{what} took more than {seconds:.0f} s", directory=self.dir)
            if now - said >= 1:
                said = now
                self._note(f"{what} … {now - begun:.0f} s")
            time.sleep(0.1)

    def _end(self, well: bool) -> None:
        if not well:
            return
        took = time.monotonic() - self._begun
        self._say("")
        self._say("Shown: a start is refused while another host holds the disk, naming guest, host and time; the disk")
        self._say("is handed over when the guest stops; the disk of a dead host stays closed until it is safe.")
        self._say(f"(io_timeout {IO_TIMEOUT} s here; with the usual 10 s a dead host's disk is free after 140 s.)")
        if self._made and not self._keep:
            shutil.rmtree(self.dir)
            self._say(f"{took:.0f} s. The files are removed; 'vlhook demo --keep' keeps them.")
        else:
            self._say(f"{took:.0f} s. Files and logs: {self.dir}; look with 'vlhook dump {self.dir}/shared/leases/…'")
