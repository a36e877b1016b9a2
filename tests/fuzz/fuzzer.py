# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small coverage-guided fuzzer for what vlhook reads.

An input that reaches a pair of lines which no input before has reached is kept, and changed further. Lines are told by
sys.settrace, so it runs on every Python that vlhook runs on; atheris has wheels for a few of them only, takes 35 MB
and instruments the same Python code no deeper. What an input may do is counted in lines and bytes, not in
seconds, so a verdict does not depend on the machine:

- it raises one of the target's documented errors, or nothing;
- it runs at most `LINES` lines of vlhook, and `LINES_A_BYTE` more for each byte of input: it does not loop;
- it takes at most `target.memory` bytes, and `BYTES_A_BYTE` for each byte: no number in the input makes it allocate.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from vlhook.errors import VlhookError
from vlhook.leases.errors import LeaseError

LINES, LINES_A_BYTE = 60_000, 120
BYTES_A_BYTE = 120
MIB = 1 << 20
NUMBERS = [0, 1, 2, 7, 8, 127, 128, 255, 256, 511, 512, 2000, 2001, 4096, 0x7FFF, 0xFFFF, 1 << 20, (1 << 31) - 1,
           1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1]  # fmt: skip


@dataclass
class Target:
    """`run` is given an input; `errors` are those that it may raise. `words`: what inputs are made of."""

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    errors: tuple[type[BaseException], ...] = (LeaseError, VlhookError)
    words: Sequence[bytes] = ()
    memory: int = MIB
    longest: int = 1 << 16
    lines: int = LINES


@dataclass
class Crash:
    target: str
    data: bytes
    what: str

    def __str__(self) -> str:
        return f"{self.target}: {self.what}; input {self.data!r}"


class TooLong(BaseException):
    """Not an Exception, so that no code under test takes it for its own."""


@dataclass
class Result:
    runs: int = 0
    kept: int = 0
    lines: int = 0
    crashes: list[Crash] = field(default_factory=list)


def untraced(call: Callable[[], object]) -> None:
    """For what a target needs and another target tries."""
    before = sys.gettrace()
    sys.settrace(None)
    try:
        call()
    finally:
        sys.settrace(before)


class Watch:
    """Counts and remembers the lines of vlhook that run."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int, int]] = set()
        self.new = False
        self._left = 0
        self._last: dict[CodeType, int] = {}

    def run(self, call: Callable[[], object], limit: int) -> None:
        self.new, self._left = False, limit
        self._last.clear()
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            call()
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        if "/vlhook/" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self._left -= 1
            if self._left < 0:
                raise TooLong
            code, line = frame.f_code, frame.f_lineno
            edge = code, self._last.get(code, 0), line
            self._last[code] = line
            if edge not in self.seen:
                self.seen.add(edge)
                self.new = True
        return self._line


def outcome(target: Target, call: Callable[[], object]) -> str:
    """What is wrong with it; "" if nothing is."""
    try:
        call()
    except target.errors as error:
        try:
            told = str(error)
        except Exception as second:
            return f"{type(error).__name__} cannot be told: {second!r}"
        if "\n" in told:
            return f"{type(error).__name__} is of more than one line: {told!r}"
    except TooLong:
        return "it does not come to an end"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"
    return ""


def examine(target: Target, data: bytes, watch: Watch | None = None) -> str:
    """Run one input in every way. What is wrong with it; "" if nothing is."""
    watch = watch or Watch()
    wrong = outcome(target, lambda: watch.run(lambda: target.run(data), target.lines + LINES_A_BYTE * len(data)))
    return wrong or (_memory(target, data) if watch.new else "")


def _memory(target: Target, data: bytes) -> str:
    tracemalloc.start()
    try:
        outcome(target, lambda: target.run(data))
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = target.memory + BYTES_A_BYTE * len(data)
    return f"it takes {taken} bytes for an input of {len(data)}" if taken > allowed else ""


def fuzz(target: Target, seconds: float, seed: int, *, most: int = 5) -> Result:
    """Until `seconds` are over or `most` different crashes are found."""
    chance, watch, result = random.Random(seed), Watch(), Result()
    corpus: list[bytes] = []
    found: dict[str, Crash] = {}

    def one(data: bytes) -> None:
        result.runs += 1
        wrong = examine(target, data, watch)
        if wrong:
            found.setdefault(wrong[:60], Crash(target.name, data, wrong))
        elif watch.new:
            corpus.append(data)

    until = time.monotonic() + seconds
    for data in (*target.seeds, b""):
        one(data)
        if time.monotonic() > until:
            break
    while time.monotonic() < until and len(found) < most:
        # The latest finds are the most promising.
        near = chance.random() < 0.5 and len(corpus) > 8
        data = chance.choice(corpus[-8:] if near else corpus or [b""])
        one(mutate(data, corpus, target, chance))
    result.kept, result.lines = len(corpus), len(watch.seen)
    result.crashes = [Crash(target.name, shrink(target, crash), crash.what) for crash in found.values()]
    return result


def shrink(target: Target, crash: Crash) -> bytes:
    """A shorter input that is wrong in the same way."""
    data, size = crash.data, max(1, len(crash.data) // 2)
    tries = 300
    while size and tries:
        at = 0
        while at < len(data) and tries:
            tries -= 1
            shorter = data[:at] + data[at + size :]
            if examine(target, shorter)[:60] == crash.what[:60]:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def mutate(data: bytes, corpus: Sequence[bytes], target: Target, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
        chance.choice(MUTATIONS)(changed, corpus, target, chance)
    return bytes(changed[: target.longest])


def _flip(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _number(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    if len(data) >= size:
        at = chance.randrange(len(data) - size + 1)
        at -= at % size if chance.random() < 0.8 else 0
        value = chance.choice(NUMBERS) + chance.choice((0, 0, 1, -1))
        data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _digits(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, 1, 2))] = str(chance.choice(NUMBERS) - chance.choice((0, 1))).encode()


def _cut(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    if data:
        at = chance.randrange(len(data))
        del data[at : at + chance.choice((1, 2, 8, 64, len(data)))]


def _repeat(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    if data:
        at = chance.randrange(len(data))
        part = data[at : at + chance.choice((1, 4, 16, 64))]
        data[at:at] = part * chance.choice((1, 2, 16, 200))


def _word(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    if target.words:
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.choice((0, 0, 1, 4))] = chance.choice(target.words)


def _splice(data: bytearray, corpus: Sequence[bytes], target: Target, chance: random.Random) -> None:
    if corpus:
        other = chance.choice(corpus)
        at = chance.randrange(len(data) + 1)
        data[at:] = other[chance.randrange(len(other) + 1) :]


MUTATIONS = (_flip, _byte, _number, _number, _digits, _cut, _repeat, _word, _word, _splice)
