# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries with fields for systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

Used only where standard error leads to the journal, which systemd says in JOURNAL_STREAM; elsewhere the lines are
all there is. Fields, beside the journal's own:

    VLHOOK_EVENT     the first word of the line: granted, refused, lease-lost, …; MESSAGE_ID is made from it
    VLHOOK_VM        the guest's name        VLHOOK_LEASE   lease names, one field each
    VLHOOK_HOLDER    host ids that hold it   VLHOOK_LVER    versions of the leases, in the order of VLHOOK_LEASE
    VLHOOK_…         every other field of the line, by its name in capitals
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Optional

SOCKET = "/run/systemd/journal/socket"
EVENTS = uuid.UUID("3f0a8f0e-6a57-4d0c-9d3e-7c1b1e5a2b90")
"""MESSAGE_ID is the UUID (version 5) of the event's name in this name space."""
_NAMES = {"guest": "VM"}


class Journal:
    """A connection to the journal; `send` never waits and never raises."""

    def __init__(self, program: str, path: str = SOCKET) -> None:
        """Raises OSError."""
        self._program = program
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def send(self, priority: int, event: str, line: str, fields: Mapping[str, Any]) -> bool:
        """False if the journal did not take it."""
        pairs = [
            ("MESSAGE", line), ("PRIORITY", str(priority)), ("SYSLOG_IDENTIFIER", self._program),
            ("MESSAGE_ID", message_id(event)), ("VLHOOK_EVENT", event),
        ]  # fmt: skip
        for name, value in fields.items():
            values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            pairs += [(f"VLHOOK_{_NAMES.get(name, name.upper())}", _text(one)) for one in values]
        try:
            self._socket.send("".join(f"{name}={value}\n" for name, value in pairs).encode("utf-8", "replace"))
        except OSError:
            return False
        return True


def message_id(event: str) -> str:
    return uuid.uuid5(EVENTS, event).hex


def of_stream(program: str, descriptor: int, path: str = SOCKET) -> Optional[Journal]:
    """The journal, if `descriptor` leads to it; None otherwise."""
    told = os.environ.get("JOURNAL_STREAM", "")
    try:
        here = os.fstat(descriptor)
        return Journal(program, path) if told == f"{here.st_dev}:{here.st_ino}" else None
    except OSError:
        return None


def _text(value: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))
