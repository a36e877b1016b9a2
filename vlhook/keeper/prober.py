# SPDX-License-Identifier: LGPL-2.1-or-later
"""The prober: a child of the keeper that looks at images, which may hang.

    request   identify ID HOST PATHS    (PATHS is a JSON list)
    answer    ok ID FOUND               (JSON: path → [identity or null, st_dev or null])

    request   head ID PATH              the first bytes of an image
    answer    ok ID BYTES, or error ID WHY
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from typing import Optional

from ..diskidentity import identity
from ..qcow2 import HEAD_SIZE
from .answering import answer_each
from .wire import pack


def identify(path: str, host: str) -> tuple[Optional[str], Optional[int]]:
    try:
        return identity(path, host), os.stat(path).st_dev
    except (OSError, ValueError):
        return None, None


def identities(request: bytes, host: bytes, paths: bytes) -> bytes:
    found = {path: identify(path, host.decode()) for path in json.loads(paths)}
    return pack(b"ok", [request, json.dumps(found).encode()])


def head(request: bytes, path: bytes) -> bytes:
    """Read-only, without waiting for the other end of a FIFO, and never of what is no image."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            mode = os.fstat(fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                return pack(b"error", [request, b"it is neither a file nor a block device"])
            return pack(b"ok", [request, os.pread(fd, HEAD_SIZE, 0)])
        finally:
            os.close(fd)
    except OSError as error:
        return pack(b"error", [request, (error.strerror or str(error)).encode()])


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=0)
    return answer_each(connection, lambda verb, fields: head(*fields) if verb == b"head" else identities(*fields))


if __name__ == "__main__":
    raise SystemExit(main())
