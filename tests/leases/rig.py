# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several hosts with the native engine on one lease directory of real files, all in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vlhook.leases import directory, membership
from vlhook.leases.delta import Space
from vlhook.leases.directory import Ownership
from vlhook.leases.engine import Owned, Refused, Tenant, Want
from vlhook.leases.errors import LeaseError
from vlhook.leases.files import LeaseFiles
from vlhook.leases.geometry import FILE
from vlhook.leases.membership import HostLease
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.native import NativeEngine
from vlhook.leases.records import HostSector, Leader, decode_host_sector

PATIENCE = 60.0
"""Seconds within which anything must have happened; on an idle machine it happens at once."""


def by(seconds: float = PATIENCE) -> float:
    return time.monotonic() + seconds


def tenant(guest: str) -> Tenant:
    return Tenant(f"{guest}.1", guest, "c7a5fdbd-9edc-4d8a-84c1-d2f4d1f0a001")


def eventually(condition: Callable[[], bool], what: str) -> None:
    until = by()
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


class Rig:
    """One lease directory. `io_timeout` is that of the hosts; the lockspace says 1, so that joining takes 2 s."""

    def __init__(self, folder: Path, io_timeout: int = 5) -> None:
        self.folder = folder
        self.io_timeout = io_timeout
        self.lockspace = folder / LOCKSPACE_NAME
        directory.create_lockspace(str(folder), FILE, 1, Ownership())
        self.hosts: dict[int, RigHost] = {}

    def join(self, *host_ids: int) -> list[RigHost]:
        """Hosts that join at the same time."""
        failures: list[BaseException] = []

        def one(host_id: int) -> None:
            try:
                self.hosts[host_id] = RigHost(self, membership.join(self.space(host_id), None))
            except BaseException as error:  # told below, in the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=one, args=(host_id,)) for host_id in host_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [self.hosts[host_id] for host_id in host_ids]

    def space(self, host_id: int) -> Space:
        name = b"host-%d" % host_id
        return Space(LOCKSPACE_NAME.encode(), str(self.lockspace), host_id, name, self.io_timeout)

    def stop(self) -> None:
        for host in self.hosts.values():
            host.lease.stop()

    # -- leases and what stands in their files

    def want(self, disk: str, shared: bool = False) -> Want:
        source = f"/images/{disk}"
        return Want(lease_name(source.encode()), LOCKSPACE_NAME, shared, source)

    def path(self, want: Want) -> Path:
        return Path(want.path) if want.path else self.folder / want.name

    def leader(self, want: Want) -> Leader:
        return Leader.decode(self.path(want).read_bytes()[:200])

    def sector(self, want: Want, host_id: int) -> HostSector:
        offset = FILE.dblock(host_id)
        return decode_host_sector(self.path(want).read_bytes()[offset : offset + 512], host_id, str(self.path(want)))

    def owner(self, want: Want) -> tuple[int, int] | None:
        """(host id, generation) of the exclusive owner (format document, 7.9)."""
        leader = self.leader(want)
        if leader.free:
            return None
        if leader.write_id != leader.owner_id and self.sector(want, leader.owner_id).dblock.released:
            return None
        return leader.owner_id, leader.owner_generation


class RigHost:
    def __init__(self, rig: Rig, lease: HostLease) -> None:
        self.rig = rig
        self.lease = lease
        self.alarms: list[str] = []
        self.files = LeaseFiles(str(rig.folder), LOCKSPACE_NAME, str(rig.lockspace), Ownership())
        self.engine = NativeEngine(lease, self.files, self.alarms.append)
        lease.start()

    @property
    def me(self) -> tuple[int, int]:
        return self.lease.identity.host_id, self.lease.identity.generation

    def restarted(self) -> RigHost:
        """A new engine that knows nothing, under the same generation."""
        again = RigHost.__new__(RigHost)
        again.__dict__.update(self.__dict__)
        again.engine = NativeEngine(self.lease, self.files, self.alarms.append)
        return again

    def start(self, guest: str, *wants: Want, deadline: float | None = None) -> list[Owned]:
        return self.engine.acquire(tenant(guest), wants, deadline or by(), lambda: False)

    def refusal(
        self, guest: str, *wants: Want, deadline: float | None = None, gone: Callable[[], bool] = lambda: False
    ) -> Sequence[tuple[Want, LeaseError]]:
        """Why the start is refused, which it must be."""
        try:
            found = self.engine.acquire(tenant(guest), wants, deadline or by(), gone)
        except Refused as refused:
            return refused.failures
        raise AssertionError(f"not refused: {found}")

    def why(self, guest: str, *wants: Want, deadline: float | None = None) -> LeaseError:
        ((_, error),) = self.refusal(guest, *wants, deadline=deadline)
        return error

    def stop(self, guest: str) -> None:
        assert self.engine.release(tenant(guest), by())

    def guests(self, want: Want) -> list[str]:
        """The guests on this host for which the engine has an entry for the lease."""
        return [t.guest for e in self.engine.entries() if e.want.key == want.key for t in e.tenants.values()]
