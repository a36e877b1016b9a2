# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of wdmd, the watchdog daemon that comes with sanlock (its protocol: daemon document, 3).

wdmd feeds the machine's watchdog as long as every client's expiry is more than
10 s ahead; a client that goes away without taking its expiry back gets the
machine reset. The client is the socket, not the process.

Each message, either way, is one struct of 176 bytes in host byte order:

======  =====  ============================================================
offset  type   field
======  =====  ============================================================
4       u32    command
20      u32    fire_timeout, seconds
32      u64    renewal time, CLOCK_MONOTONIC seconds
40      u64    expiry, the same; both 0: none
48      128 B  name of the client
======  =====  ============================================================
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import Optional

from .. import notify
from ..errors import VlhookError

SOCKET = "/run/wdmd/wdmd.sock"
MESSAGE = struct.Struct("=IIIIIIQQQ128s")
REGISTER, REFCOUNT_SET, REFCOUNT_CLEAR, TEST_LIVE, STATUS, OPEN_WATCHDOG = 1, 2, 3, 4, 5, 7
FIRE_TIMEOUT = 60
"""Other hosts count on a reset within this time after the expiry (format document, 5)."""
MIN_IO_TIMEOUT = 2
"""With N = 1 the expiry is 8 s ahead at most: never more than wdmd's 10."""
SECONDS = 2.0
STORED_AS = "vlhook-wdmd"


class WdmdUnusable(VlhookError):
    msg = "the watchdog daemon wdmd ({socket}) cannot be used: {why}"
    hint = "see 'systemctl status wdmd', or set watchdog in qemu-vlhook.conf"
    code = "VLH-K902"


def pack(command: int, *, name: bytes = b"", renewal: int = 0, expiry: int = 0, fire_timeout: int = 0) -> bytes:
    return MESSAGE.pack(0, command, 0, 0, 0, fire_timeout, 0, renewal, expiry, name)


def check_io_timeout(path: str, io_timeout: int) -> None:
    """Raises WdmdUnusable."""
    if io_timeout < MIN_IO_TIMEOUT:
        why = f"with io_timeout {io_timeout} it would reset a healthy host; it needs {MIN_IO_TIMEOUT} or more"
        raise WdmdUnusable(socket=path, why=why)


class Wdmd:
    """One registered connection. `feed` never waits; everything raises WdmdUnusable."""

    def __init__(self, path: str, connection: socket.socket, stored: bool) -> None:
        self.stored = stored
        self._path = path
        self._socket = connection
        self._lock = threading.Lock()
        self._over = False
        connection.setblocking(False)

    @classmethod
    def connect(cls, path: str, name: str) -> Wdmd:
        """Connect, see that the watchdog works, register. There is no expiry yet, so nothing can happen."""
        connection = _connect(path)
        try:
            _check(path, connection)
            connection.sendall(pack(REGISTER, name=name.encode()[:127]))
            connection.sendall(pack(REFCOUNT_SET))
            # Before the first expiry: a crash must not leave one that nobody renews.
            stored = notify.store(STORED_AS, connection.fileno())
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                raise WdmdUnusable(socket=path, why=error.strerror or str(error)) from error
            raise
        return cls(path, connection, stored)

    @classmethod
    def adopt(cls, path: str, descriptor: int) -> Wdmd:
        """Continue the connection of a former keeper, from the service manager's store."""
        return cls(path, socket.socket(fileno=descriptor), True)

    def feed(self, last_ok: float, limit: int) -> None:
        """Tell the time of the last good renewal; the expiry is `limit` (8N) seconds later."""
        with self._lock:
            if not self._over:
                renewal = int(last_ok)
                self._send(pack(TEST_LIVE, renewal=renewal, expiry=renewal + limit))

    def disarm(self) -> None:
        """Take the expiry back and go: only when nothing of this host can write any more."""
        with self._lock:
            if self._over:
                return
            self._over = True
            try:
                self._send(pack(TEST_LIVE))
                self._send(pack(REFCOUNT_CLEAR))
            finally:
                if self.stored:
                    notify.unstore(STORED_AS)
                self._socket.close()

    def drop(self) -> None:
        """Forget a connection that is broken; what it meant to wdmd stays."""
        with self._lock:
            self._over = True
            if self.stored:
                notify.unstore(STORED_AS)
            self._socket.close()

    def alive(self) -> bool:
        """Whether wdmd still has its end open; it never sends anything by itself."""
        with self._lock:
            if self._over:
                return False
            try:
                return bool(self._socket.recv(MESSAGE.size, socket.MSG_PEEK))
            except BlockingIOError:
                return True
            except OSError:
                return False

    def _send(self, message: bytes) -> None:
        try:
            sent = self._socket.send(message, socket.MSG_NOSIGNAL)
        except OSError as error:
            why = "it takes no messages" if isinstance(error, BlockingIOError) else error.strerror
            raise WdmdUnusable(socket=self._path, why=why) from error
        if sent != len(message):
            raise WdmdUnusable(socket=self._path, why="it takes no messages")


def there(path: str) -> Optional[str]:
    """None if wdmd answers there with a timeout that is right; otherwise why not. Arms nothing."""
    if not os.path.exists(path):
        return "it does not run"
    try:
        with _connect(path) as connection:
            connection.sendall(pack(STATUS))
            _check_timeout(path, _receive(connection))
    except WdmdUnusable as error:
        return str(error.__dict__["why"])
    except OSError as error:
        return error.strerror or str(error)
    return None


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(SECONDS)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise WdmdUnusable(socket=path, why=error.strerror or str(error)) from error
    return connection


def _check(path: str, connection: socket.socket) -> None:
    """Later versions open the device only when they are asked to; 3.8 does not know that command and is silent."""
    connection.sendall(pack(OPEN_WATCHDOG, fire_timeout=FIRE_TIMEOUT) + pack(STATUS))
    first = _receive(connection)
    if MESSAGE.unpack(first)[1] == OPEN_WATCHDOG:
        if not MESSAGE.unpack(first)[5]:
            raise WdmdUnusable(socket=path, why="it could not open the watchdog device")
        first = _receive(connection)
    _check_timeout(path, first)


def _check_timeout(path: str, message: bytes) -> None:
    fire_timeout = MESSAGE.unpack(message)[5]
    if fire_timeout != FIRE_TIMEOUT:
        why = f"its fire_timeout is {fire_timeout} s and must be {FIRE_TIMEOUT}, as other hosts count on it"
        raise WdmdUnusable(socket=path, why=why)


def _receive(connection: socket.socket) -> bytes:
    data = b""
    while len(data) < MESSAGE.size:
        part = connection.recv(MESSAGE.size - len(data))
        if not part:
            raise ConnectionResetError(104, "it hung up")
        data += part
    return data
