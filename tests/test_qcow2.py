# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers that qemu-img wrote, and headers that nobody should believe."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import needs
from vlhook.qcow2 import HEAD_SIZE, BadImage, Header, read_header


def make(path: Path, *options: str) -> bytes:
    needs.require_programs("qemu-img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
    return path.read_bytes()[:HEAD_SIZE]


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_an_image_tells_what_lies_below_it(tmp_path: Path, compat: str) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    assert read_header(make(base, "-o", f"compat={compat}")) == Header(None, None, None)
    head = make(top, "-o", f"compat={compat}", "-b", "base", "-F", "qcow2")
    assert read_header(head) == Header("base", "qcow2", None)


def test_an_image_tells_where_its_data_is(tmp_path: Path) -> None:
    head = make(tmp_path / "top", "-o", f"data_file={tmp_path}/data")
    assert read_header(head) == Header(None, None, f"{tmp_path}/data")


def test_a_format_that_is_not_declared_is_not_guessed(tmp_path: Path) -> None:
    make(tmp_path / "base")
    head = bytearray(make(tmp_path / "top", "-b", "base", "-F", "qcow2"))
    at = head.index(struct.pack(">I", 0xE2792ACA))
    head[at : at + 4] = struct.pack(">I", 0x12345678)
    assert read_header(bytes(head)) == Header("base", None, None)


def damaged(head: bytes, at: int, data: bytes) -> bytes:
    return head[:at] + data + head[at + len(data) :]


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"QED\0"), (4, b"\0\0\0\x09"), (8, b"\xff" * 8), (16, b"\xff" * 4), (100, b"\xff" * 4), (112, b"\xff" * 8),
    ],
)  # fmt: skip
def test_a_damaged_header_is_one_clear_error(tmp_path: Path, at: int, data: bytes) -> None:
    head = make(tmp_path / "top", "-u", "-b", "base", "-F", "qcow2")
    with pytest.raises(BadImage):
        read_header(damaged(head, at, data))


@given(st.binary(max_size=300), st.integers(0, 3))
def test_whatever_a_guest_wrote_there_the_outcome_is_a_header_or_the_error(data: bytes, version: int) -> None:
    for head in (data, struct.pack(">II", 0x514649FB, version) + data):
        try:
            read_header(head)
        except BadImage as error:
            assert "\n" not in str(error)
