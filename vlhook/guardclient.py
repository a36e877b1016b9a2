# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper's side of `vlhook.guard.requests`: one connection a request, and a deadline for each.

Nothing is kept between requests, so a guard that was restarted is simply the
next one to answer, and any thread may ask.
"""

from __future__ import annotations

import array
import socket
import time
from pathlib import Path
from typing import NamedTuple

from .errors import VlhookError
from .keeper.wire import WireError, pack, read_message

SOCKET_NAME = "guard.sock"
SECONDS = 5.0
ANSWER_MAX = 16 << 20


class GuardError(VlhookError):
    """The guard did not do what it was asked. Fields: `socket`, `request`, `why`."""

    msg = "vlhook-guard did not {request}: {why}"
    code = "VLH-G100"
    why: str


class GuardUnreachable(GuardError):
    """No answer within the deadline: what was asked may or may not have been done."""

    msg = "vlhook-guard does not answer on {socket}: {why}"
    hint = "no guest can start without it: see 'systemctl status vlhook-guard'"
    code = "VLH-G101"


class GuardRefused(GuardError):
    """The guard's answer was no. `why` is its reason."""

    code = "VLH-G102"


class Watched(NamedTuple):
    """A guest on the guard's list. `ending`: its leases ran out, and it is ended whatever comes."""

    uuid: str
    name: str
    ending: bool
    pids: tuple[int, ...]


class GuardClient:
    """`seconds`: the deadline of each request. Every method raises GuardUnreachable and GuardRefused."""

    def __init__(self, run_dir: str | Path, seconds: float = SECONDS) -> None:
        self._path = f"{run_dir}/{SOCKET_NAME}"
        self._seconds = seconds

    def watch(self, uuid: str, name: str) -> None:
        """From the return on, this guest is ended when the host's lease runs out.

        Refused while there is no good lease, and for a guest that is being ended. Before
        any lease is taken for the guest (safety rules, 9).
        """
        self._ask("watch", uuid.encode(), name.encode("utf-8", "surrogateescape"))

    def bind(self, uuid: str, pid: int, start: int, pidfd: int | None = None) -> None:
        """This process (start in clock ticks) is a watched guest's QEMU. The pidfd stays the caller's."""
        self._ask("bind", uuid.encode(), str(pid).encode(), str(start).encode(), pidfd=pidfd)

    def forget(self, uuid: str) -> None:
        """The guest is over. Refused while a process of it lives, or may. Fine if it was not watched."""
        self._ask("forget", uuid.encode())

    def disown(self, uuid: str) -> None:
        """The guest runs on and holds no lease: its adoption was refused. Refused while it is being ended."""
        self._ask("disown", uuid.encode())

    def watched(self) -> list[Watched]:
        """Everybody on the list."""
        fields = self._ask("list")
        text = fields[0].decode("utf-8", "surrogateescape") if fields else ""
        return [_watched(line) for line in text.split("\n") if line]

    def ping(self) -> bool:
        """Whether the guard's list is complete; if not, name every guest anew and call `complete`."""
        return self.extent()[0]

    def extent(self) -> tuple[bool, int]:
        """Whether the guard's list is complete, and how many guests are on it."""
        answer = self._ask("ping")
        if len(answer) != 2 or not answer[1].isdigit():
            raise GuardRefused(socket=self._path, request="ping", why=f"it answered {answer!r}")
        return answer[0] == b"complete", int(answer[1])

    def complete(self) -> None:
        """Every guest that has leases is watched now: what the guard had lost is made good."""
        self._ask("complete")

    def _ask(self, verb: str, *fields: bytes, pidfd: int | None = None) -> list[bytes]:
        deadline = time.monotonic() + self._seconds
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as peer:
                peer.settimeout(self._seconds)
                peer.connect(self._path)
                _send(peer, pack(verb.encode(), fields), pidfd)
                answer = read_message(lambda size: _receive(peer, size, deadline), ANSWER_MAX)
        except (OSError, WireError) as error:
            late = isinstance(error, (TimeoutError, socket.timeout))  # two until Python 3.10
            why = "timed out" if late else getattr(error, "strerror", None) or error
            raise GuardUnreachable(socket=self._path, request=verb, why=why) from None
        if answer is None:
            raise GuardUnreachable(socket=self._path, request=verb, why="it hung up")
        if answer[0] != b"ok":
            why = answer[1][0].decode("utf-8", "replace") if answer[1] else "no reason given"
            raise GuardRefused(socket=self._path, request=verb, why=why)
        return answer[1]


def _send(peer: socket.socket, message: bytes, pidfd: int | None) -> None:
    if pidfd is None:
        peer.sendall(message)
        return
    descriptors = array.array("i", [pidfd])
    sent = peer.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    peer.sendall(message[sent:])


def _receive(peer: socket.socket, size: int, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    peer.settimeout(left)
    return peer.recv(size)


def _watched(line: str) -> Watched:
    uuid, state, pids, name = line.split(" ", 3)
    numbers = () if pids == "-" else tuple(int(pid) for pid in pids.split(","))
    return Watched(uuid, name, state == "ending", numbers)
