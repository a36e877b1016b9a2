# SPDX-License-Identifier: LGPL-2.1-or-later
"""A mixed network of real guests: on hosts 1 and 2 the sanlock daemon takes the leases for vlhook, on host 3 vlhook
itself, on host 4 libvirt's sanlock plugin.

The guests have QEMUs without its own locks of images, or those would answer before libvirt's plugin does.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator

import pytest

from tests import needs
from vlhook.leases.names import lease_name

from .domains import Guest, UnlockedGuest
from .host import SHARED, Host
from .lab import Lab
from .pluginhost import PluginHost
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-sanlock-engine")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.sanlock, pytest.mark.slow, GROUP]
IO_TIMEOUT = 2
P2P = ("migrate", "--live", "--unsafe", "--p2p")
TRY_ON = """\
mkdir -p /run/rival; cd /run/rival; rm -f *; tried=0
while [ ! -e over ] || [ $tried -lt 2 ]; do
    tried=$((tried + 1))
    virsh -q start {name} 2>> said && echo GOT IT
done
echo tried $tried
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    needs.require_root()
    needs.require_programs("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "sanlock")
    needs.require_programs("ip", "nsenter", "unshare", "pgrep")
    base = tmp_path_factory.mktemp("mixed")
    capabilities = tmp_path_factory.getbasetemp() / "capabilities"
    lab = Lab(base, capabilities, 3, IO_TIMEOUT, engines=["sanlock", "sanlock"])
    try:
        lab.up()
        lab.add(PluginHost(base, 4, lab.shared, capabilities, IO_TIMEOUT))
        for host in lab.hosts[:3]:
            wait_for(f"{host.name} to see all alive", lambda h=host: h.sees_alive() == {1, 2, 3, 4})
        assert [host.status()["engine"] for host in lab.hosts[:3]] == ["sanlock", "sanlock", "native"]
        yield lab
    finally:
        lab.down()
        shutil.rmtree(base)


@pytest.fixture
def lab(mixed: Lab) -> Iterator[Lab]:
    """Afterwards it must be without guests and leases again."""
    yield mixed
    for host in mixed.hosts:
        host.remove_guests()
    for host in mixed.hosts[:3]:
        mixed.wait_held(host, set())
    wait_free(mixed)


def wait_free(lab: Lab) -> None:
    wait_for("all leases to be free", lambda: not any(lab.on_disk().values()))
    for host in lab.hosts[:2]:
        assert host.sanlock_leases() == set()


def web(lab: Lab, *hosts: Host, disks: int = 1, **options: object) -> Guest:
    return lab.guest(*hosts, kind_of_guest=UnlockedGuest, disks=[lab.image() for _ in range(disks)], **options)


def with_disks_of(lab: Lab, guest: Guest, *hosts: Host) -> Guest:
    return lab.guest(*hosts, kind_of_guest=UnlockedGuest, disks=guest.disks)


def names(guest: Guest) -> set[str]:
    return {lease_name(disk.encode()) for disk in (*guest.disks, *guest.shared)}


def by_daemon(host: Host) -> set[str]:
    """The leases that the daemon holds for the keeper that runs."""
    return {name for name, pid in host.sanlock_leases() if pid == host.pid("vlhookd")}


def assert_in_use(refused: str, guest: Guest, where: str) -> None:
    assert f"is in use by guest {guest.name}" in refused, refused
    assert f"on host {where}" in refused, refused


# ------------------------------------------------------------------------------------------------ a guest's life


def test_a_guest_of_nine_disks_is_protected_through_its_life(lab: Lab) -> None:
    """More disks than libvirt's plugin takes. The keeper, then libvirtd, are killed under it; it is saved."""
    one, two, native, _ = lab.hosts
    guest = web(lab, one, two, native, disks=8, shared=[lab.image()])
    one.start(guest)
    lab.assert_held(one, guest.leases())
    taken = by_daemon(one)  # a disk may have a second lease, of what it is to this host
    assert taken >= names(guest)
    for host in (two, native):
        said = host.refused(guest)
        assert_in_use(said, guest, "1 (s1)")
        assert "exclusively, which is alive; stop the guest there first" in said
    before = (one.generation(), one.qemu(guest))

    one.kill_keeper()
    assert_in_use(two.refused(guest), guest, "1 (s1)")
    one.start_keeper()
    one.wait_joined()
    lab.wait_held(one, guest.leases())
    wait_for("the daemon's leases to be the new keeper's", lambda: by_daemon(one) == taken)

    one.stop_libvirtd(signal.SIGKILL)
    lab.assert_held(one, guest.leases())
    one.start_libvirtd()
    assert (one.generation(), one.qemu(guest)) == before
    assert one.state(guest) == "running"
    lab.assert_held(one, guest.leases())

    one.virsh("save", guest.name, f"{SHARED}/saved")
    lab.assert_held(one, set())
    assert by_daemon(one) == set()
    two.virsh("restore", f"{SHARED}/saved")
    lab.assert_held(two, guest.leases())
    assert_in_use(one.refused(guest), guest, "2 (s2)")
    two.virsh("destroy", guest.name)
    native.start(guest)
    lab.assert_held(native, guest.leases())
    assert_in_use(two.refused(guest), guest, "3 (h3)")
    native.kill_qemu(guest)
    lab.wait_held(native, set())
    two.start(guest)
    two.kill_qemu(guest)
    lab.wait_held(two, set())


# ------------------------------------------------------------------------------------------------ migration


@contextlib.contextmanager
def rivals(lab: Lab, guest: Guest, *hosts: Host) -> Iterator[None]:
    """Guests with its disks that are started on these hosts again and again, and must never run."""
    trying = []
    for host in hosts:
        other = with_disks_of(lab, guest, host)
        trying.append((host, host.spawn(["sh", "-c", TRY_ON.format(name=other.name)])))
    try:
        for host, _ in trying:
            wait_for("its first attempt", lambda h=host: h.run("cat /run/rival/said", check=False).stdout)
        yield
    finally:
        for host, process in trying:
            host.run(": > /run/rival/over")
            output, _ = process.communicate(timeout=60)
            print(f"\n{host.name} {output.splitlines()[-1]} times")
            assert "GOT IT" not in output


def modes(host: Host, guest: Guest) -> set[str]:
    """By the words of its keeper."""
    return {lease["mode"] for lease in host.told(guest).get("leases", []) if lease["kind"] != "identity"}


def test_a_guest_migrates_between_hosts_of_either_engine_and_nobody_gets_between(lab: Lab) -> None:
    """At last the daemon takes over what came in, by the next keeper's word, and gives it back to go on."""
    one, two, native, plugin = lab.hosts
    guest = web(lab, one, disks=2)
    one.start(guest)

    def move(source: Host, target: Host) -> None:
        ran = source.virsh(*P2P, guest.name, f"qemu+tcp://{target.name}/system", check=False)
        assert ran.returncode == 0, ran.stderr
        lab.wait_held(target, guest.leases())
        lab.wait_held(source, set())
        assert (target.state(guest), source.qemu(guest)) == ("running", 0)

    with rivals(lab, guest, plugin):
        for partner, third in ((two, native), (native, two)):
            with rivals(lab, guest, third):
                move(one, partner)
                move(partner, one)
        before = (one.generation(), one.qemu(guest))
        assert (modes(one, guest), by_daemon(one) & names(guest)) == ({"claimed"}, set())
        with rivals(lab, guest, two):
            one.restart_keeper("tests.guests.eagerkeeper")
            one.wait_joined()
            wait_for("the daemon to have them", lambda: by_daemon(one) >= names(guest))
            wait_for("the keeper to say so", lambda: modes(one, guest) == {"exclusive"})
            lab.assert_held(one, guest.leases())
            one.restart_keeper()
            one.wait_joined()
            wait_for("its successor to have them", lambda: by_daemon(one) >= names(guest))
            lab.wait_held(one, guest.leases())
            assert (one.generation(), one.qemu(guest)) == before
            move(one, native)
    native.virsh("destroy", guest.name)
    wait_free(lab)


# ------------------------------------------------------------------------------------------------ the daemon's end


def test_a_daemon_that_dies_ends_its_hosts_guests_with_leases_and_the_host_comes_back(lab: Lab) -> None:
    one, two, native, _ = lab.hosts
    guest, elsewhere = web(lab, one, two), web(lab, native)
    diskless = lab.guest(one, disks=[])
    for host, who in ((one, guest), (one, diskless), (native, elsewhere)):
        host.start(who)
    before = one.generation()
    one.signal("sanlock", signal.SIGKILL)
    wait_for("the guest's end", lambda: not one.qemu(guest))
    one.stopped("sanlock")
    assert "sanlock" in one.refused(web(lab, one))
    assert_in_use(two.refused(guest), guest, "1 (s1)")
    one.start_sanlock()
    one.wait_joined()
    assert one.generation() == before + 1
    one.start(guest)
    lab.assert_held(one, guest.leases())
    assert (one.state(diskless), native.state(elsewhere)) == ("running", "running")
