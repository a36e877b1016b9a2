# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live migrations that fail half-way: the guest runs once or not at all, and a third host never gets its leases."""

from __future__ import annotations

import signal
import subprocess

import pytest

from .domains import Guest, UnlockedGuest
from .host import Host
from .lab import Lab
from .migrations import (
    LIVE,
    SLOWLY,
    TO,
    alarms,
    assert_moved,
    assert_stayed,
    busy_guest,
    claimed,
    cut_at_the_switch,
    ended,
    hold_at_the_switch,
    in_background,
    leave_behind,
    migrate,
    rival,
    switch_to_post_copy,
)
from .waiting import wait_for

IO_TIMEOUT = 2
HOSTS = 3
GROUP = pytest.mark.xdist_group("guests-migration-failures")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]


# ------------------------------------------------------------------------- a program is killed while memory is sent


def test_a_destination_whose_qemu_is_killed_gives_the_claim_back(lab: Lab, one: Host, two: Host) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        two.kill_qemu(guest)
        ended(moving)
        assert_stayed(lab, guest)


def test_when_the_source_qemu_is_killed_the_guest_is_over_and_its_leases_free(lab: Lab, one: Host, two: Host) -> None:
    guest = busy_guest(lab, one)
    moving = in_background(lab, guest, *SLOWLY)
    one.kill_qemu(guest)
    ended(moving)
    lab.wait_held(one, set())
    lab.wait_held(two, set())
    assert (one.qemu(guest), two.qemu(guest)) == (0, 0)
    one.start(guest)
    lab.wait_held(one, guest.leases())


@pytest.mark.parametrize("side", [1, 2])
def test_a_libvirtd_that_is_killed_during_the_migration_loses_no_lease(lab: Lab, one: Host, side: int) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        lab.hosts[side - 1].stop_libvirtd(signal.SIGKILL)
        ended(moving)
        lab.assert_held(one, guest.leases())
        lab.hosts[side - 1].start_libvirtd()
        assert_stayed(lab, guest)


@pytest.mark.parametrize("side", [1, 2])
def test_a_keeper_that_is_restarted_during_the_migration_goes_on(lab: Lab, one: Host, side: int) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        lab.hosts[1].signal("libvirtd", signal.SIGSTOP)  # however fast the memory goes, the source stays
        host = lab.hosts[side - 1]
        host.kill_keeper()
        host.start_keeper()
        host.wait_joined()
        lab.wait_held(lab.hosts[1], claimed(guest))
        lab.wait_held(one, guest.leases())
        one.virsh("migrate-setmaxdowntime", guest.name, "20000", check=False)
        one.virsh("migrate-setspeed", guest.name, "1000", check=False)
        lab.hosts[1].signal("libvirtd", signal.SIGCONT)
        ended(moving)
        assert_moved(lab, guest)


# ------------------------------------------------------------------------------------ the source that is left behind


def test_a_source_that_is_left_behind_is_told_and_keeps_its_leases(lab: Lab, one: Host, two: Host) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        leave_behind(lab, guest)
        one.start_libvirtd()
        wait_for("the alarm", lambda: f"virsh destroy {guest.name}" in alarms(one))
        assert one.qemu(guest)
        lab.wait_held(one, guest.leases())
        lab.wait_held(two, claimed(guest))
        one.virsh("destroy", guest.name)
        assert_moved(lab, guest)
        wait_for("the end of the alarm", lambda: guest.name not in alarms(one))


def test_a_network_that_is_cut_before_the_switch_leaves_the_guest_where_it_is(lab: Lab, one: Host) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        one.run("ip link set eth0 down")
        ended(moving)
        one.run("ip link set eth0 up")
        assert_stayed(lab, guest)


def test_a_network_that_is_cut_at_the_switch_leaves_a_source_that_is_told(lab: Lab, one: Host, two: Host) -> None:
    """libvirt lets the source go on, and QEMU refuses: its own lock on the image is the destination's."""
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        cut_at_the_switch(lab, guest)
        assert (one.state(guest), two.state(guest)) == ("paused", "running")
        lab.wait_held(one, guest.leases())
        lab.wait_held(two, claimed(guest))
        end_it = f"runs on host 2 ({two.known_as}); end this one: virsh destroy {guest.name}"
        wait_for("the alarm", lambda: end_it in alarms(one))
        one.virsh("destroy", guest.name)
        assert_moved(lab, guest)


