# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts, real keepers: who gets a disk, who is refused, and what the refusal says."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import ENGINES, Guest, Host, hosts, wait_for
from vlhook.leases.names import lease_name

pytestmark = pytest.mark.xdist_group("two-hosts")


@pytest.fixture(scope="module", params=ENGINES)
def pair(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[list[Host]]:
    with hosts(tmp_path_factory.mktemp("pair"), 2, io_timeout=2, engine=request.param) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(4096))
    return path


def test_a_second_host_is_refused_and_told_who_holds_the_disk(pair: list[Host], disk: Path) -> None:
    one, two = pair
    guest = Guest("web1", [disk])
    assert one.start(guest) == (0, "")
    status, line = two.start(guest)
    assert status == 1
    # Alive is who was seen renewing; a host that has just joined has seen nobody yet.
    line = wait_for("host 1 to be seen alive", lambda: two.start(guest)[1] if "alive" in two.start(guest)[1] else "")
    for part in (
        str(disk),
        lease_name(str(disk).encode()),
        "guest web1",
        guest.uuid,
        "host 1 (",
        "since ",
        "alive",
    ):
        assert part in line
    assert two.held() == set()
    one.stop(guest)
    one.wait_empty()


def test_a_stopped_guest_starts_on_the_other_host(pair: list[Host], disk: Path) -> None:
    one, two = pair
    guest = Guest("mover", [disk])
    for host in (one, two, one):
        assert host.start(guest) == (0, "")
        assert host.held() == {(str(disk), "exclusive")}
        host.stop(guest)
        host.wait_empty()


def test_two_guests_of_one_host_exclude_each_other(pair: list[Host], disk: Path) -> None:
    one, _ = pair
    first, second = Guest("first", [disk]), Guest("second", [disk])
    assert one.start(first) == (0, "")
    status, line = one.start(second)
    assert status == 1
    assert "guest first on this same host" in line
    assert one.held() == {(str(disk), "exclusive")}, "the refused guest's release must not take the first one's lease"
    one.stop(first)
    one.wait_empty()


def test_all_leases_of_a_guest_or_none(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    a, b, c = (tmp_path / name for name in "abc")
    holder, wanter = Guest("holder", [b]), Guest("wanter", [a, b, c])
    assert one.start(holder) == (0, "")
    assert two.start(wanter)[0] == 1
    two.wait_empty()
    assert one.start(Guest("other", [a, c])) == (0, "")
    wait_for("both QEMUs to be found", lambda: set(one.phases().values()) == {"running"})
    for name in list(one.phases()):
        assert name in ("holder", "other")
    for guest in (holder,):
        one.stop(guest)
    for process in list(one.qemus.values()):
        process.kill()
        process.wait()
    one.qemus.clear()
    one.wait_empty()


def test_shareable_disks_run_on_both_hosts_and_keep_exclusive_guests_out(pair: list[Host], disk: Path) -> None:
    one, two = pair
    a, b, alone = Guest("a", [], [disk]), Guest("b", [], [disk]), Guest("alone", [disk])
    assert one.start(a) == (0, "")
    assert two.start(b) == (0, "")
    status, line = two.start(alone)
    assert status == 1
    assert "on this same host" in line
    two.stop(b)
    two.wait_empty()
    status, line = two.start(alone)
    assert status == 1
    assert "host 1" in line
    assert "shared" in line
    one.stop(a)
    one.wait_empty()
    assert two.start(alone) == (0, "")
    two.stop(alone)
    two.wait_empty()


def test_nine_and_more_disks_work(pair: list[Host], tmp_path: Path) -> None:
    one, _ = pair
    guest = Guest("many", [tmp_path / f"d{n}" for n in range(64)])
    assert one.start(guest) == (0, "")
    assert len(one.held()) == 64
    one.stop(guest)
    one.wait_empty()


def test_a_guest_whose_qemu_dies_is_released_without_the_hook(pair: list[Host], disk: Path) -> None:
    one, two = pair
    guest = Guest("dies", [disk])
    assert one.start(guest) == (0, "")
    wait_for("QEMU to be found", lambda: one.phases() == {"dies": "running"})
    one.end_qemu(guest)
    one.wait_empty()
    assert two.start(guest) == (0, "")
    two.stop(guest)
    two.wait_empty()


def test_a_release_of_a_running_guest_gives_nothing_back(pair: list[Host], disk: Path) -> None:
    one, two = pair
    guest = Guest("late", [disk])
    assert one.start(guest) == (0, "")
    one.after_end(guest)
    assert one.held() == {(str(disk), "exclusive")}
    assert two.start(guest)[0] == 1
    one.stop(guest)
    one.wait_empty()


def test_a_guest_with_a_living_qemu_is_not_prepared_again(pair: list[Host], disk: Path) -> None:
    one, _ = pair
    guest = Guest("twice", [disk])
    assert one.start(guest) == (0, "")
    status, line = one.prepare(guest, 99)
    assert status == 1
    assert "still lives on this host" in line
    assert one.held() == {(str(disk), "exclusive")}
    one.stop(guest)
    one.wait_empty()


def test_policies_that_outlive_the_lease_are_refused(pair: list[Host], disk: Path) -> None:
    one, _ = pair
    for policy in ("ignore", "restart"):
        guest = Guest("policy", [disk], more=f"<on_lockfailure>{policy}</on_lockfailure>")
        status, line = one.start(guest)
        assert status == 1
        assert policy in line
    guest = Guest("policy", [disk], more="<on_lockfailure>poweroff</on_lockfailure>")
    assert one.start(guest) == (0, "")
    one.stop(guest)
    one.wait_empty()


@pytest.mark.slow
@pytest.mark.sanlock
@pytest.mark.xdist_group("take-over")
def test_a_dead_hosts_disk_is_refused_with_the_time_and_then_taken(tmp_path: Path) -> None:
    """8N+60 s after the last renewal, not before (format document, 5); each engine takes from the other."""
    leases = tmp_path / "leases"
    leases.mkdir()
    engines = ("native", "sanlock", "sanlock", "native")
    made = [Host(tmp_path, number, leases, engine=engine) for number, engine in enumerate(engines, 1)]
    try:
        for host in made:
            host.start_daemons()
        for host in made:
            host.wait_joined()
        pairs = [(made[0], made[2]), (made[1], made[3])]
        guests = [Guest(f"orphan{n}", [tmp_path / f"disk{n}"]) for n in range(2)]
        for (one, two), guest in zip(pairs, guests):
            assert one.start(guest) == (0, "")
            wait_for("it to be seen alive", lambda two=two, guest=guest: "which is alive" in two.start(guest)[1])
        died = time.monotonic()
        for one, _ in pairs:
            one.crash()
        for (_, two), guest in zip(pairs, guests):
            line = wait_for("the silence", lambda two=two, guest=guest: silence(two.start(guest)[1]))
            assert re.search(r"is free at \d\d:\d\d:\d\d at the latest", line)
        for (_, two), guest in zip(pairs, guests):
            wait_for("the take-over", lambda two=two, guest=guest: two.start(guest)[0] == 0, 90)
            assert time.monotonic() - died >= 8 + 60 - 2 - 1, "taken while the owner might have been alive"
            assert two.held() == {(guest.disks[0], "exclusive")}
    finally:
        for host in made:
            host.down()


def silence(line: str) -> str:
    return line if "silent" in line else ""
