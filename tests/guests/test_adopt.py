# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook adopt`: guests that run without leases get them, or run on as they are."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .domains import Guest, make_image, unused_name
from .host import Host
from .lab import Lab
from .waiting import wait_for

IO_TIMEOUT = 2
pytestmark = [
    pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, pytest.mark.xdist_group("guests-adopt"),
]  # fmt: skip


@contextmanager
def without_hook(host: Host) -> Iterator[None]:
    """As on a host on which vlhook is not installed yet: libvirt skips a script that is not executable."""
    script = host.dir / "etc/libvirt/hooks/qemu.d/10-vlhook"
    script.chmod(0o644)
    host.signal("libvirtd", signal.SIGHUP)
    try:
        yield
    finally:
        script.chmod(0o755)


def start_unprotected(host: Host, guest: Guest) -> None:
    with without_hook(host):
        host.start(guest)
    assert host.told(guest)["protector"] == "nobody"


def watched(host: Host) -> list[str]:
    """The UUIDs on the guard's list."""
    code = "from vlhook.guardclient import GuardClient; print(*[w.uuid for w in GuardClient('/run/vlhook').watched()])"
    return host.run(["/usr/bin/python3", "-c", code]).stdout.split()


def alarms(host: Host) -> list[str]:
    found: list[str] = host.status().get("alarms", [])
    return found


def test_a_guest_that_runs_without_leases_is_shown_and_gets_them(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two, disks=[lab.image(), lab.image()], shared=[lab.image()])
    start_unprotected(one, guest)
    lab.assert_held(one, set())
    shown = one.vlhook("status", check=False)
    assert shown.returncode == 1
    assert f"NOT PROTECTED: guest {guest.name} ({guest.uuid})" in shown.stdout
    assert f"vlhook adopt {guest.name}" in shown.stdout
    report = json.loads(one.vlhook("adopt", "--json", guest.name).stdout)
    assert (report["adopted"], report["protector"]) == (True, "vlhook")
    assert {lease["disk"] for lease in report["leases"]} == {disk for disk, _ in guest.leases()}
    lab.wait_held(one, guest.leases())
    assert one.state(guest) == "running"
    assert watched(one) == [guest.uuid]
    assert "is in use by" in two.refused(guest)
    assert one.vlhook("status").returncode == 0
    assert "vlhook protects it already" in one.vlhook("adopt", guest.uuid).stdout
    one.restart_keeper()
    one.wait_joined()
    lab.wait_held(one, guest.leases())
    one.stop_libvirtd(signal.SIGKILL)
    one.start_libvirtd()
    lab.assert_held(one, guest.leases())
    one.virsh("destroy", guest.name)
    lab.wait_held(one, set())
    two.start(guest)
    lab.assert_held(two, guest.leases())


def test_an_adopted_guest_is_ended_when_the_host_loses_its_lease(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two)
    start_unprotected(one, guest)
    one.vlhook("adopt", guest.name)
    one.signal("vlhookd", signal.SIGSTOP)
    try:
        wait_for("the guard to end the guest", lambda: one.qemu(guest) == 0, seconds=120)
    finally:
        one.restart_keeper()
        one.wait_joined()
    lab.wait_held(one, set(), seconds=120)


def test_a_refused_adoption_leaves_the_guest_alone_and_raises_an_alarm(lab: Lab, one: Host, two: Host) -> None:
    """Each host has an image of its own under one path, so that QEMU itself has nothing against both."""
    path = f"/var/tmp/{unused_name('image')}"
    for host in (one, two):
        make_image(host.dir / path[1:])
    other = lab.image()
    guest, rival = lab.guest(one, disks=[other, path]), lab.guest(two, disks=[path])
    two.start(rival)
    start_unprotected(one, guest)
    ran = one.vlhook("adopt", guest.name, check=False)
    assert ran.returncode == 1
    assert f"is not adopted and runs on without leases: disk {path} is in use by guest {rival.name}" in ran.stderr
    assert one.state(guest) == "running"
    assert f"guest {guest.name} is not adopted" in alarms(one)[0]
    lab.wait_held(one, set())
    wait_for("the guard to leave it alone", lambda: watched(one) == [])
    wait_for("it to be nobody's again", lambda: one.told(guest).get("protector") == "nobody")
    two.virsh("destroy", rival.name)
    lab.wait_held(two, set())
    assert one.vlhook("adopt", guest.name).returncode == 0
    assert alarms(one) == []
    lab.wait_held(one, guest.leases())


def test_the_alarm_about_a_guest_ends_with_the_guest(lab: Lab, one: Host) -> None:
    guest = lab.guest(one, outside="<on_lockfailure>ignore</on_lockfailure>")
    start_unprotected(one, guest)
    ran = one.vlhook("adopt", guest.name, check=False)
    assert "its <on_lockfailure> is ignore" in ran.stderr
    assert len(alarms(one)) == 1
    one.virsh("destroy", guest.name)
    wait_for("the alarm to end", lambda: alarms(one) == [])


def test_what_does_not_run_is_not_adopted(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    stopped = one.vlhook("adopt", guest.name, check=False)
    assert (stopped.returncode, stopped.stderr.count("\n")) == (2, 1)
    assert f"guest {guest.name} does not run" in stopped.stderr
    unknown = one.vlhook("adopt", "nobody", check=False)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "libvirt (qemu:///system): Domain not found" in unknown.stderr


def test_a_guest_that_migrates_is_not_adopted(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one)
    start_unprotected(one, guest)
    two.tell_second_script("prepare", "block")
    move = one.spawn(["virsh", "migrate", "--live", "--unsafe", guest.name, "qemu+tcp://h2/system"])
    try:
        two.wait_blocked("prepare")
        ran = one.vlhook("adopt", guest.name, check=False)
        assert ran.returncode == 2, ran
        assert f"guest {guest.name} is migrating" in ran.stderr
        assert one.told(guest)["protector"] == "nobody"
    finally:
        two.forget_second_script()
    assert move.wait() == 0
    lab.wait_held(one, set())
    lab.wait_held(two, guest.leases())
