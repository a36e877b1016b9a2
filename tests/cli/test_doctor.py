# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each check of `vlhook doctor` finds what it is for, on a host made of files, and says how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests import needs
from tests.keeper import hosts as keepers
from vlhook.cli import cli, doctor
from vlhook.cli.checks import CHECKS, FAIL, GOOD, NOTE, WARN, Check, Finding, Host, libvirt, storage
from vlhook.cli.checks import host as this_host
from vlhook.leases.directory import Ownership, create_lockspace
from vlhook.leases.geometry import FILE
from vlhook.leases.names import lease_name

ROOT = Path(__file__).resolve().parents[2]
NFS = "36 25 0:50 / {point} rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2,hard,proto=tcp\n"
LOCAL = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
POOL = "<pool type='iscsi'><name>san</name><target><path>{path}</path></target></pool>"
GUEST = """<domain type='kvm'><name>{name}</name><uuid>6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10</uuid><devices>
<disk type='block' device='disk'><source dev='{disk}'/><target dev='vda'/></disk></devices></domain>"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host on which all is well, as far as files tell; no daemon runs."""
    for folder in (
        "etc/hooks/qemu.d",
        "etc/qemu",
        "etc/storage",
        "run",
        "state",
        "libvirt/storage",
        "proc/self",
        "leases",
    ):
        (tmp_path / folder).mkdir(parents=True)
    leases = tmp_path / "leases"
    (tmp_path / "etc/qemu-sanlock.conf").write_text(f'host_id = 1\ndisk_lease_dir = "{leases}"\nio_timeout = 15\n')
    (tmp_path / "proc/self/mountinfo").write_text(LOCAL + NFS.format(point=leases))
    hook = tmp_path / "etc/hooks/qemu.d/10-vlhook"
    hook.symlink_to(ROOT / "hooks/qemu")
    create_lockspace(str(leases), FILE, 15, Ownership())
    return Host(
        tmp_path / "etc", tmp_path / "run", tmp_path / "state", tmp_path / "libvirt", str(tmp_path / "proc"), tmp_path
    )


def findings(host: Host, name: str) -> list[Finding]:
    check = next(check for check in CHECKS if check.name == name)
    found = doctor.examine(check, host)
    return [Finding(str(one["verdict"]), str(one["what"]), one["mend"] or "") for one in found]


def only(host: Host, name: str, verdict: str) -> Finding:
    """The one finding of that verdict; a warning or failure comes with what mends it, or tells the reason."""
    found = [one for one in findings(host, name) if one.verdict == verdict]
    assert len(found) == 1, findings(host, name)
    return found[0]


def well(host: Host, name: str) -> None:
    assert {one.verdict for one in findings(host, name)} <= {GOOD, NOTE}, findings(host, name)


# ------------------------------------------------------------------------------------- this host


def test_all_is_well_on_a_host_that_is_set_up(host: Host) -> None:
    for name in (
        "settings",
        "lease-directory",
        "direct-io",
        "rights",
        "space",
        "other-hosts",
        "server-restart",
        "hook",
    ):
        well(host, name)
    for name in ("lock-manager", "disk-paths", "pools", "refused-guests"):
        well(host, name)


def test_bad_settings_are_named_by_file_and_line(host: Host) -> None:
    (host.config_dir / "qemu-sanlock.conf").write_text("host_id = 3000\n")
    assert "line 1" in only(host, "settings", FAIL).what


def test_no_host_id(host: Host) -> None:
    (host.config_dir / "qemu-sanlock.conf").write_text("")
    assert only(host, "host-id", FAIL).mend == "vlhook host-id --auto"


def test_a_clone_has_another_machines_host_id(host: Host) -> None:
    note = {"host_id": 1, "machine": {"mark": "other", "node": "kvm9", "boot_id": "b"}, "since": 1}
    (host.lease_dir / ".vlhook-host-1").write_text(json.dumps(note))
    assert "kvm9" in only(host, "host-id", FAIL).what


def test_no_keeper(host: Host) -> None:
    assert "systemctl" in only(host, "keeper", FAIL).mend


def test_a_watchdog_that_is_there_and_not_used(host: Host) -> None:
    (host.root / "dev").mkdir()
    assert "no watchdog device" in only(host, "watchdog", WARN).what
    (host.root / "dev/watchdog0").touch()
    assert "/dev/watchdog0" in only(host, "watchdog", WARN).what


