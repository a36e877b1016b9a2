# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where it is not clear what runs, or what others see, no lease changes hands."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import Guest, Host, engines, hosts, wait_for
from vlhook.guardclient import GuardClient
from vlhook.keeper.client import call

pytestmark = pytest.mark.xdist_group("doubt")
IO_TIMEOUTS = {"native": 1, "sanlock": 2}


@pytest.fixture(params=engines("doubt"))
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    with hosts(tmp_path, 1, io_timeout=IO_TIMEOUTS[request.param], engine=request.param) as (host,):
        yield host


def gates(host: Host, guest: Guest, number: int = 3) -> None:
    """prepare and start, and libvirt takes its time with QEMU."""
    for operation in ("prepare", "start"):
        done = host.hook(guest.name, operation, "begin", "-", xml=guest.xml(number))
        assert (done.returncode, done.stderr) == (0, b"")


def lose_lease(host: Host) -> None:
    """The host's own, for a while: its file is away, or its sanlock daemon is killed."""
    away = host.leases.with_name("away")
    if host.sanlock:
        host.sanlock.kill9()
    else:
        host.leases.rename(away)
    wait_for("the loss", lambda: "is lost, its guests are stopped" in host.log_text())
    if host.sanlock:
        host.sanlock.start()
    else:
        away.rename(host.leases)


def test_a_qemu_that_appears_after_the_hosts_lease_was_lost_is_ended_before_the_host_rejoins(
    one: Host, tmp_path: Path
) -> None:
    guest = Guest("g", [tmp_path / "a"])
    gates(one, guest)
    lose_lease(one)
    assert one.phases() == {"g": "starting"}
    assert not one.joined(), "libvirt may still start its QEMU"
    qemu = one.run_qemu(guest)
    wait_for("the end of its QEMU", lambda: qemu.poll() is not None)
    one.wait_joined(60)
    assert one.phases() == {}


def test_a_start_that_libvirt_gives_up_after_the_loss_lets_the_host_rejoin(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    gates(one, guest)
    lose_lease(one)
    one.after_end(guest)
    one.wait_joined(60)
    assert one.phases() == {}


def test_another_process_of_the_guest_keeps_its_leases(one: Host, tmp_path: Path) -> None:
    """A wrapper that does not become QEMU, or anything else with its UUID, was bound first."""
    guest = Guest("g", [tmp_path / "a"])
    gates(one, guest)
    wrapper = one.run_qemu(guest)
    wait_for("the first process", lambda: one.phases() == {"g": "running"})
    qemu = one.run_qemu(guest)
    wrapper.kill()
    wrapper.wait()
    wait_for("the other process", lambda: one.status()["guests"][0]["pid"] == qemu.pid)
    assert one.held() == {(str(tmp_path / "a"), "exclusive")}
    one.end_qemu(guest)
    one.wait_empty()


def test_a_guest_that_is_not_adopted_yet_when_the_lease_is_lost_runs_on_without(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    qemu = one.run_qemu(guest)
    call(one.run_dir, "adopt", guest=guest.name, xml=guest.xml(1))
    leases = tmp_path / "leases"
    shutil.copy(leases / "__LIBVIRT__DISKS__", leases / ".copy")
    os.rename(leases / ".copy", leases / "__LIBVIRT__DISKS__")
    wait_for("the loss", lambda: "is lost, its guests are stopped" in one.log_text())
    wait_for("it to be left alone", lambda: not one.phases() and not GuardClient(one.run_dir).watched())
    assert qemu.poll() is None


@pytest.mark.parametrize("how", ["replaced", "mounted over"])
def test_a_lockspace_that_others_do_not_see_is_lost_at_once(one: Host, tmp_path: Path, how: str) -> None:
    guest = Guest("g", [tmp_path / "a"])
    assert one.start(guest) == (0, "")
    one.wait_found()
    leases = tmp_path / "leases"
    if how == "replaced":
        shutil.copy(leases / "__LIBVIRT__DISKS__", leases / ".copy")
        os.rename(leases / ".copy", leases / "__LIBVIRT__DISKS__")
    else:
        shutil.copytree(leases, tmp_path / "other")
        leases.rename(tmp_path / "below")
        (tmp_path / "other").rename(leases)
    qemu = one.qemus[guest.uuid]
    wait_for("the guest to be stopped", lambda: qemu.poll() is not None)
    assert "another file has its name now" in one.log_text()


def test_a_directory_that_is_not_mounted_gets_no_second_lockspace(one: Host, tmp_path: Path) -> None:
    leases, away = tmp_path / "leases", tmp_path / "away"
    assert one.keeper
    one.keeper.terminate()
    one.keeper.wait(30)
    leases.rename(away)
    leases.mkdir()
    one.start_keeper()
    (alarm,) = wait_for("the alarm", lambda: one.status().get("alarms"))
    assert "is missing, in which this host was before" in alarm
    assert list(leases.iterdir()) == []
    leases.rmdir()
    away.rename(leases)
    one.wait_joined(60)


@pytest.mark.root
def test_an_image_whose_file_system_was_taken_away_is_not_drained(one: Host, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", images]
    subprocess.run(mount, check=True)
    try:
        (images / "a").touch()
        guest = Guest("g", [images / "a"])
        assert one.start(guest) == (0, "")
        one.wait_found()
        subprocess.run(["umount", "-l", images], check=True)
        one.stop(guest)
        wait_for("the alarm", lambda: any("is not mounted" in alarm for alarm in one.status()["alarms"]))
        status, line = one.prepare(guest, 9)
        assert status == 1
        assert "its file system is not mounted" in line
        assert one.phases() == {"g": "ending"}
        subprocess.run(mount, check=True)
        (images / "a").touch()
        one.wait_empty(60)
    finally:
        subprocess.run(["umount", "-l", images], check=False, stderr=subprocess.DEVNULL)


def test_a_link_that_leads_nowhere_has_nothing_to_drain(one: Host, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    guest = Guest("g", [tmp_path / "link"])
    assert one.start(guest) == (0, "")
    one.wait_found()
    one.stop(guest)
    one.wait_empty()
