# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header of a qcow2 image: what lies below it, and in which format (qcow2 specification, header).

Only what is declared counts. An image whose parent does not say the format of
the one below it is the end of what can be known: probing would believe what a
guest wrote into a raw disk (safety rules, 28).
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from .errors import VlhookError

MAGIC = 0x514649FB
HEAD_SIZE = 65536
_HEAD = struct.Struct(">IIQI")
_V2_LENGTH = 72
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE = 0x44415441
_EXTERNAL_DATA = 1 << 2
_MAX_NAME = 1023


class BadImage(VlhookError):
    msg = "this is no qcow2 image that can be understood: {why}"
    code = "VLH-D110"


class Header(NamedTuple):
    """`backing` as it stands in the image, None: nothing below. `format` of that; `data_file`: where the data is."""

    backing: Optional[str]
    format: Optional[str]
    data_file: Optional[str]


def read_header(data: bytes) -> Header:
    """From the first HEAD_SIZE bytes of the image. Raises BadImage."""
    if len(data) < _V2_LENGTH:
        raise BadImage(why="it is too short")
    magic, version, name_at, name_size = _HEAD.unpack_from(data)
    if magic != MAGIC or version not in (2, 3):
        raise BadImage(why=f"magic {magic:#x}, version {version}")
    length, features = _V2_LENGTH, 0
    if version == 3:
        if len(data) < 104:
            raise BadImage(why="it is too short")
        features, length = struct.unpack_from(">Q", data, 72)[0], struct.unpack_from(">I", data, 100)[0]
    extensions = _extensions(data, length)
    backing = None
    if name_at:
        if not 0 < name_size <= _MAX_NAME or name_at + name_size > len(data):
            raise BadImage(why="the name of the image below lies outside the header")
        backing = _text(data[name_at : name_at + name_size])
    data_file = extensions.get(_DATA_FILE) if features & _EXTERNAL_DATA else None
    if features & _EXTERNAL_DATA and data_file is None:
        raise BadImage(why="it does not say where its external data is")
    return Header(backing, extensions.get(_BACKING_FORMAT) if backing else None, data_file)


def _extensions(data: bytes, at: int) -> dict[int, str]:
    found: dict[int, str] = {}
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(">II", data, at)
        if kind == 0:
            return found
        if at + 8 + size > len(data):
            break
        if kind in (_BACKING_FORMAT, _DATA_FILE):
            found[kind] = _text(data[at + 8 : at + 8 + size])
        at += 8 + (size + 7) // 8 * 8
    raise BadImage(why="its header extensions have no end")


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadImage(why="a name in it is not UTF-8") from None
    if not text.isprintable():
        raise BadImage(why="a name in it is not printable")
    return text
