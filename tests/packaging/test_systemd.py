# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian packages on a machine whose process 1 is the real systemd: `VLHOOK_TEST_SYSTEMD=1` runs this.

`VLHOOK_TEST_TRANSCRIPT=DIRECTORY` has each test leave there what was typed on the machine, and what came.
The machine is a container of systemd-nspawn (package systemd-container) over this one's own system. Not every
machine on which tests run lets one start, so that this is only done when it is asked for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.guests.waiting import wait_for

from .building import PATH, ROOT, VERSION, build_debs
from .test_debian import CONTAINER, NEWER, OURS, newer_version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.libvirt,
    pytest.mark.xdist_group("packages with systemd"),
    pytest.mark.skipif(not os.environ.get("VLHOOK_TEST_SYSTEMD"), reason="set VLHOOK_TEST_SYSTEMD=1 to run this"),
]
START = """\
set -e
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" overlay "$1/root"
rm -rf "$1/root/etc/libvirt/hooks" "$1/root/etc/libvirt/qemu-sanlock.conf" "$1/root/var/lib/libvirt/sanlock"
rm -f "$1/root/usr/sbin/policy-rc.d"
cp "$2/qemu.conf" "$1/root/etc/libvirt/qemu.conf"
exec systemd-nspawn -D "$1/root" -M "vlhook-test-$$" --register=no --keep-unit --private-network --boot \\
    --bind="$2:/packages" --capability=CAP_IPC_LOCK,CAP_SYS_RESOURCE --system-call-filter=@memlock
"""


