# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs protocol generators on real storage and real clocks (contract: `effects.py`)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from .blockio import BlockFile
from .effects import Effect, Maybe, Member, Now, Random, Read, Remove, Seen, Sleep, Steps, Write
from .errors import Abandoned, LeaseError
from .steplog import Operation, StepLog

T = TypeVar("T")
_rng = random.SystemRandom()
_log: StepLog | None = None


def log_steps(log: StepLog | None) -> None:
    """From now on every operation of this process is logged; None: no more."""
    global _log
    _log = log


class Cancel:
    """How a caller gives an operation up: `cancel` once, with the reason. Never undone."""

    # One a lease, for as long as it is held: the event, 1 KB, is made when somebody waits.
    __slots__ = ("_event", "given_up", "why")
    _making = threading.Lock()

    def __init__(self) -> None:
        self._event: threading.Event | None = None
        self.given_up = False
        self.why = ""

    def cancel(self, why: str) -> None:
        self.why = self.why or why
        with self._making:
            self.given_up = True
            event = self._event
        if event:
            event.set()

    def wait(self, seconds: float) -> bool:
        with self._making:
            if self.given_up:
                return True
            event = self._event = self._event or threading.Event()
        return event.wait(seconds)


def drive(
    steps: Steps[T],
    files: Mapping[str, BlockFile],
    *,
    member: Callable[[], None] = lambda: None,
    seen: Callable[[int], Maybe] = lambda host_id: None,
    cancel: Cancel | None = None,
    name: str = "",
    trace: Callable[[Effect, object], None] | None = None,
) -> T:
    """Run `steps` to its end in this thread and return its result.

    `member` raises NotMember when the host's own lease is not good; `seen`
    answers Seen. When `cancel` is used, Abandoned is thrown in once, at the
    next step; what the generator does then to clean up is not interrupted.
    """
    told = False
    answer: object = None
    error: BaseException | None = None
    logged = _log.begin(steps) if _log else None
    while True:
        try:
            effect = steps.throw(error) if error else steps.send(answer)
        except BaseException as end:
            if logged:
                _log_end(logged, end)
            if isinstance(end, StopIteration):
                return end.value  # type: ignore[no-any-return]
            raise
        answer, error = None, None
        if cancel and cancel.given_up and not told:
            told = True
            error = Abandoned(name=name, why=cancel.why)
            if logged:
                logged.step(effect, error)
            continue
        try:
            answer = _perform(effect, files, member, seen, cancel if not told else None)
        except LeaseError as failure:
            error = failure
        if logged:
            logged.step(effect, error or answer)
        if trace:
            trace(effect, error or answer)


def _log_end(logged: Operation, end: BaseException) -> None:
    if isinstance(end, StopIteration):
        logged.end(end.value)
    else:
        logged.failed(end)


def _perform(
    effect: Effect,
    files: Mapping[str, BlockFile],
    member: Callable[[], None],
    seen: Callable[[int], Maybe],
    cancel: Cancel | None,
) -> object:
    if isinstance(effect, Read):
        return files[effect.area].read(effect.offset, effect.length, effect.sparse)
    if isinstance(effect, Write):
        files[effect.area].write(effect.offset, effect.data)
        return None
    if isinstance(effect, Remove):
        return files[effect.area].remove()
    if isinstance(effect, Member):
        member()
        return None
    if isinstance(effect, Now):
        return time.monotonic()
    if isinstance(effect, Random):
        return _rng.random()
    if isinstance(effect, Seen):
        return seen(effect.host_id)
    assert isinstance(effect, Sleep)
    if cancel:
        cancel.wait(effect.seconds)
    else:
        time.sleep(effect.seconds)
    return None
