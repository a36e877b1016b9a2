# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts that are granted, refused or fail; after each exactly the right leases are held."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .domains import BAD_OPTION, Guest, unused_name
from .host import Host
from .lab import Lab
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-starts")
NETWORK = "type='network' device='disk'"
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]


def test_a_started_guest_holds_its_disks_and_nothing_else(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, disks=[lab.image(), lab.image()], shared=[lab.image()])
    one.start(guest)
    lab.assert_held(one, guest.leases())
    lab.assert_held(two, set())
    [told] = one.printed_status()["guests"]
    assert (told["name"], told["uuid"]) == (guest.name, guest.uuid)
    lab.wait_held(one, guest.leases())


def test_a_start_on_a_second_host_is_refused_and_virsh_says_by_whom(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two)
    one.start(guest)
    wait_for("the second host to see the first one alive", lambda: one.number in two.sees_alive())
    said = two.refused(guest)
    assert "Hook script execution failed" in said
    line = f"vlhook: guest {guest.name} is not started: disk {guest.disks[0]} is in use by guest {guest.name}"
    assert line in said
    assert f"on host 1 ({one.known_as})" in said
    assert "which is alive; stop the guest there first" in said
    lab.wait_held(two, set())
    lab.assert_held(one, guest.leases())
    assert one.state(guest) == "running"
    one.virsh("destroy", guest.name)
    two.start(guest)
    lab.assert_held(two, guest.leases())
    lab.assert_held(one, set())


def test_a_transient_guest_and_a_paused_one_hold_their_disks(lab: Lab, one: Host) -> None:
    transient, paused = lab.guest(), lab.guest(one)
    (lab.shared / "transient.xml").write_text(transient.xml())
    one.virsh("create", "/srv/shared/transient.xml")
    one.start(paused, "--paused")
    lab.assert_held(one, transient.leases() | paused.leases())
    one.virsh("resume", paused.name)
    one.virsh("destroy", transient.name)
    lab.assert_held(one, paused.leases())


def test_a_guest_whose_libvirt_client_goes_away_gives_its_disks_back(lab: Lab, one: Host) -> None:
    guest = lab.guest()
    (lab.shared / "auto.xml").write_text(guest.xml())
    stays = "while [ ! -e /run/test/leave ]; do sleep 0.1; done"
    client = one.spawn(["sh", "-c", f"(echo create /srv/shared/auto.xml --autodestroy; {stays}) | virsh"])
    lab.wait_held(one, guest.leases())
    one.run(": > /run/test/leave")
    client.wait()
    lab.wait_held(one, set())


def test_two_guests_of_one_host_do_not_get_one_disk(lab: Lab, one: Host) -> None:
    first = lab.guest(one)
    second = lab.guest(one, disks=[lab.image(), *first.disks])
    one.start(first)
    said = one.refused(second)
    assert f"disk {first.disks[0]} is in use by guest {first.name} on this same host" in said
    lab.wait_held(one, first.leases())
    one.virsh("destroy", first.name)
    one.start(second)
    lab.assert_held(one, second.leases())


def test_a_shareable_disk_is_shared_by_guests_and_hosts_and_kept_until_the_last(
    lab: Lab, one: Host, two: Host
) -> None:
    image = lab.image()
    first, second = (lab.guest(one, disks=[lab.image()], shared=[image]) for _ in range(2))
    third = lab.guest(two, disks=[lab.image()], shared=[image])
    exclusive = lab.guest(two, disks=[image])
    for host, guest in ((one, first), (one, second), (two, third)):
        host.start(guest)
    lab.assert_held(one, first.leases() | second.leases())
    lab.assert_held(two, third.leases())
    one.virsh("destroy", first.name)
    lab.assert_held(one, second.leases())
    two.virsh("destroy", third.name)
    said = two.refused(exclusive)
    assert f"disk {image} is in use by" in said
    assert "shared, which is alive" in said
    one.virsh("destroy", second.name)
    two.start(exclusive)
    lab.assert_held(two, exclusive.leases())
    lab.assert_held(one, set())


def test_a_start_that_gets_only_some_of_its_disks_gives_those_back(lab: Lab, one: Host, two: Host) -> None:
    holder = lab.guest(one)
    wanting = lab.guest(two, disks=[lab.image(), *holder.disks, lab.image()])
    one.start(holder)
    two.refused(wanting)
    lab.wait_held(two, set())
    lab.assert_held(one, holder.leases())


def test_a_disk_under_another_name_is_the_same_disk(lab: Lab, one: Host) -> None:
    running, link = lab.guest(one), f"/srv/shared/{unused_name('link')}"
    one.start(running)
    one.run(f"ln -s {running.disks[0]} {link}")
    one.run("mkdir /srv/bound; mount --bind /srv/shared/images /srv/bound")
    slashes, bound = (running.disks[0].replace("/srv/shared/images", p) for p in ("/srv/shared//images", "/srv/bound"))
    for name in (link, slashes, bound):
        said = one.refused(lab.guest(one, disks=[name]))
        assert f"{name}, under another name, is in use by guest {running.name}" in said
    lab.assert_held(one, running.leases())
    one.run("umount /srv/bound")