class Booted:
    def __init__(self, base: Path, packages: Path) -> None:
        needs.require_programs("systemd-nspawn", "nsenter")
        base.mkdir()
        self._log = base.with_suffix(".log")
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", START, "sh", str(base), str(packages)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": PATH}, start_new_session=True,
            )  # fmt: skip
        self._init = 0
        self.typed: list[str] = []
        wait_for("systemd", self._up, seconds=180)
        self.typed.clear()

    def _up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._init = int(children[0]) if children else 0
        return bool(self._init) and self.run("systemctl is-active multi-user.target libvirtd", False).returncode == 0

    def run(self, command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "--", "/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
            check=False, cwd="/",
            env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        status = f"[exit status {ran.returncode}]\n" if ran.returncode else ""
        self.typed.append(f"# {command}\n{ran.stdout}{status}")
        assert not check or ran.returncode == 0, f"{command}: exit status {ran.returncode}\n{ran.stdout}"
        return ran

    def says(self, command: str) -> str:
        return self.run(command).stdout

    def end(self) -> None:
        os.kill(self._init, signal.SIGKILL)
        self._process.wait(60)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = tmp_path_factory.mktemp("systemd") / "packages"
    (packages / "newer").mkdir(parents=True)
    for path in build_debs(packages / "deb").values():
        newer_version(path, packages / "newer")
    (packages / "guest").write_bytes((ROOT / "packaging/debian/tests/guest").read_bytes())
    (packages / "guest").chmod(0o755)
    (packages / "qemu.conf").write_text(CONTAINER)
    return packages


@pytest.fixture
def machine(packages: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Booted]:
    made = Booted(tmp_path / "machine", packages)
    try:
        yield made
    finally:
        made.end()
        if folder := os.environ.get("VLHOOK_TEST_TRANSCRIPT"):
            Path(folder, f"{request.node.name}.txt").write_text("".join(made.typed))


def install(machine: Booted, folder: str) -> str:
    said = machine.says("dpkg -i " + " ".join(f"/packages/{folder}/{name}_{VERSION}_all.deb" for name in OURS))
    assert "failed" not in said
    return said


def main_pid(machine: Booted, unit: str) -> int:
    return int(machine.says(f"systemctl show -p MainPID --value {unit}"))


def test_install_protect_upgrade_with_a_running_guest_downgrade_and_purge(machine: Booted) -> None:
    install(machine, "deb")
    assert machine.says("systemctl is-active vlhook-guard").strip() == "active"
    assert machine.run("systemctl is-active vlhookd", False).stdout.strip() == "inactive", "it has no host id yet"
    told = machine.says("/packages/guest --leave-running")
    assert "package-test-2 is not started" in told

    def status() -> dict[str, Any]:
        report = json.loads(machine.says("vlhook status --json"))
        return {
            "generation": report["membership"]["generation"],
            "guests": [(guest["name"], guest["pid"], guest["leases"]) for guest in report["guests"]],
            "guard": report["fencing"]["guard"],
        }

    before = wait_for("the guest to run", lambda: (now := status())["guests"][0][1] and now)
    assert machine.says("ps -o user= -p $(pgrep -d, -f '[v]lhook.keeper.reader') | sort -u").split() == ["vlhook"]
    fields = machine.says("journalctl -o verbose VLHOOK_EVENT=granted VLHOOK_VM=package-test-1")
    lease = re.findall(r"VLHOOK_LEASE=([0-9a-f]{32})\n", fields)
    assert lease
    assert before["guests"][0][2][0]["lease"] in lease
    refused = machine.says(f"journalctl -o verbose VLHOOK_EVENT=refused VLHOOK_LEASE={lease[0]}")
    assert "VLHOOK_VM=package-test-2" in refused
    machine.run("systemctl is-active vlhook-watch")
    for folder, version in (("newer", NEWER), ("deb", VERSION)):
        daemons = [main_pid(machine, unit) for unit in ("vlhookd", "vlhook-guard", "vlhook-watch")]
        install(machine, folder)
        assert machine.says("dpkg-query -W -f '${Version}' vlhook") == version
        for unit, old in zip(("vlhookd", "vlhook-guard", "vlhook-watch"), daemons):
            assert main_pid(machine, unit) not in (0, old), f"{unit} must be the new version's"
        assert status() == before, "the guest, its leases and the host's generation stay"
        assert machine.run("virsh start package-test-2", False).returncode != 0

    # A helper that does not end, as one that is stuck in the kernel, is no obstacle for the next keeper and guard.
    for unit in ("vlhookd", "vlhook-guard"):
        old = main_pid(machine, unit)
        # The control group of the unit, as far as the container shows it: on some machines it does not.
        groups = f"$(find /sys/fs/cgroup -path '*/{unit}.service/cgroup.procs')"
        machine.run(f"sleep 600 </dev/null >/dev/null 2>&1 & for path in {groups}; do echo $! >$path || true; done")
        machine.run(f"systemctl kill --kill-who=main -s KILL {unit}")
        wait_for(f"another {unit}", lambda unit=unit, old=old: main_pid(machine, unit) not in (0, old))
    wait_for("the guard to be found", lambda: status() == before)
    machine.run("pkill -x sleep")  # of this machine: it has a process namespace of its own

    refused = machine.run(f"dpkg -r {' '.join(OURS)}", False)
    assert refused.returncode != 0
    assert "guests of this host hold leases: package-test-1" in refused.stdout
    assert status() == before

    machine.run("virsh destroy package-test-1")
    wait_for("the leases to be given back", lambda: not status()["guests"])
    machine.run(f"dpkg -P {' '.join(OURS)}")
    assert machine.says("systemctl list-units --all --plain --no-legend 'vlhook*'") == ""
    left = machine.run("ls -d /run/vlhook /var/lib/vlhook /etc/libvirt/hooks/qemu.d 2>/dev/null", False)
    assert left.stdout == ""
    machine.run("virsh start package-test-2 && virsh destroy package-test-2")
    log = machine.says("journalctl --no-pager -u vlhookd -u vlhook-guard")
    assert len(re.findall(r"vlhookd\[[0-9]+\]: resumed host_id=1 generation=1", log)) == 3
    assert "Will not start" not in log
    # The keeper may look for the guard in the moment in which it changes to the other version.
    assert all(re.findall(r"\]: alarm what=\"(vlhook-guard does not answer)?", log)), log


def test_setup_protects_a_fresh_host_doctor_agrees_and_what_is_lost_is_put_back(machine: Booted) -> None:
    """As a new administrator does it, who asks `vlhook doctor` and types what it says."""
    install(machine, "deb")
    machine.run("mkdir /packages/leases")
    setup = "vlhook setup --dir /packages/leases --io-timeout 2"
    dry = machine.says(f"{setup} --dry-run")
    assert "enable and start vlhookd.service" in dry
    assert "nfs hard" in dry, "the line for /etc/fstab is shown"
    machine.run(f"{setup} --yes")
    for unit in ("vlhook-guard", "vlhookd", "vlhook-watch", "vlhook-cleanup.timer"):
        assert machine.says(f"systemctl is-enabled {unit}; systemctl is-active {unit}").split() == ["enabled", "active"]
    assert machine.says(f"{setup} --yes").count("nothing to do") == 7

    healthy = machine.run("vlhook doctor", check=False)
    assert healthy.returncode == 0, healthy.stdout
    machine.run("rm /etc/libvirt/hooks/qemu.d/10-vlhook; systemctl disable vlhookd")
    ill = machine.run("vlhook doctor hook services", check=False)
    assert ill.returncode == 1
    mends = re.findall(r"-> (.*)", ill.stdout)
    assert mends == ["vlhook setup", "systemctl enable --now vlhookd.service"]
    machine.run(f"{mends[0]} --yes && {mends[1]}")
    assert machine.run("vlhook doctor hook services", check=False).returncode == 0
    assert machine.run("vlhook doctor", check=False).stdout.count("FAIL") == 0

    # What the timers start, with the rights that their units leave them.
    machine.run("mkdir -p /var/lib/prometheus/node-exporter && systemctl start vlhook-metrics vlhook-cleanup")
    assert "vlhook_up 1\n" in machine.says("cat /var/lib/prometheus/node-exporter/vlhook.prom")
    assert machine.says("systemctl show -p Result --value vlhook-metrics vlhook-cleanup").split() == ["success"] * 2
