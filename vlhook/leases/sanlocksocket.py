# SPDX-License-Identifier: LGPL-2.1-or-later
"""One connection to the sanlock daemon: a request, its answer, and a deadline on both.

Deadlines are times of CLOCK_MONOTONIC in seconds. A request that was not
answered in time is owed: the connection takes no other until `late_answer` has
received what is outstanding, because answers carry no mark of their request.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn

from .sanlockerrors import (
    SanlockHungUp,
    SanlockNoAnswer,
    SanlockUnreachable,
    SanlockUnusable,
    WireError,
    refusal,
    shown,
)
from .sanlockwire import HEADER_SIZE, LONGEST_ANSWER, Command, Header, request

_CHUNK = 1 << 16
_CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


@dataclass(frozen=True)
class Call:
    """A request; `subject` is the lease or lockspace, for messages."""

    command: Command
    flags: int = 0
    data: int = 0
    data2: int = 0
    body: bytes = b""
    subject: str = ""

    def encode(self) -> bytes:
        return request(self.command, self.flags, self.data, self.data2, self.body)


@dataclass(frozen=True)
class Answer:
    """The header's data is 0 or positive: a negative one was raised."""

    header: Header
    body: bytes

    @property
    def result(self) -> int:
        return self.header.data

    @property
    def data2(self) -> int:
        return self.header.data2


def left(deadline: float) -> float:
    """Seconds until `deadline`, 0 when it has passed."""
    return max(0.0, deadline - time.monotonic())


class Channel:
    """Not for two threads at once. `path` is the daemon's socket."""

    def __init__(self, path: str, deadline: float) -> None:
        """Connect. Raises SanlockUnreachable, SanlockNoAnswer."""
        self._path = path
        self._owed: Call | None = None
        self._fault = ""
        self._received = bytearray()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connect(deadline)
        except BaseException:
            self._sock.close()
            raise

    def _connect(self, deadline: float) -> None:
        # A daemon that accepts no more lets connect() wait in the kernel, where poll() does not help; the
        # send timeout is what ends that wait.
        seconds = left(deadline)
        if not seconds:
            self._no_answer(None, "the deadline had passed before it was asked")
        whole = int(seconds)
        timeval = struct.pack("@ll", whole, max(1, int((seconds - whole) * 1e6)))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        try:
            self._sock.connect(self._path)
        except BlockingIOError:
            self._no_answer(None, "it accepts no connection")
        except OSError as error:
            raise SanlockUnreachable(path=self._path, why=error.strerror or str(error)) from None

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        """-1 once closed."""
        return self._sock.fileno()

    def hung_up(self) -> bool:
        """Whether the daemon has closed the connection, or we have; does not wait."""
        if self.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self.fileno(), _CLOSED)
        return any(events & _CLOSED for _, events in poll.poll(0))

    # ---------------------------------------------------------------- exchanges

    def ask(self, call: Call, deadline: float) -> Answer:
        """Send `call`, receive its answer. Raises what `sanlockclient.py` lists, and SanlockUnusable."""
        self.tell(call, deadline)
        return self._answer(call, deadline)

    def tell(self, call: Call, deadline: float) -> None:
        """Send `call`; its answer, if it has one, is owed."""
        message = call.encode()
        if self._fault or self._owed:
            why = self._fault or f"'{self._words(self._owed)}' has not been answered yet"
            raise SanlockUnusable(path=self._path, why=why)
        self._limit(call, deadline)
        self._owed = call if call.command is not Command.REGISTER else None
        try:
            self._sock.sendall(message, socket.MSG_NOSIGNAL)
        except socket.timeout:
            self._fault = "a request was sent only in part"
            self._no_answer(call, "it does not read what it is sent")
        except OSError:
            self._hung_up(call)

    def late_answer(self, deadline: float) -> int | None:
        """The result, negative ones too, of a call that met its deadline; None if nothing is owed."""
        call = self._owed
        if call is None or self._fault:
            return None
        return self._receive(call, deadline).header.data

    def rest(self, call: Call, deadline: float) -> bytes:
        """All that comes after an answer until the daemon closes the connection."""
        while True:
            if len(self._received) > LONGEST_ANSWER:
                raise self._out_of_step(WireError(what="status", why="it does not end"))
            if not self._more(call, deadline):
                return bytes(self._received)

    def _answer(self, call: Call, deadline: float) -> Answer:
        answer = self._receive(call, deadline)
        if answer.result < 0:
            raise refusal(call.command.words, answer.result, call.subject)
        return answer

    def _receive(self, call: Call, deadline: float) -> Answer:
        self._fill(call, HEADER_SIZE, deadline)
        try:
            header = Header.decode(bytes(self._received[:HEADER_SIZE]))
            if header.cmd != call.command:
                why = f"it answers command {header.cmd}, not {int(call.command)}"
                raise WireError(what="answer", why=why)
        except WireError as error:
            raise self._out_of_step(error) from None
        self._fill(call, header.length, deadline)
        body = bytes(self._received[HEADER_SIZE : header.length])
        del self._received[: header.length]
        self._owed = None
        return Answer(header, body)

    def _fill(self, call: Call, size: int, deadline: float) -> None:
        while len(self._received) < size:
            if not self._more(call, deadline):
                self._hung_up(call)

    def _more(self, call: Call, deadline: float) -> bool:
        """Receive something; False at the end of the stream."""
        self._limit(call, deadline)
        try:
            chunk = self._sock.recv(_CHUNK)
        except socket.timeout:
            self._no_answer(call, "the deadline has passed")
        except OSError:
            self._hung_up(call)
        self._received += chunk
        return bool(chunk)

    # -------------------------------------------------------------------- faults

    def _limit(self, call: Call, deadline: float) -> None:
        seconds = left(deadline)
        if not seconds:
            self._no_answer(call, "the deadline has passed")
        self._sock.settimeout(seconds)

    def _no_answer(self, call: Call | None, why: str) -> NoReturn:
        subject = shown(call.subject) if call else ""
        raise SanlockNoAnswer(path=self._path, command=self._words(call), subject=subject, why=why)

    def _hung_up(self, call: Call) -> NoReturn:
        self._fault = "the daemon hung up"
        raise SanlockHungUp(path=self._path, command=self._words(call), subject=shown(call.subject))

    def _out_of_step(self, error: WireError) -> WireError:
        self._fault = "what was received on it made no sense"
        return error

    def _words(self, call: Call | None) -> str:
        return call.command.words if call else "connect"
