# SPDX-License-Identifier: LGPL-2.1-or-later
"""Adoption in two calls: what becomes of it when something changes between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.keeper.hosts import Guest, Host, engines, hosts, wait_for
from vlhook.guardclient import GuardClient
from vlhook.keeper.client import KeeperSays, call

pytestmark = pytest.mark.xdist_group("keeper-adopt")


@pytest.fixture(scope="module", params=engines("adopt"))
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosts(tmp_path_factory.mktemp("adopt"), 1, io_timeout=2, engine=request.param) as (one,):
        yield one


@pytest.fixture
def guest(host: Host, tmp_path: Path) -> Iterator[Guest]:
    """A guest that runs and of which vlhook has never heard."""
    guest = Guest(tmp_path.name.replace("_", "-"), [tmp_path / "disk"])
    host.run_qemu(guest)
    yield guest
    if guest.uuid in host.qemus:
        host.end_qemu(guest)
    host.wait_empty()


def adopt(host: Host, guest: Guest, number: int = 1) -> dict[str, Any]:
    return call(host.run_dir, "adopt", guest=guest.name, xml=guest.xml(number))


def adopted(host: Host, guest: Guest, key: str, number: int = 1) -> dict[str, Any]:
    return call(host.run_dir, "adopted", key=key, xml=guest.xml(number))


def left_alone(host: Host, guest: Guest) -> bool:
    return not host.held() and not host.phases() and not GuardClient(host.run_dir).watched()


def test_it_is_final_only_with_the_second_call(host: Host, guest: Guest) -> None:
    answer = adopt(host, guest)
    assert host.phases() == {guest.name: "granted"}
    assert [watched.uuid for watched in GuardClient(host.run_dir).watched()] == [guest.uuid]
    adopted(host, guest, answer["key"])
    assert host.phases() == {guest.name: "running"}
    assert host.held() == {(guest.disks[0], "exclusive")}
    host.end_qemu(guest)
    host.wait_empty()


def test_disks_that_changed_meanwhile_give_the_leases_back_and_the_guest_lives(host: Host, guest: Guest) -> None:
    key = adopt(host, guest)["key"]
    guest.disks.append(guest.disks[0] + "-hot-plugged")
    with pytest.raises(KeeperSays, match="its disks were changed meanwhile"):
        adopted(host, guest, key)
    wait_for("it to be left alone", lambda: left_alone(host, guest))
    assert host.qemus[guest.uuid].poll() is None


def test_another_run_of_the_guest_is_not_the_one_that_was_adopted(host: Host, guest: Guest) -> None:
    key = adopt(host, guest, number=1)["key"]
    with pytest.raises(KeeperSays, match="changed meanwhile"):
        adopted(host, guest, key, number=2)
    wait_for("it to be left alone", lambda: left_alone(host, guest))


def test_a_guest_that_ended_meanwhile_is_not_adopted(host: Host, guest: Guest) -> None:
    key = adopt(host, guest)["key"]
    host.end_qemu(guest)
    with pytest.raises(KeeperSays, match="its QEMU has ended meanwhile"):
        adopted(host, guest, key)
    wait_for("it to be left alone", lambda: left_alone(host, guest))


def test_a_keeper_that_dies_between_the_calls_gives_the_leases_back(host: Host, guest: Guest) -> None:
    key = adopt(host, guest)["key"]
    host.kill_keeper()
    host.start_keeper()
    host.wait_joined()
    wait_for("it to be left alone", lambda: left_alone(host, guest))
    with pytest.raises(KeeperSays, match="it was given up meanwhile"):
        adopted(host, guest, key)
    assert host.qemus[guest.uuid].poll() is None
    adopted(host, guest, adopt(host, guest)["key"])
    assert host.phases() == {guest.name: "running"}


def test_two_adoptions_of_one_guest_do_not_meet(host: Host, guest: Guest) -> None:
    key = adopt(host, guest)["key"]
    with pytest.raises(KeeperSays, match="an earlier adoption or run of it is not over yet"):
        adopt(host, guest)
    adopted(host, guest, key)
    assert adopt(host, guest) == {"key": "", "leases": [], "by": "vlhook"}


def test_a_disk_that_came_after_the_adoption_is_named(host: Host, guest: Guest) -> None:
    adopted(host, guest, adopt(host, guest)["key"])
    guest.disks.append(guest.disks[0] + "-later")
    with pytest.raises(KeeperSays, match="-later came later: vlhook-watch takes its lease"):
        adopt(host, guest)
    guest.disks.pop()


def test_a_guest_without_a_process_or_with_two_is_not_adopted(host: Host, guest: Guest) -> None:
    first, second = host.qemus[guest.uuid], host.run_qemu(guest)
    with pytest.raises(KeeperSays, match="2 processes run with its UUID"):
        adopt(host, guest)
    second.kill()
    second.wait()
    host.qemus[guest.uuid] = first
    nobody = Guest("nobody", [guest.disks[0]])
    with pytest.raises(KeeperSays, match="no process runs with its UUID"):
        adopt(host, nobody)


def test_a_guest_that_needs_no_leases_is_fine_as_it_is(host: Host, guest: Guest) -> None:
    guest.disks.clear()
    assert adopt(host, guest) == {"key": "", "leases": [], "by": ""}
    assert host.qemus[guest.uuid].poll() is None


@pytest.mark.parametrize(
    ("name", "arguments"), [("adopt", {}), ("adopt", {"guest": 3, "xml": ""}), ("adopted", {"key": "x"})]
)
def test_a_request_that_is_none_is_refused(host: Host, name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(KeeperSays, match="does not understand this adoption"):
        call(host.run_dir, name, **arguments)
