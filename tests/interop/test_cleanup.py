# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clean-up beside the real sanlock daemon: on files that it holds, and under its feet while it waits for one."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import needs
from tests.leases.rig import Rig, RigHost, by, tenant
from tests.sanlock_daemon import SanlockHost, end_with_us, resource, short_directory
from vlhook.leases import cleanup, directory, release
from vlhook.leases.area import Identity, Lease
from vlhook.leases.blockio import BlockFile
from vlhook.leases.directory import Ownership
from vlhook.leases.driver import drive
from vlhook.leases.effects import LOCKSPACE, RESOURCE, HostView
from vlhook.leases.engine import Want
from vlhook.leases.errors import Busy
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.paxos import acquire
from vlhook.leases.records import CLEARED_MAGIC, Leader, pad_name
from vlhook.leases.sanlockwire import Resource

pytestmark = [pytest.mark.sanlock, pytest.mark.slow, pytest.mark.xdist_group("sanlock-cleanup")]
SPACE = LOCKSPACE_NAME.encode()
N = 2
SILENT = 7
"""A host id under which nobody lives: its record stands still."""
NO_LEASE = -223


@dataclass
class Field:
    rig: Rig
    one: RigHost
    daemon: SanlockHost

    def sanlock(self, want: Want) -> Resource:
        return resource(self.rig.path(want), want.name, space=LOCKSPACE_NAME)

    def make(self, disk: str) -> Want:
        want = self.rig.want(disk)
        directory.create_lease(str(self.rig.path(want)), FILE, SPACE, want.name.encode(), Ownership())
        return want


@pytest.fixture(scope="module")
def field_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    rig = Rig(tmp_path_factory.mktemp("leases"), io_timeout=N)
    _silent_host(rig)
    with short_directory() as run_dir, SanlockHost("reference", run_dir) as daemon:
        daemon.start()
        join = threading.Thread(target=daemon.add_lockspace, args=(rig.lockspace, 11, N, LOCKSPACE_NAME))
        join.start()
        (one,) = rig.join(1)
        join.join()
        daemon.wait_renewals(3)  # what the first look finds counts as alive
        yield Field(rig, one, daemon)
        rig.stop()


def _silent_host(rig: Rig) -> None:
    """Host id 7 has joined, and does not renew."""
    record = Leader.decode(rig.lockspace.read_bytes()[FILE.delta(SILENT) :][:200])
    record = replace(
        record, owner_id=SILENT, owner_generation=1, resource_name=pad_name(b"silent"), timestamp=100, io_timeout_raw=N
    ).sealed()
    with BlockFile(str(rig.lockspace)) as file:
        file.write(FILE.delta(SILENT), record.sector(FILE))


def _held_by_the_silent_host(field: Field, want: Want) -> None:
    path = field.rig.path(want)
    leader = Leader.decode(path.read_bytes()[:200])
    leader = replace(
        leader, lver=1, owner_id=SILENT, owner_generation=1, timestamp=100, write_id=SILENT, write_generation=1
    )
    with BlockFile(str(path)) as file:
        file.write(0, leader.sealed().sector(FILE))


def _clean(field: Field, want: Want, file: BlockFile, *, knows_of_the_death: bool) -> bool:
    """As the engine does it. A host that has watched for longer than the daemon knows that host 7 is dead."""

    def seen(host_id: int) -> HostView | None:
        if host_id != SILENT or not knows_of_the_death:
            return field.one.lease.seen(host_id)
        long_ago = time.monotonic() - 10_000
        return HostView(SILENT, 1, 100, N, long_ago, time.monotonic(), long_ago, True, b"silent")

    with BlockFile(str(field.rig.lockspace), writable=False) as lockspace:
        lease = Lease(SPACE, want.name.encode(), file.path, lockspace.path, FILE)
        files = {RESOURCE: file, LOCKSPACE: lockspace}
        steps = cleanup.clean(lease, field.one.lease.identity)
        return drive(steps, files, member=field.one.lease.check, seen=seen)


