# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real keeper whose lease directory delays, fails, hangs and tears; another keeper sees the same files whole."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import Guest, Host, wait_for
from tests.sanlock_daemon import Refused, SanlockHost, short_directory
from tests.sanlock_daemon import resource as any_resource
from tests.storage.faulty import FaultyMount
from vlhook.leases import directory
from vlhook.leases.directory import Ownership
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.records import PAXOS_MAGIC, Leader, host_sectors

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.xdist_group("faulty-storage")]
LEADER, DBLOCK = 0, 1024
"""Bytes of the lease file at which host 1 writes."""
DEADLINE = 5


class Field:
    """Host 1 works on the faulty mount, host 2 on the directory behind it."""

    def __init__(self, base: Path, storage: FaultyMount, io_timeout: tuple[int, int]) -> None:
        self.base, self.storage = base, storage
        self.one = Host(base, 1, storage.mounted, io_timeout=io_timeout[0])
        self.two = Host(base, 2, storage.behind, io_timeout=io_timeout[1])
        for host in (self.one, self.two):
            (host.dir / "etc/qemu-vlhook.conf").write_text(f"hook_deadline = {DEADLINE}\n")
        self._count = 0

    def up(self) -> None:
        self.one.start_daemons().wait_joined()
        self.two.start_daemons().wait_joined()

    def down(self) -> None:
        for host in (self.one, self.two):
            host.down()

    def disk(self, made: bool = True) -> str:
        """The path of a disk that no other test uses; with `made` its lease file is there."""
        self._count += 1
        disk = str(self.base / f"disk{self._count}.img")
        Path(disk).write_bytes(bytes(4096))
        if made:
            path, name = str(self.file(disk)), lease_name(disk.encode()).encode()
            directory.create_lease(path, FILE, LOCKSPACE_NAME.encode(), name, Ownership())
        return disk

    def file(self, disk: str) -> Path:
        return self.storage.behind / lease_name(disk.encode())

    def leader(self, disk: str) -> Leader:
        return Leader.decode(self.file(disk).read_bytes()[:200])

    def owner(self, disk: str) -> int:
        """The host that holds the lease exclusively by the files, 0 for nobody."""
        area = self.file(disk).read_bytes()
        leader = Leader.decode(area)
        assert leader.magic == PAXOS_MAGIC
        released = [s.host_id for s in host_sectors(area, FILE, 2000, "x") if s.dblock.released]
        return 0 if leader.free or leader.owner_id in released else leader.owner_id


@pytest.fixture(scope="module")
def field_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    base = tmp_path_factory.mktemp("field")
    with FaultyMount(base / "behind", base / "mounted") as storage:
        made = Field(base, storage, (2, 2))
        try:
            made.up()
            yield made
        finally:
            storage.calm()
            made.down()


@pytest.fixture
def field(field_of: Field) -> Iterator[Field]:
    yield field_of
    field_of.storage.calm()
    for host in (field_of.one, field_of.two):
        for name in list(host.phases()):
            raise AssertionError(f"{name} was left on host {host.number}")


def version_of(area: bytes) -> int:
    """The version of a lease that is whole, 0 for one that nobody has taken yet."""
    leader = Leader.decode(area)
    assert (len(area), leader.magic, leader) == (FILE.area, PAXOS_MAGIC, leader.sealed())
    return leader.lver


def ended(host: Host, guest: Guest) -> None:
    host.stop(guest)
    host.wait_empty(40)


def test_slow_storage_only_takes_longer(field: Field) -> None:
    before = field.one.generation()
    for op in ("read", "write"):
        field.storage.rule(op, delay=0.25)
    guest = Guest("slow", [field.disk()])
    assert field.one.start(guest) == (0, "")
    assert field.two.start(Guest("slow-2", guest.disks))[0] == 1
    ended(field.one, guest)
    assert field.one.generation() == before


@pytest.mark.parametrize("offset", [DBLOCK, LEADER])
def test_io_errors_on_a_lease_refuse_the_start_and_leave_nothing(field: Field, offset: int) -> None:
    disk = field.disk()
    guest, other = Guest(f"eio{offset}", [disk]), Guest("eio-2", [disk])
    rule = field.storage.rule("write", name=field.file(disk).name, offset=offset, error="EIO")
    status, line = field.one.start(guest)
    assert status == 1
    assert lease_name(disk.encode()) in line
    field.storage.drop(rule)
    field.one.wait_empty(40)
    wait_for("what the attempt left to be cleaned up", lambda: field.two.start(other) == (0, ""))
    ended(field.two, other)
    wait_for("the lease", lambda: field.one.start(guest) == (0, ""))
    ended(field.one, guest)


