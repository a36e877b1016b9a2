# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt gives a start up while no keeper answers: the next one learns of it, and mistakes nothing else for it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.keeper.host import KeeperHost, Libvirtd
from tests.keeper.hosts import ROOT, Guest, Host, hosts, wait_for
from vlhook.keeper.log import Log
from vlhook.keeper.missed import MissedReleases
from vlhook.keeper.qemu import Processes
from vlhook.keeper.releasenote import MAX_BYTES, leave
from vlhook.keeper.state import ACQUIRING, STARTING, Caller, Incarnation, StateStore
from vlhook.processes import ticks_now

UUID = "0e8f7d5c-2a4b-4c6d-8e9f-a1b2c3d4e5f6"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Host]:
    with hosts(tmp_path, 1, io_timeout=2) as (host,):
        yield host


def hook(host: Host, guest: Guest, operation: str, suboperation: str = "begin") -> str:
    """Standard error; libvirt is told of no failure."""
    done = host.hook(guest.name, operation, suboperation, "-", xml=guest.xml(3 if suboperation == "begin" else -1))
    assert (done.returncode, done.stdout) == (0, b"")
    return done.stderr.decode()


def pass_gates(host: Host, guest: Guest) -> None:
    assert hook(host, guest, "prepare") + hook(host, guest, "start") == ""


def notes(host: Host | KeeperHost) -> list[Path]:
    return sorted((host.run_dir / "released").iterdir())


def told(host: Host, word: str) -> Callable[[], bool]:
    return lambda: word in host.log_text()


def with_keeper_frozen(host: Host, act: Callable[[], object]) -> None:
    """The keeper takes what it is asked, and is killed before it answers."""
    assert host.keeper
    host.keeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, host.keeper.pid, os.WSTOPPED)
    asking = threading.Thread(target=act)
    asking.start()
    wait_for("the question", lambda: queued(host))
    host.kill_keeper()
    asking.join()


def queued(host: Host) -> bool:
    """Whether somebody has connected that the keeper has not accepted: such a connection has its path as well."""
    table = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f"{host.run_dir}/vlhookd.sock") for line in table) > 1


def killed_after_the_second_gate(host: Host, guest: Guest) -> None:
    pass_gates(host, guest)
    host.kill_keeper()
    assert "by the note that was left" in hook(host, guest, "release", "end")


def killed_in_the_second_gate(host: Host, guest: Guest) -> None:
    hook(host, guest, "prepare")
    refused: list[int] = []

    def start() -> None:
        refused.append(host.hook(guest.name, "start", "begin", "-", xml=guest.xml(3)).returncode)

    with_keeper_frozen(host, start)
    assert refused == [1]
    hook(host, guest, "release", "end")


def killed_with_the_release_in_its_hands(host: Host, guest: Guest) -> None:
    pass_gates(host, guest)
    with_keeper_frozen(host, lambda: hook(host, guest, "release", "end"))


def killed_with_a_start_that_was_refused_since(host: Host, guest: Guest) -> None:
    killed_after_the_second_gate(host, guest)
    assert host.start(guest)[0] == 1


@pytest.mark.xdist_group("missed-release-1")
def test_a_start_that_is_given_up_while_no_keeper_answers_is_ended_by_the_next(one: Host, tmp_path: Path) -> None:
    for number, happens in enumerate(
        [
            killed_after_the_second_gate,
            killed_in_the_second_gate,
            killed_with_the_release_in_its_hands,
            killed_with_a_start_that_was_refused_since,
        ]
    ):
        guest = Guest(f"g{number}", [tmp_path / "a"])
        happens(one, guest)
        assert [note.name.partition(".")[0] for note in notes(one)] == [guest.uuid]
        one.start_keeper()
        one.wait_empty(60)
        assert notes(one) == []


@pytest.mark.xdist_group("missed-release-1")
def test_a_host_that_lost_its_lease_rejoins_when_the_start_was_given_up_without_a_keeper(
    one: Host, tmp_path: Path
) -> None:
    guest, generation = Guest("g", [tmp_path / "a"]), one.generation()
    pass_gates(one, guest)
    one.kill_keeper()
    hook(one, guest, "release", "end")
    leases, away = tmp_path / "leases", tmp_path / "away"
    leases.rename(away)
    one.start_keeper()
    wait_for("the loss", told(one, "could not be resumed, its guests are stopped"), 60)
    away.rename(leases)
    one.wait_empty(60)
    assert one.generation() > generation


