# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asks the keeper something over its socket. For the command line; the hook has its own short form."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

from ..errors import VlhookError
from .wire import WireError, pack, read_message

SOCKET = "vlhookd.sock"
DEADLINE_SECONDS = 10.0


class KeeperAway(VlhookError):
    msg = "vlhookd does not answer on {path}: {why}"
    hint = "start it (systemctl start vlhookd), or see its log (journalctl -u vlhookd)"
    code = "VLH-C101"


class KeeperSays(VlhookError):
    """The keeper answered with an error; `keeper_code` is its code."""

    msg = "{reason}"
    code = "VLH-C102"


def call(run_dir: Path, name: str, deadline: float = DEADLINE_SECONDS, **arguments: Any) -> dict[str, Any]:
    """The keeper's answer to call `name`. `deadline` in seconds. Raises KeeperAway and KeeperSays."""
    path = run_dir / SOCKET
    until = time.monotonic() + deadline
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(deadline)
            connection.connect(str(path))
            connection.sendall(pack(b"call", [name.encode(), json.dumps(arguments).encode()]))

            def receive(size: int) -> bytes:
                connection.settimeout(max(0.01, until - time.monotonic()))
                return connection.recv(size)

            message = read_message(receive)
    except (OSError, WireError) as error:
        raise KeeperAway(path=path, why=getattr(error, "strerror", None) or str(error)) from error
    if message is None:
        raise KeeperAway(path=path, why="it hung up")
    verb, fields = message
    if verb != b"ok":
        texts = [f.decode("utf-8", "replace") for f in fields]
        raise KeeperSays(reason=texts[-1] if texts else "no reason", keeper_code=texts[0] if texts else "")
    return dict(json.loads(fields[0]))
