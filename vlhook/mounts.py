# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is mounted where, by the kernel's table, and what should be, by /etc/fstab."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

FSTAB = Path("/etc/fstab")
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    point: str
    kind: str
    source: str
    options: frozenset[str]


def mount_of(path: Path, mountinfo: Path = MOUNTINFO) -> Optional[Mount]:
    """The mount that `path` is on."""
    best: Optional[Mount] = None
    for mount in _mounts(mountinfo):
        if _inside(os.path.realpath(path), mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def missing_mount(directory: str, fstab: Optional[Path] = None, mountinfo: Path = MOUNTINFO) -> Optional[Mount]:
    """The mount of /etc/fstab that `directory` would be on, if it is not there now. Raises OSError."""
    names = {os.path.normpath(directory), os.path.realpath(directory)}
    wanted: Optional[Mount] = None
    for line in _lines(fstab or FSTAB):
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        # Not resolved: that would wait for every file system that does not answer.
        source, point, kind = fields[0], os.path.normpath(_plain(fields[1])), fields[2]
        inside = point.startswith("/") and point != "/" and any(_inside(name, point) for name in names)
        if inside and (wanted is None or len(point) > len(wanted.point)):
            wanted = Mount(point, kind, source, frozenset())
    if wanted is None or any(mount.point == wanted.point for mount in _mounts(mountinfo)):
        return None
    return wanted


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def _mounts(mountinfo: Path) -> list[Mount]:
    found = []
    for line in _lines(mountinfo):
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        options = frozenset(fields[5].split(",")) | frozenset(rest[2].split(","))
        found.append(Mount(_plain(fields[4]), rest[0], rest[1], options))
    return found


def _plain(field: str) -> str:
    """Blanks and the like are written as \\040 in both tables."""
    return field.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1").decode(
        "utf-8", "surrogateescape"
    )


def _inside(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")
