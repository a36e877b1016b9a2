# SPDX-License-Identifier: LGPL-2.1-or-later
"""A watchdog device that resets nothing: `python -m vlhook.drill.device FILE`, mounted on FILE.

It behaves as the kernel's watchdog devices do: opening arms it, one opener at
a time, any write or WDIOC_KEEPALIVE feeds it, closing disarms it only after a
`V` was written. Every event is one line of JSON on standard output, with the
time on CLOCK_MONOTONIC: opened, timeout, fed, disarmed, closed, fired.
`fired` comes when the time is over, and once; a real one would reset the host.

It ends with its standard input.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import struct
import sys
import time
from typing import Optional

from . import fuse
from .fuse import Request, Server

GET_SUPPORT, KEEPALIVE, SET_TIMEOUT, GET_TIMEOUT = 0x80285700, 0x80045705, 0xC0045706, 0x80045707
DEFAULT_TIMEOUT = 60


class Device:
    def __init__(self) -> None:
        self.open = False
        self.armed = False
        self.timeout = DEFAULT_TIMEOUT
        self.fed_at = 0.0
        self._magic = False

    def handlers(self) -> dict[int, fuse.Handler]:
        return {
            fuse.GETATTR: self._getattr,
            fuse.SETATTR: self._getattr,
            fuse.OPEN: self._do_open,
            fuse.WRITE: self._write,
            fuse.IOCTL: self._ioctl,
            fuse.FLUSH: lambda r: b"",
            fuse.FSYNC: lambda r: b"",
            fuse.RELEASE: self._release,
        }

    def left(self) -> Optional[float]:
        """Seconds until it fires; None while it is not armed."""
        return self.fed_at + self.timeout - time.monotonic() if self.armed else None

    def fire(self) -> None:
        self.armed = False
        _say("fired")

    def _feed(self) -> None:
        self.fed_at = time.monotonic()

    def _getattr(self, request: Request) -> bytes:
        mode = stat.S_IFREG | 0o600
        attr = fuse.ATTR.pack(1, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return fuse.ATTR_HEAD.pack(0, 0, 0) + attr

    def _do_open(self, request: Request) -> bytes:
        if self.open:
            raise OSError(errno.EBUSY, "one opener at a time")
        self.open, self.armed, self._magic = True, True, False
        self._feed()
        _say("opened", pid=request.pid)
        return fuse.OPEN_OUT.pack(1, fuse.DIRECT_IO | 4, 0)

    def _write(self, request: Request) -> bytes:
        size = struct.unpack_from("<QQI", request.body)[2]
        self._magic = b"V" in request.body[40 : 40 + size]
        self._feed()
        _say("fed")
        return struct.pack("<II", size, 0)

    def _ioctl(self, request: Request) -> bytes:
        _, _, command, _, given, _ = struct.unpack_from("<QIIQII", request.body)
        data = request.body[32 : 32 + given]
        out = b""
        if command == SET_TIMEOUT:
            self.timeout = struct.unpack("<i", data)[0]
            self._feed()
            _say("timeout", seconds=self.timeout)
            out = data
        elif command == GET_TIMEOUT:
            out = struct.pack("<i", self.timeout)
        elif command == KEEPALIVE:
            self._magic = False
            self._feed()
            _say("fed")
            out = bytes(4)
        elif command == GET_SUPPORT:
            out = struct.pack("<II32s", 0x8180, 1, b"vlhook drill")
        else:
            raise OSError(errno.ENOTTY, "unknown ioctl")
        return struct.pack("<iIII", 0, 0, 0, 0) + out

    def _release(self, request: Request) -> bytes:
        self.open = False
        if self._magic:
            self.armed = False
            _say("disarmed")
        else:
            self._feed()
            _say("closed")
        return b""


def _say(event: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **more}) + "\n")
    sys.stdout.flush()


def main(arguments: Optional[list[str]] = None) -> int:
    (path,) = arguments or sys.argv[1:]
    device = Device()
    server = Server(device.handlers())
    server.mount(path, directory=False)
    _say("mounted")
    try:
        while True:
            ready, _, _ = select.select([server, 0], [], [], device.left())
            left = device.left()
            if left is not None and left <= 0:
                device.fire()
            if server in ready:
                request = server.receive()
                if request is None:
                    return 0
                server.serve(request)
            if 0 in ready and not os.read(0, 4096):
                return 0
    finally:
        server.close()


if __name__ == "__main__":
    raise SystemExit(main())
