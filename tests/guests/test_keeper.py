# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper is restarted, dies or hangs while real guests run, start and end."""

from __future__ import annotations

import signal

import pytest

from .domains import BAD_OPTION
from .host import LEASES, Host
from .lab import Lab
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-keeper")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]
IO_TIMEOUT = 2
"""A keeper must be back in 16 s, also on a busy machine."""


def again(host: Host) -> None:
    host.start_keeper()
    host.wait_joined()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_restart_leaves_guest_leases_and_generation_alone(
    lab: Lab, one: Host, two: Host, number: signal.Signals
) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    two.refused(guest)  # which makes the lease file of what the disk is to host 2, and leaves it free
    before = (one.generation(), one.qemu(guest), lab.on_disk())
    one.signal("vlhookd", number)
    one.stopped("vlhookd")
    assert "is in use by" in two.refused(guest)
    again(one)
    lab.assert_held(one, guest.leases())
    lab.wait_held(two, set())
    assert (one.generation(), one.qemu(guest), lab.on_disk()) == before
    assert one.state(guest) == "running"
    one.virsh("destroy", guest.name)
    lab.assert_held(one, set())


def test_without_a_keeper_no_guest_starts_and_the_line_says_why(lab: Lab, one: Host) -> None:
    guest, running = lab.guest(one), lab.guest(one)
    one.start(running)
    one.kill_keeper()
    said = one.refused(guest)
    assert f"vlhook: guest {guest.name} is not started: no answer from vlhookd" in said
    assert "systemctl status vlhookd" in said
    again(one)
    lab.assert_held(one, running.leases())
    one.start(guest)
    lab.assert_held(one, running.leases() | guest.leases())


@pytest.mark.parametrize("way", ["destroyed", "killed"])
def test_a_guest_that_ends_without_a_keeper_is_noticed_by_the_next(
    lab: Lab, one: Host, two: Host, way: str
) -> None:
    guest, other = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start(other)
    one.kill_keeper()
    if way == "destroyed":
        one.virsh("destroy", guest.name)
    else:
        one.kill_qemu(guest)
    assert "is in use by" in two.refused(guest)
    again(one)
    lab.wait_held(one, other.leases())
    two.start(guest)
    lab.assert_held(two, guest.leases())


def test_a_libvirtd_that_comes_back_without_a_keeper_leaves_its_guests_alone(lab: Lab, one: Host) -> None:
    """libvirt kills a guest whose hook fails at reconnect."""
    guest = lab.guest(one)
    one.start(guest)
    qemu = one.qemu(guest)
    one.stop_libvirtd(signal.SIGKILL)
    one.kill_keeper()
    one.start_libvirtd()
    assert (one.qemu(guest), one.state(guest)) == (qemu, "running")
    again(one)
    lab.assert_held(one, guest.leases())
    assert one.qemu(guest) == qemu


@pytest.mark.parametrize("operation", ["prepare", "start", "started"])
def test_killed_in_the_middle_of_a_start_the_guest_starts_with_its_leases(
    lab: Lab, one: Host, two: Host, operation: str
) -> None:
    guest = lab.guest(one, two)
    before = one.generation()
    one.tell_second_script(operation, "block")
    client = one.spawn(["virsh", "start", guest.name])
    one.wait_blocked(operation)
    one.kill_keeper()
    again(one)
    one.forget_second_script()
    assert client.wait() == 0, client.stdout and client.stdout.read()
    lab.assert_held(one, guest.leases())
    assert one.generation() == before
    assert "is in use by" in two.refused(guest)
    one.virsh("destroy", guest.name)
    lab.assert_held(one, set())


def test_a_start_that_fails_while_no_keeper_runs_is_noticed_by_the_next(lab: Lab, one: Host) -> None:
    """libvirt's release is all that tells of it: there never was a QEMU."""
    other, guest = lab.guest(one), lab.guest(one, more=BAD_OPTION)
    one.start(other)
    one.tell_second_script("start", "block")
    client = one.spawn(["virsh", "start", guest.name])
    one.wait_blocked("start")
    one.kill_keeper()
    one.forget_second_script()
    assert client.wait() != 0
    again(one)
    lab.wait_held(one, other.leases())


@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_killed_in_the_middle_of_an_end_nothing_is_leaked(lab: Lab, one: Host, operation: str) -> None:
    guest, other = lab.guest(one), lab.guest(one)
    one.start(guest)
    one.start(other)
    one.tell_second_script(operation, "block")
    client = one.spawn(["virsh", "destroy", guest.name])
    one.wait_blocked(operation)
    one.kill_keeper()
    again(one)
    one.forget_second_script()
    assert client.wait() == 0
    lab.wait_held(one, other.leases())


def test_a_keeper_that_hangs_too_long_loses_the_guest_to_the_guard(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    before, qemu = one.generation(), one.qemu(guest)
    one.signal("vlhookd", signal.SIGSTOP)
    wait_for("the guard to end QEMU", lambda: not one.alive(qemu))
    one.stopped("vlhookd")
    one.wait_state(guest, "shut off")
    again(one)
    lab.wait_held(one, set())
    if one.engine == "native":
        assert one.generation() > before
    else:  # the daemon has renewed meanwhile: nothing of the host's was lost but the guest
        assert one.generation() == before
        assert one.sanlock_leases() == set()
    two.start(guest)
    lab.assert_held(two, guest.leases())


def test_the_guard_is_restarted_and_still_ends_the_guest(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    qemu = one.qemu(guest)
    one.signal("vlhook-guard", signal.SIGKILL)
    one.stopped("vlhook-guard")
    one.start_guard()
    one.wait_joined()
    lab.assert_held(one, guest.leases())
    one.kill_keeper()
    wait_for("the guard to end QEMU", lambda: not one.alive(qemu))
    again(one)
    lab.wait_held(one, set())


def test_a_lease_directory_whose_file_system_is_not_mounted_is_not_joined(lab: Lab, one: Host) -> None:
    """Else a host that came up before its file server would have a lockspace of its own."""
    one.signal("vlhookd", signal.SIGTERM)
    one.stopped("vlhookd")
    fstab = one.dir / "etc/fstab"
    before = fstab.read_text() if fstab.exists() else ""
    fstab.write_text(f"{before}\nfiler:/export {LEASES} nfs hard,nofail 0 0\n")
    one.start_keeper()
    wait_for("the reason", lambda: "filer:/export" in str(one.status().get("membership")))
    assert one.vlhook("doctor", "lease-directory", check=False).returncode == 1
    assert "filer:/export" in one.vlhook("host-id", "--auto", check=False).stderr
    fstab.write_text(before)
    one.wait_joined()
