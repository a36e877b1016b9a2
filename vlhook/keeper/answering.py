# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop of a child that answers requests on a socket (`children.py` is the other side)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from .wire import WireError, read_message


def answer_each(connection: socket.socket, answer: Callable[[bytes, list[bytes]], bytes]) -> int:
    """`answer(verb, fields)` to each request, until the keeper hangs up; the exit status of the child."""
    while True:
        try:
            message = read_message(connection.recv)
        except (WireError, OSError):
            return 1
        if message is None:
            return 0
        connection.sendall(answer(*message))