def test_errors_of_the_lockspace_that_end_before_8n_cost_no_guest_and_no_generation(field: Field) -> None:
    guest = Guest("patient", [field.disk()])
    assert field.one.start(guest) == (0, "")
    before = field.one.generation()
    rule = field.storage.rule("write", name=LOCKSPACE_NAME, error="EIO")
    field.storage.wait_met(rule, 3)
    assert "renewal-failed" in field.one.log_text()
    assert field.two.start(Guest("patient-2", guest.disks))[0] == 1
    field.storage.drop(rule)
    wait_for("a renewal", lambda: field.one.status()["membership"]["state"] == "joined")
    assert field.one.phases() == {"patient": "running"}
    assert field.one.generation() == before
    ended(field.one, guest)


def test_a_first_write_that_hangs_takes_nothing_from_others_when_it_lands(field: Field) -> None:
    disk = field.disk()
    late, other = Guest("late", [disk]), Guest("prompt", [disk])
    rule = field.storage.rule("write", name=field.file(disk).name, offset=DBLOCK, hang=True, count=1)
    status, line = field.one.start(late)
    assert status == 1
    assert "unanswered" in line
    assert field.two.start(other) == (0, "")
    assert field.owner(disk) == 2
    field.storage.drop(rule)
    field.one.wait_empty(40)
    assert field.owner(disk) == 2
    status, line = field.one.start(late)
    assert status == 1
    assert "host 2" in line
    ended(field.two, other)
    wait_for("the lease", lambda: field.one.start(late) == (0, ""))
    ended(field.one, late)


def test_a_commit_that_hangs_counts_as_held_until_it_is_known(field: Field) -> None:
    """Another host may finish the ballot for us: then we own it, and nobody may take it before we gave it back."""
    disk = field.disk()
    late, other = Guest("commit", [disk]), Guest("waits", [disk])
    rule = field.storage.rule("write", name=field.file(disk).name, offset=LEADER, hang=True, count=1)
    assert field.one.start(late)[0] == 1
    status, line = field.two.start(other)
    assert status == 1
    assert "host 1" in line
    again, said = field.one.start(Guest("impatient", [disk]))
    assert again == 1
    assert "unanswered" in said
    field.storage.drop(rule)
    wait_for("the lease to be given back", lambda: field.two.start(other) == (0, ""), 40)
    assert field.owner(disk) == 2
    assert field.one.start(late)[0] == 1
    ended(field.two, other)


def test_a_lease_file_that_is_swapped_under_a_waiter_is_not_what_it_holds(field: Field) -> None:
    disk = field.disk()
    guest, path = Guest("swapped", [disk]), field.file(disk)
    with path.open("rb") as old:
        rule = field.storage.rule("write", name=path.name, offset=DBLOCK, delay=1.5, count=1)
        fresh = directory.format_resource(FILE, LOCKSPACE_NAME.encode(), path.name.encode())
        path.with_name("fresh").write_bytes(fresh)

        def swap() -> None:
            field.storage.wait_met(rule)
            path.with_name("fresh").rename(path)

        thread = threading.Thread(target=swap)
        thread.start()
        assert field.one.start(guest) == (0, "")
        thread.join()
        assert field.owner(disk) == 1
        assert Leader.decode(old.read(200)).free, "what was won in the old file was given back"
    assert field.two.start(Guest("swapped-2", [disk]))[0] == 1
    ended(field.one, guest)


def test_a_lease_file_that_is_unlinked_under_a_waiter_is_made_anew(field: Field) -> None:
    disk = field.disk()
    guest, path = Guest("unlinked", [disk]), field.file(disk)
    rule = field.storage.rule("write", name=path.name, offset=LEADER, delay=1.5, count=1)

    def unlink() -> None:
        field.storage.wait_met(rule)
        path.unlink()

    thread = threading.Thread(target=unlink)
    thread.start()
    assert field.one.start(guest) == (0, "")
    thread.join()
    assert field.owner(disk) == 1
    assert field.two.start(Guest("unlinked-2", [disk]))[0] == 1
    ended(field.one, guest)


