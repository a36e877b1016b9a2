# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's sanlock plugin on this host, as the system shows it: nothing here is taken from a setting alone.

- Which libvirtd has it: the plugin's file in /proc/PID/maps of the running process. What qemu.conf
  says is only what the next libvirtd will do.
- Which leases it has taken: the sanlock daemon's list, by the pid of QEMU. The plugin registers the process
  that becomes QEMU, takes the leases when its CPUs start, and gives them back while the guest is
  suspended: such a guest is registered and holds nothing (seen with libvirt 9.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..errors import VlhookError
from ..leases.engine import Want
from ..leases.sanlockclient import SanlockClient, StatusLevel
from ..leases.sanlockstate import StateType, held_leases
from ..leases.sanlockwire import Lockspace
from .qemu import LIBVIRT_DAEMONS
from .runstates import run_state

FILE = b"/lock-driver/sanlock.so"


class MapsUnreadable(VlhookError):
    msg = "it cannot be told whether libvirtd (pid {pid}) has loaded its sanlock plugin: {why}"
    hint = "vlhookd must be able to read /proc/{pid}/maps: run it as root"
    code = "VLH-K723"


def has_plugin(pid: int, proc_dir: str) -> bool:
    """Whether the process has the plugin mapped; one that is gone has not. Raises MapsUnreadable."""
    try:
        with open(f"{proc_dir}/{pid}/maps", "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        raise MapsUnreadable(pid=pid, why=error.strerror or str(error)) from error
    # A package that was upgraded under the process leaves its old file mapped, as "… (deleted)".
    return any(line.endswith((FILE, FILE + b" (deleted)")) for line in lines)


def daemons(proc_dir: str) -> list[int]:
    """The pids of this host's libvirt daemons that run QEMU. Raises OSError."""
    found = []
    for pid in (int(name) for name in os.listdir(proc_dir) if name.isdigit()):
        try:
            name = Path(f"{proc_dir}/{pid}/comm").read_text("utf-8", "replace").strip()
        except OSError:
            continue
        if name in LIBVIRT_DAEMONS:
            found.append(pid)
    return found


def daemon_with_plugin(proc_dir: str) -> Optional[int]:
    """The pid of a libvirt daemon that has the plugin mapped. Raises MapsUnreadable, OSError."""
    return next((pid for pid in daemons(proc_dir) if has_plugin(pid, proc_dir)), None)


def is_paused(libvirt_run_dir: Path, guest: str) -> bool:
    """Whether libvirt says, in its own state file, that the guest's CPUs do not run."""
    found = run_state(libvirt_run_dir, guest)
    return found is not None and found.paused


@dataclass(frozen=True)
class DaemonView:
    """The sanlock daemon at one moment.

    `spaces`: the lockspaces that are joined and good. `held`: (pid, lockspace, lease, shared) → (file, offset).
    `registered`: the pids with a connection that can hold leases.
    """

    spaces: Mapping[str, Lockspace]
    held: Mapping[tuple[int, str, str, bool], tuple[str, int]]
    registered: frozenset[int]

    def missing(self, pid: int, wants: Iterable[Want], directory: str) -> list[Want]:
        """Those of `wants` that the process does not hold, in that mode and in that file."""
        return [want for want in wants if not self._holds(pid, want, directory)]

    def _holds(self, pid: int, want: Want, directory: str) -> bool:
        where = (want.path or f"{directory}/{want.name}", want.offset)
        return self.held.get((pid, want.space, want.name, want.shared)) == where

    def holds_any(self, pid: int) -> bool:
        return any(key[0] == pid for key in self.held)


def look(client: SanlockClient, deadline: float) -> DaemonView:
    """What the daemon says by CLOCK_MONOTONIC `deadline`. Raises SanlockError."""
    items = client.status(StatusLevel.ALL, deadline)
    spaces = {
        item.lockspace.name: item.lockspace
        for item in items
        if item.type is StateType.LOCKSPACE and item.lockspace and item.words.get("list") == "spaces"
        # While space_dead is set the daemon only waits for the holders' end.
        and item.number("space_dead") == 0 and item.number("killing_pids") == 0
    }  # fmt: skip
    held = {}
    for lease in held_leases(items):
        if lease.state == "held" and lease.resource.disks:
            disk = lease.resource.disks[0]
            key = (lease.pid, lease.resource.space, lease.resource.name, lease.shared)
            held[key] = (disk.path, disk.offset)
    registered = frozenset(item.pid for item in items if item.type is StateType.CLIENT and item.pid > 0)
    return DaemonView(spaces, held, registered)
