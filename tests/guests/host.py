# SPDX-License-Identifier: LGPL-2.1-or-later
"""One host: namespaces with a libvirtd of their own, and vlhook installed as a user installs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

from vlhook.errors import VlhookError
from vlhook.keeper.client import call

from .domains import Guest
from .namespaces import READY
from .waiting import wait_for

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALLED = "/srv/vlhook"
"""Where a host sees the checkout, which it uses like an installed package."""
SHARED = "/srv/shared"
LEASES = f"{SHARED}/leases"
PYTHON = "/usr/bin/python3"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root", "LANG": "C.UTF-8", "PYTHONPATH": INSTALLED, "PYTHONDONTWRITEBYTECODE": "1",
}  # fmt: skip
LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "{uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
QEMU_CONF = """\
user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
keepalive_interval = 2
keepalive_count = 6
"""
VLHOOK_CONF = """\
host_id = {number}
disk_lease_dir = "{leases}"
io_timeout = {io_timeout}
"""
SECOND_SCRIPT = """\
#!/bin/sh
# Obeys files in /run/test: OPERATION.fail and OPERATION.block; tells of the latter with OPERATION.blocked.
cat > /dev/null
cd /run/test || exit 0
[ -e "$2.fail" ] && { echo "the second script refuses" >&2; exit 1; }
[ -e "$2.block" ] || exit 0
: > "$2.blocked"
while [ -e "$2.block" ]; do sleep 0.05; done
"""


def as_the_unit(name: str) -> str:
    """What runs a daemon with no more rights than its unit gives it."""
    unit = (ROOT / f"packaging/systemd/{name}.service").read_text()
    [allowed] = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    bound = ["-all", *(word.lower().replace("cap_", "+") for word in allowed.split())]
    return f"setpriv --no-new-privs --bounding-set {','.join(bound)} --"


class Host:
    """`boot` and the start methods bring it up, `end` takes it down with everything that runs in it."""

    def __init__(
        self, base: Path, number: int, shared: Path, capabilities: Path, io_timeout: int, engine: str = "native"
    ) -> None:
        self.number = number
        self.engine = engine
        self.name = f"h{number}"
        self.shared = shared
        self.dir = base / self.name
        self._capabilities = capabilities
        self._namespaces: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._running: list[subprocess.Popen[str]] = []
        self._pids: dict[str, int] = {}
        self._install(io_timeout)

    @property
    def known_as(self) -> str:
        """The name by which other hosts speak of it: which is in the record that its engine writes."""
        return self.name if self.engine == "native" else f"s{self.number}"

    # -- what is on its disk

    def _install(self, io_timeout: int) -> None:
        etc, var = self.dir / "etc", self.dir / "var"
        self.dir.mkdir(parents=True)
        subprocess.run(["cp", "-a", "/etc", etc], check=True)
        for name in ("libvirt", "sanlock", "wdmd"):
            shutil.rmtree(etc / name, ignore_errors=True)
        hooks = etc / "libvirt/hooks/qemu.d"
        hooks.mkdir(parents=True)
        for sub in ("cache/libvirt/qemu", "lib/libvirt/qemu", "lib/vlhook", "log/libvirt/qemu", "tmp"):
            (var / sub).mkdir(parents=True)
        (var / "run").symlink_to("/run")
        identity = uuid.uuid4()
        (etc / "machine-id").unlink(missing_ok=True)
        (etc / "machine-id").write_text(identity.hex + "\n")
        (etc / "libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF.format(uuid=identity))
        (etc / "libvirt/qemu.conf").write_text(QEMU_CONF)
        text = VLHOOK_CONF.format(number=self.number, leases=LEASES, io_timeout=io_timeout)
        (etc / "libvirt/qemu-sanlock.conf").write_text(text)
        if self.engine != "native":
            (etc / "libvirt/qemu-vlhook.conf").write_text(f"engine = {self.engine}\n")
        script = (ROOT / "hooks/qemu").read_text()
        assert 'LIBRARY = ""' in script
        for path, text in (
            (hooks / "10-vlhook", script.replace('LIBRARY = ""', f'LIBRARY = "{INSTALLED}"')),
            (hooks / "20-second", SECOND_SCRIPT),
        ):
            path.write_text(text)
            path.chmod(0o755)
        if self._capabilities.is_dir():
            shutil.copytree(self._capabilities, var / "cache/libvirt/qemu/capabilities")

    def log(self, name: str) -> str:
        """The log of vlhookd, vlhook-guard or libvirt/libvirtd."""
        path = self.dir / f"var/log/{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- its life

    def boot(self) -> None:
        (self.dir / READY).unlink(missing_ok=True)
        program = [PYTHON, "-I", str(Path(__file__).with_name("namespaces.py"))]
        command = ["unshare", "-m", "-u", "-n", "-p", "-i", "--propagation", "private"]
        where = [str(self.dir), self.name, str(self.shared), str(ROOT)]
        with open(self.dir / "init.log", "ab") as log:
            self._namespaces = subprocess.Popen(
                [*command, "--fork", "--kill-child", "--", *program, *where],
                env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        wait_for(f"{self.name}, see {log.name}", (self.dir / READY).exists, every=0.02)
        self._init = int((self.dir / READY).read_text())
        self.run("mkdir /run/test; ip link set lo up")

    def end(self) -> None:
        """Every process dies at once, as in a power failure; the disk stays."""
        if self._namespaces:
            with contextlib.suppress(ProcessLookupError):
                if self._init:
                    os.kill(self._init, signal.SIGKILL)
            self._namespaces.stdin.close()  # type: ignore[union-attr]
            try:
                self._namespaces.wait(60)  # it ends when its child has
            except subprocess.TimeoutExpired:
                self._namespaces.kill()
                self._namespaces.wait()
            self._namespaces = None
        for process in self._running:
            process.kill()
            process.communicate()
        self._running.clear()
        self._pids.clear()
        if self._init:
            # The first process of a pid namespace is gone only when all others are.
            init = Path(f"/proc/{self._init}")
            wait_for(f"the end of {self.name}", lambda: not init.exists(), every=0.02)
            self._init = 0

    def _command(self, command: str | list[str]) -> list[str]:
        words = ["sh", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        return ["nsenter", "-t", str(self._init), "-m", "-u", "-n", "-p", "-i", "--", *words]

    def run(self, command: str | list[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        assert self._init, f"{self.name} is down"
        ran = subprocess.run(
            self._command(command), env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        if check and ran.returncode:
            raise AssertionError(f"{self.name}: {command}: exit status {ran.returncode}: {ran.stderr}")
        return ran

    def spawn(self, command: list[str]) -> subprocess.Popen[str]:
        """In the background; it ends with the host at the latest."""
        process = subprocess.Popen(
            self._command(command), env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._running.append(process)
        return process

    def daemon(self, name: str, command: str) -> None:
        """Run a daemon as a child of the host's first process; its log is /var/log/NAME.log."""
        started = f"setsid {command} < /dev/null >> /var/log/{name}.log 2>&1 & echo $!"
        self._pids[name] = int(self.run(started).stdout)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.run(["kill", f"-{number.name[3:]}", str(self._pids[name])])

    def go_on(self) -> None:
        """A test that failed may have left a daemon stopped: the next test is not to hang at it."""
        if self._init:
            self.run(["kill", "-CONT", *map(str, self._pids.values())], check=False)

    def pid(self, name: str) -> int:
        return self._pids[name]

    def running(self, name: str) -> bool:
        return self.alive(self._pids[name])

    def alive(self, pid: int) -> bool:
        """Whether the host's process `pid` lives; one that nobody has buried does not."""
        state = self.run(f"cut -d')' -f2 /proc/{pid}/stat", check=False).stdout.split()
        return bool(state) and state[0] not in "ZX"

    def stopped(self, name: str) -> None:
        wait_for(f"the end of {name}", lambda: not self.running(name))

    # -- vlhook

    def start_guard(self) -> None:
        self.daemon("vlhook-guard", f"{as_the_unit('vlhook-guard')} {PYTHON} -m vlhook.guard")

    def start_keeper(self, program: str = "vlhook.keeper") -> None:
        keeper = f"{PYTHON} -m {program} --wdmd-socket /none --watchdog-device /none"
        self.daemon("vlhookd", f"{as_the_unit('vlhookd')} {keeper}")

    def kill_keeper(self) -> None:
        self.signal("vlhookd", signal.SIGKILL)
        self.stopped("vlhookd")

    def restart_keeper(self, program: str = "vlhook.keeper") -> None:
        """Whatever has become of the one before; as its service does."""
        if self.running("vlhookd"):
            self.kill_keeper()
        self.start_keeper(program)

    def vlhook(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line on this host."""
        return self.run([PYTHON, "-m", "vlhook.cli", *words], check)

    def told(self, guest: Guest) -> dict[str, Any]:
        """What the keeper's status says of the guest, {} if nothing."""
        report = self.status()
        rows = [*report.get("guests", []), *report.get("others", [])]
        return next((row for row in rows if row["uuid"] == guest.uuid), {})

    def status(self) -> dict[str, Any]:
        """What `vlhook status --json` would print; empty while no keeper answers."""
        try:
            return call(Path(f"/proc/{self._init}/root/run/vlhook"), "status")
        except VlhookError:
            return {}

    def printed_status(self) -> dict[str, Any]:
        """What `vlhook status --json` prints on the host."""
        report: dict[str, Any] = json.loads(self.run([PYTHON, "-m", "vlhook.cli", "status", "--json"]).stdout)
        return report

    def wait_joined(self) -> None:
        def joined() -> bool:
            report = self.status()
            well = report and report["membership"]["state"] == "joined"
            return bool(well and report["fencing"]["guard"] == "ready")

        wait_for(f"{self.name} to join", joined)

    def sees_alive(self) -> set[int]:
        """The host ids that this host has seen renewed."""
        ran = self.vlhook("hosts", "--json", check=False)
        return {row["host_id"] for row in json.loads(ran.stdout)["hosts"] if row["state"] == "live"}

    def generation(self) -> int:
        return int(self.status()["membership"]["generation"])

    # -- the second hook script

    def tell_second_script(self, operation: str, what: str) -> None:
        self.run(f": > /run/test/{operation}.{what}")

    def forget_second_script(self) -> None:
        self.run("rm -f /run/test/*")

    def wait_blocked(self, operation: str) -> None:
        """Until the second script has been called with `operation` and waits."""
        wait_for(f"{operation} to block", lambda: self.is_blocked(operation))

    def is_blocked(self, operation: str) -> bool:
        return Path(f"/proc/{self._init}/root/run/test/{operation}.blocked").exists()

    # -- sanlock

    def start_sanlock(self) -> None:
        """The daemon, under a name of its own and without a watchdog."""
        options = f"-D -w 0 -h 0 -l 0 -L -1 -S -1 -e s{self.number}"
        self.daemon("sanlock", f"env SANLOCK_PRIVILEGED=0 sanlock daemon {options}")
        ready = ["sanlock", "client", "status"]
        wait_for("sanlock", lambda: self.run(ready, check=False).returncode == 0, every=0.05)

    def sanlock_leases(self) -> set[tuple[str, int]]:
        """(lease name, pid of the holder) of all that the daemon holds; 0 of what a dead one has left behind.

        What it is just giving back (REM) counts, as it may be held, under 0; what it is just taking (ADD) does not.
        """
        found = set()
        for line in self.run(["sanlock", "client", "status"], check=False).stdout.splitlines():
            words = line.split()
            if words[:1] == ["r"] and words[-1] != "ADD":
                pid = 0 if words[-1] in ("ORPHAN", "REM") else int(words[-1])
                found.add((words[1].split(":")[1], pid))
        return found

    def sanlock_spaces(self) -> set[str]:
        lines = self.run(["sanlock", "client", "status"], check=False).stdout.splitlines()
        return {line.split()[1].split(":")[0] for line in lines if line.startswith("s ")}

    # -- libvirt

    def restart_libvirtd(self) -> None:
        self.stop_libvirtd(signal.SIGTERM)
        self.start_libvirtd()

    def start_libvirtd(self) -> None:
        self.daemon("libvirtd", "libvirtd -l")
        wait_for("libvirtd", lambda: self.virsh("uri", check=False).returncode == 0, every=0.05)

    def keep_capabilities(self) -> None:
        """libvirtd asks QEMU for seconds what it can; the next host need not."""
        self.virsh("domcapabilities", "--virttype", "qemu")
        mine = self.dir / "var/cache/libvirt/qemu/capabilities"
        if not self._capabilities.exists() and mine.is_dir():
            shutil.copytree(mine, self._capabilities)

    def stop_libvirtd(self, number: signal.Signals) -> None:
        self.signal("libvirtd", number)
        self.stopped("libvirtd")
        self.run("rm -f /run/libvirtd.pid")

    def virsh(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(["virsh", "-q", *words], check)

    def define(self, guest: Guest) -> None:
        path = self.shared / f"{guest.name}-{self.name}.xml"
        path.write_text(guest.xml())
        self.virsh("define", f"{SHARED}/{path.name}")

    def start(self, guest: Guest, *options: str) -> None:
        self.virsh("start", guest.name, *options)

    def refused(self, guest: Guest, *words: str) -> str:
        """Start the guest, or do `words`, which must fail; returns what virsh says."""
        ran = self.virsh(*(words or ("start", guest.name)), check=False)
        assert ran.returncode != 0, f"{words or 'start'} of {guest.name} went through"
        return ran.stderr

    def state(self, guest: Guest) -> str:
        return self.virsh("domstate", guest.name).stdout.strip()

    def qemu(self, guest: Guest) -> int:
        """The pid of the guest's QEMU inside the host, 0 if there is none."""
        ran = self.run(["pgrep", "-f", "--", f"-uuid {guest.uuid}"], check=False)
        pids = [int(word) for word in ran.stdout.split() if self.alive(int(word))]
        assert len(pids) <= 1
        return pids[0] if pids else 0

    def kill_qemu(self, guest: Guest) -> None:
        self.run(["kill", "-KILL", str(self.qemu(guest))])

    def wait_state(self, guest: Guest, state: str) -> None:
        wait_for(f"{guest.name} to be {state}", lambda: self.state(guest) == state)

    def guests(self) -> list[str]:
        return self.virsh("list", "--all", "--name").stdout.split()

    def remove_guests(self) -> None:
        for name in self.guests():
            self.virsh("destroy", name, check=False)
            self.virsh("undefine", name, "--managed-save", "--snapshots-metadata", check=False)

