# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fault layer is trusted by other tests, so it is tested itself."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faulty import faulty
from vlhook.drill.layer import Layer
from vlhook.leases.blockio import BlockFile
from vlhook.leases.directory import Ownership, publish
from vlhook.leases.errors import StorageError

pytestmark = pytest.mark.root


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[Layer]:
    with faulty(tmp_path / "beneath", tmp_path / "seen") as mounted:
        yield mounted


@pytest.fixture
def file(layer: Layer) -> Iterator[BlockFile]:
    (layer.source / "f").write_bytes(bytes(1 << 20))
    with BlockFile(str(layer.mountpoint / "f")) as opened:
        yield opened


def test_files_pass_through_with_direct_io_links_and_names(layer: Layer, file: BlockFile) -> None:
    file.write(512, b"x" * 512)
    assert (layer.source / "f").read_bytes()[510:514] == b"\0\0xx"
    assert len(file.read(0, 1 << 20)) == 1 << 20
    assert file.is_current()
    assert publish(str(layer.mountpoint / "new"), b"whole", 0o600, Ownership())
    assert not publish(str(layer.mountpoint / "new"), b"other", 0o600, Ownership())
    os.rename(layer.mountpoint / "new", layer.mountpoint / "newer")
    os.mkdir(layer.mountpoint / "d")
    assert sorted(os.listdir(layer.mountpoint)) == ["d", "f", "newer"]
    os.unlink(layer.mountpoint / "f")
    assert not file.is_current()
    assert layer.last_write("f") > 0


@pytest.mark.parametrize(("mode", "number"), [("eio", errno.EIO), ("readonly", errno.EROFS)])
def test_errors_come_and_go(layer: Layer, file: BlockFile, mode: str, number: int) -> None:
    layer.set(mode)
    with pytest.raises(StorageError, match=os.strerror(number)):
        file.write(0, bytes(512))
    layer.set("ok")
    file.write(0, b"y" * 512)


def test_what_hangs_lands_late(layer: Layer, file: BlockFile) -> None:
    layer.set("hang")
    writer = threading.Thread(target=file.write, args=(0, b"z" * 512))
    writer.start()
    assert layer.last_write("f") == 0
    layer.set("ok")
    writer.join(60)
    assert (layer.source / "f").read_bytes()[:1] == b"z"


def test_after_a_reset_nothing_that_was_under_way_lands(layer: Layer, file: BlockFile) -> None:
    layer.set("hang")
    errors: list[StorageError] = []

    def write() -> None:
        try:
            file.write(0, b"z" * 512)
        except StorageError as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    layer.set("cut")
    writer.join(60)
    layer.set("ok")
    assert errors
    assert (layer.source / "f").read_bytes()[:1] == b"\0"
