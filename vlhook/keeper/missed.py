# SPDX-License-Identifier: LGPL-2.1-or-later
"""Releases that met no keeper, judged when there is one again.

A start that went through the second gate keeps its leases for as long as its libvirtd lives: time
alone proves nothing (safety rules, 2). If libvirt's release of it was not answered, the hook has left a note
(`releasenote.py`). The note is that release, and is taken as it would have been then, by the
same rules: it gives nothing back while a QEMU of the guest lives. What is about another start must not count:

- The hook was started after the prepare of the start that is judged. A release of an earlier start that
  came late was started before: libvirtd waits for it before it prepares the next, and one that died starts no hooks.
- The hook was started by the very libvirtd of that start: by the pid of a process that still lives, and
  lived before the hook did, so that the pid was nobody else's in between.

libvirtd calls release at the end of stopping a guest, with the guest locked: it does not go on with a start
that it has released, and the next one has a prepare, and an incarnation, of its own.

A note stays until its start is gone from the table (`StateStore.forget_guest`), so it is also judged anew by
the next keeper. One for a start that is not known is removed when a keeper starts.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import VlhookError
from ..leases.errors import LeaseError
from .gates import HookCall
from .log import Log
from .qemu import Processes
from .releasenote import Note, read
from .state import Incarnation

RETRY_SECONDS = 5.0
SECONDS = 20.0
"""For the reader and for other requests of the guest."""


class MissedReleases:
    """`release` is the gates': raises VlhookError and LeaseError."""

    def __init__(self, folder: Path, processes: Processes, release: Callable[[HookCall], object], log: Log) -> None:
        self._folder = folder
        self._processes = processes
        self._release = release
        self._log = log
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._judged: dict[str, tuple[int, int]] = {}

    def look(self, life: Incarnation) -> None:
        """Judge the release of `life` in the background if there is one that was not judged yet; never waits."""
        if life.released:
            return
        try:
            found = os.stat(self._folder / life.key)
        except OSError:
            return
        which = (found.st_ino, found.st_mtime_ns)
        with self._lock:
            if life.key in self._busy or self._judged.get(life.key) == which:
                return
            self._busy.add(life.key)
        try:
            threading.Thread(target=self._judge, args=(life, which), name="missed-release", daemon=True).start()
        except RuntimeError as error:  # no thread to be had: at the next look
            self._log.warning("missed-release", guest=life.guest, uuid=life.uuid, error=repr(error))
            with self._lock:
                self._busy.discard(life.key)

    def _judge(self, life: Incarnation, which: tuple[int, int]) -> None:
        try:
            self._take(life)
        except (VlhookError, LeaseError) as error:
            self._log.warning("missed-release", guest=life.guest, uuid=life.uuid, error=error)
            time.sleep(RETRY_SECONDS)
        except Exception as error:  # damaged, or a fault of ours: as if there were none
            self._log.warning("missed-release", guest=life.guest, uuid=life.uuid, error=repr(error))
            self._judged[life.key] = which
        else:
            self._judged[life.key] = which
        finally:
            with self._lock:
                self._busy.discard(life.key)

    def _take(self, life: Incarnation) -> None:
        note = read(str(self._folder / life.key))
        if not self._is_about(note, life):
            self._log.notice("missed-release", guest=life.guest, uuid=life.uuid, why="it is about another start")
            return
        self._log.notice("missed-release", guest=life.guest, uuid=life.uuid, why="it met no keeper, and counts now")
        self._release(
            HookCall(
                guest=note.guest, operation="release", suboperation="end", extra="-", caller=life.caller,
                born=note.born, xml=note.xml, deadline=time.monotonic() + SECONDS, gone=lambda: False,
            )
        )  # fmt: skip

    def _is_about(self, note: Note, life: Incarnation) -> bool:
        caller = life.caller
        return (
            life.born < note.born
            and caller.start < note.born
            and caller.pid in note.ancestors
            and self._processes.start_of(caller.pid) == caller.start
        )
