# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keepers that drive the sanlock daemon of their host: what is peculiar to that."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import PYTHON, ROOT, Guest, Host, hosts, wait_for
from tests.sanlock_daemon import SanlockHost, direct_leader, direct_resource, short_directory
from tests.sanlock_daemon import resource as any_resource
from vlhook.cli.status import lines
from vlhook.keeper.client import call
from vlhook.leases import directory, overview
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.sanlockspace import SpaceState, look

pytestmark = pytest.mark.sanlock
PERSISTENT = 8
KILLS, GUESTS = int(os.environ.get("VLHOOK_KILLS", "8")), int(os.environ.get("VLHOOK_GUESTS", "5"))


def daemon_of(host: Host) -> SanlockHost:
    assert host.sanlock
    return host.sanlock


def space_of(host: Host) -> SpaceState:
    found = look(daemon_of(host).client, LOCKSPACE_NAME).space
    assert found
    return found


def listed(host: Host) -> set[tuple[str, str]]:
    return {(one.resource.name, one.state) for one in daemon_of(host).client.leases()}


def alarmed(host: Host, words: str) -> bool:
    return any(words in alarm for alarm in host.status().get("alarms", []))


def running(host: Host, *guests: Guest) -> list[subprocess.Popen[bytes]]:
    for guest in guests:
        assert host.start(guest) == (0, "")
    host.wait_found()
    return [host.qemus[guest.uuid] for guest in guests]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    with hosts(tmp_path_factory.mktemp("pair"), 2, io_timeout=2, engine="sanlock") as made:
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Host]:
    with hosts(tmp_path, 1, engine="sanlock") as (host,):
        yield host


# ------------------------------------------------------------------------- in peace


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_used_is_taken_back_when_nobody_runs_and_set_before_the_next_guest(pair: list[Host], tmp_path: Path) -> None:
    host = pair[0]
    wait_for("UNUSED", lambda: not space_of(host).used)
    guest = Guest("g", [tmp_path / "a"])
    running(host, guest)
    assert space_of(host).used
    stranger = host.run_qemu(Guest("stranger", []))
    host.end_qemu(guest)
    host.wait_empty()
    assert space_of(host).used
    stranger.kill()
    stranger.wait()
    wait_for("UNUSED again", lambda: not space_of(host).used)


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_killed_again_and_again_the_keeper_loses_no_guest_and_lets_nobody_in(pair: list[Host], tmp_path: Path) -> None:
    """VLHOOK_KILLS times under VLHOOK_GUESTS guests, each with two disks and a shared one."""
    host, other = pair
    guests = [Guest(f"g{n}", [tmp_path / f"{n}.{d}" for d in range(2)], [tmp_path / "common"]) for n in range(GUESTS)]
    qemus, generation = running(host, *guests), host.generation()
    held = host.held()
    for number in range(KILLS):
        host.kill_keeper()
        host.start_keeper()
        assert other.start(guests[number % GUESTS])[0] == 1
        # Killed at any time from here on: in the middle of taking the leases over, too.
        host.wait_joined()
        assert host.held() == held, host.log_text()
    wait_for("all orphans to be taken over", lambda: {state for _, state in listed(host)} == {"held"})
    assert host.generation() == generation
    assert [qemu.poll() for qemu in qemus] == [None] * GUESTS
    for guest in guests:
        host.stop(guest)
    host.wait_empty()
    assert not listed(host)


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_a_guest_comes_in_with_its_leases_and_a_restarted_keeper_keeps_them(pair: list[Host], tmp_path: Path) -> None:
    source, host = pair
    guest, rival = Guest("mover", [tmp_path / "a", tmp_path / "b"]), Guest("rival", [tmp_path / "a"])
    running(source, guest)
    mark = host.hook(guest.name, "migrate", "begin", "-", xml=guest.xml(1)).stdout.decode()
    token = re.search(r'token="(\w+)"', mark)
    assert token
    guest.more = f"<metadata><v:incoming xmlns:v='urn:vlhook:incoming' token='{token[1]}'/></metadata>"
    for operation in ("prepare", "start"):
        assert host.hook(guest.name, operation, "begin", "-", xml=guest.xml(7)).returncode == 0, host.log_text()
    host.run_qemu(guest, more=["-incoming", "defer"])
    host.wait_found()
    assert host.held() == {(disk, "claimed") for disk in guest.disks}
    assert source.start(rival)[0] == 1
    source.stop(guest)
    names = [lease_name(disk.encode()) for disk in guest.disks]
    wait_for("the conversion", lambda: all(owner_of(host, name) == 2 for name in names))
    for _ in range(2):
        status, line = source.start(rival)
        assert (status, "host 2" in line) == (1, True), line
        assert not listed(host)
        host.kill_keeper()
        host.start_keeper()
        host.wait_joined()
    assert host.held() == {(disk, "claimed") for disk in guest.disks}, host.log_text()
    host.stop(guest)
    host.wait_empty()
    assert source.start(rival) == (0, "")
    source.stop(rival)
    source.wait_empty()


