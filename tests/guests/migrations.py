# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations as they run, held where a test wants them, and a third host that tries for the leases meanwhile."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

from . import domains
from .domains import Guest
from .host import Host
from .lab import Lab
from .waiting import wait_for

TO = {number: f"qemu+tcp://h{number}/system" for number in (1, 2)}
LIVE = ("--live", "--unsafe", "--p2p")
SLOWLY = (*LIVE, "--bandwidth", "1")
"""With a guest that keeps writing to its memory this does not end."""
KEEPALIVES = 300
"""Bytes: libvirt's probes of a connection have 28, one in 5 seconds; what ends a migration has more."""
TRY_ON = """\
cd /run/test; tried=0
while [ ! -e over ] || [ $tried -lt 3 ]; do
    tried=$((tried + 1))
    /etc/libvirt/hooks/qemu.d/10-vlhook {name} prepare begin - < {xml} 2>> said && echo GOT IT
done
echo tried $tried
"""


class Rival:
    """A third host that tries to start the guest, by its real hook and keeper, without a pause."""

    def __init__(self, host: Host, guest: Guest, lab: Lab) -> None:
        self.host = host
        self.attempts = 0
        path = lab.shared / f"{guest.name}-rival.xml"
        path.write_text(Guest(guest.name, guest.disks).xml())
        self._process = host.spawn(["sh", "-c", TRY_ON.format(name=guest.name, xml=f"/srv/shared/{path.name}")])
        wait_for("the rival's first attempt", lambda: "in use by" in self._said())

    def _said(self) -> str:
        return self.host.run("cat /run/test/said", check=False).stdout

    def stop(self) -> None:
        """It must never have got the guest's leases."""
        self.host.run(": > /run/test/over")
        output, _ = self._process.communicate(timeout=60)
        assert "GOT IT" not in output, self._said()
        self.attempts = int(output.split()[-1])


@contextlib.contextmanager
def rival(lab: Lab, guest: Guest) -> Iterator[Rival]:
    trying = Rival(lab.hosts[2], guest, lab)
    try:
        yield trying
    finally:
        trying.stop()
    print(f"\n{guest.name}: the third host tried {trying.attempts} times")


def migrate(lab: Lab, guest: Guest, *options: str, target: int = 2) -> subprocess.CompletedProcess[str]:
    source = lab.hosts[2 - target]
    return source.virsh("migrate", *options, guest.name, TO[target], check=False)


def in_background(lab: Lab, guest: Guest, *options: str) -> subprocess.Popen[str]:
    """The migration as it runs, with the claim on disk and the guest's memory on its way."""
    lab.hosts[0].virsh("migrate-setmaxdowntime", guest.name, "1")
    words = ["virsh", "-q", "migrate", *options, guest.name, TO[2]]
    process = lab.hosts[0].spawn(words)
    wait_for("the claim", lambda: lab.held(lab.hosts[1]) == claimed(guest))
    wait_for("the stream", lambda: "active" in job(lab, guest))
    return process


def job(lab: Lab, guest: Guest) -> str:
    """'active' while memory is sent."""
    sent = lab.hosts[0].virsh("domjobinfo", guest.name, check=False).stdout
    return "active" if "Memory processed" in sent else ""


def ended(process: subprocess.Popen[str]) -> str:
    """What virsh said, once it has ended."""
    return process.communicate(timeout=120)[0]


def claimed(guest: Guest) -> set[tuple[str, str]]:
    return {(disk, "claimed") for disk in guest.disks} | {(disk, "shared") for disk in guest.shared}


def busy_guest(lab: Lab, host: Host, kind: type[Guest] = Guest) -> Guest:
    """A guest that never stops writing to its memory."""
    guest = lab.guest(host, kind_of_guest=kind, disks=[lab.image(domains.ACPI | domains.DIRTY | domains.WRITE)])
    host.start(guest)
    image = lab.outside(guest.disks[0])
    counter = slice(8 * 512, 9 * 512)
    wait_for("the guest to be past its BIOS", lambda: any(image.read_bytes()[counter]))
    return guest


def assert_moved(lab: Lab, guest: Guest, state: str = "running") -> None:
    one, two = lab.hosts[:2]
    lab.wait_held(two, guest.leases())
    lab.wait_held(one, set())
    assert (one.qemu(guest), two.qemu(guest) > 0) == (0, True)
    two.wait_state(guest, state)


def assert_stayed(lab: Lab, guest: Guest, state: str = "running") -> None:
    one, two = lab.hosts[:2]
    lab.wait_held(two, set())
    lab.wait_held(one, guest.leases())
    assert (one.qemu(guest) > 0, two.qemu(guest)) == (True, 0)
    one.wait_state(guest, state)


def hold_at_the_switch(lab: Lab, guest: Guest) -> None:
    """The source is paused, all of its memory sent; the destination's libvirtd stands still before it lets it run."""
    one, two = lab.hosts[:2]
    two.signal("libvirtd", signal.SIGSTOP)
    one.virsh("migrate-setmaxdowntime", guest.name, "20000")
    one.virsh("migrate-setspeed", guest.name, "1000")
    one.wait_state(guest, "paused")
    wait_for("the source's word that all is sent", lambda: unread(two) > KEEPALIVES)


def unread(host: Host) -> int:
    """Bytes that other hosts' libvirtds have sent and this one's, which is stopped, has not read."""
    sockets = host.run("ss -Htn 'sport = :16509'", check=False).stdout.splitlines()
    return max([int(line.split()[1]) for line in sockets], default=0)


def switch_to_post_copy(lab: Lab, guest: Guest) -> subprocess.Popen[str]:
    """The guest runs on the destination, and little by little its memory follows."""
    one, two = lab.hosts[:2]
    moving = in_background(lab, guest, *SLOWLY, "--postcopy", "--postcopy-bandwidth", "1")
    one.virsh("migrate-postcopy", guest.name)
    two.wait_state(guest, "running")
    return moving


def cut_at_the_switch(lab: Lab, guest: Guest) -> None:
    """The destination lets the guest run, and the source does not hear of it."""
    one, two = lab.hosts[:2]
    moving = in_background(lab, guest, *SLOWLY)
    hold_at_the_switch(lab, guest)
    one.run("ip link set eth0 down")
    two.signal("libvirtd", signal.SIGCONT)
    ended(moving)
    one.run("ip link set eth0 up")


def leave_behind(lab: Lab, guest: Guest) -> None:
    """libvirtd of the source is killed after the switch: a paused QEMU stays there."""
    one, two = lab.hosts[:2]
    moving = in_background(lab, guest, *SLOWLY)
    hold_at_the_switch(lab, guest)
    one.signal("libvirtd", signal.SIGSTOP)
    two.signal("libvirtd", signal.SIGCONT)
    two.wait_state(guest, "running")
    one.signal("libvirtd", signal.SIGKILL)
    one.stopped("libvirtd")
    one.run("rm -f /run/libvirtd.pid")
    ended(moving)


def alarms(host: Host) -> str:
    return " ".join(host.status().get("alarms", []))
