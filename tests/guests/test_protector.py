# SPDX-License-Identifier: LGPL-2.1-or-later
"""lock_manager is changed under running guests: each keeps its protector, at no moment none, at no moment two.

With the sanlock engine one daemon has the leases of both protectors, so guests of both run side by side, and each
changes at its own next start. The native engine does not run beside a daemon that has the lockspace: there the host
changes when its last guest has ended.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from vlhook.leases.errors import LeaseError
from vlhook.leases.names import lease_name

from .domains import Guest, UnlockedGuest
from .host import PYTHON, Host
from .lab import Lab
from .waiting import wait_for

IO_TIMEOUT = 2
pytestmark = [
    pytest.mark.root, pytest.mark.libvirt, pytest.mark.sanlock, pytest.mark.slow,
    pytest.mark.xdist_group("guests-protector"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def back_to_vlhook(lab: Lab, one: Host) -> Iterator[None]:
    """Whatever a test has set, afterwards the host protects itself again."""
    yield
    one.forget_second_script()
    one.remove_guests()
    kept = one.dir / "etc/libvirt/kept"
    for name in ("qemu.conf", "qemu-sanlock.conf"):
        if (kept / name).exists():
            (one.dir / "etc/libvirt" / name).write_text((kept / name).read_text())
    if "libvirtd" in one._pids and one.running("libvirtd"):
        one.restart_libvirtd()
    else:
        one.start_libvirtd()
    if one.engine == "sanlock":
        start_daemon(one)
    elif "sanlock" in one._pids and one.running("sanlock"):
        one.run(["sanlock", "client", "shutdown", "-f", "1", "-w", "1"], check=False)
        one.stopped("sanlock")
    if not one.running("vlhookd"):
        one.start_keeper()
    one.restart_keeper()
    one.wait_joined()


def keep_settings(host: Host) -> None:
    kept = host.dir / "etc/libvirt/kept"
    kept.mkdir(exist_ok=True)
    for name in ("qemu.conf", "qemu-sanlock.conf"):
        if not (kept / name).exists():
            (kept / name).write_text((host.dir / "etc/libvirt" / name).read_text())


def configure(host: Host, **values: object) -> None:
    keep_settings(host)
    for name, value in values.items():
        host.vlhook("config", "set", name, str(value))


def wait_member(host: Host, state: str) -> None:
    def there() -> bool:
        report = host.status()
        return bool(report and report["membership"]["state"] == state)

    wait_for(f"{host.name} to be {state}", there)


def wait_running(host: Host, guest: Guest) -> None:
    """Until the keeper has found the guest's QEMU."""
    wait_for(f"{guest.name} to be found", lambda: host.told(guest).get("phase") == "running")


def start_daemon(host: Host) -> None:
    """The sanlock daemon, which runs already on a host with that engine."""
    if "sanlock" not in host._pids or not host.running("sanlock"):
        host.start_sanlock()


def use_plugin(host: Host) -> None:
    """From a host without guests that vlhook protects to one that libvirt's plugin protects."""
    start_daemon(host)
    configure(host, auto_disk_leases=1, lock_manager="sanlock")
    host.restart_keeper()
    wait_member(host, "aside")
    host.restart_libvirtd()
    assert host.sanlock_spaces() == {"__LIBVIRT__DISKS__"}


def holders(host: Host, guest: Guest) -> list[str]:
    """Who holds the guest's one disk on this host: vlhook, sanlock (for its very QEMU), none or both."""
    name = lease_name(guest.disks[0].encode())
    by_daemon = {pid for lease, pid in host.sanlock_leases() if lease == name}
    found = ["sanlock"] if host.qemu(guest) in by_daemon else []
    report = host.status()
    if report and any(lease["lease"] == name for row in report["guests"] for lease in row["leases"]):
        found.append("vlhook")
        assert host.engine == "native" or host.pid("vlhookd") in by_daemon
    return found


