# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper dies, hangs or comes back late: no lease is lost, no second owner appears."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import ENGINES, Guest, Host, hosts, wait_for
from vlhook.errors import VlhookError
from vlhook.guardclient import GuardClient


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def one(tmp_path: Path, engine: str) -> Iterator[Host]:
    with hosts(tmp_path, 1, io_timeout=2, engine=engine) as (host,):
        yield host


@pytest.mark.xdist_group("restart-1")
def test_a_restarted_keeper_continues_its_generation_with_all_leases(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a", tmp_path / "b"], [tmp_path / "s"])
    assert one.start(guest) == (0, "")
    held, generation = one.held(), one.generation()
    wait_for("QEMU to be found", lambda: one.phases() == {"g": "running"})
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined()
    assert (one.held(), one.generation()) == (held, generation)
    assert one.phases() == {"g": "running"}
    one.stop(guest)
    one.wait_empty()


@pytest.mark.xdist_group("restart-1")
def test_a_guest_that_ended_while_the_keeper_was_dead_is_released(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    assert one.start(guest) == (0, "")
    wait_for("QEMU to be found", lambda: one.phases() == {"g": "running"})
    one.kill_keeper()
    one.end_qemu(guest)
    one.start_keeper()
    one.wait_empty()


@pytest.mark.xdist_group("restart-1")
def test_a_release_that_comes_before_the_former_state_was_read_is_not_lost(one: Host, tmp_path: Path) -> None:
    """Answered from an empty table it would be, and nothing else ends a start whose QEMU never came."""
    guest = Guest("g", [tmp_path / "a"])
    for operation in ("prepare", "start"):
        assert one.hook("g", operation, "begin", "-", xml=guest.xml(3)).returncode == 0
    one.kill_keeper()
    (path,) = (one.run_dir / "guests").iterdir()
    state = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # the keeper reads no further until it gets what is in there
    one.start_keeper()
    one.after_end(guest)
    path.write_bytes(state)
    wait_for("its start to be known", lambda: "resumed" in one.log_text(), 60)
    one.wait_empty(60)
    assert "guest-ends guest=g" in one.log_text()


@pytest.mark.xdist_group("restart-1")
def test_a_guest_that_ends_before_its_leases_are_found_again_is_released_on_the_disk_too(tmp_path: Path) -> None:
    """The storage is slow just when the keeper is restarted, and libvirt ends the guest meanwhile."""
    with hosts(tmp_path, 1, io_timeout=3) as (one,):
        guest = Guest("g", [tmp_path / "a"])
        assert one.start(guest) == (0, "")
        one.wait_found()
        leases, away = tmp_path / "leases", tmp_path / "away"
        one.kill_keeper()
        leases.rename(away)
        one.start_keeper()
        wait_for("the keeper to look", lambda: "cannot be resumed yet" in one.log_text())
        one.stop(guest)
        away.rename(leases)
        one.wait_empty()
        assert one.start(Guest("other", [tmp_path / "a"])) == (0, "")


@pytest.mark.xdist_group("restart-1")
def test_a_stopped_keeper_leaves_the_guests_their_leases(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    assert one.start(guest) == (0, "")
    assert one.keeper
    one.keeper.send_signal(signal.SIGHUP)
    assert one.keeper.wait(20) == 0
    one.start_keeper()
    one.wait_joined()
    assert one.generation() == 1
    assert len(one.held()) == 1


@pytest.mark.xdist_group("restart-1")
def test_changed_settings_wait_until_the_guests_are_gone(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    assert one.start(guest) == (0, "")
    wait_for("QEMU to be found", lambda: one.phases() == {"g": "running"})
    held, elsewhere = one.held(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    one.config.write_text(f'host_id = 5\ndisk_lease_dir = "{elsewhere}"\nio_timeout = 3\n')
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined()
    assert (one.held(), one.generation(), one.phases()) == (held, 1, {"g": "running"})
    assert any("without guests" in alarm for alarm in one.status()["alarms"])
    assert list(elsewhere.iterdir()) == [], "nothing of it is used yet"
    one.stop(guest)
    one.wait_empty()
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined()
    assert one.status()["host_id"] == 5
    assert (elsewhere / "__LIBVIRT__DISKS__").exists()


@pytest.mark.xdist_group("restart-1")
def test_a_guard_that_lost_its_list_is_told_every_guest_anew(one: Host, tmp_path: Path) -> None:
    guests = [Guest(name, [tmp_path / name]) for name in ("one", "two")]
    for guest in guests:
        assert one.start(guest) == (0, "")
    wait_for("both QEMUs", lambda: set(one.phases().values()) == {"running"})
    client = GuardClient(one.run_dir)
    assert one.guard
    one.guard.kill()
    one.guard.wait()
    for path in one.run_dir.glob("guard*"):
        if path.is_file():
            path.unlink()
    one.start_guard()

    def told() -> set[str]:
        try:
            return {watched.uuid for watched in client.watched() if watched.pids}
        except VlhookError:
            return set()

    wait_for("the guard to know both", lambda: told() == {guest.uuid for guest in guests})


@pytest.mark.slow
@pytest.mark.xdist_group("restart-2")
def test_a_keeper_killed_again_and_again_loses_no_lease_and_lets_nobody_else_in(tmp_path: Path) -> None:
    rng = random.Random(7)
    with hosts(tmp_path, 2, io_timeout=3) as (one, two):
        steady, other = Guest("steady", [tmp_path / "a"]), Guest("other", [tmp_path / "b"])
        assert one.start(steady) == (0, "")
        attempts, won, over = [0], [], threading.Event()

        def contend() -> None:
            while not over.is_set() or attempts[0] < 20:
                attempts[0] += 1
                if two.prepare(steady, attempts[0])[0] == 0:
                    won.append(attempts[0])
                    return

        thread = threading.Thread(target=contend)
        thread.start()
        for _ in range(12):
            worker = threading.Thread(target=one.prepare, args=(other, rng.randrange(1000)))
            worker.start()
            time.sleep(rng.random() * 0.1)  # a random point of the prepare is what is tried here
            one.kill_keeper()
            worker.join()
            one.start_keeper()
            one.wait_joined()
            assert (str(tmp_path / "a"), "exclusive") in one.held(), one.log_text()
        over.set()
        thread.join()
        assert not won
        assert one.generation() == 1
        one.after_end(other)  # the last prepare may have been granted before the kill
        wait_for("the unfinished starts to be cleaned up", lambda: "other" not in one.phases())
        assert two.start(other) == (0, ""), "what the killed prepares left must not hold the disk"


@pytest.mark.slow
@pytest.mark.xdist_group("restart-3")
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_guard_ends_the_guests_of_a_keeper_that_is_dead_or_hangs(tmp_path: Path, how: str, engine: str) -> None:
    n = 1 if engine == "native" else 2
    with hosts(tmp_path, 1, io_timeout=n, engine=engine) as (one,):
        guest = Guest("g", [tmp_path / "a"])
        assert one.start(guest, stubborn=True) == (0, "")
        wait_for("QEMU to be found", lambda: one.phases() == {"g": "running"})
        assert one.keeper
        assert one.guard
        qemu, begun = one.qemus[guest.uuid], time.monotonic()
        one.keeper.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        qemu.wait(8 * n + 60)
        assert qemu.returncode == -signal.SIGKILL
        assert time.monotonic() - begun >= 8 * n - 2 * n - 1, "ended although its leases were still good"
        if how == "stopped":
            assert one.keeper.wait(30) == -signal.SIGKILL, "a stopped keeper must not finish an old write"


@pytest.mark.slow
@pytest.mark.xdist_group("restart-3")
def test_a_keeper_that_comes_back_too_late_stops_the_guests_before_it_joins_anew(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (one,):
        guest = Guest("g", [tmp_path / "a"])
        assert one.start(guest) == (0, "")
        wait_for("QEMU to be found", lambda: one.phases() == {"g": "running"})
        assert one.guard
        one.guard.kill()
        one.guard.wait()
        one.kill_keeper()
        time.sleep(9)  # 8N and a second: the point of this test is that time goes by
        assert one.qemus[guest.uuid].poll() is None
        one.start_daemons()
        one.qemus[guest.uuid].wait(30)
        one.wait_joined()
        assert one.generation() == 2
        one.wait_empty()
        assert one.start(guest) == (0, "")


@pytest.mark.slow
@pytest.mark.xdist_group("restart-4")
@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_without_its_state_a_keeper_does_not_join_while_a_qemu_lives(tmp_path: Path, harm: str, engine: str) -> None:
    with hosts(tmp_path, 1, engine=engine) as (one,):
        guest = Guest("g", [tmp_path / "a"])
        assert one.start(guest) == (0, "")
        wait_for("QEMU to be found", lambda: one.phases() == {"g": "running"})
        one.kill_keeper()
        for path in [one.run_dir / "membership", *(one.run_dir / "guests").iterdir()]:
            if harm == "lost":
                path.unlink()
            else:
                path.write_bytes(path.read_bytes()[:-3])
        one.start_keeper()
        wait_for("the reason", lambda: one.status().get("alarms"))
        text = " ".join(one.status()["alarms"])
        assert "run directory" in text or "damaged" in text
        assert one.status()["membership"]["state"] == "out"
        status, line = one.prepare(Guest("h", [tmp_path / "b"]))
        assert status == 1
        assert "vlhook" in line
        assert one.qemus[guest.uuid].poll() is None


@pytest.mark.xdist_group("restart-1")
def test_a_rebooted_host_joins_under_its_own_name_and_holds_nothing(tmp_path: Path, engine: str) -> None:
    with hosts(tmp_path, 1, engine=engine) as (one,):
        guest = Guest("g", [tmp_path / "a"])
        assert one.start(guest) == (0, "")
        one.crash()
        (one.dir / "state/joined").unlink()  # it names the boot, and this test cannot change that
        one.start_daemons()
        one.wait_joined(60)
        assert one.generation() == 2
        assert one.held() == set()
        assert one.start(guest) == (0, "")


@pytest.mark.xdist_group("restart-5")
def test_a_host_id_that_a_live_host_uses_is_refused(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (one,):
        twin = Host(tmp_path / "twin", 1, tmp_path / "leases").start_daemons()
        try:
            wait_for("the refusal", lambda: twin.status().get("alarms"), 30)
            text = twin.status()["alarms"][0]
            assert "host id 1" in text
            assert "in use" in text
            assert "augtool" in text
            assert one.joined()
        finally:
            twin.down()


@pytest.mark.xdist_group("restart-5")
def test_a_second_keeper_on_one_run_directory_is_refused(one: Host) -> None:
    first = one.keeper
    one.start_keeper()
    assert one.keeper
    assert first
    assert one.keeper.wait(20) == 1
    assert "another vlhookd runs here" in one.log_text()
    one.keeper = first
    assert one.joined()
