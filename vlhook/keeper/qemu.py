# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which QEMU process is which incarnation's, on this host."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional, Union

from .. import processes
from ..processes import Process, ProcessError, Scan
from .scans import Scans
from .state import Caller, Incarnation

LIBVIRT_DAEMONS = ("libvirtd", "virtqemud")
MAX_ANCESTORS = 8


class _Pass(threading.local):
    """What this thread has seen in the pass it is in, or why it could not be seen."""

    open = False
    seen: Union[Scan, OSError, None] = None


class Processes:
    """The host's process table, and libvirt's pid files as a short cut into it."""

    def __init__(self, proc_dir: str, libvirt_run_dir: Path) -> None:
        self.proc_dir = proc_dir
        self._scans = Scans(proc_dir)
        self._pid_files = libvirt_run_dir / "qemu"
        self._pass = _Pass()

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Within it this thread scans the process table at most once, for however many guests it asks."""
        self._pass.open, self._pass.seen = True, None
        try:
            yield
        finally:
            self._pass.open, self._pass.seen = False, None

    def _scan(self) -> Scan:
        """Raises OSError."""
        if not self._pass.open:
            return self._scans.scan()
        if self._pass.seen is None:
            try:
                self._pass.seen = self._scans.scan()
            except OSError as error:
                self._pass.seen = error
        if isinstance(self._pass.seen, OSError):
            raise self._pass.seen
        return self._pass.seen

    def sign_of_life(self, uuid: str, since: int = 0, tpm_states: Sequence[str] = ()) -> Optional[str]:
        """Why a QEMU of this guest, or an emulated TPM with such a state, may live; None if a scan shows none."""
        try:
            seen = self._scan()
        except OSError as error:
            return f"the process table cannot be read: {error.strerror}"
        signs = [processes.sign_of_life(uuid, seen, since=since), *(processes.tpm_in_use(p, seen) for p in tpm_states)]
        return next((sign for sign in signs if sign), None)

    def arguments(self, process: Process) -> Optional[list[bytes]]:
        """The command line of a QEMU, None if it is gone or cannot be read in time."""
        try:
            words = self._scans.within(lambda: processes.command_line(process.pid, self.proc_dir), [process.pid])
        except OSError:
            return None
        return None if process.gone() else words

    def guests(self) -> dict[str, list[tuple[int, int]]]:
        """UUID → (pid, start) of all QEMU processes. Raises OSError."""
        return self._scan().guests

    def caller_alive(self, caller: Caller) -> bool:
        return processes.alive(caller.pid, caller.start, self.proc_dir)

    def caller(self, parent: int) -> Caller:
        """The libvirtd that runs a hook, from the hook's parent; start 0 if it is gone already.

        The parent may be a script of the administrator's that runs several hooks: libvirtd is
        the nearest ancestor of its name. Process 1 inherits the hooks of a libvirtd that died,
        so it is libvirtd only if it is called so.
        """
        try:
            pid = parent
            for _ in range(MAX_ANCESTORS):
                stat = processes.read_stat(pid, self.proc_dir)
                if stat is None:
                    break
                if stat.name in LIBVIRT_DAEMONS:
                    return Caller(pid, stat.start)
                pid = stat.parent
            if parent != 1:
                return Caller(parent, processes.start_time(parent, self.proc_dir) or 0)
        except OSError:
            pass
        return Caller(parent, 0)

    def start_of(self, pid: int) -> int:
        """Start time of a process in ticks, now if it cannot be told."""
        try:
            return processes.start_time(pid, self.proc_dir) or processes.ticks_now()
        except OSError:
            return processes.ticks_now()

    def open(self, life: Incarnation) -> Optional[Process]:
        """The QEMU that is bound to `life`, None if it is gone."""
        try:
            return processes.open_process(life.qemu, proc_dir=self.proc_dir, start=life.qemu_start)
        except (ProcessError, OSError):
            return None

    def look(self, life: Incarnation, *, thoroughly: bool) -> Optional[Process]:
        """The QEMU that libvirt started for `life`, if it is there by now.

        By libvirt's pid file; `thoroughly` also by a scan of all processes.
        """
        try:
            pid = processes.read_pid_file(str(self._pid_files / f"{life.guest}.pid"))
            process = self._verified(pid, life) if pid else None
            if process:
                return process
            for pid, _ in self._scan().guests.get(life.uuid, []) if thoroughly else []:
                process = self._verified(pid, life)
                if process:
                    return process
        except OSError:
            pass
        return None

    def waits_for_source(self, process: Process) -> bool:
        """Was this QEMU started for an incoming migration? False, too, if that cannot be told."""
        words = self.arguments(process)
        return process.gone() if words is None else b"-incoming" in words

    def _verified(self, pid: int, life: Incarnation) -> Optional[Process]:
        def verify() -> Process:
            return processes.open_process(pid, proc_dir=self.proc_dir, uuid=life.uuid)

        try:
            return self._scans.within(verify, [pid])
        except ProcessError:
            return None

