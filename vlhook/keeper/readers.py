# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper's side of the reader: keeps one warm, ends it when it misses a deadline."""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.digests import sha256_hex
from .children import Child, ChildFailed
from .wire import WireError, pack

DEADLINE_SECONDS = 5.0
_VOLUME = re.compile(rb"""type\s*=\s*["']volume["']""")
_POOL = re.compile(rb"""pool\s*=\s*(?:"([^"]*)"|'([^']*)')""")
MAX_POOL_STATE = 1 << 20


class XmlRefused(VlhookError):
    """The reader understood the XML and says why the guest must not start."""

    msg = "{reason}"
    code = "VLH-D000"


class ReaderFailed(VlhookError):
    msg = "the domain XML could not be read: {why}"
    hint = "the reader was started again; start the guest again, and if this comes back check the guest's XML"
    code = "VLH-K501"


def _nobody(_pool: str, _state: bytes) -> dict[str, str]:
    return {}


class Reader:
    """One child process; requests are answered one after another."""

    def __init__(self, storage_run_dir: Path, named: Callable[[str, bytes], dict[str, str]] = _nobody) -> None:
        """`named`: what a pool's volumes are, by its name and state file (volumemap.py)."""
        self._storage = storage_run_dir
        self._named = named
        self._lock = threading.Lock()
        self._child = Child("vlhook.keeper.reader")
        self._number = 0

    def start(self) -> None:
        """Start the child ahead of the first request. Raises ReaderFailed."""
        with self._lock:
            try:
                self._child.start()
            except ChildFailed as error:
                raise ReaderFailed(why=error) from error

    def parse(self, xml: bytes, options: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The guest as `domain.Guest` in a dict. Raises XmlRefused and ReaderFailed.

        `deadline`: CLOCK_MONOTONIC seconds.
        """
        fields = [json.dumps(options).encode(), self._pools(xml), xml]
        return dict(json.loads(self._ask(b"parse", fields, deadline)))

    def header(self, head: bytes, deadline: float) -> dict[str, Any]:
        """`qcow2.Header` as a dict, from the head of an image. Raises XmlRefused and ReaderFailed."""
        return dict(json.loads(self._ask(b"header", [head], deadline)))

    def stamp(self, xml: bytes, token: str, deadline: float) -> bytes:
        """The XML with the token in its metadata. Raises XmlRefused and ReaderFailed."""
        return self._ask(b"stamp", [token.encode(), xml], deadline)

    def _ask(self, verb: bytes, fields: list[bytes], deadline: float) -> bytes:
        deadline = min(deadline, time.monotonic() + DEADLINE_SECONDS)
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise ReaderFailed(why="the reader is busy with other guests' XML")
        try:
            return self._answer(verb, fields, deadline)
        except (ChildFailed, WireError, ValueError) as error:
            self._child.end()
            raise ReaderFailed(why=str(error) or type(error).__name__) from error
        finally:
            self._lock.release()

    def stop(self) -> None:
        with self._lock:
            self._child.end()

    def _answer(self, verb: bytes, fields: list[bytes], deadline: float) -> bytes:
        self._number += 1
        number = str(self._number).encode()
        outcome, answer = self._child.ask(pack(verb, [number, *fields]), deadline)
        digest = sha256_hex(fields[-1]).encode()
        if len(answer) < 3 or answer[:2] != [number, digest]:
            raise WireError("the reader answered another request")
        if outcome == b"refused":
            error = XmlRefused(reason=answer[3].decode())
            error.__dict__["code"] = answer[2].decode()
            raise error
        return answer[2]

    def _pools(self, xml: bytes) -> bytes:
        """The state files of the storage pools that the XML may name; the reader may not open them itself."""
        states, named = {}, {}
        if _VOLUME.search(xml):
            from html import unescape  # 0.5 MB, and few guests have volumes

            for match in _POOL.finditer(xml):
                name = unescape((match.group(1) or match.group(2) or b"").decode("utf-8", "replace"))
                if name and "/" not in name and name not in (".", ".."):
                    state = read_small(self._storage / f"{name}.xml")
                    if state is not None:
                        states[name] = base64.b64encode(state).decode()
                        named[name] = self._named(name, state)
        return json.dumps({"states": states, "named": named}).encode()


def read_small(path: Path) -> Optional[bytes]:
    """The state file of a pool; None if it is not there, cannot be read or is too large."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_POOL_STATE:
                return None
            return file.read(MAX_POOL_STATE)
    except OSError:
        return None
