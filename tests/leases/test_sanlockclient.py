# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client against daemons that misbehave: no real sanlock daemon does so on demand."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.sanlock_daemon import short_directory
from vlhook.leases import sanlockerrors
from vlhook.leases import sanlockwire as wire
from vlhook.leases.errors import Busy, LeaseError
from vlhook.leases.sanlockclient import SanlockClient, default_socket
from vlhook.leases.sanlockerrors import (
    CannotSend,
    SanlockBusy,
    SanlockError,
    SanlockHeldHere,
    SanlockHungUp,
    SanlockNoAnswer,
    SanlockNotHeld,
    SanlockNotJoined,
    SanlockNotOrphan,
    SanlockResult,
    SanlockUnreachable,
    SanlockUnusable,
    WireError,
    refusal,
)
from vlhook.leases.sanlockregistered import Registered
from vlhook.leases.sanlockwire import Command, Disk, Header, Lockspace, Resource

Talk = Callable[["Peer"], None]


def soon() -> float:
    return time.monotonic() + 0.2


def later() -> float:
    return time.monotonic() + 30


def lease(number: int, flags: int = 0) -> Resource:
    return Resource("LS", f"r{number}", (Disk(f"/r{number}"),), flags)


LEASES = [lease(i) for i in range(20)]


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, conn: socket.socket) -> None:
        self.conn = conn

    def read(self) -> tuple[Header, bytes]:
        """The next request; raises EOFError."""
        header = Header.decode(self._bytes(32))
        return header, self._bytes(header.length - 32)

    def _bytes(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.conn.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def answer(self, cmd: int, result: int = 0, data2: int = 0, body: bytes = b"") -> None:
        self.conn.sendall(Header(cmd, 0, 32 + len(body), result, data2).encode() + body)

    def wait_end(self) -> None:
        while self.conn.recv(1 << 16):
            pass


class FakeDaemon:
    """Listens; talks on each connection as it is told to, and keeps what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "sanlock.sock")
        self.asked: list[tuple[Command, int, int]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(5)
        self._threads: list[threading.Thread] = []

    def client(self, timeout: float = 30.0) -> SanlockClient:
        return SanlockClient(self.path, timeout)

    def talks(self, *each: Talk) -> SanlockClient:
        """`each` one connection, in their order."""
        thread = threading.Thread(target=self._serve, args=(each,), daemon=True)
        thread.start()
        self._threads.append(thread)
        return self.client()

    def _serve(self, each: tuple[Talk, ...]) -> None:
        for talk in each:
            with contextlib.suppress(EOFError, OSError):
                conn, _ = self._listener.accept()
                with conn:
                    talk(Peer(conn))

    def note(self, header: Header) -> None:
        self.asked.append((Command(header.cmd), header.flags, header.data))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() does not
        self._listener.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    # ------------------------------------------------------------------- ways to talk

    def registered(self, *results: int) -> Talk:
        """A registered connection: proves itself, then answers with `results` one by one, then with 0."""

        def talk(peer: Peer) -> None:
            peer.read()
            peer.read()
            peer.answer(Command.INQUIRE)
            left = list(results)
            while True:
                header, _ = peer.read()
                self.note(header)
                peer.answer(header.cmd, left.pop(0) if left else 0)

        return talk


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with short_directory() as directory:
        fake = FakeDaemon(directory)
        yield fake
        fake.close()


def says(*chunks: bytes) -> Talk:
    """Reads one request, then sends exactly that, in pieces, and closes."""

    def talk(peer: Peer) -> None:
        peer.read()
        for chunk in chunks:
            peer.conn.sendall(chunk)

    return talk


def answers(cmd: Command, result: int = 0, data2: int = 0, body: bytes = b"") -> Talk:
    return says(Header(cmd, 0, 32 + len(body), result, data2).encode() + body)


def silent(peer: Peer) -> None:
    peer.wait_end()


# -------------------------------------------------------------------------- deadlines


def test_a_daemon_that_accepts_and_never_answers_ends_in_no_answer(daemon: FakeDaemon) -> None:
    client = daemon.talks(silent)
    with pytest.raises(SanlockNoAnswer, match="'version' in time") as caught:
        client.version(soon())
    assert "sanlock.sock" in str(caught.value)


def test_a_daemon_that_takes_no_connection_from_its_queue_ends_in_no_answer(daemon: FakeDaemon) -> None:
    # The kernel queues one connection more than listen() said; the next has to wait in connect().
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(6)]
    try:
        for one in waiting:
            one.connect(daemon.path)
        with pytest.raises(SanlockNoAnswer, match="accepts no connection"):
            daemon.client().version(soon())
    finally:
        for one in waiting:
            one.close()


def test_a_daemon_that_does_not_read_ends_in_no_answer(daemon: FakeDaemon) -> None:
    done = threading.Event()

    def deaf(peer: Peer) -> None:
        peer.conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        peer.read()
        peer.read()
        peer.answer(Command.INQUIRE)
        done.wait(30)

    many = [lease(i) for i in range(8)]
    with daemon.talks(deaf).register() as registered:
        for _ in range(100):  # until the socket's buffers are full
            try:
                registered.acquire(many, deadline=soon())
            except SanlockNoAnswer:
                break
        assert not registered.hung_up()
    done.set()


def test_an_answer_that_stops_in_the_middle_ends_in_no_answer(daemon: FakeDaemon) -> None:
    whole = Header(Command.GET_LOCKSPACES, 0, 32 + 1104, 0, 1).encode() + Lockspace("LS").encode()

    def halting(peer: Peer) -> None:
        peer.read()
        peer.conn.sendall(whole[:-1])
        peer.wait_end()

    with pytest.raises(SanlockNoAnswer):
        daemon.talks(halting).get_lockspaces(soon())


def test_a_status_that_does_not_end_ends_in_no_answer(daemon: FakeDaemon) -> None:
    def endless(peer: Peer) -> None:
        peer.read()
        peer.answer(Command.STATUS)
        peer.wait_end()

    with pytest.raises(SanlockNoAnswer):
        daemon.talks(endless).status(deadline=soon())


def test_a_status_larger_than_any_can_be_is_not_collected(daemon: FakeDaemon) -> None:
    def flood(peer: Peer) -> None:
        peer.read()
        peer.answer(Command.STATUS)
        while True:
            peer.conn.sendall(bytes(1 << 16))

    with pytest.raises(WireError, match="does not end"):
        daemon.talks(flood).status(deadline=later())


def test_a_deadline_that_has_passed_sends_nothing(daemon: FakeDaemon) -> None:
    with pytest.raises(SanlockNoAnswer):
        daemon.client().version(time.monotonic() - 1)


def test_without_a_deadline_the_clients_timeout_holds(daemon: FakeDaemon) -> None:
    daemon.talks(silent)
    with pytest.raises(SanlockNoAnswer):
        daemon.client(timeout=0.2).version()


def test_an_answer_in_small_pieces_is_put_together(daemon: FakeDaemon) -> None:
    whole = Header(Command.GET_LOCKSPACES, 0, 32 + 2208, 0, 2).encode()
    whole += Lockspace("one").encode() + Lockspace("two").encode()
    client = daemon.talks(says(*(whole[i : i + 7] for i in range(0, len(whole), 7))))
    assert [one.name for one in client.get_lockspaces(later())] == ["one", "two"]


# -------------------------------------------------------------------- nobody, nonsense


def test_where_no_daemon_is_the_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(SanlockUnreachable, match="nowhere.sock"):
        SanlockClient(str(tmp_path / "nowhere.sock")).version()


def test_a_socket_path_that_is_too_long_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(SanlockUnreachable):
        SanlockClient(str(tmp_path / ("x" * 200))).version()


def test_a_daemon_that_closes_instead_of_answering_has_hung_up(daemon: FakeDaemon) -> None:
    with pytest.raises(SanlockHungUp):
        daemon.talks(says()).version(later())


def test_a_daemon_that_closes_in_the_middle_has_hung_up(daemon: FakeDaemon) -> None:
    with pytest.raises(SanlockHungUp):
        daemon.talks(says(Header(Command.VERSION).encode()[:31])).version(later())


@pytest.mark.parametrize(
    "answer",
    [
        bytes(32),
        b"HTTP/1.0 400 Bad Request\r\n\r\n".ljust(64),
        struct.pack("=IIIII12x", wire.MAGIC, 0x00010001, Command.VERSION, 0, 32),
        Header(Command.STATUS).encode(),
        Header(Command.VERSION, length=31).encode(),
        Header(Command.VERSION, length=2**31).encode(),
    ],
    ids=["zeros", "http", "protocol 1.1", "another command", "short", "huge"],
)
def test_an_answer_in_another_protocol_is_a_wire_error(daemon: FakeDaemon, answer: bytes) -> None:
    with pytest.raises(WireError):
        daemon.talks(says(answer)).version(later())


def test_a_list_of_another_length_than_announced_is_a_wire_error(daemon: FakeDaemon) -> None:
    with pytest.raises(WireError):
        daemon.talks(answers(Command.GET_HOSTS, 0, 3, bytes(64))).get_hosts("LS")


def test_what_cannot_be_sent_is_refused_before_anything_is(daemon: FakeDaemon) -> None:
    with daemon.talks(daemon.registered()).register() as registered:
        with pytest.raises(CannotSend):
            registered.acquire([*LEASES[:9], lease(9), Resource("LS", "x" * 49, (Disk("/x"),))])
        with pytest.raises(CannotSend, match="no file"):
            registered.acquire([*LEASES[:9], Resource("LS", "r")])
        with pytest.raises(CannotSend):
            registered.restrict(1)
        assert registered.inquire() == ()
    assert daemon.asked == [(Command.INQUIRE, 0, 0)]


# ------------------------------------------------------------- a registered connection


def test_registering_with_a_daemon_that_has_no_room_for_us_ends_in_no_answer(daemon: FakeDaemon) -> None:
    with pytest.raises(SanlockNoAnswer):
        daemon.talks(silent).register(soon())


def test_leases_are_acquired_and_released_eight_at_a_time(daemon: FakeDaemon) -> None:
    with daemon.talks(daemon.registered()).register() as registered:
        registered.acquire(LEASES)
        registered.release(LEASES)
    nowait = wire.ACQUIRE_NOWAIT
    assert daemon.asked == [
        *[(Command.ACQUIRE, nowait, n) for n in (8, 8, 4)],
        *[(Command.RELEASE, 0, n) for n in (8, 8, 4)],
    ]


def test_when_a_batch_is_refused_what_was_taken_before_is_released(daemon: FakeDaemon) -> None:
    client = daemon.talks(daemon.registered(0, 0, -243))
    with client.register() as registered, pytest.raises(SanlockBusy) as caught:
        registered.acquire(LEASES)
    assert caught.value.result == -243
    assert caught.value.batch == tuple(LEASES[16:])
    assert caught.value.kept == ()
    assert [(command, n) for command, _, n in daemon.asked[3:]] == [
        (Command.RELEASE, 8),
        (Command.RELEASE, 8),
    ]


def test_what_could_not_be_given_back_is_told(daemon: FakeDaemon) -> None:
    client = daemon.talks(daemon.registered(0, 0, -243, -202))
    with client.register() as registered, pytest.raises(SanlockBusy) as caught:
        registered.acquire(LEASES)
    assert caught.value.kept == tuple(LEASES[:8])


def test_when_an_acquire_is_not_answered_all_of_it_may_be_held(daemon: FakeDaemon) -> None:
    go_on = threading.Event()

    def slow(peer: Peer) -> None:
        peer.read()
        peer.read()
        peer.answer(Command.INQUIRE)
        peer.read()
        peer.answer(Command.ACQUIRE)
        peer.read()
        go_on.wait(30)
        peer.answer(Command.ACQUIRE, -243)
        header, _ = peer.read()
        peer.answer(header.cmd)

    with daemon.talks(slow).register() as registered:
        with pytest.raises(SanlockNoAnswer) as caught:
            registered.acquire(LEASES, deadline=time.monotonic() + 2)  # the first batch must make it
        assert caught.value.batch == tuple(LEASES[8:16])
        assert caught.value.kept == tuple(LEASES[:16])
        with pytest.raises(SanlockUnusable, match="'acquire' has not been answered"):
            registered.inquire()
        with pytest.raises(SanlockNoAnswer):
            registered.late_answer(soon())
        go_on.set()
        assert registered.late_answer(later()) == -243
        assert registered.late_answer(later()) is None
        assert registered.inquire() == ()


def test_a_refused_release_does_not_keep_the_other_batches_held(daemon: FakeDaemon) -> None:
    client = daemon.talks(daemon.registered(-1, 0, -202))
    with client.register() as registered, pytest.raises(SanlockNotHeld) as caught:
        registered.release(LEASES)
    assert len(daemon.asked) == 3
    assert caught.value.batch == tuple(LEASES[:8])
    assert caught.value.kept == tuple(LEASES[:8] + LEASES[16:])


def test_a_release_without_an_answer_leaves_it_and_all_later_ones_in_doubt(
    daemon: FakeDaemon,
) -> None:
    def stops(peer: Peer) -> None:
        peer.read()
        peer.read()
        peer.answer(Command.INQUIRE)
        peer.read()
        peer.answer(Command.RELEASE)
        peer.read()

    with daemon.talks(stops).register() as registered, pytest.raises(SanlockHungUp) as caught:
        registered.release(LEASES)
    assert caught.value.kept == tuple(LEASES[8:])


def test_orphans_are_adopted_one_by_one_and_stay_persistent(daemon: FakeDaemon) -> None:
    bodies: list[bytes] = []

    def taking(peer: Peer) -> None:
        peer.read()
        peer.read()
        peer.answer(Command.INQUIRE)
        while True:
            header, body = peer.read()
            daemon.note(header)
            bodies.append(body)
            peer.answer(header.cmd)

    daemon.talks(taking)
    with Registered(daemon.path, 30, lambda at: LEASES[:3], later()) as registered:
        registered.adopt(LEASES[:3])
    flags = wire.ACQUIRE_ORPHAN | wire.ACQUIRE_NOWAIT
    assert daemon.asked == [(Command.ACQUIRE, flags, 1)] * 3
    assert all(Resource.decode(body).flags & wire.RES_PERSISTENT for body in bodies)


def test_what_is_no_orphan_is_not_acquired_in_its_stead(daemon: FakeDaemon) -> None:
    daemon.talks(daemon.registered())
    registered = Registered(daemon.path, 30, lambda at: LEASES[:2], later())
    with registered, pytest.raises(SanlockNotOrphan, match="r2") as caught:
        registered.adopt(LEASES[:3])
    assert caught.value.batch == (LEASES[2],)
    assert daemon.asked == []


def test_an_adoption_that_fails_leaves_the_adopted_ones_adopted(daemon: FakeDaemon) -> None:
    daemon.talks(daemon.registered(0, -117))
    registered = Registered(daemon.path, 30, lambda at: LEASES[:3], later())
    with registered, pytest.raises(SanlockResult) as caught:
        registered.adopt(LEASES[:3])
    assert caught.value.kept == (LEASES[0],)
    assert caught.value.batch == (LEASES[1],)
    assert [command for command, _, _ in daemon.asked] == [Command.ACQUIRE] * 2


def test_hanging_up_wakes_who_watches_the_connection(daemon: FakeDaemon) -> None:
    end = threading.Event()

    def until_told(peer: Peer) -> None:
        peer.read()
        peer.read()
        peer.answer(Command.INQUIRE)
        end.wait(30)

    with daemon.talks(until_told).register() as registered:
        poll = select.poll()
        poll.register(registered.fileno(), select.POLLIN | select.POLLRDHUP)
        assert poll.poll(0) == []
        assert not registered.hung_up()
        end.set()
        assert poll.poll(30000)
        assert registered.hung_up()
        with pytest.raises(SanlockHungUp):
            registered.inquire()
        with pytest.raises(SanlockUnusable, match="hung up"):
            registered.inquire()
    assert registered.hung_up()


def test_commands_of_several_threads_take_turns(daemon: FakeDaemon) -> None:
    with daemon.talks(daemon.registered()).register() as registered:
        failed: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(20):
                    registered.inquire(later())
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert len(daemon.asked) == 80


def test_a_thread_waits_for_its_turn_only_until_its_deadline(daemon: FakeDaemon) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(peer: Peer) -> None:
        peer.read()
        peer.read()
        peer.answer(Command.INQUIRE)
        peer.read()
        asked.set()
        go_on.wait(30)
        peer.answer(Command.INQUIRE)

    with daemon.talks(slow).register() as registered:
        first = threading.Thread(target=registered.inquire, args=(later(),))
        first.start()
        assert asked.wait(30)
        with pytest.raises(SanlockNoAnswer, match="another command"):
            registered.inquire(soon())
        go_on.set()
        first.join()


def test_connections_are_not_inherited_by_programs_that_we_start(daemon: FakeDaemon) -> None:
    with daemon.talks(daemon.registered()).register() as registered:
        assert not os.get_inheritable(registered.fileno())


def test_the_environment_says_where_the_socket_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SANLOCK_RUN_DIR", "/elsewhere")
    assert SanlockClient().socket_path == "/elsewhere/sanlock.sock"
    monkeypatch.delenv("SANLOCK_RUN_DIR")
    assert default_socket() == "/run/sanlock/sanlock.sock"


# -------------------------------------------------------------------------- the errors


def test_no_space_left_is_said_as_what_it_means() -> None:
    error = refusal("acquire", -28, "r1")
    assert isinstance(error, SanlockNotJoined)
    assert "not joined on this host or has failed" in str(error)
    assert "space left" not in str(error)
    assert error.result == -28


@pytest.mark.parametrize("result", [-243, -244, -245, -246, -247, -11, -16])
def test_what_may_be_had_later_is_busy(result: int) -> None:
    error = refusal("acquire", result, "r1")
    assert isinstance(error, Busy)
    assert isinstance(error, SanlockBusy)
    assert not isinstance(error, SanlockHeldHere)


@pytest.mark.parametrize("result", [-28, -117, -2, -3, -5, -22, -202, -223, -227, -240, -9999])
def test_what_no_retry_helps_is_not_busy(result: int) -> None:
    assert not isinstance(refusal("acquire", result, "r1"), Busy)


def test_minus_17_is_the_same_host_for_a_lease_and_the_lockspace_for_a_lockspace() -> None:
    assert isinstance(refusal("acquire", -17), SanlockHeldHere)
    assert type(refusal("add lockspace", -17)) is SanlockResult
    assert "joined already" in str(refusal("add lockspace", -17, "LS"))


@pytest.mark.parametrize("command", [command.words for command in Command])
def test_every_result_has_a_line_of_its_own_with_number_and_subject(command: str) -> None:
    for result in range(-300, 0):
        error = refusal(command, result, "the\nlease")
        assert error.result == result
        assert error.code == f"VLH-L{-result:03d}S"
        text = str(error)
        assert text.startswith(f"sanlock: {command} the?lease: ")
        assert f"(result {result}" in text
        assert "\n" not in text


def test_the_codes_of_the_other_errors_are_unique() -> None:
    kinds = [kind for kind in vars(sanlockerrors).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if issubclass(kind, LeaseError) and "code" in vars(kind)]
    codes = [kind.code for kind in own if kind is not LeaseError]
    assert len(set(codes)) == len(codes)
    assert all(issubclass(kind, SanlockError) for kind in own if kind.__module__ == sanlockerrors.__name__)
