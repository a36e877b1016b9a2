# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real sanlock daemon as a party: a connection for each guest, as libvirt's plugin has one in each QEMU's name."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.sanlock_daemon import SanlockHost
from vlhook.leases.directory import Ownership, create_lease
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME, lease_name, lease_path
from vlhook.leases.sanlockerrors import SanlockNotFound
from vlhook.leases.sanlockregistered import Registered
from vlhook.leases.sanlockwire import Disk, Resource

SECONDS = 120.0
MOST = 8
"""Leases that one connection of the daemon can have."""


class Daemon:
    """As `engine.Engine`. Every connection beyond the first of a guest with more leases than `MOST` is made before."""

    name = "sanlock"

    def __init__(
        self, directory: Path, host_id: int, io_timeout: int, run_dir: Path, options: Sequence[str] = ()
    ) -> None:
        self._directory = directory
        self.host = SanlockHost("bench", run_dir, options=options)
        self.host.start()
        space = directory / LOCKSPACE_NAME
        self._join = threading.Thread(
            target=self.host.add_lockspace, args=(space, host_id, io_timeout, LOCKSPACE_NAME), daemon=True
        )
        self._join.start()
        self._connections: dict[str, list[Registered]] = {}
        self._held: dict[str, list[list[Resource]]] = {}

    @property
    def pid(self) -> int:
        return self.host.pid

    @property
    def guests(self) -> int:
        """How many hold leases."""
        return len(self._held)

    def joined(self) -> None:
        self._join.join()
        self.host.cli("status")

    def make(self, disks: Iterable[str]) -> None:
        """Their lease files; libvirt's plugin makes them at the first start, sanlock never."""
        for disk in disks:
            name = lease_name(disk.encode())
            path = lease_path(str(self._directory), name)
            create_lease(path, FILE, LOCKSPACE_NAME.encode(), name.encode(), Ownership())

    def connect(self, guests: Mapping[str, Sequence[str]]) -> None:
        """Register what these guests need: libvirt does it long before the leases are taken."""
        for guest, disks in guests.items():
            known = self._connections.setdefault(guest, [])
            while len(known) * MOST < len(disks):
                known.append(self.host.register())

    def acquire(self, guests: Mapping[str, Sequence[str]]) -> None:
        self._each(guests, lambda guest: self._acquire(guest, guests[guest]))

    def release(self, guests: Iterable[str]) -> None:
        self._each(guests, self._release)

    def clean(self, disks: Iterable[str]) -> None:
        """As virt-sanlock-cleanup does: the file is removed while its lease is held, and the release finds none."""
        for disk in disks:
            self.acquire({"clean": [disk]})
            os.unlink(lease_path(str(self._directory), lease_name(disk.encode())))
            with contextlib.suppress(SanlockNotFound):
                self.release(["clean"])

    def _acquire(self, guest: str, disks: Sequence[str]) -> None:
        resources = [self._resource(disk) for disk in disks]
        batches = [resources[i : i + MOST] for i in range(0, len(resources), MOST)]
        self._held[guest] = batches
        for connection, batch in zip(self._connections[guest], batches):
            connection.acquire(batch, deadline=time.monotonic() + SECONDS)

    def _release(self, guest: str) -> None:
        for connection, batch in zip(self._connections[guest], self._held.pop(guest)):
            connection.release(batch, deadline=time.monotonic() + SECONDS)

    def _resource(self, disk: str) -> Resource:
        name = lease_name(disk.encode())
        return Resource(LOCKSPACE_NAME, name, (Disk(lease_path(str(self._directory), name)),), 0, 0)

    def _each(self, guests: Iterable[str], act: object) -> None:
        names = list(guests)
        failures: list[BaseException] = []

        def run(guest: str) -> None:
            try:
                act(guest)  # type: ignore[operator]
            except BaseException as error:  # raised below
                failures.append(error)

        threads = [threading.Thread(target=run, args=(guest,)) for guest in names[:-1]]
        for thread in threads:
            thread.start()
        run(names[-1])
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def close(self) -> None:
        for connections in self._connections.values():
            for connection in connections:
                connection.close()
        self.host.close()
