# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper's socket: one request and one answer a connection, a deadline on everything.

Requests (`wire.py`):

    hook GUEST OPERATION SUBOPERATION EXTRA PPID XML
        → ok STATUS LINE STDOUT;  after a granted prepare the hook sends `ack`
    call NAME JSON                                  → ok JSON
        → error CODE REASON, to any of them
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import VlhookError
from .gates import REFUSED, HookCall, Verdict
from .log import Log
from .metrics import Handler
from .qemu import Processes
from .wire import WireError, pack, read_message

MAX_CONNECTIONS = 200
_PID = re.compile("[0-9]{1,9}")
REQUEST_SECONDS = 10.0
"""For a client to send its request; it has the XML at hand."""
ACK_SECONDS = 5.0
ANSWER_MARGIN = 1.0
"""The verdict is there this much before the hook's own deadline, or a quarter of that if it is short."""


class SocketTaken(VlhookError):
    msg = "{path}: the socket cannot be made: {why}"
    hint = "check the run directory, and that no other vlhookd uses it"
    code = "VLH-K301"


class Server:
    def __init__(
        self,
        path: Path,
        gates: Handler,
        processes: Processes,
        calls: dict[str, Callable[[dict[str, Any]], dict[str, Any]]],
        hook_deadline: float,
        log: Log,
    ) -> None:
        self._path = path
        self._gates = gates
        self._processes = processes
        self._calls = calls
        self._hook_deadline = hook_deadline
        self._log = log
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        """Bind and serve in the background. The caller holds the lock of the run directory."""
        try:
            self._path.unlink(missing_ok=True)
            old = os.umask(0o177)
            try:
                self._socket.bind(str(self._path))
            finally:
                os.umask(old)
            self._socket.listen(128)
        except OSError as error:
            raise SocketTaken(path=self._path, why=error.strerror or str(error)) from error
        threading.Thread(target=self._accept, name="server", daemon=True).start()

    def stop(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._socket.fileno() < 0 or error.errno == 22:
                    return
                self._log.error("accept", error=error)
                time.sleep(0.1)
                continue
            if not self._slots.acquire(blocking=False):
                self._answer(connection, _error("VLH-K302", "the keeper is busy with too many requests"))
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), name="request", daemon=True).start()
            except RuntimeError as error:
                self._slots.release()
                self._log.error("accept", error=error)
                self._answer(connection, _error("VLH-K302", "the keeper gets no thread from the system"))
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._request(connection)
        except WireError as error:
            self._log.warning("bad-request", why=error)
        except OSError as error:
            self._log.warning("request", error=error)
        except Exception as error:  # a fault in one request must not end the keeper
            self._log.error("fault", error=repr(error))
        finally:
            self._slots.release()

    def _request(self, connection: socket.socket) -> None:
        peer, uid = _peer(connection)
        if uid not in (0, os.geteuid()):
            self._answer(connection, _error("VLH-K303", f"uid {uid} may not speak to the keeper"))
            return
        arrived = time.monotonic()
        try:
            message = read_message(_receiver(connection, arrived + REQUEST_SECONDS))
        except WireError as error:
            self._answer(connection, _error("VLH-K304", str(error)))
            raise
        if message is None:
            return
        verb, fields = message
        if verb == b"hook" and len(fields) == 6:
            self._hook(connection, fields, peer, arrived)
        elif verb == b"call" and len(fields) == 2:
            self._call(connection, fields)
        else:
            self._answer(connection, _error("VLH-K304", "unknown request"))

    def _hook(self, connection: socket.socket, fields: list[bytes], peer: int, arrived: float) -> None:
        guest, operation, suboperation, extra, ppid = (f.decode("utf-8", "replace") for f in fields[:5])
        call = HookCall(
            guest=guest,
            operation=operation,
            suboperation=suboperation,
            extra=extra,
            caller=self._processes.caller(int(ppid) if _PID.fullmatch(ppid) else 0),
            born=self._processes.start_of(peer),
            xml=fields[5],
            deadline=arrived + self._hook_deadline - min(ANSWER_MARGIN, self._hook_deadline / 4),
            gone=lambda: _hung_up(connection),
        )
        verdict = Verdict(int(operation in REFUSED), "vlhook: a fault in the keeper; see its log")
        try:
            verdict = self._gates.handle(call)
        finally:
            told = self._answer(connection, _verdict(verdict))
            if verdict.granted:
                self._settle(connection, verdict, told)

    def _settle(self, connection: socket.socket, verdict: Verdict, told: bool) -> None:
        """A grant is kept only if the hook confirms that it has the verdict (safety rules, 3)."""
        assert verdict.granted
        try:
            message = None
            if told:
                message = read_message(_receiver(connection, time.monotonic() + ACK_SECONDS), 0)
            if message and message[0] == b"ack":
                self._gates.confirm(verdict.granted)
                self._answer(connection, pack(b"ok"))
                return
        except Exception as error:  # whatever it was, a grant that is not confirmed must not stay
            self._log.warning("no-ack", guest=verdict.granted.guest, error=error)
        self._gates.unconfirmed(verdict.granted)

    def _call(self, connection: socket.socket, fields: list[bytes]) -> None:
        act = self._calls.get(fields[0].decode("utf-8", "replace"))
        try:
            arguments = json.loads(fields[1])
        except (ValueError, RecursionError):
            act, arguments = None, {}
        if act is None or not isinstance(arguments, dict):
            self._answer(connection, _error("VLH-K304", "unknown call"))
            return
        try:
            result = act(arguments)
        except VlhookError as error:
            self._answer(connection, _error(error.code, str(error)))
        else:
            self._answer(connection, pack(b"ok", [json.dumps(result).encode()]))

    def _answer(self, connection: socket.socket, message: bytes) -> bool:
        try:
            connection.settimeout(ACK_SECONDS)
            connection.sendall(message)
        except OSError:
            return False
        return True


def _verdict(verdict: Verdict) -> bytes:
    return pack(b"ok", [str(verdict.status).encode(), verdict.line.encode(), verdict.out])


def _error(code: str, reason: str) -> bytes:
    return pack(b"error", [code.encode(), reason.encode()])


def _receiver(connection: socket.socket, deadline: float) -> Callable[[int], bytes]:
    def receive(size: int) -> bytes:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        return connection.recv(size)

    return receive


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _peer(connection: socket.socket) -> tuple[int, int]:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("iII", raw)
    return pid, uid