def test_a_source_that_goes_on_although_the_guest_runs_elsewhere_is_ended_at_once(
    lab: Lab, one: Host, two: Host
) -> None:
    """As before, without QEMU's own locks, which storage on other machines may not have. Nobody tells the keepers.

    And the guest has only just come to this host.
    """
    guest = busy_guest(lab, two, UnlockedGuest)
    assert migrate(lab, guest, "--unsafe", "--p2p", target=1).returncode == 0
    lab.wait_held(one, guest.leases())
    lab.wait_held(two, set())
    with rival(lab, guest):
        cut_at_the_switch(lab, guest)
        wait_for("the end of the source", lambda: not one.qemu(guest))
        assert_moved(lab, guest)
        assert f"guest {guest.name} was resumed here although it runs on host 2" in alarms(one)


# ------------------------------------------------------------------- the guest runs, and part of its memory is behind


def test_a_network_that_is_cut_during_post_copy_leaves_both_their_leases_until_the_memory_has_followed(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = switch_to_post_copy(lab, guest)
        one.run("ip link set eth0 down")
        ended(moving)
        lab.wait_held(one, guest.leases())
        lab.wait_held(two, claimed(guest))
        go_on = f"virsh migrate --postcopy-resume {guest.name}"
        wait_for("the alarm", lambda: go_on in alarms(one))
        assert (one.state(guest), one.qemu(guest) > 0) == ("paused", True)
        one.run("ip link set eth0 up")
        assert_moved(lab, guest)


def test_a_source_qemu_that_is_killed_during_post_copy_leaves_the_lost_guest_its_leases(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = switch_to_post_copy(lab, guest)
        one.kill_qemu(guest)
        said = ended(moving)  # libvirt may notice first that the guest is gone, or that its memory does not come
        assert "failed in post-copy phase" in said or "is not running" in said
        lost = ["domstate", guest.name, "--reason"]
        wait_for("the loss", lambda: "post-copy failed" in two.virsh(*lost).stdout)
        lab.wait_held(two, guest.leases())
        lab.wait_held(one, set())
        assert (one.qemu(guest), two.qemu(guest) > 0) == (0, True)
    two.kill_qemu(guest)
    lab.wait_held(two, set())


# ----------------------------------------------------------------------------- libvirtd is killed in the middle


def let_in_until(one: Host, two: Host, guest: Guest, operation: str) -> subprocess.Popen[str]:
    """A migration that waits in the second hook script at `operation`.

    Begun anew if libvirt refuses it: its daemons may not have got over the one before yet.
    """
    wait_for("the destination to forget the guest", lambda: guest.name not in two.guests())
    two.tell_second_script(operation, "block")
    tries = [one.spawn(["virsh", "-q", "migrate", *LIVE, guest.name, TO[2]])]

    def blocked() -> bool:
        if not two.is_blocked(operation) and tries[-1].poll() is not None:
            tries.append(one.spawn(["virsh", "-q", "migrate", *LIVE, guest.name, TO[2]]))
        return two.is_blocked(operation)

    wait_for(f"{operation} to block", blocked, every=0.5)
    return tries[-1]


@pytest.mark.parametrize("side", [1, 2])
def test_a_libvirtd_that_is_killed_while_the_guest_is_let_in_loses_no_lease(lab: Lab, one: Host, side: int) -> None:
    guest = lab.guest(one)
    one.start(guest)
    two, killed = lab.hosts[1], lab.hosts[side - 1]
    with rival(lab, guest):
        for operation in ("prepare", "started") if side == 1 else ("migrate", "prepare", "start", "started"):
            moving = let_in_until(one, two, guest, operation)
            killed.stop_libvirtd(signal.SIGKILL)
            two.forget_second_script()
            ended(moving)
            killed.start_libvirtd()
            assert_stayed(lab, guest)


@pytest.mark.parametrize("side", [1, 2])
def test_a_libvirtd_that_is_killed_at_the_switch_leaves_one_guest_at_the_most(
    lab: Lab, one: Host, two: Host, side: int
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        hold_at_the_switch(lab, guest)
        killed = lab.hosts[side - 1]
        killed.signal("libvirtd", signal.SIGKILL)
        killed.stopped("libvirtd")
        two.signal("libvirtd", signal.SIGCONT) if side == 1 else None
        ended(moving)
        killed.run("rm -f /run/libvirtd.pid")
        killed.start_libvirtd()
        states = [host.virsh("domstate", guest.name, check=False).stdout.strip() for host in (one, two)]
        print(f"\nlibvirtd of h{side} killed at the switch: source {states[0]}, destination {states[1] or 'gone'}")
        assert states.count("running") <= 1, states
        lab.wait_held(one, guest.leases())
