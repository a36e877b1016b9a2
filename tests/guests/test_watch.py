# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook-watch beside a real libvirtd: leases follow disks that no hook is called for."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from .domains import Guest
from .host import PYTHON, SHARED, Host, as_the_unit
from .lab import Lab
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-watch")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]
IO_TIMEOUT = 2


@pytest.fixture(autouse=True)
def watched(lab: Lab) -> Iterator[None]:
    for host in lab.hosts:
        host.daemon("vlhook-watch", f"{as_the_unit('vlhook-watch')} {PYTHON} -m vlhook.watch --interval 1")
    yield
    for host in lab.hosts:
        if host.running("vlhook-watch"):
            host.signal("vlhook-watch", signal.SIGKILL)
            host.stopped("vlhook-watch")


def disk_file(lab: Lab, path: str, target: str = "vdx", bus: str = "virtio") -> str:
    """The file with the <disk> element, as the hosts see it. From a USB disk QEMU does not ask the guest to part."""
    name = f"{path.rpartition('/')[2]}-{target}.xml"
    (lab.shared / name).write_text(
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>"
        f"<target dev='{target}' bus='{bus}'/></disk>"
    )
    return f"{SHARED}/{name}"


def steps(host: Host, guest: Guest) -> list[str]:
    """What vlhook-watch did about the guest, by its log, first to last."""
    lines = host.log("vlhook-watch").splitlines()
    told = ("disk-refused", "not-detached", "detached", "paused")
    return [word for line in lines if f"guest={guest.name} " in line for word in line.split() if word in told]


def with_disk(guest: Guest, *disks: str) -> set[tuple[str, str]]:
    return guest.leases() | {(disk, "exclusive") for disk in disks}


def vlhook(host: Host, *words: str, status: int = 0) -> str:
    ran = host.run([PYTHON, "-m", "vlhook.cli", *words], check=False)
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    return (ran.stdout + ran.stderr).strip()


def test_an_attached_disk_gets_its_lease(lab: Lab, one: Host, two: Host) -> None:
    guest, image = lab.guest(one), lab.image()
    one.start(guest)
    one.virsh("attach-device", guest.name, disk_file(lab, image), "--live")
    lab.wait_held(one, with_disk(guest, image))
    assert guest.name in two.refused(lab.guest(two, disks=[image]))


def test_a_detached_disk_gives_its_lease_back(lab: Lab, one: Host, two: Host) -> None:
    guest, image = lab.guest(one), lab.image()
    other = lab.guest(two, disks=[image])
    one.start(guest)
    usb = disk_file(lab, image, "sdx", "usb")
    one.virsh("attach-device", guest.name, usb, "--live")
    lab.wait_held(one, with_disk(guest, image))
    one.virsh("detach-device", guest.name, usb, "--live")
    lab.wait_held(one, guest.leases())
    vlhook(one, "attach-disk", guest.name, usb)
    lab.assert_held(one, with_disk(guest, image))
    assert f"detached from {guest.name}: sdx" in vlhook(one, "detach-disk", guest.name, "sdx")
    lab.wait_held(one, guest.leases())
    two.start(other)
    lab.assert_held(two, other.leases())


def test_a_disk_that_another_guest_uses_is_taken_away_from_the_guest_at_once(lab: Lab, one: Host, two: Host) -> None:
    """Another file lies at that path here, as in the next test."""
    owner, guest = lab.guest(two), lab.guest(one)
    two.start(owner)
    one.start(guest)
    disk = owner.disks[0]
    one.run(f"mount --bind {lab.image()} {disk}")
    try:
        one.virsh("attach-device", guest.name, disk_file(lab, disk, "sdx", "usb"), "--live")
        wait_for("it to be taken away", lambda: "detached" in steps(one, guest))
        assert steps(one, guest) == ["disk-refused", "detached"]
        assert "sdx" not in one.virsh("domblklist", guest.name).stdout
        assert one.state(guest) == "running"
        lab.assert_held(one, guest.leases())
    finally:
        one.run(f"umount {disk}")
    wait_for("the end of the alarm", lambda: not one.status()["alarms"])


def test_an_inserted_medium_that_is_writable_and_a_changed_one(lab: Lab, one: Host) -> None:
    """A CD-ROM has no lease; a floppy that is written has one."""
    guest = lab.guest(one)
    one.start(guest)
    one.virsh("change-media", guest.name, "sda", lab.image(), "--insert", "--live")
    lab.wait_held(one, guest.leases())