@pytest.mark.xdist_group("missed-release-2")
def test_a_release_that_a_living_keeper_could_not_judge_is_taken_up_by_itself(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases)
    host.settings("hook_deadline = 4\n")
    try:
        host.start_daemons().wait_joined()
        guest = Guest("g", [tmp_path / "a"])
        pass_gates(host, guest)
        assert host.keeper
        listed = Path(f"/proc/{host.keeper.pid}/task/{host.keeper.pid}/children").read_text().split()
        readers = [int(c) for c in listed if "vlhook.keeper.reader" in Path(f"/proc/{c}/cmdline").read_text()]
        assert readers
        os.kill(readers[0], signal.SIGSTOP)
        hook(host, guest, "release", "end")
        host.wait_empty(60)
        assert "met no keeper, and counts now" in host.log_text()
    finally:
        host.down()


@pytest.mark.xdist_group("missed-release-2")
def test_a_note_never_ends_a_later_start_of_the_guest(one: Host, tmp_path: Path) -> None:
    """Not even if it lies where that start's own would."""
    guest = Guest("g", [tmp_path / "a"])
    pass_gates(one, guest)
    one.kill_keeper()
    hook(one, guest, "release", "end")
    (note,) = notes(one)
    shutil.copy(note, tmp_path / "kept")
    one.start_keeper()
    one.wait_empty(60)
    pass_gates(one, guest)
    (life,) = (one.run_dir / "guests").iterdir()
    shutil.copy(tmp_path / "kept", note.with_name(life.name))
    wait_for("a look at the note", told(one, "it is about another start"), 60)
    one.kill_keeper()
    one.start_keeper()
    one.wait_joined(60)
    wait_for("another look", lambda: one.log_text().count("it is about another start") > 1, 60)
    assert one.phases() == {"g": "starting"}
    assert hook(one, guest, "release", "end") == ""
    one.wait_empty(60)
    assert notes(one) == []


