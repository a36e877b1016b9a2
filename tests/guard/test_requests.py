# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guard promises on its socket, and what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid as uuids
from pathlib import Path

import pytest

from tests.guard.rig import PATIENCE, ROOT, Rig, died_of
from vlhook.guardclient import GuardClient, GuardRefused, GuardUnreachable, Watched
from vlhook.keeper.wire import pack, read_message
from vlhook.processes import start_time

GUEST = "6d1f5f2c-2f3e-4d0a-9a53-0c1d2e3f4a5b"


def raw(rig: Rig, data: bytes) -> bytes:
    """Send bytes as they are; everything the guard says until it hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(rig.run_dir / "guard.sock"))
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := peer.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def test_a_watched_guest_is_on_the_list_with_its_processes(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest("demo guest")
    other = str(uuids.uuid4())
    rig.client.watch(other.upper(), "second")
    assert rig.client.watched() == [
        Watched(uuid, "demo guest", False, (qemu.pid,)), Watched(other, "second", False, ())
    ]


def test_watching_twice_is_watching_once(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    rig.client.watch(GUEST, "demo")
    rig.client.watch(GUEST, "renamed")
    assert [guest.name for guest in rig.client.watched()] == ["renamed"]


def test_no_guest_is_watched_before_a_renewal_was_heard(rig: Rig) -> None:
    rig.start_guard()
    with pytest.raises(GuardRefused, match="renewed"):
        rig.client.watch(GUEST, "demo")
    rig.page.write(rig.page._latest._replace(heartbeat=1))
    with pytest.raises(GuardRefused, match="renewed"):
        rig.client.watch(GUEST, "demo")
    rig.renew()
    rig.client.watch(GUEST, "demo")


def test_no_guest_is_watched_after_the_limit(rig: Rig) -> None:
    rig.renew(90)
    rig.start_guard()
    with pytest.raises(GuardRefused, match=r"ran out \d+ s ago"):
        rig.client.watch(GUEST, "demo")
    assert rig.client.watched() == []


def test_no_guest_is_watched_that_cannot_be_put_on_file(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    (rig.run_dir / "guard.state.new").mkdir()
    with pytest.raises(GuardRefused, match="directory"):
        rig.client.watch(GUEST, "demo")
    assert rig.client.watched() == []


def test_a_guest_is_forgotten_only_when_its_process_is_gone(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest()
    with pytest.raises(GuardRefused, match=str(qemu.pid)):
        rig.client.forget(uuid)
    rig.host.stop(qemu)
    rig.client.forget(uuid)
    assert rig.client.watched() == []
    rig.client.forget(uuid)


def test_a_process_that_the_keeper_did_not_name_keeps_its_guest_on_the_list(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, bound = rig.guest()
    twin = rig.host.start(uuid.upper(), "twin")
    rig.host.stop(bound)
    with pytest.raises(GuardRefused, match=str(twin.pid)):
        rig.client.forget(uuid)


def test_a_zombie_whose_threads_run_keeps_its_guest_on_the_list(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest(bind=False, headless=True)
    with pytest.raises(GuardRefused, match=str(qemu.pid)):
        rig.client.forget(uuid)


@pytest.mark.parametrize(("started", "may_be_it"), [("1", False), ("99999999999", True)])
def test_a_dying_process_of_unknown_guest_counts_if_it_is_young_enough(
    rig: Rig, started: str, may_be_it: bool
) -> None:
    rig.renew()
    rig.start_guard()
    rig.client.watch(GUEST, "demo")
    entry = rig.host.proc_dir / "999999999"
    (entry / "task").mkdir(parents=True)
    fields = ["D", *["1"] * 5, "4", *["1"] * 12, started]
    (entry / "stat").write_text(f"999999999 (qemu-kvm) {' '.join(fields)}\n")
    (entry / "cmdline").write_bytes(b"")
    if may_be_it:
        with pytest.raises(GuardRefused, match="999999999"):
            rig.client.forget(GUEST)
    else:
        rig.client.forget(GUEST)


def test_the_twin_of_a_bound_process_does_not_count_for_others(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    rig.client.watch(GUEST, "demo")
    rig.guest("other", headless=True)
    rig.client.forget(GUEST)


def test_a_guest_that_was_ended_stays_on_the_list_until_the_keeper_forgets_it(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest()
    rig.kill_keeper()
    rig.renew(80)
    died_of(qemu)
    rig.expect("gone")
    rig.renew()
    assert rig.client.watched() == [Watched(uuid, "demo", True, ())]
    with pytest.raises(GuardRefused, match="being ended"):
        rig.client.watch(uuid, "demo")
    rig.client.forget(uuid)
    rig.client.watch(uuid, "demo")


def test_only_a_process_of_that_guest_can_be_bound(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    other = rig.host.start(str(uuids.uuid4()))
    mine = rig.host.start(GUEST)
    start = start_time(mine.pid) or 0
    with pytest.raises(GuardRefused, match="not watched"):
        rig.client.bind(GUEST, mine.pid, start)
    rig.client.watch(GUEST, "demo")
    with pytest.raises(GuardRefused, match="-uuid"):
        rig.client.bind(GUEST, other.pid, start_time(other.pid) or 0)
    with pytest.raises(GuardRefused, match="started at"):
        rig.client.bind(GUEST, mine.pid, start + 1)
    with pytest.raises(GuardRefused, match="process table"):
        rig.client.bind(GUEST, os.getpid(), start_time(os.getpid()) or 0)
    rig.client.bind(GUEST, mine.pid, start)
    assert rig.client.watched()[0].pids == (mine.pid,)


def test_a_pidfd_may_come_along_and_must_be_the_right_one(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest(bind=False)
    start = start_time(qemu.pid) or 0
    right, wrong = os.pidfd_open(qemu.pid), os.pidfd_open(rig.keeper.pid)
    with pytest.raises(GuardRefused, match="pidfd"):
        rig.client.bind(uuid, qemu.pid, start, wrong)
    rig.client.bind(uuid, qemu.pid, start, right)
    for descriptor in (right, wrong):
        os.close(descriptor)
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGTERM


def test_no_descriptor_stays_open_in_the_guard(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    assert rig.guard is not None
    uuid, qemu = rig.guest()
    start = start_time(qemu.pid) or 0
    rig.client.watched()
    # Give or take a connection that is being closed.
    before = len(os.listdir(f"/proc/{rig.guard.pid}/fd"))
    sent = os.pidfd_open(qemu.pid)
    for _ in range(10):
        rig.client.bind(uuid, qemu.pid, start, sent)
        rig.client.bind(uuid, qemu.pid, start)
        with pytest.raises(GuardRefused):
            rig.client.bind(uuid, qemu.pid, start + 1, sent)
        with pytest.raises(GuardRefused):
            rig.client.forget(uuid)
    os.close(sent)
    rig.client.watched()
    assert len(os.listdir(f"/proc/{rig.guard.pid}/fd")) < before + 5


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(128, 256)) + b"\n",
        b"x" * 10_000,
        b"vlhook/1 watch 1 99999999\n",
        pack(b"watch", [b"x" * 9000, b""]),
        pack(b"watch", [GUEST.encode()])[:-4],
        b"",
    ],
    ids=["http", "random", "no-head", "too-long", "too-long-in-full", "half", "nothing"],
)
def test_what_is_no_request_gets_no_answer_and_does_no_harm(rig: Rig, data: bytes) -> None:
    rig.renew()
    rig.start_guard()
    assert raw(rig, data) == b""
    rig.client.watch(GUEST, "demo")


@pytest.mark.parametrize(
    "message",
    [
        pack(b"reboot", []),
        pack(b"watch", [GUEST.encode()]),
        pack(b"watch", [b"not-a-uuid", b"demo"]),
        pack(b"watch", [b"../../etc", b"demo"]),
        pack(b"bind", [GUEST.encode(), b"-1", b"0"]),
        pack(b"bind", [GUEST.encode(), b"9" * 30, b"0"]),
        pack(b"forget", []),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_with_an_error(rig: Rig, message: bytes) -> None:
    rig.renew()
    rig.start_guard()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(rig.run_dir / "guard.sock"))
        peer.sendall(message)
        answer = read_message(peer.recv)
    assert answer is not None
    assert answer[0] == b"error"
    assert len(answer[1]) == 1


def test_a_request_in_pieces_is_a_request(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(rig.run_dir / "guard.sock"))
        for byte in pack(b"watch", [GUEST.encode(), b"demo"]):
            peer.send(bytes([byte]))
        assert read_message(peer.recv) == (b"ok", [])
        # And the next one on the same connection.
        peer.sendall(pack(b"ping", []))
        assert read_message(peer.recv) == (b"ok", [b"complete", b"1"])


def test_a_silent_peer_keeps_nobody_waiting(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(str(rig.run_dir / "guard.sock"))
        peer.send(b"vlhook/1 wa")
        rig.client.watch(GUEST, "demo")


def test_the_names_of_guests_cannot_forge_lines(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    rig.client.watch(GUEST, "a\n<0>kernel: b\udcff")
    assert [guest.uuid for guest in rig.client.watched()] == [GUEST]
    assert rig.expect("watched").startswith("<5>vlhook-guard: watched")
    assert "\n<0>kernel" not in rig.log


def test_the_socket_is_for_root_alone(rig: Rig) -> None:
    rig.start_guard()
    assert (rig.run_dir / "guard.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_other_users_are_turned_away(rig: Rig, tmp_path: Path) -> None:
    rig.renew()
    rig.start_guard()
    for path in (rig.run_dir / "guard.sock", rig.run_dir, *tmp_path.parents, tmp_path):
        if str(path).startswith("/tmp/") and path != Path("/tmp"):
            path.chmod(0o777)
    program = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1]); print(repr(peer.recv(1)))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, rig.run_dir / "guard.sock"],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )
    assert ran.stdout == "b''\n"
    rig.expect("turned-away", "uid=65534")


def test_a_guard_that_is_not_there_is_unreachable_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(GuardUnreachable, match=r"guard\.sock: No such file.*systemctl"):
        GuardClient(tmp_path).ping()


def test_a_stopped_guard_is_unreachable_within_the_deadline(rig: Rig) -> None:
    rig.start_guard()
    assert rig.guard is not None
    rig.guard.send_signal(signal.SIGSTOP)
    with pytest.raises(GuardUnreachable, match="timed out"):
        GuardClient(rig.run_dir, seconds=0.2).ping()


def test_the_guard_is_a_program_with_help(rig: Rig) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "vlhook.guard", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    assert "leases ran out" in ran.stdout
    assert "--grace" in ran.stdout
