# SPDX-License-Identifier: LGPL-2.1-or-later
"""The protocol steps of a running engine in a file, whole enough to be run again (`replay.py`).

One JSON object a line. The first line of a file says what it is; then each
operation has a line for its beginning, one for each step and one for its end,
mixed with those of other operations, each written before the operation goes on:

    {"protocol-log": 1, "pid": 4711}
    {"op": 3, "at": 81.25, "run": "paxos.acquire", "with": {"lease": …, "me": …}}
    {"op": 3, "at": 81.26, "ask": Read(…), "got": bytes}
    {"op": 3, "at": 81.27, "ask": Write(…), "error": StorageError(…)}
    {"op": 3, "at": 81.28, "end": SHA-256 of the result}      or "failed": [class, text]

`at` is CLOCK_MONOTONIC in seconds, after the step. Values are JSON; a record is
{"=": its class, …fields}, bytes are {"z": zlib, base64}, a tuple is a list.

Off unless `vlhookd --protocol-log` names a file. It never takes more than its
limit: at half of it the file becomes FILE.1 and a new one is begun. A log that
cannot be written is given up, and nothing else is: it must be on a local disk,
because a step waits until its line is written.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
import time
import zlib
from dataclasses import fields, is_dataclass
from types import GeneratorType
from typing import Any, Callable

from .digests import sha256_hex
from .effects import Effect
from .errors import LeaseError

VERSION = 1
MIB = 1 << 20
SMALLEST = 2 * MIB


def plain(value: object) -> Any:
    """`value` as JSON knows it. What is no value of the protocol becomes its text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return {"z": base64.b64encode(zlib.compress(bytes(value), 1)).decode()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        return {"=": type(value).__name__, **named}
    if isinstance(value, LeaseError):
        named = {name: plain(item) for name, item in vars(value).items() if not name.startswith("_")}
        return {"=": type(value).__name__, **named}
    return str(value)


def digest(result: object) -> str:
    """The same for equal results, and for no others."""
    return sha256_hex(json.dumps(plain(result), sort_keys=True).encode())


class Operation:
    """The lines of one run of a generator."""

    def __init__(self, write: Callable[[dict[str, Any]], None], number: int) -> None:
        self._write = write
        self._number = number

    def _line(self, **words: Any) -> None:
        self._write({"op": self._number, "at": round(time.monotonic(), 6), **words})

    def begin(self, name: str, arguments: dict[str, object]) -> None:
        self._line(run=name, **{"with": {key: plain(value) for key, value in arguments.items()}})

    def step(self, effect: Effect, answer: object) -> None:
        """`answer`: what the generator is sent, or the error that is thrown into it."""
        told = "error" if isinstance(answer, BaseException) else "got"
        self._line(ask=plain(effect), **{told: plain(answer)})

    def end(self, result: object) -> None:
        self._line(end=digest(result))

    def failed(self, error: BaseException) -> None:
        self._line(failed=[type(error).__name__, str(error)])


class StepLog:
    """The file at `path` and its predecessor, together at most `limit` bytes. Any thread may use it.

    Raises OSError when the file cannot be made; later faults go to `on_fault`, once.
    """

    def __init__(self, path: str, limit: int, on_fault: Callable[[str], None] = lambda why: None) -> None:
        self._path = path
        self._limit = max(limit, SMALLEST)
        self._on_fault = on_fault
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._size = 0
        self._fd = -1
        self._open()

    def begin(self, steps: object) -> Operation | None:
        """For a generator that has not begun; its name and arguments are read from its frame."""
        if self._fd < 0 or not isinstance(steps, GeneratorType) or steps.gi_frame is None:
            return None
        module = str(steps.gi_frame.f_globals.get("__name__", "")).rpartition(".")[2]
        operation = Operation(self._write, next(self._numbers))
        operation.begin(f"{module}.{steps.gi_code.co_name}", dict(steps.gi_frame.f_locals))
        return operation

    def close(self) -> None:
        with self._lock:
            self._close()

    def _open(self) -> None:
        """A file that is there, of a former engine, becomes the predecessor."""
        try:
            os.rename(self._path, self._path + ".1")
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd, self._size = os.open(self._path, flags, 0o600), 0
        self._put(json.dumps({"protocol-log": VERSION, "pid": os.getpid()}).encode() + b"\n")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            if self._fd < 0:
                return
            try:
                if self._size + len(data) > self._limit // 2:
                    self._close()
                    self._open()
                if self._size + len(data) <= self._limit // 2:
                    self._put(data)
            except OSError as error:
                self._close()
                self._on_fault(f"the protocol log {self._path} is given up: {error.strerror or error}")

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        self._size += len(data)
