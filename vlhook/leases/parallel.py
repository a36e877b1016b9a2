# SPDX-License-Identifier: LGPL-2.1-or-later
"""One function on many things at once, by threads that may hang and are then left behind."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

THREADS = 16
T = TypeVar("T")
R = TypeVar("R")


def each(
    items: Sequence[T], act: Callable[[T], R], seconds: float | None, threads: int = THREADS
) -> Iterator[tuple[T, R]]:
    """(item, act(item)) in the order of the answers, as long as one comes every `seconds` (None: whenever it comes).

    Items that have not been answered by then are missing: the storage does not
    answer for them, and a thread that waits for it cannot be stopped. `act`
    must not raise.
    """
    todo: queue.SimpleQueue[T] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R]] = queue.SimpleQueue()
    for item in items:
        todo.put(item)

    def work() -> None:
        while True:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            done.put((item, act(item)))

    for _ in range(min(threads, len(items))):
        threading.Thread(target=work, name="look", daemon=True).start()
    for _ in range(len(items)):
        try:
            yield done.get(timeout=seconds)
        except queue.Empty:
            return


class Unanswered(Exception):
    """Not within the time."""


def within(seconds: float, act: Callable[[], R]) -> R:
    """The answer of `act`, or what it raises, in another thread. Raises Unanswered."""
    box: list[tuple[R | None, BaseException | None]] = []
    ended = threading.Event()

    def work() -> None:
        try:
            box.append((act(), None))
        except BaseException as error:  # raised again in the caller's thread
            box.append((None, error))
        ended.set()

    threading.Thread(target=work, name="look", daemon=True).start()
    until = time.monotonic() + seconds
    if not ended.wait(max(0.0, until - time.monotonic())):
        raise Unanswered
    result, error = box[0]
    if error:
        raise error
    return result  # type: ignore[return-value]
