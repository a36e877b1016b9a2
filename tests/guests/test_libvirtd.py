# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirtd is restarted or dies, with guests and in the middle of their starts and ends. No leak, no loss."""

from __future__ import annotations

import signal

import pytest

from .host import Host
from .lab import Lab
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-libvirtd")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_guests_keep_their_leases_over_a_restart(
    lab: Lab, one: Host, two: Host, number: signal.Signals
) -> None:
    guest, paused = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start(paused, "--paused")
    both, qemu = guest.leases() | paused.leases(), one.qemu(guest)
    one.stop_libvirtd(number)
    lab.assert_held(one, both)
    one.start_libvirtd()
    lab.assert_held(one, both)
    assert (one.qemu(guest), one.state(guest)) == (qemu, "running")
    assert "is in use by" in two.refused(guest)
    one.virsh("destroy", guest.name)
    lab.assert_held(one, paused.leases())


def test_a_guest_that_dies_while_libvirtd_is_down_gives_its_disks_back(
    lab: Lab, one: Host, two: Host
) -> None:
    guest, other = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start(other)
    one.stop_libvirtd(signal.SIGTERM)
    one.kill_qemu(guest)
    lab.wait_held(one, other.leases())
    two.start(guest)
    one.start_libvirtd()
    one.wait_state(guest, "shut off")
    lab.assert_held(one, other.leases())
    lab.assert_held(two, guest.leases())


@pytest.mark.parametrize("operation", ["prepare", "start"])
def test_killed_before_qemu_is_there_nothing_is_leaked(
    lab: Lab, one: Host, two: Host, operation: str
) -> None:
    guest, other = lab.guest(one, two), lab.guest(one)
    one.start(other)
    one.tell_second_script(operation, "block")
    client = one.spawn(["virsh", "start", guest.name])
    one.wait_blocked(operation)
    lab.assert_held(one, guest.leases() | other.leases())
    one.stop_libvirtd(signal.SIGKILL)
    one.forget_second_script()
    assert client.wait() != 0
    lab.wait_held(one, other.leases(), seconds=60)
    one.start_libvirtd()
    assert one.qemu(guest) == 0
    two.start(guest)
    lab.assert_held(two, guest.leases())
    lab.assert_held(one, other.leases())


@pytest.mark.parametrize("operation", ["prepare", "start"])
def test_a_start_right_after_the_crash_in_a_start_succeeds(lab: Lab, one: Host, operation: str) -> None:
    guest = lab.guest(one)
    one.tell_second_script(operation, "block")
    client = one.spawn(["virsh", "start", guest.name])
    one.wait_blocked(operation)
    one.stop_libvirtd(signal.SIGKILL)
    one.forget_second_script()
    client.wait()
    one.start_libvirtd()
    one.start(guest)
    lab.assert_held(one, guest.leases())


def test_killed_when_qemu_is_there_the_guest_keeps_its_leases(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.tell_second_script("started", "block")
    client = one.spawn(["virsh", "start", guest.name])
    one.wait_blocked("started")
    one.stop_libvirtd(signal.SIGKILL)
    one.forget_second_script()
    client.wait()
    qemu = one.qemu(guest)
    lab.assert_held(one, guest.leases())
    one.start_libvirtd()
    wait_for("libvirtd to know the guest", lambda: guest.name in one.virsh("list", "--name").stdout)
    lab.assert_held(one, guest.leases())
    assert one.qemu(guest) == qemu


@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_killed_during_the_end_of_a_guest_nothing_is_leaked(
    lab: Lab, one: Host, two: Host, operation: str
) -> None:
    guest, other = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start(other)
    one.tell_second_script(operation, "block")
    client = one.spawn(["virsh", "destroy", guest.name])
    one.wait_blocked(operation)
    one.stop_libvirtd(signal.SIGKILL)
    one.forget_second_script()
    client.wait()
    lab.wait_held(one, other.leases(), seconds=60)
    two.start(guest)
    one.start_libvirtd()
    one.wait_state(guest, "shut off")
    lab.assert_held(two, guest.leases())
    lab.assert_held(one, other.leases())


def test_the_end_of_a_guest_is_seen_although_release_hangs(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    one.tell_second_script("stopped", "block")
    client = one.spawn(["virsh", "destroy", guest.name])
    one.wait_blocked("stopped")
    lab.wait_held(one, set())
    two.start(guest)
    one.forget_second_script()
    assert client.wait() == 0
    lab.assert_held(two, guest.leases())


def test_after_a_power_failure_an_autostart_guest_starts_with_its_leases(
    lab: Lab, one: Host, two: Host
) -> None:
    guest, other = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start(other)
    one.virsh("autostart", guest.name)
    before = one.generation()
    one.end()
    assert "is in use by" in two.refused(guest)
    lab.start_host(one)
    lab.wait_held(one, guest.leases())
    assert one.generation() == before + 1
    assert "is in use by" in two.refused(guest)
