# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a directory is on, and on what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlhook.mounts import missing_mount, mount_of

NFS = "36 25 0:50 / {point} rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2,hard,proto=tcp\n"
LOCAL = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"


def written(point: Path) -> str:
    return str(point).replace(" ", "\\040")


def test_mount_points_with_blanks_and_nested_mounts_are_told_apart(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    point = tmp_path / "a b"
    (point / "c").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    table.write_text(LOCAL + NFS.format(point=written(point)))
    found = [mount_of(path, table) for path in (point, point / "c", tmp_path / "a")]
    assert [mount.kind for mount in found if mount] == ["nfs4", "nfs4", "ext4"]


@pytest.mark.parametrize("below", ["", "leases"])
@pytest.mark.parametrize("name", ["shared", "with blank", "größer"])
def test_a_mount_of_fstab_is_missing_until_it_is_there(tmp_path: Path, name: str, below: str) -> None:
    point, table, fstab = tmp_path / name, tmp_path / "mountinfo", tmp_path / "fstab"
    (point / below).mkdir(parents=True)
    fstab.write_text(f"# mine\n/dev/sda1 / ext4 defaults 0 1\nserver:/export {written(point)} nfs hard,nofail 0 0\n")
    table.write_text(LOCAL)
    missing = missing_mount(str(point / below), fstab, table)
    assert missing
    assert (missing.source, missing.point) == ("server:/export", str(point))
    table.write_text(LOCAL + NFS.format(point=written(point)))
    assert missing_mount(str(point / below), fstab, table) is None


def test_a_directory_that_only_has_a_name_alike_is_not_meant(tmp_path: Path) -> None:
    (tmp_path / "fstab").write_text(f"server:/x {tmp_path}/lea nfs hard 0 0\nnone none swap sw 0 0\nbroken\n")
    assert missing_mount(f"{tmp_path}/leases", tmp_path / "fstab") is None
    assert missing_mount(f"{tmp_path}/leases", tmp_path / "no fstab") is None


def test_a_link_to_the_mount_point_counts(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "leases").symlink_to("mnt")
    (tmp_path / "fstab").write_text(f"server:/x {tmp_path}/mnt nfs hard 0 0\n")
    assert missing_mount(f"{tmp_path}/leases", tmp_path / "fstab")
