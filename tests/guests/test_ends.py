# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a guest ends, and what only looks like an end."""

from __future__ import annotations

import signal

import pytest

from tests import needs

from . import domains
from .host import Host
from .lab import Lab
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-ends")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]


TPM = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"


def shut_down(host: Host, name: str) -> None:
    # A guest that has not come so far ignores the button; asking again does no harm.
    def ended() -> bool:
        return host.virsh("shutdown", name, check=False).returncode != 0

    wait_for(f"{name} to power off", ended, every=0.5)


@pytest.mark.parametrize("way", ["destroy", "destroy --graceful", "shutdown", "KILL", "SEGV", "TERM"])
def test_after_its_end_a_guest_holds_nothing_and_starts_on_another_host(
    lab: Lab, one: Host, two: Host, way: str
) -> None:
    guest, other = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start(other)
    if way.startswith("destroy"):
        one.virsh("destroy", guest.name, *way.split()[1:])
        lab.assert_held(one, other.leases())
    elif way == "shutdown":
        shut_down(one, guest.name)
    else:
        one.run(["kill", f"-{way}", str(one.qemu(guest))])
    lab.wait_held(one, other.leases())
    one.wait_state(guest, "shut off")
    two.start(guest)
    lab.assert_held(two, guest.leases())
    lab.assert_held(one, other.leases())


def test_a_guest_that_powers_itself_off_gives_its_disks_back(lab: Lab, one: Host) -> None:
    guest = lab.guest(one, disks=[lab.image(domains.OFF, 1)])
    one.start(guest)
    lab.wait_held(one, set())
    one.wait_state(guest, "shut off")


def test_a_paused_qemu_that_is_killed_gives_its_disks_back(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    one.virsh("suspend", guest.name)
    lab.assert_held(one, guest.leases())
    one.kill_qemu(guest)
    lab.wait_held(one, set())


def test_a_suspended_guest_keeps_its_leases(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    qemu = one.qemu(guest)
    one.virsh("suspend", guest.name)
    lab.assert_held(one, guest.leases())
    assert "is in use by" in two.refused(guest)
    one.virsh("resume", guest.name)
    lab.assert_held(one, guest.leases())
    assert (one.qemu(guest), one.state(guest)) == (qemu, "running")


def test_a_reset_and_a_reboot_keep_the_leases(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    qemu = one.qemu(guest)
    for command in ("reset", "reboot"):
        one.virsh(command, guest.name)
        lab.assert_held(one, guest.leases())
    assert one.qemu(guest) == qemu


@pytest.mark.parametrize("what", ["resets itself", "powers off to restart", "panics and is preserved"])
def test_what_the_guest_does_without_ending_keeps_the_leases(lab: Lab, one: Host, what: str) -> None:
    does, outside = {
        "resets itself": (domains.RESET, ""),
        "powers off to restart": (domains.OFF, "<on_poweroff>restart</on_poweroff>"),
        "panics and is preserved": (domains.PANIC, "<on_crash>preserve</on_crash>"),
    }[what]
    guest = lab.guest(one, disks=[lab.image(does, 1)], outside=outside)
    one.start(guest)
    qemu = one.qemu(guest)
    if does == domains.PANIC:
        one.wait_state(guest, "crashed")
    else:
        # It does it again and again: one is seen, however late the listener is.
        one.virsh("event", guest.name, "--event", "reboot", "--timeout", "60")
        one.wait_state(guest, "running")
    lab.assert_held(one, guest.leases())
    assert one.qemu(guest) == qemu
    one.virsh("destroy", guest.name)
    lab.assert_held(one, set())


def test_a_guest_with_a_tpm_keeps_the_lease_on_its_state_while_the_emulator_lives(
    lab: Lab, one: Host, two: Host
) -> None:
    needs.require_programs("swtpm", "swtpm_setup")
    guest = lab.guest(one, two, devices=TPM)
    state = (f"/var/lib/libvirt/swtpm/{guest.uuid}", "exclusive")
    one.start(guest)
    lab.assert_held(one, guest.leases() | {state})
    (lab.shared / "same-tpm.xml").write_text(guest.xml().replace(guest.disks[0], lab.image()))
    assert f"{state[0]} is in use by guest {guest.name}" in two.refused(guest, "create", "/srv/shared/same-tpm.xml")
    # Alone it would end with its QEMU, or by libvirtd.
    [emulator] = one.run(["pgrep", "-x", "swtpm"]).stdout.split()
    one.run(["kill", "-STOP", emulator])
    one.stop_libvirtd(signal.SIGKILL)
    one.kill_qemu(guest)
    kept = f"(swtpm) still has the TPM state {state[0]}"
    wait_for("the alarm", lambda: any(kept in alarm for alarm in one.status()["alarms"]))
    assert state in (lab.held(one) or set())
    assert "is in use by" in two.refused(guest)
    one.run(["kill", "-KILL", emulator])
    lab.wait_held(one, set())
    one.start_libvirtd()
    two.start(guest)
    lab.assert_held(two, guest.leases() | {state})
