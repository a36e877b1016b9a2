# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which prepare is that of an incoming migration: the one whose XML carries a token of ours (safety rules, 16).

A token is worth one prepare, of the guest and by the libvirtd it was made for,
soon after. libvirt goes from migrate to prepare in milliseconds, but other
hook scripts may stand between. An offline migration has no prepare: libvirt
stores the XML with the token in it, and a later start of that guest shows it. It
is told from an incoming one by the stored XML, which a live migration writes only at its end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .state import Caller

LIFE_SECONDS = 60.0
MAX_TOKENS = 1000
MAX_STORED = 16 << 20


@dataclass(frozen=True)
class _Admission:
    uuid: str
    caller: Caller
    until: float


class Tokens:
    """`stored`: the directory in which libvirt keeps the XML of defined guests."""

    def __init__(self, stored: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._stored = stored
        self._now = now
        self._lock = threading.Lock()
        self._admitted: dict[str, _Admission] = {}

    def make(self, uuid: str, caller: Caller) -> str:
        """A token for the prepare of this guest that this libvirtd is about to call."""
        token = os.urandom(16).hex()
        with self._lock:
            self._drop_old()
            while len(self._admitted) >= MAX_TOKENS:
                del self._admitted[next(iter(self._admitted))]
            self._admitted[token] = _Admission(uuid, caller, self._now() + LIFE_SECONDS)
        return token

    def take(self, token: Optional[str], guest: str, uuid: str, caller: Caller) -> bool:
        """Is this prepare the incoming one? A token is used up by the first who asks, whatever the answer."""
        if token is None:
            return False
        with self._lock:
            self._drop_old()
            admitted = self._admitted.pop(token, None)
        if admitted is None or (admitted.uuid, admitted.caller) != (uuid, caller):
            return False
        return not self._is_stored(guest, token)

    def _is_stored(self, guest: str, token: str) -> bool:
        if "/" in guest:
            return True
        try:
            with open(self._stored / f"{guest}.xml", "rb") as file:
                return token.encode() in file.read(MAX_STORED)
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _drop_old(self) -> None:
        now = self._now()
        for token in [token for token, admitted in self._admitted.items() if admitted.until <= now]:
            del self._admitted[token]