@pytest.fixture
def chain_leases(lab: Lab) -> Iterator[None]:
    """They are off unless asked for."""

    def restart(*words: str) -> None:
        for host in lab.hosts:
            host.vlhook("config", *words)
            host.restart_keeper()
        for host in lab.hosts:
            host.wait_joined()

    restart("set", "chain_leases", "yes")
    yield
    lab.clean()
    restart("unset", "chain_leases")


@pytest.mark.usefixtures("chain_leases")
def test_guests_share_a_base_image_and_nobody_writes_it_meanwhile(lab: Lab, one: Host, two: Host) -> None:
    base = lab.guest(one, kind="qcow2")
    [image] = base.disks
    overlays = [f"{image}.{number}" for number in (1, 2)]
    for overlay in overlays:
        one.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay])
    first, second = (lab.guest(h, disks=[o], kind="qcow2") for h, o in zip((one, two), overlays))
    for host, guest in ((one, first), (two, second)):
        host.start(guest)
        lab.wait_held(host, guest.leases() | {(image, "shared")})
    assert f"disk {image} is in use by" in one.refused(base)
    two.virsh("destroy", second.name)
    lab.wait_held(two, set())
    one.virsh("destroy", first.name)
    one.start(base)
    assert f"disk {image} is in use by guest {base.name}" in two.refused(second)
    lab.assert_held(one, base.leases())


def test_nvram_outside_libvirts_own_directory_belongs_to_one_guest(lab: Lab, one: Host, two: Host) -> None:
    nvram = f"/srv/shared/{unused_name('vars')}.fd"
    one.run("head -c 65536 /dev/zero > /srv/shared/code.fd")

    def with_nvram(host: Host) -> Guest:
        guest = lab.guest()
        loader = f"<loader readonly='yes' type='pflash'>/srv/shared/code.fd</loader><nvram>{nvram}</nvram>"
        path = lab.shared / f"{guest.name}.xml"
        path.write_text(guest.xml().replace("<boot dev='hd'/>", f"{loader}<boot dev='hd'/>"))
        lab.outside(nvram).write_bytes(bytes(65536))
        host.virsh("define", f"/srv/shared/{path.name}")
        return guest

    first, second = with_nvram(one), with_nvram(two)
    one.start(first)
    lab.assert_held(one, first.leases() | {(nvram, "exclusive")})
    assert f"{nvram} is in use by guest {first.name}" in two.refused(second)
    lab.wait_held(two, set())
    one.virsh("destroy", first.name)
    two.start(second)
    lab.assert_held(two, second.leases() | {(nvram, "exclusive")})


def test_a_network_disk_belongs_to_one_guest_whatever_it_is_called_here(lab: Lab, one: Host) -> None:
    """NBD: the server's port may be written or left out, and QEMU itself has no lock for it."""
    export = lab.image()
    server = one.spawn(["qemu-nbd", "-f", "raw", "-t", "-e", "4", "-x", "e", "-b", "127.0.0.1", export])
    wait_for("qemu-nbd", lambda: not one.run(["qemu-nbd", "-L", "-b", "127.0.0.1"], check=False).returncode)

    def on_nbd(port: str) -> Guest:
        guest = lab.guest(disks=[export])
        source = f"<source protocol='nbd' name='e'><host name='127.0.0.1'{port}/></source>"
        text = guest.xml().replace(f"<source file='{export}'/>", source).replace("type='file' device='disk'", NETWORK)
        (lab.shared / f"{guest.name}.xml").write_text(text)
        one.virsh("define", f"/srv/shared/{guest.name}.xml")
        return guest

    first, second = on_nbd(" port='10809'"), on_nbd("")
    one.start(first)
    url = "nbd://127.0.0.1:10809/e"
    lab.assert_held(one, {(url, "exclusive")})
    assert f"disk {url} is in use by guest {first.name} on this same host" in one.refused(second)
    one.virsh("destroy", first.name)
    one.start(second)
    lab.assert_held(one, {(url, "exclusive")})
    one.virsh("destroy", second.name)
    server.terminate()


def test_a_volume_is_held_by_the_path_that_qemu_opens(lab: Lab, one: Host) -> None:
    image = lab.image()
    directory, _, name = image.rpartition("/")
    one.virsh("pool-create-as", "volumes", "dir", "--target", directory)
    source = f"<source pool='volumes' volume='{name}'/><target dev='vdz' bus='virtio'/>"
    disk = f"<disk type='volume' device='disk'><driver name='qemu' type='raw'/>{source}</disk>"
    guest = lab.guest(one, devices=disk)
    one.start(guest)
    lab.assert_held(one, guest.leases() | {(image, "exclusive")})
    assert one.state(guest) == "running"
    one.virsh("destroy", guest.name)
    one.virsh("pool-destroy", "volumes")


