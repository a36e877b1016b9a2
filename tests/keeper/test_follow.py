# SPDX-License-Identifier: LGPL-2.1-or-later
"""The leases of a running guest follow its disks, and a disk that is refused is told."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.keeper.hosts import Guest, Host, engines, hosts, wait_for
from vlhook.errors import VlhookError
from vlhook.keeper.client import call
from vlhook.keeper.follow import Follow
from vlhook.keeper.log import Log
from vlhook.keeper.state import ACQUIRING, RUNNING, Caller, Incarnation, StateStore
from vlhook.keeper.table import Table
from vlhook.leases.engine import Owned, Refused, Tenant, Want
from vlhook.leases.errors import Timeout
from vlhook.leases.names import lease_name

pytestmark = pytest.mark.xdist_group("follow")


@pytest.fixture(scope="module", params=engines("follow"))
def module_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    with hosts(tmp_path_factory.mktemp("follow"), 2, io_timeout=2, engine=request.param) as made:
        yield made


@pytest.fixture
def pair(module_pair: list[Host]) -> Iterator[list[Host]]:
    yield module_pair
    for host in module_pair:
        host.wait_found()
        for uuid in list(host.qemus):
            qemu = host.qemus.pop(uuid)
            qemu.kill()
            qemu.wait()
        host.wait_empty()
        call(host.run_dir, "running", uuids=[])


def run(host: Host, guest: Guest) -> Guest:
    assert host.start(guest) == (0, "")
    wait_for("its QEMU", lambda: host.phases().get(guest.name) == "running")
    return guest


def follow(host: Host, guest: Guest, verb: str = "follow") -> dict[str, Any]:
    return call(host.run_dir, verb, xml=guest.xml(7), asked=time.monotonic())


def test_a_disk_that_was_attached_gets_its_lease(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    guest = run(one, Guest("g", [a]))
    assert follow(one, guest)["taken"] == []
    guest.disks.append(b)
    answer = follow(one, guest)
    assert (answer["state"], answer["taken"], answer["refused"]) == ("protected", [b], [])
    assert one.held() == {(a, "exclusive"), (b, "exclusive")}
    status, line = two.start(Guest("other", [b]))
    assert status == 1
    assert "guest g" in line


def test_a_disk_that_was_detached_gives_its_lease_back(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    guest = run(one, Guest("g", [a, b]))
    guest.disks.remove(b)
    assert follow(one, guest)["released"] == [b]
    assert one.held() == {(a, "exclusive")}
    assert two.start(Guest("other", [b])) == (0, "")


def test_a_disk_that_another_guest_uses_is_refused_and_stays_an_alarm_until_it_is_gone(
    pair: list[Host], tmp_path: Path
) -> None:
    one, two = pair
    a, b, c = (str(tmp_path / n) for n in "abc")
    run(two, Guest("other", [b]))
    guest = run(one, Guest("g", [a]))
    guest.disks += [b, c]
    answer = follow(one, guest)
    assert answer["state"] == "refused"
    assert answer["taken"] == [c], "what is free is taken all the same"
    ((refused),) = answer["refused"]
    assert refused["targets"] == ["vdb"]
    assert "guest other" in refused["why"]
    assert any("guest g uses a disk without its lease" in alarm for alarm in one.status()["alarms"])
    guest.disks.remove(b)
    assert follow(one, guest)["state"] == "protected"
    assert one.status()["alarms"] == []
    assert one.held() == {(a, "exclusive"), (c, "exclusive")}


def test_what_lies_below_a_snapshot_is_kept(pair: list[Host], tmp_path: Path) -> None:
    (one, _), a, top = pair, str(tmp_path / "a"), str(tmp_path / "top")
    guest = run(one, Guest("g", [a]))
    below = f"<target dev='vda'/><backingStore type='file'><source file='{a}'/><backingStore/></backingStore>"
    xml = guest.xml(7).replace(f"<source file='{a}'/><target dev='vda'/>", f"<source file='{top}'/>{below}")
    answer = call(one.run_dir, "follow", xml=xml)
    assert (answer["taken"], answer["released"]) == ([top], [])
    assert one.held() == {(a, "exclusive"), (top, "exclusive")}
    assert follow(one, guest)["released"] == [top], "committed back into the base"


def test_the_target_of_a_block_job_is_taken_while_it_is_written(pair: list[Host], tmp_path: Path) -> None:
    (one, _), a, copy = pair, str(tmp_path / "a"), str(tmp_path / "copy")
    guest = run(one, Guest("g", [a]))
    job = f"<target dev='vda'/><mirror type='file' job='copy'><format type='raw'/><source file='{copy}'/></mirror>"
    answer = call(one.run_dir, "follow", xml=guest.xml(7).replace("<target dev='vda'/>", job))
    assert answer["taken"] == [copy]
    assert follow(one, guest)["released"] == [copy]


def test_a_lease_for_a_disk_that_is_about_to_be_attached_is_kept(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    a, b, c = (str(tmp_path / n) for n in "abc")
    run(two, Guest("other", [c]))
    guest = run(one, Guest("g", [a]))
    guest.disks += [b, c]
    assert follow(one, guest, "attach")["state"] == "refused"
    assert one.held() == {(a, "exclusive")}, "all or nothing"
    guest.disks.remove(c)
    assert follow(one, guest, "attach")["taken"] == [b]
    guest.disks.remove(b)
    assert b not in follow(one, guest)["released"]
    assert one.held() == {(a, "exclusive"), (b, "exclusive")}


def test_a_guest_that_had_no_disk_is_guarded_from_its_first_on(pair: list[Host], tmp_path: Path) -> None:
    (one, _), a = pair, str(tmp_path / "a")
    guest = run(one, Guest("g", []))
    guest.disks.append(a)
    assert follow(one, guest)["taken"] == [a]
    assert one.held() == {(a, "exclusive")}


def test_a_guest_that_runs_without_leases_is_an_alarm_until_it_is_gone(pair: list[Host], tmp_path: Path) -> None:
    (one, _), guest = pair, Guest("stray", [tmp_path / "a"])
    one.run_qemu(guest)
    assert follow(one, guest)["state"] == "unprotected"
    (alarm,) = one.status()["alarms"]
    assert "guest stray runs without leases" in alarm
    assert "vlhook adopt stray" in alarm
    call(one.run_dir, "running", uuids=[guest.uuid])
    assert one.status()["alarms"] == [alarm]
    call(one.run_dir, "running", uuids=[])
    assert one.status()["alarms"] == []


def test_a_restarted_keeper_has_what_was_attached(pair: list[Host], tmp_path: Path) -> None:
    (one, _), a, b, c = pair, *(str(tmp_path / n) for n in "abc")
    guest = run(one, Guest("g", [a, b]))
    guest.disks = [a, c]
    answer = follow(one, guest)
    assert (answer["taken"], answer["released"]) == ([c], [b])
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined()
    assert one.held() == {(a, "exclusive"), (c, "exclusive")}


def test_xml_from_before_a_disk_was_taken_gives_nothing_back(pair: list[Host], tmp_path: Path) -> None:
    """Somebody read the XML, then the disk was attached with its lease, then that XML arrives."""
    (one, _), a, b = pair, str(tmp_path / "a"), str(tmp_path / "b")
    guest = run(one, Guest("g", [a]))
    before, old = time.monotonic(), guest.xml(7)
    guest.disks.append(b)
    assert follow(one, guest)["taken"] == [b]
    assert call(one.run_dir, "follow", xml=old, asked=before)["released"] == []
    assert call(one.run_dir, "follow", xml=old)["released"] == [], "nor if nobody says when it was read"
    assert one.held() == {(a, "exclusive"), (b, "exclusive")}


def test_a_lease_that_cannot_be_had_for_another_reason_is_no_reason_to_take_the_disk_away(
    pair: list[Host], tmp_path: Path
) -> None:
    (one, _), a, b = pair, str(tmp_path / "a"), str(tmp_path / "b")
    guest = run(one, Guest("g", [a]))
    file = one.leases / lease_name(os.fsencode(b))
    file.write_bytes(b"damaged" * 200000)
    guest.disks.append(b)
    answer = follow(one, guest)
    assert answer["state"] == "undecided"
    assert answer["refused"][0]["targets"] == []
    assert any("guest g uses a disk without its lease" in alarm for alarm in one.status()["alarms"])
    file.unlink()
    assert follow(one, guest)["taken"] == [b]


@pytest.mark.parametrize("arguments", [{}, {"xml": 1}, {"xml": "<domain>"}, {"xml": "\ud800"}])
def test_a_call_without_a_guest_is_refused_in_one_line(pair: list[Host], arguments: dict[str, Any]) -> None:
    with pytest.raises(VlhookError):
        call(pair[0].run_dir, "follow", **arguments)
    assert pair[0].joined()


class Unconfirmed:
    """An engine whose storage refuses a lease; whether what was begun is undone, it says when asked to release it."""

    undone = False

    def acquire(self, _tenant: Tenant, wants: Sequence[Want], *_: object) -> list[Owned]:
        raise Refused([(want, Timeout(name=want.name, seconds=1.0, why="the storage is slow")) for want in wants])

    def release(self, *_: object) -> bool:
        return self.undone


@pytest.mark.parametrize("undone", [False, True])
def test_a_refused_lease_stays_wanted_for_a_successor_until_its_attempt_is_undone(tmp_path: Path, undone: bool) -> None:
    """Nobody else would clean up after it when this keeper dies; what is undone is not wanted any more."""
    store = StateStore(tmp_path / "run", tmp_path / "lib", "boot")
    store.prepare()
    table, engine = Table(store), Unconfirmed()
    engine.undone = undone
    life = Incarnation("u", "g", 1, Caller(1, 1), table.next_sequence(), ACQUIRING, 1)
    table.put(life, ACQUIRING)
    table.put(life, RUNNING)
    lease = {
        "name": lease_name(b"/d"), "lockspace": "", "shared": False, "source": "/d", "path": "", "offset": 0,
        "kind": "disk", "targets": ["vda"],
    }  # fmt: skip
    needed = {"uuid": "u", "name": "g", "leases": [lease], "writable_paths": [], "devices": {}, "chain": []}
    host = SimpleNamespace(engine=engine, why_not=lambda: None, where=SimpleNamespace(directory=str(tmp_path)))
    follow = Follow(
        table=table, host=host, needs=SimpleNamespace(of=lambda *_: needed), log=Log("test"),
        watch_guest=lambda life: None, rebind=lambda life: None,
        deferrals=SimpleNamespace(follow=lambda life, leases, attach: leases),
    )  # type: ignore[arg-type]  # fmt: skip
    answer = follow.attach({"xml": "<domain/>"})
    assert answer["state"] == "undecided"
    (left,) = store.load_guests()
    assert [want.name for want in left.wants] == ([] if undone else [lease["name"]])
