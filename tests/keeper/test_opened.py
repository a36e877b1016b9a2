# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume's path is checked against QEMU's command line; an emulated TPM that outlives QEMU keeps its lease."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import PYTHON, STAND_IN, Guest, Host, engines, hosts, wait_for
from vlhook.keeper.client import KeeperSays, call
from vlhook.keeper.opened import file_names
from vlhook.processes import Scan, tpm_in_use

pytestmark = pytest.mark.xdist_group("needs")


@pytest.fixture(scope="module", params=engines("opened"))
def module_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosts(tmp_path_factory.mktemp("opened"), 1, io_timeout=2, engine=request.param) as (made,):
        yield made


@pytest.fixture
def host(module_host: Host) -> Iterator[Host]:
    yield module_host
    module_host.wait_found()
    for qemu in module_host.qemus.values():
        qemu.kill()
        qemu.wait()
    module_host.qemus.clear()
    module_host.wait_empty()


class OnVolume(Guest):
    def xml(self, number: int) -> str:
        disk = "<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vda'/></disk>"
        return super().xml(number).replace("<devices>", f"<devices>{disk}")


def blockdev(path: str) -> list[str]:
    return ["-blockdev", json.dumps({"driver": "file", "filename": path, "node-name": "libvirt-1-storage"})]


@pytest.fixture
def volume(host: Host, tmp_path: Path) -> str:
    """Volume v of the active pool p."""
    target = f"<target><path>{tmp_path}</path></target>"
    state = f"<poolstate><pool type='dir'><name>p</name>{target}</pool></poolstate>"
    (host.dir / "libvirt/storage/p.xml").write_text(state)
    return f"{tmp_path}/v"


def through_the_gates(host: Host, guest: Guest) -> None:
    assert host.prepare(guest, 7) == (0, "")
    assert host.hook(guest.name, "start", "begin", "-", xml=guest.xml(7)).returncode == 0


def test_a_guest_that_uses_its_volume_where_it_was_thought_to_be_runs(host: Host, volume: str) -> None:
    guest = OnVolume("right", [])
    through_the_gates(host, guest)
    qemu = host.run_qemu(guest, more=blockdev(volume))
    host.wait_found()
    assert host.held() == {(volume, "exclusive")}
    assert qemu.poll() is None


def test_a_guest_that_uses_another_file_for_its_volume_is_ended_at_once(host: Host, volume: str) -> None:
    guest = OnVolume("wrong", [])
    through_the_gates(host, guest)
    qemu = host.run_qemu(guest, more=blockdev("/elsewhere/v"))
    wait_for("its end", lambda: qemu.poll() is not None)
    assert f"its QEMU does not use {volume}" in host.log_text()


def test_such_a_guest_is_not_adopted(host: Host, volume: str) -> None:
    guest = OnVolume("stray", [])
    qemu = host.run_qemu(guest, more=blockdev("/elsewhere/v"))
    with pytest.raises(KeeperSays, match="runs on without leases: its QEMU does not use"):
        call(host.run_dir, "adopt", guest=guest.name, xml=guest.xml(7))
    assert qemu.poll() is None


def test_the_lease_on_a_tpms_state_is_kept_while_its_process_lives(host: Host, tmp_path: Path) -> None:
    state, program = tmp_path / "state", tmp_path / "swtpm"
    program.symlink_to(Path(PYTHON).resolve())
    backend = f"<backend type='emulator' version='2.0'><source type='dir' path='{state}'/></backend>"
    guest = Guest("sealed", [])
    whole = guest.xml(7).replace("</devices>", f"<tpm model='tpm-crb'>{backend}</tpm></devices>")
    for operation in ("prepare", "start"):
        assert host.hook(guest.name, operation, "begin", "-", xml=whole).returncode == 0
    host.run_qemu(guest)
    swtpm = subprocess.Popen([program, "-c", STAND_IN, "socket", "--tpmstate", f"dir={state}/tpm2,mode=0600"])
    try:
        (host.proc / str(swtpm.pid)).symlink_to(f"/proc/{swtpm.pid}")
        host.wait_found()
        host.end_qemu(guest)
        kept = f"process {swtpm.pid} (swtpm) still has the TPM state {state}"
        wait_for("the alarm", lambda: any(kept in alarm for alarm in host.status()["alarms"]))
        assert host.held() == {(str(state), "exclusive")}
    finally:
        swtpm.kill()
        swtpm.wait()
    host.wait_empty()


@pytest.mark.parametrize(
    ("argument", "uses"),
    [
        (b"dir=/var/tpm/u", True), (b"dir=/var/tpm/u,mode=0600", True), (b"backend-uri=file:///var/tpm/u/tpm2", True),
        (b"dir=/var/tpm/u2", False), (b"dir=/var/tpm", False), (b"", False),
    ],
)  # fmt: skip
def test_only_a_tpm_with_that_very_state_counts(argument: bytes, uses: bool) -> None:
    seen = Scan({}, [], [(5, [b"swtpm", b"socket", b"--tpmstate", argument])])
    assert bool(tpm_in_use("/var/tpm/u", seen)) == uses


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-blockdev", '{"driver":"qcow2","file":{"driver":"file","filename":"/a\\u00e9"}}'], {"/aé"}),
        (["-blockdev", "driver=raw,file.driver=file,file.filename=/a,,b"], {"/a,b"}),
        (["-drive", "file=/a,format=raw,if=none"], {"/a"}),
        (["-drive", "if=none,id=x", "-name", "file=/no", "-blockdev", "{broken"], set()),
        (["-blockdev"], set()),
    ],
)
def test_the_files_of_a_command_line(arguments: list[str], names: set[str]) -> None:
    found = set(file_names([argument.encode() for argument in arguments]))
    assert {name for name in found if name.startswith("/")} == names
