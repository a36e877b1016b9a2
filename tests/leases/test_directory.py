# SPDX-License-Identifier: LGPL-2.1-or-later
"""Making lease files so that nobody ever sees half of one (format document, 4 and 11)."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests import needs
from vlhook.leases import directory
from vlhook.leases.directory import Ownership, create_lease, create_lockspace, format_lockspace, format_resource
from vlhook.leases.errors import StorageError
from vlhook.leases.geometry import FILE, MIB, Geometry, geometry

from .images import SPACE, image, manifest, names, resource_name

NOBODY = Ownership()
K4_1M, K4_8M = geometry(4096, MIB), geometry(4096, 8 * MIB)
NAME = b"289c8a34e2061dec2f707f71b24ad50a"


# -------------------------------------------------------------------- the same bytes as sanlock


@pytest.mark.parametrize(
    ("name", "geo", "io_timeout"),
    [
        ("lockspace_fresh_512_1M_io10", FILE, 10),
        ("lockspace_fresh_4K_1M", K4_1M, 1),
        ("lockspace_fresh_4K_8M", K4_8M, 1),
    ],
)
def test_a_fresh_lockspace_is_the_same_to_the_byte_as_sanlocks(name: str, geo: Geometry, io_timeout: int) -> None:
    assert format_lockspace(geo, SPACE, io_timeout) == image(name)


@pytest.mark.parametrize(
    ("name", "geo", "num_hosts"),
    [
        ("resource_fresh_512_1M", FILE, 0),
        ("resource_fresh_num_hosts_8", FILE, 8),
        ("resource_fresh_4K_1M", K4_1M, 0),
        ("resource_fresh_4K_8M", K4_8M, 0),
    ],
)
def test_a_fresh_lease_is_the_same_to_the_byte_as_sanlocks(name: str, geo: Geometry, num_hosts: int) -> None:
    assert format_resource(geo, SPACE, resource_name(name), num_hosts) == image(name)


def test_a_cleared_lease_is_the_same_to_the_byte_as_sanlocks() -> None:
    leader = manifest()["resource_cleared"]["decoded"]["leader"]
    made = format_resource(FILE, SPACE, resource_name("resource_cleared"), cleared_at=leader["write_timestamp"])
    expected = bytearray(image("resource_cleared"))
    expected[532:536] = bytes(4)  # padding of the request record: sanlock writes what was in memory
    assert made == expected


def test_every_fresh_image_is_covered_above() -> None:
    assert len([n for n in names() if "fresh" in n]) == 7


# ------------------------------------------------------------------------- whole or not at all


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_lease_file_is_whole_private_and_alone(tmp_path: Path) -> None:
    path = tmp_path / NAME.decode()
    assert create_lease(str(path), FILE, SPACE, NAME, NOBODY)
    assert path.read_bytes() == image("resource_fresh_512_1M")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(tmp_path) == [NAME.decode()], "no temporary file may stay"


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / NAME.decode()
    path.write_bytes(b"somebody else's, half made")
    assert not create_lease(str(path), FILE, SPACE, NAME, NOBODY)
    assert path.read_bytes() == b"somebody else's, half made"
    assert files(tmp_path) == [NAME.decode()]


def test_the_lockspace_gets_its_group_and_the_group_may_write(tmp_path: Path) -> None:
    assert create_lockspace(str(tmp_path), FILE, 10, Ownership(gid=os.getgid()))
    path = tmp_path / "__LIBVIRT__DISKS__"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert path.stat().st_gid == os.getgid()
    assert path.read_bytes() == image("lockspace_fresh_512_1M_io10")


def test_without_a_group_the_lockspace_is_private(tmp_path: Path) -> None:
    create_lockspace(str(tmp_path), FILE, 10, NOBODY)
    assert stat.S_IMODE((tmp_path / "__LIBVIRT__DISKS__").stat().st_mode) == 0o600


@pytest.mark.root
def test_files_get_the_configured_owner(tmp_path: Path) -> None:
    create_lease(str(tmp_path / "x"), FILE, SPACE, b"x", Ownership(65534, 65533))
    made = (tmp_path / "x").stat()
    assert (made.st_uid, made.st_gid) == (65534, 65533)


def test_of_several_creators_exactly_one_makes_it_and_nobody_ever_sees_half_of_it(tmp_path: Path) -> None:
    """Row 14 of the traps: an area must be complete before anyone uses it."""
    for round_ in range(10):
        path = tmp_path / f"lease{round_}"
        start, done = threading.Barrier(9), threading.Event()
        made: list[bool] = []
        seen: list[bytes] = []

        def create(path: Path = path, start: threading.Barrier = start, made: list[bool] = made) -> None:
            start.wait()
            made.append(create_lease(str(path), FILE, SPACE, NAME, NOBODY))

        def watch(
            path: Path = path,
            start: threading.Barrier = start,
            seen: list[bytes] = seen,
            done: threading.Event = done,
        ) -> None:
            start.wait()
            while not done.is_set():
                try:
                    seen.append(path.read_bytes())
                except FileNotFoundError:
                    continue

        creators = [threading.Thread(target=create) for _ in range(8)]
        watcher = threading.Thread(target=watch)
        for thread in [*creators, watcher]:
            thread.start()
        for thread in creators:
            thread.join()
        done.set()
        watcher.join()
        assert sorted(made) == [False] * 7 + [True]
        assert set(seen) <= {image("resource_fresh_512_1M")}
    assert files(tmp_path) == sorted(f"lease{r}" for r in range(10))


def test_the_name_appears_only_after_the_content_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real, **k: (done.append(name), real(*a, **k))[1])
    create_lease(str(tmp_path / "x"), FILE, SPACE, b"x", NOBODY)
    assert done == ["fsync", "link", "fsync"], "content, name, directory"


@pytest.mark.parametrize("call", ["write", "fsync", "fchmod", "link"])
def test_whatever_fails_no_file_and_no_half_of_one_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError, match=r"creation of .*/x failed: No space left on device"):
        create_lease(str(tmp_path / "x"), FILE, SPACE, b"x", NOBODY)
    assert files(tmp_path) == []


def test_a_write_that_takes_part_of_the_data_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:70_000]))
    create_lease(str(tmp_path / "x"), FILE, SPACE, NAME, NOBODY)
    assert (tmp_path / "x").read_bytes() == image("resource_fresh_512_1M")


def test_a_vanished_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"creation of .*/gone/x failed: No such file or directory"):
        create_lease(str(tmp_path / "gone" / "x"), FILE, SPACE, b"x", NOBODY)


def mounted(tmp_path: Path, options: str) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = needs.require_program("mount")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        needs.lacking(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    return folder


def unmount(folder: Path) -> None:
    subprocess.run([needs.require_program("umount"), str(folder)], check=True)


@pytest.mark.root
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = mounted(tmp_path, "size=512k")
    try:
        with pytest.raises(StorageError, match="No space left on device"):
            create_lease(str(folder / "x"), FILE, SPACE, b"x", NOBODY)
        assert files(folder) == []
    finally:
        unmount(folder)


@pytest.mark.root
def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    folder = mounted(tmp_path, "ro")
    try:
        with pytest.raises(StorageError, match=r"creation of .*/x failed: Read-only file system"):
            create_lease(str(folder / "x"), FILE, SPACE, b"x", NOBODY)
    finally:
        unmount(folder)


def test_temporary_names_are_no_lease_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean-up that lists the directory meanwhile must not take one for a lease."""
    listed: list[str] = []
    real = os.link
    monkeypatch.setattr(os, "link", lambda *a: (listed.extend(os.listdir(tmp_path)), real(*a))[1])
    create_lease(str(tmp_path / NAME.decode()), FILE, SPACE, NAME, NOBODY)
    assert len(listed) == 1
    assert listed[0].startswith(".")
    assert directory.lockspace_path(str(tmp_path)) == str(tmp_path / "__LIBVIRT__DISKS__")
