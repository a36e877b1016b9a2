# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lease areas on block devices with 512 and 4096-byte sectors, and keepers on file systems on them, full ones too."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.keeper.hosts import Guest, Host, wait_for
from tests.sanlock_daemon import SanlockHost, run_sanlock, short_directory
from vlhook.leases import directory, membership, paxos, release
from vlhook.leases.area import Lease
from vlhook.leases.blockio import BlockFile
from vlhook.leases.delta import Space
from vlhook.leases.driver import drive
from vlhook.leases.effects import LOCKSPACE, RESOURCE
from vlhook.leases.errors import HeldByOther
from vlhook.leases.geometry import MIB, geometry
from vlhook.leases.sanlockerrors import SanlockBusy
from vlhook.leases.sanlockwire import Disk, Lockspace, Resource

pytestmark = [pytest.mark.root, pytest.mark.slow]


@contextlib.contextmanager
def loop(backing: Path, mib: int, sector: int) -> Iterator[str]:
    """A loop device of that many MiB, with direct I/O to what lies beneath where that is possible."""
    with open(backing, "wb") as file:
        file.truncate(mib * MIB)
    losetup = needs.require_program("losetup")
    made = subprocess.run(
        [losetup, "-b", str(sector), "-f", "--show", str(backing)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        needs.lacking(f"needs a loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run([losetup, "-d", device], check=True)


@contextlib.contextmanager
def ext4(folder: Path, mib: int, sector: int) -> Iterator[Path]:
    """An ext4 on such a device, mounted."""
    mounted = folder / "mounted"
    mounted.mkdir()
    with loop(folder / "backing", mib, sector) as device:
        mkfs = needs.require_program("mkfs.ext4")
        subprocess.run([mkfs, "-q", "-b", "4096", "-O", "^has_journal", device], check=True)
        subprocess.run(["mount", device, str(mounted)], check=True)
        try:
            yield mounted
        finally:
            subprocess.run(["umount", "-l", str(mounted)], check=True)


# ------------------------------------------------------------------------------------------- areas on devices


@pytest.mark.sanlock
@pytest.mark.parametrize(("sector", "mib"), [(512, 1), (4096, 1), (4096, 2), (4096, 4), (4096, 8)])
def test_vlhook_and_sanlock_share_a_block_device(tmp_path: Path, sector: int, mib: int) -> None:
    """Lockspace and lease lie on one device, made by vlhook; each side sees what the other holds."""
    geo = geometry(sector, mib * MIB)
    with (
        loop(tmp_path / "backing", 2 * mib, sector) as device,
        short_directory() as run_dir,
        SanlockHost("reference", run_dir).start() as daemon,
    ):
        with open(device, "r+b") as raw:
            raw.write(directory.format_lockspace(geo, b"LS", 1))
            raw.write(directory.format_resource(geo, b"LS", b"disk"))
        theirs = Resource("LS", "disk", (Disk(device, geo.area),))
        add = (Lockspace("LS", 2, Disk(device)), 1)
        adding = threading.Thread(target=lambda: daemon.client.add_lockspace(*add))
        adding.start()
        host = membership.join(Space(b"LS", device, 1, b"one", 1), None)
        host.start()
        adding.join()
        lease = Lease(b"LS", b"disk", device, device, host.member.geometry)
        assert host.member.geometry == geo
        with BlockFile(device, geo.area) as file, BlockFile(device) as space, daemon.register() as registered:
            files = {RESOURCE: file, LOCKSPACE: space}
            held = drive(paxos.acquire(lease, host.identity), files, member=host.check, seen=host.seen)
            assert held.geometry == geo
            daemon.wait_renewals(2)
            with pytest.raises(SanlockBusy):
                registered.acquire([theirs])
            drive(release.release(lease, host.identity, held), files, member=host.check)
            registered.acquire([theirs])
            wait_for("vlhook to see sanlock renew", lambda: host.seen(2) and host.seen(2).ever_changed)  # type: ignore[union-attr]
            with pytest.raises(HeldByOther):
                drive(paxos.acquire(lease, host.identity), files, member=host.check, seen=host.seen)
            registered.release([theirs])
            held = drive(paxos.acquire(lease, host.identity), files, member=host.check, seen=host.seen)
            told = run_sanlock("direct", "read_leader", "-r", f"LS:disk:{device}:{geo.area}")
            assert "owner_id 1" in told
            assert f"sector_size {sector}" in told
            drive(release.release(lease, host.identity, held), files, member=host.check)
        host.leave()


# ------------------------------------------------------------------------------------- file systems on devices


def fill(path: Path) -> None:
    """Until there is no room left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextlib.contextmanager
def keeper_on(folder: Path, leases: Path) -> Iterator[Host]:
    host = Host(folder, 1, leases, io_timeout=2)
    try:
        yield host.start_daemons()
    finally:
        host.down()


def test_a_full_file_system_refuses_what_needs_room_and_nothing_else(tmp_path: Path) -> None:
    with ext4(tmp_path, 16, 512) as leases, keeper_on(tmp_path, leases) as host:
        host.wait_joined()
        known, fresh = Guest("known", [tmp_path / "a"]), Guest("fresh", [tmp_path / "b"])
        assert host.start(known) == (0, "")
        before = {path.name for path in leases.iterdir()}
        filler = leases / "filler"
        fill(filler)
        status, line = host.start(fresh)
        assert status == 1
        assert "No space left" in line
        assert {path.name for path in leases.iterdir()} == before | {"filler"}, "nothing half made is left"
        host.stop(known)
        wait_for("the end", lambda: not host.phases())
        assert host.start(known) == (0, ""), "its lease file is there, and no lease needs more room"
        filler.unlink()
        assert host.start(fresh) == (0, "")
        for guest in (known, fresh):
            host.stop(guest)
        host.wait_empty()


def test_a_file_system_on_4_kib_sectors_is_refused_with_the_reason(tmp_path: Path) -> None:
    """libvirt's files are of 512-byte sectors, which direct I/O cannot write there (format document, 9)."""
    with ext4(tmp_path, 16, 4096) as leases, keeper_on(tmp_path, leases) as host:
        (alarm,) = wait_for("the reason", lambda: host.status().get("alarms"))
        assert "4 KiB sectors" in alarm
        status, line = host.start(Guest("web", [tmp_path / "a"]))
        assert status == 1
        assert "4 KiB sectors" in line


def test_a_run_directory_that_is_full_refuses_the_start_before_anything_is_taken(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases, io_timeout=2)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(host.run_dir)], check=True)
    try:
        host.start_daemons().wait_joined()
        fill(host.run_dir / "filler")
        status, line = host.start(Guest("web", [tmp_path / "a"]))
        assert status == 1
        assert "cannot be written" in line or "No space left" in line
        (host.run_dir / "filler").unlink()
        wait_for("the start", lambda: host.start(Guest("web", [tmp_path / "a"])) == (0, ""))
    finally:
        host.down()
        subprocess.run(["umount", "-l", str(host.run_dir)], check=True)
