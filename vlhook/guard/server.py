# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard's socket: small requests from the keeper, answered without ever waiting for a peer.

One request at a time and connection, framed as `keeper.wire` says; a pidfd may
come with it (SCM_RIGHTS). Only root and the guard's own user are listened to.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from ..keeper.wire import WireError, pack, read_message
from .work import WARNING, Log

CONNECTIONS_MAX = 32
REQUEST_MAX = 8192
# A request must be complete, and an answer be taken, within this time.
PEER_SECONDS = 5.0
DESCRIPTORS_MAX = 4


class Request:
    """A complete request. `descriptors` are the handler's to close, through `take_descriptor` or not."""

    def __init__(
        self, verb: bytes, fields: list[bytes], descriptors: list[int], answer: Callable[[bytes], None]
    ) -> None:
        self.verb = verb
        self.fields = fields
        self._descriptors = descriptors
        self._answer = answer

    def take_descriptor(self) -> int | None:
        """The descriptor that came with the request; the caller closes it."""
        return self._descriptors.pop(0) if self._descriptors else None

    def ok(self, *fields: bytes) -> None:
        self._finish(pack(b"ok", fields))

    def error(self, reason: str) -> None:
        self._finish(pack(b"error", [reason.encode("utf-8", "replace")]))

    def _finish(self, message: bytes) -> None:
        close_all(self._descriptors)
        self._answer(message)


class _Incomplete(Exception):
    pass


class _Connection:
    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.received = bytearray()
        self.descriptors: list[int] = []
        self.answer = b""
        self.waiting = False
        self.since = 0.0

    def request(self) -> tuple[bytes, list[bytes]] | None:
        """The request in the buffer, None while it is not complete. Raises WireError."""
        position = 0

        def receive(size: int) -> bytes:
            nonlocal position
            chunk = bytes(self.received[position : position + size])
            if not chunk:
                raise _Incomplete
            position += len(chunk)
            return chunk

        try:
            return read_message(receive, REQUEST_MAX)
        except _Incomplete:
            return None


class Server:
    """Call `descriptors` for what to poll, `ready` for what poll says, `expire` now and then."""

    def __init__(self, path: str, handle: Callable[[Request], None], log: Log) -> None:
        """Raises OSError. Whoever calls holds the lock, so a socket that is there is nobody's."""
        self._handle = handle
        self._log = log
        self._path = path
        self._connections: dict[int, _Connection] = {}
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)
        try:
            self._listener.bind(path)
        finally:
            os.umask(mask)
        self._listener.listen(CONNECTIONS_MAX)

    def close(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._listener.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def descriptors(self) -> list[tuple[int, int]]:
        wanted = [(self._listener.fileno(), select.POLLIN)]
        for number, connection in self._connections.items():
            if connection.answer:
                events = select.POLLOUT
            else:
                # While its request is being worked on only a hang-up counts, which is always reported.
                events = 0 if connection.waiting else select.POLLIN
            wanted.append((number, events))
        return wanted

    def ready(self, number: int) -> None:
        """Something is to be done on this descriptor. Raises nothing."""
        try:
            if number == self._listener.fileno():
                self._accept()
                return
        except OSError as error:
            self._log(WARNING, "accept", why=error)
            return
        connection = self._connections.get(number)
        if connection is None:
            return
        try:
            if connection.answer:
                self._send(connection)
            elif connection.waiting:
                self._drop(connection)
            else:
                self._receive(connection)
        except (OSError, WireError) as error:
            if isinstance(error, WireError):
                self._log(WARNING, "bad-request", why=error)
            self._drop(connection)

    def expire(self) -> None:
        """Hang up on peers that stopped in the middle."""
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.since and not connection.waiting and now - connection.since > PEER_SECONDS:
                self._drop(connection)

    def _accept(self) -> None:
        peer, _ = self._listener.accept()
        peer.setblocking(False)
        pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.getuid()) or len(self._connections) >= CONNECTIONS_MAX:
            self._log(WARNING, "turned-away", pid=pid, uid=uid, connections=len(self._connections))
            peer.close()
            return
        self._connections[peer.fileno()] = _Connection(peer)

    def _receive(self, connection: _Connection) -> None:
        space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = connection.peer.recvmsg(REQUEST_MAX, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                connection.descriptors.extend(numbers)
        if not data:
            self._drop(connection)
            return
        connection.since = connection.since or time.monotonic()
        connection.received += data
        message = connection.request()
        if message is None:
            return
        connection.received.clear()
        connection.waiting = True
        descriptors, connection.descriptors = connection.descriptors, []
        self._handle(Request(*message, descriptors, lambda answer: self._answer(connection, answer)))

    def _answer(self, connection: _Connection, answer: bytes) -> None:
        if connection.peer.fileno() < 0:
            return
        connection.waiting = False
        connection.since = time.monotonic()
        connection.answer = answer
        try:
            self._send(connection)
        except OSError:
            self._drop(connection)

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.peer.send(connection.answer, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        connection.answer = connection.answer[sent:]
        if not connection.answer:
            connection.since = 0.0

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.peer.fileno(), None)
        close_all(connection.descriptors)
        connection.peer.close()


def close_all(descriptors: list[int]) -> None:
    """Close and forget these."""
    while descriptors:
        os.close(descriptors.pop())