def owner_of(host: Host, name: str) -> int:
    leader = direct_leader(host.leases / name, name, LOCKSPACE_NAME)
    return int(leader["owner_id"]) if leader["timestamp"] != "0" else 0


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_an_orphan_of_which_nobody_knows_is_kept_while_an_unknown_qemu_runs(pair: list[Host], tmp_path: Path) -> None:
    host = pair[0]
    daemon, name = daemon_of(host), "0" * 32
    path = direct_resource(host.leases / name, name, space=LOCKSPACE_NAME)
    guest = Guest("unknown", [])
    stranger = host.run_qemu(guest)
    holder = daemon.holder()
    holder.acquire(any_resource(path, name, PERSISTENT, LOCKSPACE_NAME))
    holder.kill()
    wait_for("the alarm", lambda: alarmed(host, name))
    assert listed(host) == {(name, "orphan")}
    assert space_of(host).used
    stranger.kill()
    stranger.wait()
    wait_for("its release", lambda: not listed(host))
    wait_for("the end of the alarm", lambda: not alarmed(host, name))


def would_start(host: Host, guest: Guest, incoming: bool = False) -> list[str]:
    """What `vlhook check-start`, or `check-migrate` at the destination, has to say against it."""
    return list(call(host.run_dir, "check", 60, xml=guest.xml(-1), incoming=incoming)["why"])


def may_leave(host: Host, guest: Guest, to: str) -> list[str]:
    return list(call(host.run_dir, "check-leave", 60, uuid=guest.uuid, guest=guest.name, to=to)["why"])


def everything(pair: list[Host]) -> list[object]:
    """All that a check must leave alone; into the lockspace the daemons write all the time."""
    files = {path: path.read_bytes() for path in pair[0].leases.iterdir() if path.name != LOCKSPACE_NAME}
    return [files, *(listed(host) for host in pair), *(host.held() for host in pair)]


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_check_start_says_what_a_start_would_and_touches_nothing(pair: list[Host], tmp_path: Path) -> None:
    host, other = pair
    guest, rival = Guest("g", [tmp_path / "a", tmp_path / "b"]), Guest("rival", [tmp_path / "b"])
    before = everything(pair)
    assert (would_start(host, guest), would_start(other, guest)) == ([], [])
    assert everything(pair) == before
    running(host, guest)
    before = everything(pair)
    assert "it runs on this host already" in would_start(host, guest)[0]
    (here,), (there,) = would_start(host, rival), would_start(other, rival)
    assert "in use by guest g on this same host" in here
    assert f"in use by guest g (UUID {guest.uuid}) on host 1" in there
    assert everything(pair) == before
    assert here in host.start(rival)[1]
    assert there in other.start(rival)[1]
    host.stop(guest)
    host.wait_empty()
    assert (would_start(host, rival), would_start(other, rival)) == ([], [])


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_check_start_knows_what_the_daemon_has_for_others_of_this_host(pair: list[Host], tmp_path: Path) -> None:
    """On disk it looks like our own."""
    host, guest = pair[0], Guest("g", [tmp_path / "a"])
    name = lease_name(guest.disks[0].encode())
    path = direct_resource(host.leases / name, name, space=LOCKSPACE_NAME)
    stranger = host.run_qemu(Guest("stranger", []))
    with daemon_of(host).holder() as holder:
        holder.acquire(any_resource(path, name, PERSISTENT, LOCKSPACE_NAME))
        (why,) = would_start(host, guest)
        assert f"pid {holder.pid}" in why
        assert why in host.start(guest)[1]
    wait_for("the orphan", lambda: listed(host) == {(name, "orphan")})
    assert "from an earlier vlhookd" in would_start(host, guest)[0]
    stranger.kill()
    stranger.wait()
    wait_for("its release", lambda: not listed(host))
    assert would_start(host, guest) == []


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_check_migrate_says_on_either_side_whether_the_guest_may_move(pair: list[Host], tmp_path: Path) -> None:
    source, host = pair
    guest, other = Guest("mover", [tmp_path / "a"]), Guest("other", [tmp_path / "b"])
    running(source, guest, other)
    wait_for("the other host to be seen alive", lambda: not may_leave(source, guest, "2"))
    before = everything(pair)
    assert "no host 9 is in the lockspace" in may_leave(source, guest, "9")[0]
    assert "does not run on this host" in may_leave(host, guest, "1")[0]
    assert would_start(host, guest, incoming=True) == []
    changed = Guest("mover", other.disks)
    changed.uuid = guest.uuid
    assert "in use by guest other" in would_start(host, changed, incoming=True)[0]
    assert "it runs on this host already" in would_start(source, guest, incoming=True)[0]
    assert everything(pair) == before
    for one in (guest, other):
        source.stop(one)
    source.wait_empty()


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_status_tells_of_the_daemon_and_its_watchdog(pair: list[Host]) -> None:
    status = pair[0].status()
    assert status["engine"] == "sanlock"
    assert status["membership"]["sanlock"]["use_watchdog"] is False
    assert re.fullmatch(r"\d+\.\d+\.\d+", status["membership"]["sanlock"]["version"])
    assert status["fencing"]["watchdog"] == "none"
    text = "\n".join(lines(status))
    assert "the daemon of this host takes the leases" in text
    assert "it uses no watchdog (-w 0)" in text
    status["membership"]["sanlock"]["use_watchdog"] = True
    status["fencing"]["watchdog"] = "sanlock"
    assert "sanlock's watchdog resets this host" in "\n".join(lines(status))


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_clean_up_is_left_to_hosts_with_the_native_engine(pair: list[Host]) -> None:
    host = pair[0]
    name = lease_name(b"/srv/unused")
    directory.create_lease(str(host.leases / name), FILE, LOCKSPACE_NAME.encode(), name.encode(), directory.Ownership())
    command = [PYTHON, "-m", "vlhook.cli", "cleanup", "--run-dir", str(host.run_dir), "--dir", str(host.leases)]
    ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "this host removes no leases" in ran.stdout
    assert "0 leases removed" in ran.stdout
    assert (host.leases / name).exists()
    (host.leases / name).unlink()


