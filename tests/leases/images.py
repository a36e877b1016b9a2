# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lockspaces and leases that sanlock 3.8.5 made, and the I/O with which it made them (tests/data/lease-areas).

`manifest.json` says of each image how it was made and what every field of it is; the traces list, for named
steps, the reads and writes of the lease file as sanlock issued them, data in hex without trailing zeros.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "data" / "lease-areas"
SPACE = b"__LIBVIRT__DISKS__"


@functools.cache
def manifest() -> dict[str, dict[str, Any]]:
    """Every image's entry by its name."""
    listed = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))["fixtures"]
    return {entry["name"]: entry for entry in listed}


def names(kind: str = "") -> list[str]:
    return [name for name, entry in manifest().items() if kind in ("", entry["kind"])]


@functools.cache
def image(name: str) -> bytes:
    entry = manifest()[name]
    data = gzip.decompress((FOLDER / entry["file"]).read_bytes())
    assert len(data) == entry["size"], name
    assert hashlib.sha256(data).hexdigest() == entry["sha256"], name
    return data


def resource_name(name: str) -> bytes:
    return str(manifest()[name]["decoded"]["leader"]["resource_name"]).encode()


@functools.cache
def _traces() -> dict[str, list[dict[str, Any]]]:
    steps: dict[str, list[dict[str, Any]]] = {}
    for part in (1, 2):
        steps.update(json.loads((FOLDER / f"traces_part{part}.json").read_text(encoding="utf-8")))
    return steps


def trace(step: str, host_id: int) -> list[tuple[str, int, int, bytes]]:
    """What `host_id` did in that step: (read or write, offset, length, data without trailing zeros)."""
    return [
        (io["op"], io["offset"], io["length"], bytes.fromhex(io.get("data", "")).rstrip(b"\0"))
        for io in _traces()[step]
        if io["host"] == host_id
    ]
