# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line an event on standard error, or one entry with fields where that leads to systemd's journal (`journal`).

A log that cannot be written (a full pipe, a journal that hangs) blocks its
writer. So the lines are written by a thread that nothing waits for; what is
too much, and a line that is repeated too often, is dropped, and counted in
the next line.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from queue import SimpleQueue
from typing import Any, NamedTuple, Optional

from . import journal

_PRIORITY = {"error": 3, "warning": 4, "notice": 5, "info": 6}
LINES_MAX = 2000
SAME_LINE_MAX = 20
"""So often in `WINDOW_SECONDS` is one and the same line written."""
WINDOW_SECONDS = 30.0
FLUSH_SECONDS = 1.0
NOTHING: Mapping[str, Any] = {}


class Entry(NamedTuple):
    priority: int
    event: str
    line: str
    fields: Mapping[str, Any]


class Log:
    """Also keeps what is wrong right now (`alarms`), for status. Never raises, never waits.

    `more` of an event: fields that only the journal gets; a sequence is a field with several values.
    """

    def __init__(self, program: str, descriptor: int = 2) -> None:
        self._program = program
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._alarms: dict[str, str] = {}
        self._lines: SimpleQueue[Optional[Entry]] = SimpleQueue()
        self._journal = journal.of_stream(program, descriptor)
        self._dropped = 0
        self._said: Counter[str] = Counter()
        self._window = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="log", daemon=True).start()
        atexit.register(self.close)

    def info(self, event: str, more: Mapping[str, Any] = NOTHING, **fields: Any) -> None:
        self._write("info", event, fields, more)

    def notice(self, event: str, more: Mapping[str, Any] = NOTHING, **fields: Any) -> None:
        self._write("notice", event, fields, more)

    def warning(self, event: str, more: Mapping[str, Any] = NOTHING, **fields: Any) -> None:
        self._write("warning", event, fields, more)

    def error(self, event: str, more: Mapping[str, Any] = NOTHING, **fields: Any) -> None:
        self._write("error", event, fields, more)

    def alarm(self, key: str, text: str) -> None:
        """Raise an alarm that stays until `calm(key)`; said once as long as its text is the same."""
        with self._lock:
            known = self._alarms.get(key) == text
            self._alarms[key] = text
        if not known:
            self._write("error", "alarm", {"what": text})

    def calm(self, key: str) -> None:
        with self._lock:
            gone = self._alarms.pop(key, None)
        if gone:
            self._write("notice", "alarm-over", {"what": gone})

    def calm_others(self, prefix: str, keys: Collection[str]) -> None:
        """Calm every alarm whose key begins with `prefix`, but for these."""
        with self._lock:
            over = [key for key in self._alarms if key.startswith(prefix) and key not in keys]
        for key in over:
            self.calm(key)

    def alarms(self) -> list[str]:
        with self._lock:
            return list(self._alarms.values())

    def close(self) -> None:
        """At the end: wait a moment for what is still to be written."""
        self._lines.put(None)
        self._ended.wait(FLUSH_SECONDS)

    def _write(self, level: str, event: str, fields: dict[str, Any], more: Mapping[str, Any] = NOTHING) -> None:
        words = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        if self._too_much(f"{event} {words}"):
            self._dropped += 1
            return
        if self._dropped:
            lost, self._dropped = self._dropped, 0
            fields = {**fields, "lines_lost_before": lost}
            words += f" lines_lost_before={lost}"
        self._lines.put(Entry(_PRIORITY[level], event, f"{event} {words}".rstrip(), {**fields, **more}))

    def _too_much(self, line: str) -> bool:
        now = time.monotonic()
        if now - self._window > WINDOW_SECONDS:
            self._window, self._said = now, Counter()
        self._said[line] += 1
        return self._said[line] > SAME_LINE_MAX or self._lines.qsize() >= LINES_MAX

    def _run(self) -> None:
        while True:
            entry = self._lines.get()
            if entry is None:
                self._ended.set()
                return
            if self._journal and self._journal.send(*entry):
                continue
            try:
                text = f"<{entry.priority}>{self._program}: {entry.line}\n"
                os.write(self._descriptor, text.encode("utf-8", "replace"))
            except OSError:
                pass


def _value(value: Any) -> str:
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return f'"{text}"' if " " in text or not text else text
