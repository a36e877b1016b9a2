# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live migration between real hosts: the leases follow the guest, and a third host that tries on never gets them."""

from __future__ import annotations

import json
import shlex
import threading
from pathlib import Path

import pytest

from tests.sanlock_daemon import Refused, SanlockHost, resource, short_directory
from vlhook.leases.names import LOCKSPACE_NAME, lease_name

from . import domains
from .host import Host
from .lab import Lab
from .migrations import LIVE, SLOWLY, assert_moved, assert_stayed, busy_guest, ended, in_background, migrate, rival
from .waiting import wait_for

IO_TIMEOUT = 2
HOSTS = 3
GROUP = pytest.mark.xdist_group("guests-migration")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.slow, GROUP]

KINDS = {
    "native": ("--live", "--unsafe"),
    "p2p": LIVE,
    "tunnelled": (*LIVE, "--tunnelled"),
    "non-live": ("--unsafe", "--p2p"),
    "suspend": (*LIVE, "--suspend"),
    "persistent": (*LIVE, "--persistent", "--undefinesource"),
    "postcopy": (*LIVE, "--postcopy", "--postcopy-after-precopy"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_leases_go_with_the_guest_and_nobody_gets_between(lab: Lab, one: Host, two: Host, kind: str) -> None:
    guest = lab.guest(one, disks=[lab.image(), lab.image()], shared=[lab.image()])
    one.start(guest)
    with rival(lab, guest):
        ran = migrate(lab, guest, *KINDS[kind])
        assert ran.returncode == 0, ran.stderr
        assert_moved(lab, guest, "paused" if kind == "suspend" else "running")
    if kind == "p2p":
        assert migrate(lab, guest, *LIVE, target=1).returncode == 0
        lab.wait_held(one, guest.leases())
        lab.wait_held(two, set())


def test_a_paused_guest_moves_as_it_is(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest, "--paused")
    assert migrate(lab, guest, *LIVE).returncode == 0
    assert_moved(lab, guest, "paused")


def test_a_renamed_guest_takes_its_leases_along(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    assert migrate(lab, guest, *LIVE, "--dname", "other").returncode == 0
    lab.wait_held(two, guest.leases())
    lab.wait_held(one, set())
    two.virsh("destroy", "other")


def test_a_guest_moves_with_its_storage(lab: Lab, one: Host, two: Host) -> None:
    """Each host has its own file of one name; the name's lease is what moves."""
    path = f"/var/lib/libvirt/{domains.unused_name('local')}"
    guest = lab.guest(disks=[path])
    for host in (one, two):
        domains.make_image(Path(f"/proc/{host._init}/root{path}"))
    one.define(guest)
    one.start(guest)
    ran = migrate(lab, guest, *LIVE, "--copy-storage-all")
    assert ran.returncode == 0, ran.stderr
    assert_moved(lab, guest)


def test_a_guest_that_moves_while_it_is_off_needs_no_token(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one)
    assert migrate(lab, guest, "--offline", "--persistent", "--undefinesource").returncode == 0
    assert "vlhook" not in two.virsh("dumpxml", guest.name, "--inactive").stdout
    two.start(guest)
    lab.wait_held(two, guest.leases())
    assert not two.status()["guests"][0]["incoming"]


def test_the_start_of_a_guest_that_shows_an_old_token_is_an_ordinary_one(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    assert migrate(lab, guest, *LIVE, "--persistent").returncode == 0
    assert_moved(lab, guest)
    xml = two.virsh("dumpxml", guest.name).stdout
    assert "vlhook:incoming" in xml
    (lab.shared / "again.xml").write_text(xml)
    two.virsh("destroy", guest.name)
    lab.wait_held(two, set())
    one.start(guest)
    said = two.refused(guest, "create", "/srv/shared/again.xml")
    assert "is in use by guest" in said
    lab.wait_held(one, guest.leases())


def test_a_migration_that_points_at_another_guests_image_is_refused(lab: Lab, one: Host, two: Host) -> None:
    guest, other = lab.guest(one), lab.guest(one)
    for starting in (guest, other):
        one.start(starting)
    xml = lab.shared / "changed.xml"
    live = one.virsh("dumpxml", guest.name, "--migratable").stdout
    xml.write_text(live.replace(guest.disks[0], other.disks[0]))
    ran = migrate(lab, guest, *LIVE, "--xml", f"/srv/shared/{xml.name}")
    assert ran.returncode
    assert f"disk {other.disks[0]} is in use by guest {other.name}" in ran.stderr
    lab.wait_held(two, set())
    lab.wait_held(one, guest.leases() | other.leases())


def test_a_migration_to_a_host_whose_keeper_is_away_is_refused(lab: Lab, one: Host, two: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    two.kill_keeper()
    ran = migrate(lab, guest, *LIVE)
    two.start_keeper()
    two.wait_joined()
    assert ran.returncode
    assert "is not taken in: no answer from vlhookd" in ran.stderr
    assert_stayed(lab, guest)


def test_check_migrate_says_on_either_side_whether_the_guest_may_move(lab: Lab, one: Host, two: Host) -> None:
    guest, other = busy_guest(lab, one), lab.guest(one)
    one.start(other)
    live, changed = (lab.shared / f"{guest.name}-{what}.xml" for what in ("live", "changed"))
    live.write_text(one.virsh("dumpxml", guest.name, "--migratable").stdout)
    changed.write_text(live.read_text().replace(guest.disks[0], other.disks[0]))

    def check(host: Host, status: int, *words: str) -> str:
        before = lab.on_disk()
        ran = host.vlhook("check-migrate", guest.name, *words, check=False)
        assert (ran.returncode, "Traceback" in ran.stderr) == (status, False), ran.stdout + ran.stderr
        assert lab.on_disk() == before
        return ran.stdout + ran.stderr

    def seen() -> bool:
        rows = json.loads(one.vlhook("hosts", "--json", check=False).stdout)["hosts"]
        return [row["state"] for row in rows] == ["live"] * 3

    wait_for("every host to be seen alive", seen)
    for host in (two.known_as, "3"):
        assert f"may migrate to host {host}" in check(one, 0, host)
    assert "no host h9 is in the lockspace" in check(one, 1, "h9")
    assert "dumpxml" in check(one, 2, one.known_as)
    assert "does not tell of guest" in check(two, 2, one.known_as)
    assert "may migrate to this host now" in check(two, 0, two.known_as, "--xml", f"/srv/shared/{live.name}")
    said = check(two, 1, two.known_as, "--xml", f"/srv/shared/{changed.name}")
    assert f"disk {other.disks[0]} is in use by guest {other.name}" in said
    moving = in_background(lab, guest, *SLOWLY)
    assert "it is on its way to host 2 already" in check(one, 1, lab.hosts[2].known_as)
    assert "it runs on this host already" in check(two, 1, "2", "--xml", f"/srv/shared/{live.name}")
    one.virsh("domjobabort", guest.name)
    ended(moving)
    one.virsh("destroy", other.name)
    assert_stayed(lab, guest)


@pytest.mark.parametrize("operation", ["migrate", "prepare", "start", "started"])
def test_a_destination_that_refuses_leaves_the_guest_where_it_is(
    lab: Lab, one: Host, two: Host, operation: str
) -> None:
    guest = lab.guest(one)
    one.start(guest)
    two.tell_second_script(operation, "fail")
    assert migrate(lab, guest, *LIVE).returncode
    assert_stayed(lab, guest)


def test_a_migration_that_is_cancelled_gives_the_claim_back(lab: Lab, one: Host) -> None:
    guest = busy_guest(lab, one)
    with rival(lab, guest):
        moving = in_background(lab, guest, *SLOWLY)
        lab.assert_held(one, guest.leases())
        one.virsh("domjobabort", guest.name)
        assert "cancel" in ended(moving)
        assert_stayed(lab, guest)


def test_a_host_with_the_sanlock_daemon_does_not_get_between_either(lab: Lab, one: Host) -> None:
    guest = lab.guest(one)
    one.start(guest)
    name = lease_name(guest.disks[0].encode())
    leases = lab.shared / "leases"
    results: list[int] = []
    over = threading.Event()
    with short_directory() as directory, SanlockHost("third", directory) as daemon:
        daemon.start()
        daemon.add_lockspace(leases / LOCKSPACE_NAME, 4, IO_TIMEOUT, LOCKSPACE_NAME)
        daemon.wait_renewals(2)
        with daemon.holder() as holder:

            def try_on() -> None:
                while not over.is_set():
                    try:
                        holder.acquire(resource(leases / name, name, space=LOCKSPACE_NAME))
                        results.append(0)
                        return
                    except Refused as refused:
                        results.append(refused.result)

            trying = threading.Thread(target=try_on)
            trying.start()
            try:
                wait_for("its first attempts", lambda: len(results) > 2)
                ran = migrate(lab, guest, *LIVE)
                assert ran.returncode == 0, ran.stderr
                assert_moved(lab, guest)
            finally:
                over.set()
                trying.join()
    print(f"\nsanlock tried {len(results)} times: {sorted(set(results))}")
    assert set(results) <= {-243, -244, -245, -247, -11}, shlex.join(map(str, results))