@pytest.mark.xdist_group("missed-release-2")
def test_what_cannot_be_a_note_counts_for_nothing_until_a_whole_one_is_there(one: Host, tmp_path: Path) -> None:
    """Of two starts the hook could leave no note, or was killed; what is torn was put there by somebody else."""
    full, killed, torn = (Guest(name, [tmp_path / name]) for name in ("full", "killed", "torn"))
    for guest in (full, killed, torn):
        pass_gates(one, guest)
    one.kill_keeper()
    folder = one.run_dir / "released"
    folder.rename(tmp_path / "elsewhere")
    assert "no note could be left (" in hook(one, full, "release", "end")
    (tmp_path / "elsewhere").rename(folder)
    environment = {"PATH": "/usr/bin:/bin", "VLHOOK_RUN_DIR": str(one.run_dir)}
    command = [str(ROOT / "hooks/qemu"), "killed", "release", "end", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
        process.kill()
    hook(one, torn, "release", "end")
    (note,) = notes(one)
    whole = note.read_bytes()
    note.write_bytes(whole[: len(whole) // 2])
    one.start_keeper()
    one.wait_joined(60)
    wait_for("a look at the note", told(one, "missed-release guest=torn"), 60)
    assert one.phases() == {"full": "starting", "killed": "starting", "torn": "starting"}
    note.write_bytes(whole)
    wait_for("the end of one", lambda: set(one.phases()) == {"full", "killed"}, 60)
    for guest in (full, killed):
        hook(one, guest, "release", "end")
    one.wait_empty(60)


@contextmanager
def past_the_gates(tmp_path: Path) -> Iterator[tuple[KeeperHost, Guest]]:
    """A host whose libvirtd is a process of its own, and its guest g without a QEMU yet."""
    with KeeperHost(tmp_path / "h", 1, tmp_path / "leases") as host:
        host.wait_joined()
        guest = Guest("g", [tmp_path / "a"])
        for operation in ("prepare", "start"):
            assert host.hook(["g", operation, "begin", "-"], guest.xml(3)).status == 0
        yield host, guest


@pytest.mark.xdist_group("missed-release-1")
def test_the_release_of_another_libvirtd_says_nothing_about_a_start(tmp_path: Path) -> None:
    with past_the_gates(tmp_path) as (host, guest):
        host.kill_keeper()
        other = Libvirtd(host)
        try:
            run = other.begin(["g", "release", "end", "-"], guest.xml(-1))
            run.open_gate()
            other.finish(run)
        finally:
            other.kill()
        assert len(notes(host)) == 1
        host.start_keeper()
        host.wait_joined()
        wait_for("a look at the note", lambda: "it is about another start" in host.log(), 60)
        assert host.phases() == {guest.uuid: "starting"}
        assert host.hook(["g", "release", "end", "-"], guest.xml(-1)).status == 0
        wait_for("the end", lambda: host.phases() == {}, 60)


@pytest.mark.xdist_group("missed-release-2")
def test_a_note_ends_nothing_while_the_guest_may_have_a_process(tmp_path: Path) -> None:
    with past_the_gates(tmp_path) as (host, guest):
        dying = host.processes.proc_dir / "4194000"  # its command line cannot be read any more
        (dying / "task").mkdir(parents=True)
        (dying / "stat").write_text(f"4194000 (qemu-system-x86) D 1{' 0' * 17} {ticks_now()} 0 0\n")
        (dying / "cmdline").touch()
        host.kill_keeper()
        assert host.hook(["g", "release", "end", "-"], guest.xml(-1)).status == 0
        host.start_keeper()
        host.wait_joined()
        wait_for("a look at the note", lambda: "met no keeper, and counts now" in host.log(), 60)
        (state,) = (host.run_dir / "guests").iterdir()
        wait_for("what libvirt said", lambda: '"released":true' in state.read_text(), 60)
        assert host.phases() == {guest.uuid: "starting"}
        shutil.rmtree(dying)
        wait_for("the end", lambda: host.phases() == {}, 60)


def test_notes_of_starts_that_are_over_are_removed(tmp_path: Path) -> None:
    store = StateStore(tmp_path, tmp_path / "lib", "boot")
    store.prepare()
    life, over = (Incarnation(UUID, "g", 1, Caller(1, 1), number, ACQUIRING, 1) for number in (1, 2))
    store.save_guest(life)
    for name in (life.key, over.key, f"{life.key}.77.new", f"{over.key}.77.new"):
        (store.released / name).touch()
    store.prepare()
    assert sorted(path.name for path in store.released.iterdir()) == [life.key, f"{life.key}.77.new"]
    store.forget_guest(life)
    assert not (store.released / life.key).exists()


LIMITED = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from vlhook.keeper.releasenote import leave
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    leave(sys.argv[1].encode(), b"g", b"<uuid>{UUID}</uuid>" * 64)
except OSError as error:
    print(error.strerror)
"""


def test_a_note_that_does_not_fit_is_none(tmp_path: Path) -> None:
    store = StateStore(tmp_path, tmp_path / "lib", "boot")
    store.prepare()
    life = Incarnation(UUID, "g", 1, Caller(1, 1), 1, ACQUIRING, 1)
    store.save_guest(life)
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout
    with pytest.raises(ValueError, match="longer than"):
        leave(str(tmp_path).encode(), b"g", UUID.encode() + b" " * MAX_BYTES)
    assert list(store.released.iterdir()) == []
    assert leave(str(tmp_path).encode(), b"g", b"<uuid>00000000-1111-2222-3333-444444444444</uuid>") == 0
    assert leave(str(tmp_path).encode(), b"g", UUID.upper().encode()) == 1
    assert [path.name for path in store.released.iterdir()] == [life.key]


def test_without_a_thread_for_it_a_note_is_judged_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Incarnation("00000000-0000-4000-8000-000000000001", "g", 1, Caller(1, 1), 1, STARTING, 0)
    (tmp_path / life.key).write_bytes(b"torn")
    judged = threading.Event()

    class Told(Log):
        def warning(self, event: str, **said: object) -> None:
            if "thread" not in str(said):
                judged.set()

    missed = MissedReleases(tmp_path, Processes(str(tmp_path), tmp_path), lambda call: None, Told("test"))

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", no_thread)
        missed.look(life)
    missed.look(life)
    assert judged.wait(60)