def test_a_disk_that_another_guest_uses_pauses_a_guest_that_does_not_let_go_of_it(
    lab: Lab, one: Host, two: Host
) -> None:
    """The guest of these tests has no driver for it. QEMU's lock on the image, which storage on other
    machines may not have, is passed by: here another file lies at that path."""
    owner, guest = lab.guest(two), lab.guest(one)
    two.start(owner)
    one.start(guest)
    disk = owner.disks[0]
    one.run(f"mount --bind {lab.image()} {disk}")
    try:
        one.virsh("attach-device", guest.name, disk_file(lab, disk), "--live")
        one.wait_state(guest, "paused")
        lab.assert_held(one, guest.leases())
        assert any("without its lease" in alarm for alarm in one.status()["alarms"])
        wait_for("the log of it", lambda: "virsh resume" in one.log("vlhook-watch"))
        assert steps(one, guest)[:3] == ["disk-refused", "not-detached", "paused"]
        assert two.state(owner) == "running"
        one.virsh("resume", guest.name)
        one.wait_state(guest, "paused")
        one.virsh("destroy", guest.name)
    finally:
        one.run(f"umount {disk}")
    wait_for("the end of the alarm", lambda: not one.status()["alarms"])


def test_a_snapshot_has_no_event_and_its_new_image_is_found(lab: Lab, one: Host) -> None:
    guest = lab.guest(one, kind="qcow2")
    one.start(guest)
    top = f"{guest.disks[0]}.snap"
    one.virsh(
        "snapshot-create-as", guest.name, "s1", "--disk-only", "--no-metadata", "--diskspec", f"vda,file={top}"
    )
    lab.wait_held(one, with_disk(guest, top))
    one.virsh("blockcommit", guest.name, "vda", "--active", "--pivot", "--wait")
    lab.wait_held(one, guest.leases())


def test_the_target_of_a_copy_is_held_from_its_start_and_alone_after_the_pivot(lab: Lab, one: Host) -> None:
    guest = Guest("copied", [lab.image()])
    path = lab.shared / "copied.xml"
    path.write_text(guest.xml())
    one.virsh("create", f"{SHARED}/copied.xml")
    copy = f"{guest.disks[0]}.copy"
    one.virsh("blockcopy", guest.name, "vda", "--dest", copy, "--format", "raw", "--transient-job")
    lab.wait_held(one, with_disk(guest, copy))
    wait_for("the copy", lambda: one.virsh("blockjob", guest.name, "vda", "--pivot", check=False).returncode == 0)
    lab.wait_held(one, {(copy, "exclusive")})
    one.virsh("destroy", guest.name)


def test_attach_disk_takes_the_lease_first(lab: Lab, one: Host, two: Host) -> None:
    owner, guest, image = lab.guest(two), lab.guest(one), lab.image()
    two.start(owner)
    one.start(guest)
    said = vlhook(one, "attach-disk", guest.name, disk_file(lab, owner.disks[0], "vdy"), status=2)
    assert owner.name in said
    assert said.count("\n") == 0
    assert "vdy" not in one.virsh("domblklist", guest.name).stdout
    assert image in vlhook(one, "attach-disk", guest.name, disk_file(lab, image))
    lab.assert_held(one, with_disk(guest, image))
    assert "vdx" in one.virsh("domblklist", guest.name).stdout
    assert "vdx" in vlhook(one, "attach-disk", guest.name, disk_file(lab, lab.image()), status=2)
    lab.wait_held(one, with_disk(guest, image))
    assert one.state(guest) == "running"


def test_a_guest_that_runs_without_leases_is_told_within_seconds(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.run("chmod -x /etc/libvirt/hooks/qemu.d/10-vlhook")
    try:
        one.start(guest)
        wait_for("the alarm", lambda: any(guest.name in alarm for alarm in one.status()["alarms"]))
    finally:
        one.run("chmod +x /etc/libvirt/hooks/qemu.d/10-vlhook")
    one.virsh("destroy", guest.name)
    wait_for("the end of the alarm", lambda: not one.status()["alarms"])


def test_the_watch_outlives_libvirtd_and_the_keeper(lab: Lab, one: Host) -> None:
    guest, image = lab.guest(one), lab.image()
    one.start(guest)
    one.stop_libvirtd(signal.SIGKILL)
    one.kill_keeper()
    one.start_keeper()
    one.start_libvirtd()
    one.wait_joined()
    one.virsh("attach-device", guest.name, disk_file(lab, image), "--live")
    lab.wait_held(one, with_disk(guest, image))