def broken_guest(lab: Lab, kind: str, running: Guest) -> Guest:
    """A guest whose start fails after its leases were taken."""
    if kind == "missing image":
        return lab.guest(disks=[lab.image(), "/srv/shared/images/missing"])
    if kind == "option unknown to QEMU":
        return lab.guest(more=BAD_OPTION)
    if kind == "image locked by QEMU":
        return lab.guest(disks=[lab.image(), running.disks[0].replace("/images/", "/images//")])
    if kind == "corrupt qcow2":
        guest = lab.guest(kind="qcow2")
        lab.outside(guest.disks[0]).write_bytes(b"no image" * 1000)
        return guest
    return lab.guest()


@pytest.mark.parametrize(
    "kind",
    [
        "missing image", "option unknown to QEMU", "image locked by QEMU", "corrupt qcow2",
        "prepare refused by another script", "start refused by another script",
        "started refused by another script",
    ],
)  # fmt: skip
def test_a_failed_start_gives_back_what_it_took_and_nothing_else(
    lab: Lab, one: Host, two: Host, kind: str
) -> None:
    other = lab.guest(one)
    one.start(other)
    elsewhere = lab.guest(two)
    if kind == "image locked by QEMU":
        two.start(elsewhere)  # a local file is known under two names by its own host only
    guest = broken_guest(lab, kind, elsewhere)
    one.define(guest)
    if "refused" in kind:
        one.tell_second_script(kind.partition(" ")[0], "fail")
    said = one.refused(guest)
    assert "vlhook" not in said.replace("20-second", "")
    lab.wait_held(one, other.leases())
    assert one.qemu(guest) == 0
    one.forget_second_script()
    if "refused" in kind:
        two.define(guest)
        two.start(guest)
        lab.assert_held(two, guest.leases())


def test_a_guest_that_would_outlive_its_leases_is_refused_with_the_reason(lab: Lab, one: Host) -> None:
    guest = lab.guest(one, outside="<on_lockfailure>ignore</on_lockfailure>")
    said = one.refused(guest)
    assert "<on_lockfailure>ignore</on_lockfailure> would let it run on without its leases" in said
    lab.assert_held(one, set())


def test_the_second_start_of_a_running_guest_changes_nothing(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    qemu = one.qemu(guest)
    assert "already active" in one.refused(guest)
    lab.assert_held(one, guest.leases())
    assert one.qemu(guest) == qemu


def lease_files(lab: Lab) -> dict[str, tuple[int, bytes]]:
    """All that other hosts see of leases; the lockspace is left out, into which each host writes all the time."""
    files = [path for path in (lab.shared / "leases").iterdir() if path.name != "__LIBVIRT__DISKS__"]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_check_start_says_what_a_start_would_and_touches_nothing(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one, two, disks=[lab.image(), lab.image()])
    rival = lab.guest(one, disks=guest.disks[:1])

    def check(host: Host, name: str, status: int, *options: str) -> str:
        before, held = lease_files(lab), [lab.held(one), lab.held(two)]
        ran = host.vlhook("check-start", *options, name, check=False)
        assert (ran.returncode, "Traceback" in ran.stderr) == (status, False), ran.stdout + ran.stderr
        assert lease_files(lab) == before
        assert [lab.held(one), lab.held(two)] == held
        return ran.stdout + ran.stderr

    for host in (one, two):
        assert f"guest {guest.name} would start here now" in check(host, guest.name, 0)
    one.start(guest)
    assert "it runs on this host already" in check(one, guest.name, 1)
    assert f"in use by guest {guest.name} on this same host" in check(one, rival.name, 1)
    said = check(two, guest.uuid, 1)
    for disk in guest.disks:
        assert f"disk {disk} is in use by guest {guest.name} (UUID {guest.uuid}) on host 1 ({one.known_as})" in said
    report = json.loads(check(two, guest.name, 1, "--json"))
    assert (report["yes"], report["guest"]) == (False, guest.name)
    assert {lease["disk"] for lease in report["leases"] if lease["why"]} == set(guest.disks)
    assert said.splitlines()[1].strip() in two.refused(guest)
    lab.wait_held(two, set())
    one.virsh("destroy", guest.name)
    assert json.loads(check(two, guest.name, 0, "--json"))["yes"] is True
    two.start(guest)
    lab.assert_held(two, guest.leases())


def test_check_start_tells_of_what_has_nothing_to_do_with_disks_too(lab: Lab, one: Host) -> None:
    guest = lab.guest(one, outside="<on_lockfailure>ignore</on_lockfailure>")
    ran = one.vlhook("check-start", guest.name, check=False)
    assert (ran.returncode, "would let it run on without its leases" in ran.stdout) == (1, True)
    fine = lab.guest(one)
    for words in (["nobody"], ["--run-dir", "/nowhere", fine.name], ["--xml", f"/srv/shared/{guest.name}-h1.xml", "x"]):
        ran = one.vlhook("check-start", *words, check=False)
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran
    one.run("mv /etc/libvirt/hooks/qemu.d/10-vlhook /etc/kept")
    try:
        ran = one.vlhook("check-start", fine.name, check=False)
    finally:
        one.run("mv /etc/kept /etc/libvirt/hooks/qemu.d/10-vlhook")
    assert ran.returncode == 1
    assert "the hook is not installed: guests start without leases" in ran.stdout
