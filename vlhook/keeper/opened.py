# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a QEMU was really started with: the volumes whose paths no XML names (safety rules, 26).

vlhook resolves a volume from the state of its pool, libvirt from its own. Once QEMU
runs, its command line tells which file it opens: if that is not the one whose lease was
taken, the guest is ended at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..processes import Process
from .log import Log
from .qemu import Processes
from .state import Incarnation
from .stopping import kill_now

OPTIONS = (b"-blockdev", b"-drive")
BY_DESCRIPTOR = "/dev/fdset/"
_NAME_KEYS = ("file", "filename", "dir")


class Opened:
    def __init__(self, processes: Processes, log: Log) -> None:
        self._processes = processes
        self._log = log

    def check(self, life: Incarnation, process: Process) -> None:
        """End a QEMU that does not use the volumes of `life` where they were thought to be."""
        why = self.why_not(life.volumes, process)
        if not why:
            return
        kill_now(process, self._log)
        text = f"guest {life.guest} was ended at once: {why}"
        self._log.error("other-volume", guest=life.guest, uuid=life.uuid, pid=process.pid, why=text)

    def why_not(self, volumes: Sequence[str], process: Process) -> str:
        """Why the leases on `volumes` do not protect what this QEMU uses; "" if nothing speaks against it."""
        if not volumes:
            return ""
        arguments = self._processes.arguments(process)
        if arguments is None:
            if not process.gone():
                self._log.warning("not-checked", pid=process.pid, what="which volumes it uses", why="it is stuck")
            return ""
        used = set(file_names(arguments))
        missing = [path for path in volumes if path not in used]
        if not missing or any(name.startswith(BY_DESCRIPTOR) for name in used):
            return ""
        return (
            f"its QEMU does not use {missing[0]}, which its storage pool's state says is its volume and whose lease"
            " was taken; restart the pool, or name the disk itself in the guest's XML"
        )


def file_names(arguments: Sequence[bytes]) -> Iterator[str]:
    """Every file that is named by -blockdev and -drive, as JSON or as KEY=VALUE,… with doubled commas."""
    for option, value in zip(arguments, arguments[1:]):
        if option in OPTIONS:
            text = value.decode("utf-8", "surrogateescape")
            yield from _in_json(text) if text.startswith("{") else _in_words(text)


def _in_json(text: str) -> Iterator[str]:
    try:
        pending: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from (found for key, found in value.items() if key in _NAME_KEYS and isinstance(found, str))
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _in_words(text: str) -> Iterator[str]:
    for word in re.findall(r"(?:[^,]|,,)+", text):
        key, equals, value = word.replace(",,", ",").partition("=")
        if equals and key.rpartition(".")[2] in _NAME_KEYS:
            yield value
