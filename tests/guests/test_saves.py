# SPDX-License-Identifier: LGPL-2.1-or-later
"""Save, managed save, restore, revert: a guest leaves its disks and comes back, here or elsewhere."""

from __future__ import annotations

import pytest

from .host import Host
from .lab import Lab

GROUP = pytest.mark.xdist_group("guests-saves")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]
FILE = "/srv/shared/saved"


def test_a_saved_guest_holds_nothing_and_is_restored_on_another_host(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    one.virsh("save", guest.name, FILE)
    lab.assert_held(one, set())
    two.virsh("restore", FILE)
    lab.assert_held(two, guest.leases())
    assert two.state(guest) == "running"
    lab.assert_held(one, set())


def test_a_restore_is_refused_while_the_guest_runs_elsewhere(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    one.virsh("save", guest.name, FILE)
    two.start(guest)
    said = one.refused(guest, "restore", FILE)
    assert f"is in use by guest {guest.name}" in said
    assert f"on host 2 ({two.known_as})" in said
    lab.assert_held(two, guest.leases())
    lab.wait_held(one, set())
    two.virsh("destroy", guest.name)
    one.virsh("restore", FILE)
    lab.assert_held(one, guest.leases())


def test_a_managed_save_gives_the_leases_back_and_the_next_start_takes_them(
    lab: Lab, one: Host, two: Host
) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    one.virsh("managedsave", guest.name)
    lab.assert_held(one, set())
    two.start(guest)
    assert "is in use by" in one.refused(guest)
    lab.assert_held(two, guest.leases())
    two.virsh("destroy", guest.name)
    one.start(guest)
    lab.assert_held(one, guest.leases())
    assert one.state(guest) == "running"


def test_a_restore_that_another_script_refuses_leaves_nothing_held(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    one.virsh("save", guest.name, FILE)
    for operation in ("restore", "prepare"):
        one.tell_second_script(operation, "fail")
        one.refused(guest, "restore", FILE)
        lab.wait_held(one, set())
        one.forget_second_script()


def test_reverting_a_running_guest_leaves_its_leases_held(lab: Lab, one: Host) -> None:
    guest = lab.guest(one, kind="qcow2")
    one.start(guest)
    one.virsh("snapshot-create-as", guest.name, "before")
    lab.assert_held(one, guest.leases())
    one.virsh("snapshot-revert", guest.name, "before", "--force")
    lab.assert_held(one, guest.leases())
    assert one.state(guest) == "running"
    one.virsh("destroy", guest.name)
    lab.assert_held(one, set())


def test_a_revert_is_refused_while_the_guest_runs_elsewhere(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two, kind="qcow2")
    one.start(guest)
    one.virsh("snapshot-create-as", guest.name, "before")
    one.virsh("destroy", guest.name)
    two.start(guest)
    assert "is in use by" in one.refused(guest, "snapshot-revert", guest.name, "before")
    lab.wait_held(one, set())
    lab.assert_held(two, guest.leases())
