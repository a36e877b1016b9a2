# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests that the guard watches, and the file that lets a restarted guard go on.

`guard.state` in the run directory is text, replaced whole by rename(2); lost
with the boot, as it should be:

    vlhook-guard 1 CRC                    CRC-32 (zlib, hex) over everything after this line
    boot BOOT-ID
    complete 1                            0: there may be guests that this list does not name
    page N HOST-ID GENERATION MONOTONIC BOOTTIME
                                          the last_ok when this was written, clocks in ns; N 0: none
    guest UUID SINCE HOST-ID GENERATION LIMIT NAME PROCESSES

SINCE is when the guest was registered (clock ticks since boot); HOST-ID and
GENERATION are the identity under which its leases were taken. LIMIT is the
moment at which its leases ran out (CLOCK_BOOTTIME, ns), 0 while they have not:
once it is set, the guest is ended whatever happens. NAME is the guest's name
in hex or `-`, PROCESSES is `PID:START,...` or `-`.

**A list that was damaged or lost** means that any QEMU on the host may be a
guest with leases. Then `complete` is 0, and when the limit comes every process
with `-uuid UUID` on its command line is ended, until the keeper has named all
its guests anew and said so.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

from ..errors import VlhookError
from ..lastok import NOTHING, Snapshot
from ..processes import Process

HEADER = "vlhook-guard 1"


class StateDamaged(VlhookError):
    msg = "{path}: the guard's list of guests is damaged: {why}"
    hint = "at the limit every QEMU of this host is ended, until the keeper has named its guests again"
    code = "VLH-G601"


class Target:
    """A process of a guest, and what was done to it. Times are CLOCK_MONOTONIC seconds, 0: not done."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.terminated = 0.0
        self.killed = 0.0
        self.complained = 0.0


class Guest:
    """A guest that is watched. `limit_at` is 0, or the guest is being ended (module's docstring)."""

    def __init__(
        self, uuid: str, name: str, since: int, host_id: int, generation: int, limit_at: int = 0
    ) -> None:
        self.uuid = uuid
        self.name = name
        self.since = since
        self.host_id = host_id
        self.generation = generation
        self.limit_at = limit_at
        self.targets: dict[tuple[int, int], Target] = {}
        self.term_at = 0.0

    def pids(self) -> str:
        return ",".join(str(pid) for pid, _ in self.targets) or "-"

    def add(self, process: Process) -> bool:
        """Take over a process; False, and it is closed, if it is known already."""
        if process.key in self.targets:
            process.close()
            return False
        self.targets[process.key] = Target(process)
        return True

    def drop_gone(self) -> list[Process]:
        """Close and forget the processes that are gone; returns them."""
        gone = [target.process for target in self.targets.values() if target.process.gone()]
        for process in gone:
            del self.targets[process.key]
            process.close()
        return gone


class Table:
    """All of it. `changed` says that the file is behind; `complete` is explained above.

    `earlier`: guest UUID to the (pid, start) that an earlier guard held of it.
    """

    def __init__(self, path: str, boot: str) -> None:
        self.guests: dict[str, Guest] = {}
        self.complete = True
        self.changed = False
        self.earlier: dict[str, list[tuple[int, int]]] = {}
        self.earlier_member: Snapshot = NOTHING
        self._path = path
        self._boot = boot

    def known_pids(self) -> frozenset[int]:
        return frozenset(pid for guest in self.guests.values() for pid, _ in guest.targets)

    def save(self, member: Snapshot | None) -> None:
        """Replace the file. Raises OSError; the file is as before then."""
        last = member or NOTHING
        lines = [
            f"boot {self._boot}",
            f"complete {int(self.complete)}",
            f"page {last.io_timeout} {last.host_id} {last.generation}"
            f" {last.last_ok_monotonic} {last.last_ok_boottime}",
        ]
        for guest in self.guests.values():
            processes = ",".join(f"{pid}:{start}" for pid, start in guest.targets)
            lines.append(
                f"guest {guest.uuid} {guest.since} {guest.host_id} {guest.generation} {guest.limit_at}"
                f" {guest.name.encode().hex() or '-'} {processes or '-'}"
            )
        body = "".join(line + "\n" for line in lines).encode()
        _replace(self._path, f"{HEADER} {zlib.crc32(body):08x}\n".encode() + body)
        self.changed = False

    def load(self) -> None:
        """Read the file, unless it is of another boot. Raises StateDamaged, OSError (also if absent)."""
        with open(self._path, "rb") as file:
            text = file.read()
        head, _, body = text.partition(b"\n")
        if head != f"{HEADER} {zlib.crc32(body):08x}".encode():
            raise StateDamaged(path=self._path, why="wrong header or checksum")
        readers: dict[str, Callable[..., None]] = {
            "complete": self._read_complete, "page": self._read_page, "guest": self._read_guest,
        }
        try:
            lines = [line.split(" ") for line in body.decode("ascii").splitlines()]
            if lines[0] == ["boot", self._boot]:
                for kind, *words in lines[1:]:
                    readers[kind](*words)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise StateDamaged(path=self._path, why=f"a line is not understood ({error})") from None

    def _read_complete(self, value: str) -> None:
        self.complete = value == "1"

    def _read_page(
        self, io_timeout: str, host_id: str, generation: str, monotonic: str, boottime: str
    ) -> None:
        self.earlier_member = NOTHING._replace(
            io_timeout=int(io_timeout), host_id=int(host_id), generation=int(generation),
            last_ok_monotonic=int(monotonic), last_ok_boottime=int(boottime),
        )

    def _read_guest(
        self, uuid: str, since: str, host_id: str, generation: str, limit_at: str,
        name: str, processes: str,
    ) -> None:
        text = "" if name == "-" else bytes.fromhex(name).decode()
        self.guests[uuid] = Guest(uuid, text, int(since), int(host_id), int(generation), int(limit_at))
        pairs = [] if processes == "-" else [pair.split(":") for pair in processes.split(",")]
        self.earlier[uuid] = [(int(pid), int(start)) for pid, start in pairs]


def _replace(path: str, data: bytes) -> None:
    temporary = path + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o600)
    try:
        # No fsync: the directory is in memory, and what must be survived is the end of a process.
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