class Waiter:
    """A process on the daemon's host whose acquire waits for the death of the owner; it leaves `got` if it succeeds."""

    def __init__(self, field: Field, want: Want, got: Path) -> None:
        self._got = got
        self._log = field.daemon.log
        self._mark = self._log.mark
        lease = f"{LOCKSPACE_NAME}:{want.name}:{field.rig.path(want)}:0"
        command = [needs.require_program("sanlock"), "client", "command", "-r", lease, "-c", "/usr/bin/touch", str(got)]
        self._process = subprocess.Popen(
            end_with_us(*command),
            env={**os.environ, "SANLOCK_RUN_DIR": str(field.daemon.run_dir)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._log.wait(rf"paxos_acquire.*owner {SILENT}", since=self._mark)

    def outcome(self) -> int:
        """The daemon's result, 0 if it got the lease."""
        self._process.wait(60)
        if self._got.exists():
            return 0
        line = self._log.wait(r"cmd_acquire .* result -\d+", since=self._mark)
        return int(line.partition(" result ")[2].split()[0])


def test_a_lease_that_a_sanlock_host_holds_stays_and_one_that_it_gave_back_goes(field_: Field) -> None:
    want = field_.make("held by sanlock")
    with field_.daemon.holder() as holder:
        holder.acquire(field_.sanlock(want))
        with pytest.raises(Busy):
            field_.one.engine.clean(want)
        assert field_.rig.path(want).exists()
        holder.release(field_.sanlock(want))
    assert field_.one.engine.clean(want)
    assert not field_.rig.path(want).exists()


def test_a_sanlock_host_that_waits_on_the_unlinked_file_never_gets_it(field_: Field, tmp_path: Path) -> None:
    want = field_.make("waited for")
    _held_by_the_silent_host(field_, want)
    waiter = Waiter(field_, want, tmp_path / "got")
    path = field_.rig.path(want)
    with BlockFile(str(path)) as file:
        assert _clean(field_, want, file, knows_of_the_death=True)
        assert not path.exists()
        # Others use the new file of the same name at once.
        field_.one.start("new", want)
        assert waiter.outcome() == NO_LEASE
        old = file.read(0, FILE.area)
    assert Leader.decode(old).magic == CLEARED_MAGIC
    assert field_.rig.owner(want) == field_.one.me


def test_it_would_get_it_if_the_unlinked_file_were_released(field_: Field, tmp_path: Path) -> None:
    """What the rule is for: the same, but with a release of the old inode instead of the cleared leader."""
    want = field_.make("released")
    _held_by_the_silent_host(field_, want)
    waiter = Waiter(field_, want, tmp_path / "got")
    path = field_.rig.path(want)
    with BlockFile(str(path)) as file, BlockFile(str(field_.rig.lockspace), writable=False) as lockspace:
        lease = Lease(SPACE, want.name.encode(), str(path), lockspace.path, FILE)
        files = {RESOURCE: file, LOCKSPACE: lockspace}
        me: Identity = field_.one.lease.identity
        long_ago = time.monotonic() - 10_000
        view = HostView(SILENT, 1, 100, N, long_ago, time.monotonic(), long_ago, True, b"silent")
        held = drive(acquire(lease, me), files, seen=lambda host_id: view)
        os.unlink(path)
        drive(release.release(lease, me, held), files)
        assert waiter.outcome() == 0, "it holds the lease in a file that nobody else sees"


def test_a_sanlock_host_makes_use_of_the_new_file(field_: Field) -> None:
    want = field_.make("again")
    assert field_.one.engine.clean(want)
    field_.make("again")
    with field_.daemon.holder() as holder:
        holder.acquire(field_.sanlock(want))
        holder.release(field_.sanlock(want))
    field_.one.start("web", want)
    assert field_.one.engine.release(tenant("web"), by())