@pytest.mark.xdist_group("sanlock-keeper-1")
def test_a_stopped_keeper_without_guests_leaves_the_lockspace(pair: list[Host]) -> None:
    host = pair[0]
    generation = host.generation()
    wait_for("UNUSED", lambda: not space_of(host).used)
    assert host.keeper
    host.keeper.send_signal(signal.SIGTERM)
    assert host.keeper.wait(30) == 0
    assert not daemon_of(host).client.get_lockspaces()
    host.start_keeper()
    host.wait_joined()
    assert host.generation() == generation + 1


@pytest.mark.xdist_group("sanlock-keeper-2")
def test_hosts_of_every_kind_keep_each_other_out(tmp_path: Path) -> None:
    """vlhook native, vlhook over the daemon, and a daemon without vlhook, as libvirt's plugin uses it."""
    leases, disk = tmp_path / "leases", str(tmp_path / "disk")
    leases.mkdir()
    name, guest = lease_name(disk.encode()), Guest("g", [disk])
    made = [Host(tmp_path, number, leases, 2, engine=e) for number, e in ((1, "native"), (2, "auto"), (4, "auto"))]
    daemon_of(made[2])
    made[2].sanlock = None  # its daemon is never started: auto is native there
    with short_directory() as run_dir, SanlockHost("plain", run_dir).start() as plain:
        try:
            for host in made:
                host.start_daemons()
            for host in made:
                host.wait_joined()
            assert [host.status()["engine"] for host in made] == ["native", "sanlock", "native"]
            plain.add_lockspace(leases / LOCKSPACE_NAME, 3, 2, LOCKSPACE_NAME)
            lease = any_resource(leases / name, name, space=LOCKSPACE_NAME)
            with plain.holder() as holder:
                for host in (*made, made[0]):
                    assert host.start(guest) == (0, "")
                    for other in made:
                        if other is not host:
                            status, line = other.start(guest)
                            assert status == 1
                            assert f"guest g (UUID {guest.uuid}) on host {host.number}" in line
                    with pytest.raises(AssertionError, match="-24[37]"):
                        holder.acquire(lease)
                    host.stop(guest)
                    host.wait_empty()
                holder.acquire(lease)
                for host in made:
                    status, line = host.start(guest)
                    assert (status, "host 3" in line) == (1, True)
                holder.release(lease)
            for host in made:
                wait_for("the lease that the daemon gave up", lambda host=host: host.start(guest) == (0, ""))
                host.stop(guest)
                host.wait_empty()
        finally:
            for host in made:
                host.down()


