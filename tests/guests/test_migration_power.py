# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live migrations whose hosts lose power: the guest runs once or not at all, and a third host never gets its leases."""

from __future__ import annotations

import pytest

from .host import Host
from .lab import Lab
from .migrations import (
    SLOWLY,
    alarms,
    assert_moved,
    assert_stayed,
    busy_guest,
    claimed,
    ended,
    in_background,
    leave_behind,
    rival,
)
from .waiting import wait_for

IO_TIMEOUT = 2
HOSTS = 3
GROUP = pytest.mark.xdist_group("guests-migration-power")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]


def test_a_source_host_that_loses_power_before_the_switch_ends_the_guest_everywhere(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        one.end()
        ended(moving)
        wait_for("the end of what came in", lambda: not two.qemu(guest))
        lab.wait_held(two, set())
    two.define(guest)
    assert f"is in use by guest {guest.name}" in two.refused(guest)
    lab.start_host(one)
    lab.connect_again()
    lab.wait_held(two, set())
    two.start(guest)
    lab.assert_held(two, guest.leases())
    lab.assert_held(one, set())


def test_a_destination_host_that_loses_power_before_the_switch_leaves_the_guest_where_it_is(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        two.end()
        ended(moving)
        one.wait_state(guest, "running")
        lab.wait_held(one, guest.leases())
        lab.start_host(two)
        lab.connect_again()
        assert_stayed(lab, guest)
    one.virsh("destroy", guest.name)
    lab.wait_held(one, set())
    one.start(guest)  # what the dead host had claimed is nobody's
    lab.assert_held(one, guest.leases())


def test_a_source_host_that_loses_power_after_the_switch_leaves_the_guest_its_leases(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        leave_behind(lab, guest)
        one.end()
        assert two.state(guest) == "running"
        lab.wait_held(two, claimed(guest))
        lab.start_host(one)  # it comes back as another generation: what it held is nobody's
        lab.connect_again()
        assert_moved(lab, guest)


def test_a_source_may_be_resumed_when_its_destination_has_lost_power_after_the_switch_and_is_back(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        leave_behind(lab, guest)
        one.start_libvirtd()
        wait_for("the alarm", lambda: "runs on host 2" in alarms(one))
        two.end()
        lab.wait_held(one, guest.leases())
        lab.start_host(two)
        lab.connect_again()
        wait_for("the end of the alarm", lambda: guest.name not in alarms(one))
        one.virsh("resume", guest.name)
        assert_stayed(lab, guest)
