# SPDX-License-Identifier: LGPL-2.1-or-later
"""Direct I/O on real files and devices (format document, 9)."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from vlhook.leases import blockio
from vlhook.leases.blockio import PIECE, BlockFile
from vlhook.leases.errors import AreaTooShort, NotCreated, StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "lease"
    file.write_bytes(bytes(range(256)) * 4096)
    return file


def test_what_is_written_is_read_back_and_nothing_else_changes(path: Path) -> None:
    before = path.read_bytes()
    with BlockFile(str(path)) as file:
        file.write(1024, b"x" * 512)
        assert file.read(1024, 512) == b"x" * 512
        assert file.read(0, 4096) == before[:1024] + b"x" * 512 + before[1536:4096]
    assert path.read_bytes() == before[:1024] + b"x" * 512 + before[1536:]


@pytest.mark.parametrize("last", [None, 0, PIECE - 1, PIECE, 5 * PIECE + 7, (1 << 20) - 1])
def test_a_sparse_read_leaves_out_zeros_at_the_end_and_nothing_else(path: Path, last: int | None) -> None:
    content = bytearray(1 << 20)
    if last is not None:
        content[last] = 1
    path.write_bytes(content)
    with BlockFile(str(path)) as file:
        found = file.read(0, 1 << 20, sparse=True)
        assert file.read(0, 1 << 20) == content
    assert found.ljust(1 << 20, b"\0") == content
    assert len(found) == ((last or 0) // PIECE + 1) * PIECE


def test_a_sparse_read_that_is_no_whole_number_of_pieces_ends_where_it_must(path: Path) -> None:
    with BlockFile(str(path)) as file:
        assert file.read(0, PIECE + 512, sparse=True) == path.read_bytes()[: PIECE + 512]
        file.write(PIECE, bytes(512))
        assert file.read(0, PIECE + 512, sparse=True) == path.read_bytes()[:PIECE]
        assert file.read(0, 1536, sparse=True) == path.read_bytes()[:1536]


def test_the_file_is_opened_for_direct_and_synchronous_io(path: Path) -> None:
    with BlockFile(str(path)) as file:
        flags = int(
            next(
                line.split()[1]
                for line in Path(f"/proc/self/fdinfo/{file._fd}").read_text().splitlines()
                if line.startswith("flags")
            ),
            8,
        )
    assert flags & os.O_DIRECT
    assert flags & os.O_SYNC == os.O_SYNC
    assert flags & os.O_CLOEXEC


def test_an_area_may_begin_inside_a_file(path: Path) -> None:
    with BlockFile(str(path), base=4096) as file:
        file.write(512, b"y" * 512)
        assert file.read(512, 512) == b"y" * 512
    assert path.read_bytes()[4608:5120] == b"y" * 512


@pytest.mark.parametrize("size", [0, 512, 4096, (1 << 20) - 512, (1 << 20) - 1])
def test_a_file_that_ends_before_the_area_is_named_with_its_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(size))
    with BlockFile(str(path)) as file, pytest.raises(AreaTooShort) as caught:
        file.read(0, 1 << 20)
    assert caught.value.result == -90
    assert f"ends at byte {size}" in str(caught.value)


def test_a_read_that_ends_within_the_file_is_a_storage_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that answers short is not a file that is too short: the first passes, the second does not."""
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: 512)
    with BlockFile(str(path)) as file, pytest.raises(StorageError, match="ended at byte 512"):
        file.read(0, 4096)


def test_a_write_that_was_cut_short_is_a_storage_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda fd, views, at: 512)
    with BlockFile(str(path)) as file, pytest.raises(StorageError, match="only 512 of 1024 bytes"):
        file.write(0, bytes(1024))


def test_io_errors_name_file_byte_and_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, views: object, at: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwritev", fail)
    with BlockFile(str(path), base=512) as file, pytest.raises(StorageError) as caught:
        file.write(512, bytes(512))
    assert f"write of {path} at byte 1024 failed: Input/output error" in str(caught.value)


def test_io_that_is_not_aligned_is_refused_by_the_kernel_and_said_so(path: Path) -> None:
    with BlockFile(str(path)) as file, pytest.raises(StorageError, match="EINVAL"):
        file.read(100, 512)


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotCreated, match="no such file"):
        BlockFile(str(tmp_path / "absent"))


def test_a_directory_is_no_lease_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="open of"):
        BlockFile(str(tmp_path))


def test_the_path_is_watched_not_the_name_alone(path: Path) -> None:
    with BlockFile(str(path)) as file:
        assert file.is_current()
        other = path.with_name("other")
        other.write_bytes(b"")
        os.replace(other, path)
        assert not file.is_current(), "another file has the name now"
        path.unlink()
        assert not file.is_current()


def test_a_file_without_a_name_is_not_current_even_where_its_inode_number_was_used_again(path: Path) -> None:
    """Row 39: the stock clean-up script unlinks a lease that another host has open."""
    with BlockFile(str(path)) as file:
        path.unlink()
        path.write_bytes(b"")
        assert not file.is_current()
        assert file.identity()[2] == 0


@pytest.mark.root
def test_devices_with_4_kib_sectors_refuse_512_bytes_and_take_4096(tmp_path: Path) -> None:
    with loop(tmp_path, sector=4096) as device, BlockFile(device) as file:
        file.write(4096, b"z" * 4096)
        assert file.read(0, 8192) == bytes(4096) + b"z" * 4096
        with pytest.raises(StorageError, match="wants 4 KiB sectors"):
            file.read(0, 512)
        with pytest.raises(AreaTooShort):
            file.read(1 << 20, 4096)


def test_what_is_under_way_is_told_with_its_age(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(fd: int, views: list[memoryview], at: int) -> int:
        inside.set()
        assert go.wait(30)
        return len(views[0])

    monkeypatch.setattr(os, "pwritev", slow)
    with BlockFile(str(path)) as file:
        thread = threading.Thread(target=lambda: file.write(512, bytes(512)))
        thread.start()
        assert inside.wait(30)
        found = [(io.op, io.where, io.offset, io.length) for io in blockio.pending() if io.where == str(path)]
        go.set()
        thread.join()
    assert found == [("write", str(path), 512, 512)]
    assert [io for io in blockio.pending() if io.where == str(path)] == []


def test_threads_do_not_share_buffers(path: Path) -> None:
    """Row 5: an acquire shared the renewal thread's descriptor and got the wrong data."""
    with BlockFile(str(path)) as file:
        for block in range(16):
            file.write(block * 4096, bytes([block]) * 4096)
        wrong = []

        def look(block: int) -> None:
            for _ in range(200):
                if file.read(block * 4096, 4096) != bytes([block]) * 4096:
                    wrong.append(block)

        threads = [threading.Thread(target=look, args=(block,)) for block in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


class loop:
    """A loop device with that sector size over a 1 MiB file; `str` of it is the device."""

    def __init__(self, folder: Path, sector: int) -> None:
        self._backing = folder / "backing"
        self._backing.write_bytes(bytes(1 << 20))
        self._sector = sector

    def __enter__(self) -> str:
        losetup = needs.require_program("losetup")
        command = [losetup, "-b", str(self._sector), "-f", "--show", str(self._backing)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            needs.lacking(f"needs a loop device: {made.stderr.strip()}")
        self._device = made.stdout.strip()
        return self._device

    def __exit__(self, *args: object) -> None:
        subprocess.run([needs.require_program("losetup"), "-d", self._device], check=True)


@pytest.fixture(autouse=True)
def buffers_given_back() -> Iterator[None]:
    yield
    blockio.trim_buffers()