def test_services_that_are_not_started_at_the_next_boot(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings(host, "services") == [], "without systemd nothing is said"
    (host.root / "run/systemd/system").mkdir(parents=True)
    enabled = {"vlhook-guard.service", "vlhookd.service"}

    def systemctl(*words: str) -> str | None:
        return "enabled\n" if words[-1] in enabled else None

    monkeypatch.setattr(this_host, "output", systemctl)
    assert only(host, "services", WARN).mend == "systemctl enable --now vlhook-watch.service"
    assert "vlhook-cleanup.timer" in only(host, "services", NOTE).mend
    enabled |= {"vlhook-watch.service", "vlhook-cleanup.timer"}
    assert only(host, "services", GOOD)


def test_no_lens_for_qemu_sanlock_conf(host: Host) -> None:
    lenses = host.root / "usr/share/augeas/lenses"
    (lenses / "dist").mkdir(parents=True)
    (lenses / "vlhook.aug").touch()
    assert "qemu-sanlock.conf" in only(host, "lenses", NOTE).what
    (lenses / "dist/libvirt_sanlock.aug").touch()
    assert only(host, "lenses", GOOD)


# --------------------------------------------------------------------------------------- storage


def remount(host: Host, text: str) -> None:
    (Path(host.proc_dir) / "self/mountinfo").write_text(text)


def test_a_local_lease_directory_protects_one_host_only(host: Host) -> None:
    remount(host, LOCAL)
    found = only(host, "lease-directory", WARN)
    assert "local disk" in found.what
    assert "nfs hard" in found.mend


def test_a_lease_directory_that_is_in_fstab_and_not_mounted(host: Host) -> None:
    remount(host, LOCAL)
    (host.root / "etc/fstab").write_text(f"server:/export {host.lease_dir} nfs hard 0 0\n")
    assert only(host, "lease-directory", FAIL).mend == f"mount {host.lease_dir}"


def test_a_lease_directory_in_memory_is_gone_at_the_next_boot(host: Host) -> None:
    remount(host, f"30 25 0:1 / {host.lease_dir} rw - tmpfs tmpfs rw\n")
    only(host, "lease-directory", FAIL)


@pytest.mark.parametrize(("option", "instead"), [("hard", "soft"), ("rw,vers", "ro,vers")])
def test_a_soft_or_read_only_mount(host: Host, option: str, instead: str) -> None:
    remount(host, LOCAL + NFS.format(point=host.lease_dir).replace(option, instead))
    assert "mount" in only(host, "lease-directory", FAIL).mend


def test_a_missing_lease_directory(host: Host) -> None:
    shutil.rmtree(host.lease_dir)
    assert only(host, "lease-directory", FAIL).mend.startswith("mkdir")
    for name in ("direct-io", "rights", "space", "server-restart"):
        well(host, name)


def test_direct_io_leaves_nothing_behind(host: Host) -> None:
    before = sorted(host.lease_dir.iterdir())
    well(host, "direct-io")
    assert sorted(host.lease_dir.iterdir()) == before


def test_space_is_compared_with_what_the_guests_defined_here_still_need(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, disk in (("db", "/dev/vg/db"), ("web", "/dev/vg/web")):
        (host.config_dir / f"qemu/{name}.xml").write_text(GUEST.format(name=name, disk=disk))
    (host.lease_dir / lease_name(b"/dev/vg/db")).write_bytes(b"")
    assert "need 1 new ones" in only(host, "space", GOOD).what
    for free, verdict in ((0, FAIL), (9, WARN)):
        monkeypatch.setattr(storage, "free_space", lambda _, free=free: (free << 20, 1000))
        assert only(host, "space", verdict)


def test_slow_storage_is_measured_against_io_timeout(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "latencies", lambda path, size: [0.001, 2.0])
    found = only(host, "direct-io", WARN)
    assert "2000.0 ms at worst" in found.what
    assert found.mend == "vlhook calibrate"


def test_a_file_system_on_4_kib_sectors(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "latencies", lambda path, size: [0.1] if size == 4096 else [])
    assert "512 bytes do not work" in only(host, "direct-io", FAIL).what


def test_root_squash(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.require_root()
    real = Path.write_bytes

    def squashed(path: Path, data: bytes) -> int:
        count = real(path, data)
        os.chown(path, 65534, 65534)
        return count

    monkeypatch.setattr(Path, "write_bytes", squashed)
    found = [one for one in findings(host, "direct-io") if one.verdict == FAIL]
    assert "no_root_squash" in found[0].mend


def test_a_directory_that_everybody_may_write(host: Host) -> None:
    host.lease_dir.chmod(0o777)
    assert "chmod o-rwx" in only(host, "rights", FAIL).mend


def test_a_host_with_another_io_timeout_or_a_damaged_record(host: Host) -> None:
    from dataclasses import replace

    from vlhook.leases.records import Leader, pad_name

    path = host.lease_dir / "__LIBVIRT__DISKS__"
    area = bytearray(path.read_bytes())
    record = Leader.decode(area[FILE.delta(4) :])
    record = replace(
        record, owner_id=4, owner_generation=1, resource_name=pad_name(b"kvm4"), timestamp=9, io_timeout_raw=5
    )
    area[FILE.delta(4) : FILE.delta(4) + 512] = record.sealed().sector(FILE)
    path.write_bytes(area)
    assert "kvm4" in only(host, "other-hosts", WARN).what
    area[FILE.delta(4) + 40] ^= 1
    path.write_bytes(area)
    assert "vlhook dump" in only(host, "other-hosts", FAIL).mend


@pytest.mark.parametrize(("io_timeout", "verdict"), [(10, WARN), (15, GOOD)])
def test_an_io_timeout_that_a_restart_of_the_nfs_server_outlasts(host: Host, io_timeout: int, verdict: str) -> None:
    text = f'host_id = 1\ndisk_lease_dir = "{host.lease_dir}"\nio_timeout = {io_timeout}\n'
    (host.config_dir / "qemu-sanlock.conf").write_text(text)
    assert [one.verdict for one in findings(host, "server-restart")] == [verdict]


def test_storage_that_hangs_is_a_finding(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(doctor, "CHECK_SECONDS", 0.2)

    def hang(_: Host) -> Any:
        go.wait(60)
        yield Finding(GOOD, "answered")

    try:
        found = doctor.examine(Check("hang", hang), host)
    finally:
        go.set()
    assert found[0]["verdict"] == FAIL


# --------------------------------------------------------------------------------------- libvirt


def test_no_hook_and_somebody_elses_hook(host: Host) -> None:
    hook = host.config_dir / "hooks/qemu.d/10-vlhook"
    hook.unlink()
    assert only(host, "hook", FAIL).mend == "vlhook setup"
    hook.write_text("#!/bin/sh\nexit 0\n")
    assert "not installed" in only(host, "hook", FAIL).what


def copy_hook(host: Host, text: str | None = None, mode: int = 0o755) -> Path:
    hook = host.config_dir / "hooks/qemu.d/10-vlhook"
    hook.unlink()
    body = (ROOT / "hooks/qemu").read_text().replace('LIBRARY = ""', f"LIBRARY = {str(ROOT)!r}")
    hook.write_text(text or body)
    hook.chmod(mode)
    return hook


def test_a_hook_that_is_not_executable(host: Host) -> None:
    copy_hook(host, mode=0o644)
    assert "chmod 0755" in only(host, "hook", FAIL).mend


def test_a_hook_that_everybody_may_change(host: Host) -> None:
    copy_hook(host, mode=0o777)
    assert "everybody" in only(host, "hook", FAIL).what


def test_a_hook_that_does_not_find_its_library(host: Host) -> None:
    copy_hook(host, (ROOT / "hooks/qemu").read_text().replace('LIBRARY = ""', 'LIBRARY = "/nowhere"'))
    assert "fails" in only(host, "hook", FAIL).what


@pytest.fixture
def libvirtd(host: Host, tmp_path: Path) -> Iterator[int]:
    """The pid of a process of that name, in the host's process table."""
    program = tmp_path / "libvirtd"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([str(program), "60"])
    try:
        (Path(host.proc_dir) / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        keepers.wait_for(
            "the process to have its name",
            lambda: (Path("/proc") / str(process.pid) / "comm").read_text() == "libvirtd\n",
        )
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_libvirtd_that_was_started_before_the_hook_came(host: Host, libvirtd: int) -> None:
    time.sleep(1.1)  # the resolution of start times is coarse
    copy_hook(host)
    assert "reload" in only(host, "hook", FAIL).mend


def test_libvirts_sanlock_plugin_is_told_with_what_it_takes(host: Host) -> None:
    (host.config_dir / "qemu.conf").write_text('lock_manager = "sanlock"\n')
    assert "takes <lease> elements only, vlhook the rest" in only(host, "lock-manager", GOOD).what
    with open(host.config_dir / "qemu-sanlock.conf", "a") as settings:
        settings.write("auto_disk_leases = 1\n")
    assert "takes disks with a path and <lease> elements" in only(host, "lock-manager", GOOD).what


def test_a_libvirtd_that_has_not_loaded_the_plugin_that_is_set(host: Host, libvirtd: int) -> None:
    (host.config_dir / "qemu.conf").write_text('lock_manager = "sanlock"\n')
    assert only(host, "lock-manager", FAIL).mend == "systemctl restart libvirtd"


def test_a_libvirtd_that_still_has_the_plugin_that_is_not_set_any_more(
    host: Host, libvirtd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "has_plugin", lambda pid, _: pid == libvirtd)
    assert only(host, "lock-manager", WARN).mend == "systemctl restart libvirtd"


def test_selinux_that_does_not_let_libvirt_call_hooks(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.root / "sys/fs/selinux").mkdir(parents=True)
    (host.root / "sys/fs/selinux/enforce").write_text("1")
    states = {"virt_hooks_unconfined": "off", "virt_use_nfs": "on", "sanlock_use_nfs": "off"}
    monkeypatch.setattr(libvirt, "output", lambda _, name: f"{name} --> {states[name]}\n" if name in states else None)
    found = {one.mend: one.verdict for one in findings(host, "confinement")}
    assert found["setsebool -P virt_hooks_unconfined on"] == FAIL
    assert "setsebool -P virt_use_nfs on" not in found
    assert "setsebool -P sanlock_use_nfs on" not in found, "the sanlock daemon is not used here"
    (host.config_dir / "qemu.conf").write_text('lock_manager = "sanlock"\n')
    assert "setsebool -P sanlock_use_nfs on" in {one.mend for one in findings(host, "confinement")}


# ---------------------------------------------------------------------------------------- guests


@pytest.mark.parametrize("disk", ["/dev/sdb", "/dev/sda1", "/dev/dm-3", "/dev/nvme0n1p2", "/dev/mapper/mpatha"])
def test_a_disk_under_an_unstable_path_and_a_stable_name_for_it(host: Host, disk: str) -> None:
    (host.config_dir / "qemu/db.xml").write_text(GUEST.format(name="db", disk=disk))
    by_path = host.root / "dev/disk/by-path"
    by_path.mkdir(parents=True)
    (by_path / "pci-0-lun-1").symlink_to(f"../../{os.path.basename(disk)}")
    found = only(host, "disk-paths", FAIL)
    assert "guest db" in found.what
    assert "/dev/disk/by-path/pci-0-lun-1" in found.mend


@pytest.mark.parametrize("disk", ["/dev/disk/by-path/pci-0", "/dev/vg/db", "/dev/mapper/vg-db"])
def test_a_disk_under_a_stable_path(host: Host, disk: str) -> None:
    (host.config_dir / "qemu/db.xml").write_text(GUEST.format(name="db", disk=disk))
    well(host, "disk-paths")


@pytest.mark.parametrize(("path", "verdict"), [("/dev/disk/by-path", GOOD), ("/dev", FAIL)])
def test_iscsi_pools_are_named_by_path(host: Host, path: str, verdict: str) -> None:
    (host.config_dir / "storage/san.xml").write_text(POOL.format(path=path))
    assert [one.verdict for one in findings(host, "pools")] == [verdict]


def test_a_guest_that_would_be_refused(host: Host) -> None:
    (host.config_dir / "qemu/odd.xml").write_text(GUEST.format(name="odd", disk="x").replace("'block'", "'hologram'"))
    assert "odd" in only(host, "refused-guests", WARN).what


# ------------------------------------------------------------------------------------ the command


def test_the_command_lists_findings_counts_them_and_fails(host: Host) -> None:
    words = ["doctor", "--root", host.root, "--config-dir", host.config_dir, "--run-dir", host.run_dir]
    words += ["--state-dir", host.state_dir, "--proc-dir", host.proc_dir, "--libvirt-run-dir", host.libvirt_run_dir]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 1
    assert "-> systemctl enable --now vlhook-guard vlhookd" in result.output
    assert "1 failed" in result.output
    report = json.loads(CliRunner().invoke(cli, [str(word) for word in [*words, "--json"]]).output)
    assert report["schema"] == 1
    assert {entry["check"] for entry in report["checks"]} == {check.name for check in CHECKS}
    one = CliRunner().invoke(cli, [str(word) for word in [*words, "hook", "pools"]])
    assert one.exit_code == 0


def test_an_unknown_check_is_refused_and_the_known_ones_are_listed() -> None:
    assert CliRunner().invoke(cli, ["doctor", "weather"]).exit_code == 2
    assert "lease-directory" in CliRunner().invoke(cli, ["doctor", "--list"]).output


@pytest.mark.xdist_group("views")
def test_a_guest_that_runs_past_vlhook_is_found(tmp_path: Path) -> None:
    with keepers.hosts(tmp_path, 1, io_timeout=2) as (one,):
        places = (one.dir / "etc", one.run_dir, one.dir / "state", one.dir / "libvirt", str(one.proc), tmp_path)
        joined, timeline = findings(Host(*places), "keeper")
        assert (joined.verdict, timeline.verdict) == (GOOD, GOOD)
        assert "stopped after 16 s, and others may take their disks after 76 s" in timeline.what
        well(Host(*places), "without-lease")
        stray = keepers.Guest("stray", [])
        command = ["qemu-system-x86_64", "-c", "import signal; signal.pause()", "-uuid", stray.uuid]
        process = subprocess.Popen(command, executable="/usr/bin/python3")
        try:
            (one.proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
            keepers.wait_for("its start", lambda: findings(Host(*places), "without-lease")[0].verdict == FAIL)
            found = only(Host(*places), "without-lease", FAIL)
            assert stray.uuid in found.what
            assert found.mend == f"vlhook adopt {stray.uuid}"
        finally:
            process.kill()
            process.wait()