@contextmanager
def always_protected(lab: Lab, host: Host, rival: Host, guest: Guest) -> Iterator[None]:
    """While the guest runs: on disk one host owns its disk at every look, and a rival never gets it."""
    over = threading.Event()
    looks, wrong = [0], []
    name = lease_name(guest.disks[0].encode())

    def watch() -> None:
        while not over.is_set():
            with suppress(LeaseError):  # a record that is just being written
                owners = lab.on_disk().get(name, set())
                looks[0] += 1
                if {(owner[0], owner[2]) for owner in owners} != {(host.number, "exclusive")}:
                    wrong.append(f"on disk it is owned by {owners}")
            over.wait(0.02)

    def contend() -> None:
        while not over.is_set():
            ran = rival.virsh("start", guest.name, check=False)
            if ran.returncode == 0:
                wrong.append("the rival has started it")
                return
            if "is in use by" not in ran.stderr:
                wrong.append(f"the rival was refused for another reason: {ran.stderr}")
            over.wait(0.3)

    threads = [threading.Thread(target=act) for act in (watch, contend)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
    assert looks[0] > 0


@pytest.mark.engines("native")
def test_from_vlhook_to_the_plugin_and_back_with_guests_that_run_on(lab: Lab, one: Host, two: Host) -> None:
    guest, later = lab.guest(one, two), lab.guest(one)
    one.start(guest)
    one.start_sanlock()
    with always_protected(lab, one, two, guest):
        configure(one, auto_disk_leases=1, lock_manager="sanlock")
        one.restart_keeper()
        one.wait_joined()
        assert "the running libvirtd" in one.refused(later)
        one.restart_libvirtd()  # its plugin cannot join while vlhook is there for the guest
        assert "has not joined lockspace __LIBVIRT__DISKS__" in one.refused(later)
        assert one.state(guest) == "running"
        assert holders(one, guest) == ["vlhook"]
        assert one.told(guest)["protector"] == "vlhook"
    one.virsh("destroy", guest.name)
    wait_member(one, "aside")
    one.restart_libvirtd()
    one.start(guest)
    with always_protected(lab, one, two, guest):
        wait_running(one, guest)
        assert holders(one, guest) == ["sanlock"]
        assert one.told(guest)["protector"] == "sanlock"
        assert one.vlhook("status").returncode == 0
        one.vlhook("config", "set", "lock_manager", "nop")
        one.start(later)  # the running libvirtd still has the plugin
        wait_running(one, later)
        assert holders(one, later) == ["sanlock"]
        one.virsh("destroy", later.name)
        one.restart_libvirtd()
        assert "the sanlock daemon of this host" in one.refused(later)
        assert one.state(guest) == "running"
        assert holders(one, guest) == ["sanlock"]
    one.virsh("destroy", guest.name)
    one.wait_joined()
    assert one.sanlock_spaces() == set()
    one.start(guest)
    with always_protected(lab, one, two, guest):
        one.start(later)
        assert holders(one, guest) == holders(one, later) == ["vlhook"]


@pytest.mark.engines("sanlock")
def test_guest_by_guest_from_vlhook_to_the_plugin_and_back(lab: Lab, one: Host, two: Host) -> None:
    staying, moving = lab.guest(one, two), lab.guest(one, two)
    second = lab.guest(one, disks=staying.disks, kind_of_guest=UnlockedGuest)  # else QEMU's own lock would answer

    def has_moved(protector: str) -> None:
        """Both run, the one that moved with another protector, also after the keeper's next life."""
        former = {"sanlock": "vlhook", "vlhook": "sanlock"}[protector]
        with always_protected(lab, one, two, moving):
            for _ in range(2):
                wait_running(one, moving)
                assert (holders(one, staying), holders(one, moving)) == ([former], [protector])
                assert (one.told(staying)["protector"], one.told(moving)["protector"]) == (former, protector)
                one.restart_keeper()
                one.wait_joined()

    one.start(staying)
    one.start(moving)
    with always_protected(lab, one, two, staying):
        configure(one, auto_disk_leases=1, lock_manager="sanlock")
        one.restart_keeper()
        one.wait_joined()
        one.virsh("destroy", moving.name)
        assert "the running libvirtd" in one.refused(moving)
        one.restart_libvirtd()
        one.start(moving)
        has_moved("sanlock")
        assert "Failed to acquire lock" in one.refused(second)
        one.virsh("destroy", moving.name)
    one.virsh("destroy", staying.name)
    wait_member(one, "aside")
    one.start(staying)
    one.start(moving)
    with always_protected(lab, one, two, staying):
        assert holders(one, staying) == holders(one, moving) == ["sanlock"]
        one.vlhook("config", "set", "lock_manager", "nop")
        one.wait_joined()
        one.virsh("destroy", moving.name)
        one.restart_libvirtd()
        one.start(moving)
        has_moved("vlhook")
        assert f"with pid {one.qemu(staying)}, which has it from sanlock directly" in one.refused(second)
    one.virsh("destroy", staying.name)
    one.start(staying)
    assert holders(one, staying) == holders(one, moving) == ["vlhook"]


def test_the_plugins_guest_survives_the_keeper_and_is_refused_elsewhere(lab: Lab, one: Host, two: Host) -> None:
    use_plugin(one)
    guest = lab.guest(one, two)
    one.start(guest)
    wait_running(one, guest)
    with always_protected(lab, one, two, guest):
        one.restart_keeper()
        wait_member(one, "aside")
        wait_for("the guest to be listed again", lambda: one.told(guest).get("protector") == "sanlock")
        assert one.state(guest) == "running"
    one.virsh("destroy", guest.name)
    wait_for("the guest to be forgotten", lambda: not one.told(guest))
    wait_for("the lease that the plugin gave back", lambda: two.virsh("start", guest.name, check=False).returncode == 0)
    assert one.refused(guest)


def test_a_guest_that_starts_paused_or_is_suspended_is_the_plugins_to_protect(lab: Lab, one: Host) -> None:
    """The plugin holds leases only while the CPUs run; that is not a reason to end the guest."""
    use_plugin(one)
    guest = lab.guest(one)
    one.start(guest, "--paused")
    wait_running(one, guest)
    assert one.told(guest)["protector"] == "nobody"
    assert "NOT HELD" in one.vlhook("status").stdout
    one.virsh("resume", guest.name)
    assert one.told(guest)["protector"] == "sanlock"
    one.virsh("suspend", guest.name)
    assert one.told(guest)["protector"] == "nobody"
    assert one.status()["alarms"] == []
    one.virsh("resume", guest.name)
    assert holders(one, guest) == ["sanlock"]


def test_a_suspended_guest_that_lost_its_plugin_raises_an_alarm_and_can_be_adopted(
    lab: Lab, one: Host, two: Host
) -> None:
    use_plugin(one)
    guest = lab.guest(one, two)
    one.start(guest)
    one.virsh("suspend", guest.name)
    one.vlhook("config", "set", "lock_manager", "nop")
    one.restart_libvirtd()
    alarm = wait_for("the alarm", lambda: [text for text in one.status().get("alarms", []) if guest.name in text])
    assert f"vlhook adopt {guest.name}" in alarm[0]
    one.wait_joined()
    assert "is protected now" in one.vlhook("adopt", guest.name).stdout
    assert one.told(guest)["protector"] == "vlhook"
    one.virsh("resume", guest.name)
    assert "is in use by" in two.refused(guest)
    wait_for("the alarm to end", lambda: one.status().get("alarms") == [])
    assert len(one.status()["guests"]) == 1


# ------------------------------------------------------------------------------------ refusals


def test_without_the_sanlock_daemon_a_guest_of_the_plugin_is_refused(lab: Lab, one: Host) -> None:
    use_plugin(one)
    guest = lab.guest(one)
    one.run(["sanlock", "client", "shutdown", "-f", "1", "-w", "1"])
    one.stopped("sanlock")
    said = one.refused(guest)
    assert "the sanlock daemon does not answer" in said
    assert "systemctl status sanlock" in said
    assert one.qemu(guest) == 0


def test_a_disk_that_the_plugin_does_not_lock_refuses_the_start_with_the_reason(lab: Lab, one: Host) -> None:
    use_plugin(one)
    disk = (
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='export'>"
        "<host name='127.0.0.1' port='10809'/></source><target dev='vdz' bus='virtio'/></disk>"
    )
    guest = lab.guest(one, devices=disk)
    said = one.refused(guest)
    assert "gets no lease: libvirt's sanlock plugin takes none for it, and vlhook cannot" in said
    assert "disk nbd://" in said


def test_a_lockspace_in_another_directory_is_not_taken_for_ours(lab: Lab, one: Host) -> None:
    use_plugin(one)
    guest = lab.guest(one)
    configure(one, disk_lease_dir="/srv/shared/images")
    one.restart_keeper()
    wait_member(one, "aside")
    said = one.refused(guest)
    assert "/srv/shared/leases/__LIBVIRT__DISKS__, and disk_lease_dir is /srv/shared/images" in said


def test_a_plugin_that_did_not_take_the_leases_is_found_out_at_started(lab: Lab, one: Host) -> None:
    """libvirtd loaded the plugin before it was told to take disks; everything that can be seen looks right."""
    start_daemon(one)
    configure(one, lock_manager="sanlock", auto_disk_leases=0, require_lease_for_disks=0)
    one.restart_libvirtd()
    configure(one, auto_disk_leases=1)
    one.restart_keeper()
    wait_member(one, "aside")
    space = "__LIBVIRT__DISKS__:1:/srv/shared/leases/__LIBVIRT__DISKS__:0"
    if not one.sanlock_spaces():
        one.run(["sanlock", "client", "add_lockspace", "-s", space])
    guest = lab.guest(one)
    said = one.refused(guest)
    assert f"libvirt's sanlock plugin holds no lease for disk {guest.disks[0]}" in said
    wait_for("its QEMU to end", lambda: one.qemu(guest) == 0)
    wait_for("it to be forgotten", lambda: not one.told(guest))


def test_without_an_answer_at_started_a_guest_of_the_plugin_does_not_run(lab: Lab, one: Host) -> None:
    use_plugin(one)
    guest = lab.guest(one)
    one.tell_second_script("start", "block")
    client = one.spawn(["virsh", "start", guest.name])
    one.wait_blocked("start")
    one.kill_keeper()
    one.forget_second_script()
    assert client.wait() != 0
    assert client.stdout
    assert "no answer from vlhookd" in client.stdout.read()
    assert one.qemu(guest) == 0
    one.start_keeper()
    wait_member(one, "aside")
    one.start(guest)
    assert holders(one, guest) == ["sanlock"]


# -------------------------------------------------------------------------------- lease by lease


def test_where_the_plugin_takes_only_lease_elements_vlhook_takes_the_disks(lab: Lab, one: Host, two: Host) -> None:
    start_daemon(one)
    configure(one, lock_manager="sanlock")
    one.restart_libvirtd()
    area = lab.shared / "images" / "space"
    lease = (
        "<lease><lockspace>theirs</lockspace><key>k</key><target path='/srv/shared/images/key'/></lease>"
    )
    for path in (area, lab.shared / "images" / "key"):
        path.write_bytes(bytes(1 << 20))
    guest = lab.guest(one, devices=lease)
    rival = lab.guest(two, disks=guest.disks)
    assert "has not joined lockspace theirs" in one.refused(guest)
    one.run(["sanlock", "client", "init", "-s", "theirs:0:/srv/shared/images/space:0", "-o", "2"])
    one.run(["sanlock", "client", "init", "-r", "theirs:k:/srv/shared/images/key:0"])
    one.run(["sanlock", "client", "add_lockspace", "-s", "theirs:1:/srv/shared/images/space:0", "-o", "2"])
    one.start(guest)
    wait_running(one, guest)
    assert one.told(guest)["protector"] == "vlhook and sanlock"
    assert [row["held"] for row in one.told(guest)["deferred"]] == [True]
    lab.wait_held(one, guest.leases())
    assert ("k", one.qemu(guest)) in one.sanlock_leases()
    assert f"is in use by guest {guest.name}" in two.refused(rival)
    one.virsh("destroy", guest.name)
    one.run(["sanlock", "client", "rem_lockspace", "-s", "theirs:1:/srv/shared/images/space:0"])


def test_beside_lockd_vlhook_protects_as_ever(lab: Lab, one: Host, two: Host) -> None:
    one.daemon("virtlockd", "virtlockd")
    configure(one, lock_manager="lockd")
    one.restart_libvirtd()
    guest = lab.guest(one, two)
    one.start(guest)
    lab.wait_held(one, guest.leases())
    assert one.told(guest)["protector"] == "vlhook"
    assert one.status()["lock_manager"] == "lockd"
    with always_protected(lab, one, two, guest):
        one.vlhook("config", "unset", "lock_manager")
        one.restart_libvirtd()


def test_disks_of_a_plugins_guest_that_come_and_go_stay_the_plugins(lab: Lab, one: Host, two: Host) -> None:
    """vlhook-watch tells the keeper of each disk; the plugin has it already, and nobody takes it a second time."""
    use_plugin(one)
    guest, image = lab.guest(one), lab.image()
    one.start(guest)
    wait_running(one, guest)
    one.daemon("vlhook-watch", f"{PYTHON} -m vlhook.watch --interval 1")
    try:
        one.virsh("attach-disk", guest.name, image, "vdx", "--live", "--sourcetype", "file")
        wait_for("the disk to be listed", lambda: len(one.told(guest)["deferred"]) == 2)
        wait_for("it to be held", lambda: one.told(guest)["protector"] == "sanlock")
        assert one.told(guest)["leases"] == []
        assert image in one.virsh("domblklist", guest.name).stdout
        assert one.state(guest) == "running"
        assert one.status()["alarms"] == []
        assert "is in use by" in two.refused(lab.guest(two, disks=[image]))
    finally:
        one.signal("vlhook-watch", signal.SIGKILL)
        one.stopped("vlhook-watch")