@pytest.mark.xdist_group("sanlock-keeper-2")
def test_the_engine_changes_only_when_no_guest_needs_the_old_one(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    running(one, guest)
    one.engine = "native"
    one.settings("")
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined()
    assert one.status()["engine"] == "sanlock"
    assert any("without guests" in alarm for alarm in one.status()["alarms"])
    one.stop(guest)
    one.wait_empty()
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined(90)
    assert one.status()["engine"] == "native"
    assert not daemon_of(one).client.get_lockspaces(), "it left what it had joined"
    ran = command(one, "cleanup", "--dir", str(one.leases))
    assert "1 leases removed" in ran.stdout, ran
    one.engine = "sanlock"
    one.settings("")
    assert one.keeper
    one.keeper.send_signal(signal.SIGTERM)
    assert one.keeper.wait(60) == 0
    one.start_keeper()
    one.wait_joined(90)
    assert one.status()["engine"] == "sanlock"
    assert one.start(guest) == (0, "")


# ---------------------------------------------------------------------- in trouble


@pytest.mark.xdist_group("sanlock-keeper-3")
def test_a_daemon_that_dies_ends_the_guests_at_once_and_the_host_comes_back(one: Host, tmp_path: Path) -> None:
    guest, bystander = Guest("g", [tmp_path / "a"]), Guest("bystander", [])
    qemu, other = running(one, guest, bystander)
    daemon_of(one).kill9()
    assert qemu.wait(30) == -signal.SIGTERM
    assert other.poll() is None
    wait_for("the reason", lambda: alarmed(one, "sanlock"))
    status, line = one.start(Guest("h", [tmp_path / "b"]))
    assert status == 1
    assert "sanlock" in line
    daemon_of(one).start()
    one.wait_joined(90)
    assert one.generation() == 2
    wait_for("the guest's end", lambda: "g" not in one.phases())
    assert one.start(guest) == (0, "")


@pytest.mark.xdist_group("sanlock-keeper-3")
def test_a_daemon_that_dies_with_the_keeper_away_ends_the_guests_when_it_is_back(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    (qemu,) = running(one, guest)
    one.kill_keeper()
    daemon_of(one).kill9()
    daemon_of(one).start()
    one.start_keeper()
    assert qemu.wait(30) == -signal.SIGTERM
    one.wait_joined(90)
    assert one.generation() == 2
    one.wait_empty()


@pytest.mark.xdist_group("sanlock-keeper-4")
def test_a_daemon_that_never_answers_is_told_and_blocks_nothing(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    (qemu,) = running(one, guest)
    daemon_of(one).sigstop()
    wait_for("the alarm", lambda: alarmed(one, "did not answer"))
    assert qemu.poll() is None
    assert one.hook("x", "stopped", "end", "-", xml=Guest("x", []).xml(1)).returncode == 0
    assert one.prepare(Guest("diskless", []))[0] == 0
    status, line = one.start(Guest("h", [tmp_path / "b"]))
    assert status == 1
    assert "sanlock" in line
    assert qemu.wait(60) == -signal.SIGTERM
    assert "not renewed for" in one.log_text()
    daemon_of(one).kill9()
    daemon_of(one).start()
    one.wait_joined(90)
    assert one.start(guest) == (0, "")


@pytest.mark.xdist_group("sanlock-keeper-5")
def test_whatever_is_asked_while_the_daemon_hangs_is_answered_and_is_done_when_it_goes_on(tmp_path: Path) -> None:
    """Shorter than the 8 io_timeouts that guests have."""
    (tmp_path / "leases").mkdir()
    host = Host(tmp_path, 1, tmp_path / "leases", io_timeout=10, engine="sanlock")
    host.settings("hook_deadline = 5\n")
    try:
        host.start_daemons().wait_joined(90)
        guest, other = Guest("g", [tmp_path / "a"]), Guest("h", [tmp_path / "b"])
        (qemu,) = running(host, guest)
        daemon_of(host).sigstop()
        status, line = host.start(other)
        assert (status, "did not answer" in line) == (1, True), line
        assert "did not answer" in would_start(host, other)[0]
        wait_for("the alarm", lambda: alarmed(host, "did not answer"))
        assert "did not answer" in command(host, "status").stdout
        found = command(host, "doctor", "sanlock", "--config-dir", str(host.dir / "etc"))
        assert (found.returncode, "did not answer" in " ".join(found.stdout.split())) == (1, True), found
        assert qemu.poll() is None
        host.stop(guest)
        assert host.phases() == {guest.name: "ending"}, "its lease is not known to be given back"
        status, line = host.start(guest)
        assert status == 1, line
        daemon_of(host).sigcont()
        host.wait_empty(60)
        wait_for("the leases to be given back", lambda: not listed(host), 60)
        for one in (guest, other):
            assert host.start(one) == (0, "")
            host.stop(one)
    finally:
        host.down()


@pytest.mark.xdist_group("sanlock-keeper-5")
@pytest.mark.parametrize("guests", [0, 1])
def test_a_keeper_is_stopped_while_the_daemon_hangs_and_the_next_goes_on(tmp_path: Path, guests: int) -> None:
    with hosts(tmp_path, 1, engine="sanlock", io_timeout=10) as (host,):
        generation = host.generation()
        for number in range(guests):
            running(host, Guest(f"g{number}", [tmp_path / str(number)]))
        held = host.held()
        daemon_of(host).sigstop()
        assert host.keeper
        # With guests SIGTERM is refused; a service manager restarts with SIGHUP.
        host.keeper.send_signal(signal.SIGHUP if guests else signal.SIGTERM)
        assert host.keeper.wait(60) == 0
        host.start_keeper()
        wait_for("the next keeper to answer", host.status, 60)
        daemon_of(host).sigcont()
        host.wait_joined(90)
        assert host.held() == held
        assert host.generation() == generation


@pytest.mark.xdist_group("sanlock-keeper-5")
def test_a_keeper_that_cannot_join_as_the_daemon_hangs_says_so_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    host = Host(tmp_path, 1, tmp_path / "leases", engine="sanlock")
    try:
        daemon_of(host).start().sigstop()
        host.start_daemons()
        wait_for("the reason", lambda: "did not answer" in host.status().get("membership", {}).get("why", ""), 60)
        status, line = host.start(Guest("g", [tmp_path / "a"]))
        assert (status, "did not answer" in line) == (1, True), line
        assert host.keeper
        host.keeper.send_signal(signal.SIGTERM)
        assert host.keeper.wait(60) == 0
    finally:
        host.down()


def command(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of vlhook's on this host."""
    line = [PYTHON, "-m", "vlhook.cli", *words, "--run-dir", str(host.run_dir)]
    environment = {**os.environ, **host.environment}
    return subprocess.run(line, check=False, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.xdist_group("sanlock-keeper-4")
def test_a_daemon_that_is_shut_down_by_force_ends_the_guests_and_not_the_keeper(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    (qemu,) = running(one, guest)
    daemon_of(one).cli("shutdown", "-f", "1", check=False)
    assert qemu.wait(60) == -signal.SIGTERM
    assert one.keeper
    assert one.keeper.poll() is None
    daemon_of(one).wait_gone()
    daemon_of(one).start()
    one.wait_joined(90)
    assert one.keeper.poll() is None
    assert one.start(guest) == (0, "")


@pytest.mark.xdist_group("sanlock-keeper-4")
def test_a_record_damaged_with_the_keeper_away_ends_the_guests_when_it_is_back(one: Host, tmp_path: Path) -> None:
    guest = Guest("g", [tmp_path / "a"])
    (qemu,) = running(one, guest)
    one.kill_keeper()
    with open(one.leases / LOCKSPACE_NAME, "r+b") as file:
        record = file.read(512)
        file.seek(0)
        file.write(b"X" * 512)
    wait_for("the daemon to give up", lambda: space_of(one).dead)
    one.start_keeper()
    assert qemu.wait(60) == -signal.SIGTERM
    with open(one.leases / LOCKSPACE_NAME, "r+b") as file:
        file.write(record)
    one.wait_joined(90)
    assert one.generation() == 2
    assert "sanlock has given the lockspace up" in one.log_text()
    assert one.start(guest) == (0, "")


@pytest.mark.xdist_group("sanlock-keeper-2")
def test_a_lockspace_file_that_was_replaced_is_joined_anew_and_renewed_where_others_look(
    one: Host, tmp_path: Path
) -> None:
    """The daemon goes on in the file that it has open; the one that has the name now may be a copy."""
    guest = Guest("g", [tmp_path / "a"])
    (qemu,) = running(one, guest)
    place = one.leases / LOCKSPACE_NAME
    shutil.copy(place, tmp_path / "copy")
    os.rename(tmp_path / "copy", place)
    assert qemu.wait(60) == -signal.SIGTERM
    wait_for("a new generation", lambda: one.joined() and one.generation() == 2, 90)

    def renewed() -> bool:
        record = overview.lockspace(str(one.leases)).hosts[1]
        return (record.generation, record.timestamp) == (2, space_of(one).last_ok)

    wait_for("the record that others see", renewed)
    assert one.start(guest) == (0, "")
