# SPDX-License-Identifier: LGPL-2.1-or-later
"""One disk, one identity, whatever it is called; and none where that is not certain."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vlhook.diskidentity import device_identity, identity, mounts

NAA = "naa.600508b400105e210000900000490000"
NUMBER = os.makedev(8, 16)


def device(sys_block: Path, **files: str) -> int:
    """A device as the kernel shows it below /sys/dev/block. Real ones with a WWID cannot be had on every machine."""
    entry = sys_block / "8:16"
    for name, text in files.items():
        path = entry / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    entry.mkdir(parents=True, exist_ok=True)
    return NUMBER


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"dm__uuid": "mpath-3600508b400105e210000900000490000"}, f"wwid {NAA}"),
        ({"device__wwid": NAA}, f"wwid {NAA}"),
        ({"wwid": "eui.0025388b710116a1"}, "wwid eui.0025388b710116a1"),
        ({"dm__uuid": "LVM-" + "a" * 64}, "dm LVM-" + "a" * 64),
        ({"dm__uuid": "CRYPT-LUKS2-0a1b-c"}, None),
        ({"device__wwid": "t10.ATA     QEMU HARDDISK                           QM00001"}, None),
        ({"wwid": "nvme.1b36-2020-51454d55204e564d65204374726c-00000001"}, None),
        ({}, None),
    ],
)
def test_a_device_is_what_its_storage_calls_it(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    assert device_identity(device(tmp_path, **files), tmp_path) == expected


def test_a_partition_is_its_disks_and_has_a_number(tmp_path: Path) -> None:
    disk = tmp_path / "devices/sdb"
    (disk / "device").mkdir(parents=True)
    (disk / "device/wwid").write_text(NAA)
    (disk / "sdb2").mkdir()
    (disk / "sdb2/partition").write_text("2\n")
    (tmp_path / "8:18").symlink_to(disk / "sdb2")
    assert device_identity(os.makedev(8, 18), tmp_path) == f"wwid {NAA} part 2"


def mount_table(tmp_path: Path, path: Path, kind: str, source: str) -> Path:
    found = path.stat().st_dev
    table = tmp_path / "mountinfo"
    line = f"36 35 {os.major(found)}:{os.minor(found)} / /x rw,noatime shared:1 - {kind} {source} rw\n"
    table.write_text(line)
    return table


def test_a_file_on_nfs_is_the_same_on_every_host(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    table = mount_table(tmp_path, image, "nfs4", r"nas:/vm\040images")
    expected = f"nfs nas:/vm images {image.stat().st_ino}"
    assert identity(str(image), "host-a", mountinfo=table) == expected
    assert identity(str(image), "host-b", mountinfo=table) == expected


def test_a_local_file_is_its_hosts_own(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    (tmp_path / "link").symlink_to(image)
    os.link(image, tmp_path / "other name")
    table = mount_table(tmp_path, image, "ext4", "/dev/sda1")
    one = identity(str(image), "host-a", mountinfo=table)
    assert one
    assert one.startswith("local host-a ")
    assert identity(f"{tmp_path}//link", "host-a", mountinfo=table) == one
    assert identity(str(tmp_path / "other name"), "host-a", mountinfo=table) == one
    assert identity(str(image), "host-b", mountinfo=table) != one


def test_a_file_of_a_cluster_file_system_is_on_a_device_that_all_hosts_know(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    found = image.stat()
    table = mount_table(tmp_path, image, "gfs2", "/dev/mapper/shared")
    entry = tmp_path / f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    assert identity(str(image), "h", tmp_path, table) is None
    (entry / "dm").mkdir(parents=True)
    (entry / "dm/uuid").write_text("LVM-" + "b" * 64)
    assert identity(str(image), "h", tmp_path, table) == f"gfs2 dm LVM-{'b' * 64} {found.st_ino}"


@pytest.mark.parametrize("kind", ["fuse.sshfs", "9p", "cifs", "ceph", "unknown"])
def test_where_inodes_may_mean_nothing_there_is_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "image").touch()
    table = mount_table(tmp_path, tmp_path, kind, "somewhere")
    assert identity(str(tmp_path / "image"), "h", mountinfo=table) is None


def test_what_is_no_image_has_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert identity(str(tmp_path / "fifo"), "h") is None
    assert identity("/dev/null", "h") is None
    with pytest.raises(OSError, match="No such file"):
        identity(str(tmp_path / "absent"), "h")


@pytest.mark.root
def test_a_bind_mount_is_the_same_file(tmp_path: Path) -> None:
    image, other = tmp_path / "image", tmp_path / "other"
    image.touch()
    other.touch()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    try:
        image.touch()
        other.touch()
        before = identity(str(other), "h")
        subprocess.run(["mount", "--bind", image, other], check=True)
        assert identity(str(other), "h") == identity(str(image), "h") != before
        subprocess.run(["umount", other], check=True)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_the_mounts_of_this_machine_are_understood() -> None:
    assert any(mount.kind == "proc" for mount in mounts().values())
