# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory whose reads and writes take a while: `python -m bench.slow BEHIND MOUNTED SECONDS`.

Each I/O is answered SECONDS after it came, any number at once, so that storage far away is slow and not
narrow. Data is copied once on each side; a read of 1 MiB costs this process about 0.3 ms. Opens, names
and attributes are answered at once. It ends when it is unmounted, or with its standard input.
"""

from __future__ import annotations

import heapq
import itertools
import os
import struct
import sys
import threading
import time

from vlhook.drill import fuse
from vlhook.drill.faults import PassThrough
from vlhook.drill.fuse import INIT_OUT, MAX_IO, OUT_HEADER, Request, Server

THREADS = 4
FLAGS = 1 | 1 << 3 | 1 << 5 | 1 << 22
"""Async read, O_TRUNC, big writes, max pages. Without async direct I/O, whose requests the kernel queues."""


class Slow:
    def __init__(self, server: Server, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._due: list[tuple[float, int, Request]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()

    def run(self) -> None:
        for _ in range(THREADS):
            threading.Thread(target=self._answer, daemon=True).start()
        while True:
            request = self._server.receive()
            if request is None:
                return
            if request.opcode == fuse.INIT:
                major, minor, ahead, flags = struct.unpack_from("<IIII", request.body)
                body = INIT_OUT.pack(7, 31, ahead, flags & FLAGS, 1024, 1000, MAX_IO, 1, MAX_IO >> 12, 0, 0)
                self._server.answer(request, body)
            elif request.opcode in (fuse.READ, fuse.WRITE):
                with self._changed:
                    heapq.heappush(self._due, (time.monotonic() + self._seconds, next(self._order), request))
                    self._changed.notify()
            else:
                self._server.serve(request)

    def _answer(self) -> None:
        buffer = memoryview(bytearray(MAX_IO))
        while True:
            request = self._next()
            if request.opcode == fuse.WRITE:
                self._server.serve(request)
                continue
            fd, offset, size = struct.unpack_from("<QQI", request.body)
            try:
                got = os.preadv(fd, [buffer[:size]], offset)
            except OSError as error:
                self._server.refuse(request, error.errno or 5)
                continue
            head = OUT_HEADER.pack(OUT_HEADER.size + got, 0, request.unique)
            os.writev(self._server.fileno(), [head, buffer[:got]])

    def _next(self) -> Request:
        with self._changed:
            while True:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)


def main() -> None:
    behind, mounted, seconds = sys.argv[1:]
    server = Server(PassThrough(behind).handlers())
    server.mount(mounted)
    print("mounted", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.close(), os._exit(0)), daemon=True).start()
    Slow(server, float(seconds)).run()


if __name__ == "__main__":
    main()