def test_a_creation_that_is_torn_leaves_no_half_of_a_file(field: Field) -> None:
    disk = field.disk(made=False)
    guest, before = Guest("half", [disk]), set(os.listdir(field.storage.behind))
    field.storage.rule("write", least=65536, keep=4096, error="ENOSPC", count=1)
    status, line = field.one.start(guest)
    assert status == 1
    assert "No space left" in line
    for name in set(os.listdir(field.storage.behind)) - before:
        # A lease of the same guest whose file was not torn.
        area = (field.storage.behind / name).read_bytes()
        assert area == directory.format_resource(FILE, LOCKSPACE_NAME.encode(), name.encode()) or version_of(area)
    field.one.wait_empty()
    assert field.one.start(guest) == (0, "")
    ended(field.one, guest)


def test_a_sector_that_was_torn_is_believed_by_nobody_and_repaired_by_nobody(field: Field) -> None:
    """Storage that does not keep sector writes whole is outside of what the protocol assumes: it fails closed."""
    disk = field.disk()
    guest = Guest("torn", [disk])
    field.storage.rule("write", name=field.file(disk).name, offset=DBLOCK, keep=20, error="EIO", count=1)
    assert field.one.start(guest)[0] == 1
    field.one.wait_empty(40)
    before = field.file(disk).read_bytes()
    for host in (field.one, field.two):
        status, line = host.start(Guest("torn-2", [disk]))
        assert status == 1
        assert "checksum of the dblock of host 1 is wrong" in line
    assert field.file(disk).read_bytes() == before


def test_storage_that_hangs_past_8n_ends_the_guests_and_when_it_returns_the_host_comes_back(field: Field) -> None:
    guest = Guest("hung", [field.disk()])
    assert field.one.start(guest) == (0, "")
    qemu, before = field.one.qemus[guest.uuid], field.one.generation()
    for op in ("read", "write", "open", "create"):
        field.storage.rule(op, hang=True)
    qemu.wait(60)
    assert field.two.start(Guest("hung-2", guest.disks))[0] == 1, "dead is more than 8N"
    assert not field.one.joined()
    field.storage.calm()
    wait_for("a new generation", lambda: field.one.joined() and field.one.generation() > before, 90)
    field.one.after_end(guest)
    field.one.wait_empty(40)
    other = Guest("hung-3", guest.disks)
    wait_for("the lease of the dead generation", lambda: field.two.start(other) == (0, ""))
    ended(field.two, other)


@pytest.mark.sanlock
@pytest.mark.xdist_group("late-commit")
def test_a_commit_that_lands_after_the_lease_was_taken_over_takes_it_from_nobody(tmp_path: Path) -> None:
    """Host 1 hangs with its commit under way until it is dead for all others; then its storage comes back.

    The late write puts an old leader over the new owner's. vlhook and sanlock must still find the new owner.
    """
    with (
        FaultyMount(tmp_path / "behind", tmp_path / "mounted") as storage,
        short_directory() as run_dir,
        SanlockHost("reference", run_dir).start() as daemon,
    ):
        field = Field(tmp_path, storage, (1, 2))
        try:
            field.up()
            daemon.add_lockspace(storage.behind / LOCKSPACE_NAME, 3, 2, space=LOCKSPACE_NAME)
            disk = field.disk()
            late, taker = Guest("late", [disk]), Guest("taker", [disk])
            rule = storage.rule("write", name=field.file(disk).name, offset=LEADER, hang=True, count=1)
            assert field.one.start(late)[0] == 1
            for op in ("read", "write", "open", "create"):
                storage.rule(op, hang=True)
            hung_at = time.monotonic()
            assert storage.met(rule) == 1
            wait_for("host 2 to take it over", lambda: field.two.start(taker) == (0, ""), 150)
            assert time.monotonic() - hung_at > 8 + 60 - 2 * 1 - 1, "not before the owner's death"
            taken = field.leader(disk)
            assert (taken.owner_id, taken.lver) == (2, 2)
            storage.calm()
            wait_for("host 1 to come back", lambda: field.one.joined() and field.one.generation() == 2, 90)
            assert field.leader(disk).lver == 1, "the late write has landed"
            wait_for("the guard to forget the attempt", lambda: "host 2" in field.one.start(late)[1])
            assert field.one.held() == set()
            with daemon.holder() as holder:
                name = lease_name(disk.encode())
                for _ in range(3):
                    with pytest.raises(Refused) as refused:
                        holder.acquire(any_resource(field.file(disk), name, space=LOCKSPACE_NAME))
                    assert refused.value.result in (-243, -244, -245, -247)
            assert field.two.held() == {(disk, "exclusive")}
            field.two.stop(taker)
            field.two.wait_empty()
            wait_for("the lease", lambda: field.one.start(late) == (0, ""))
            field.one.stop(late)
            field.one.wait_empty()
        finally:
            storage.calm()
            field.down()
