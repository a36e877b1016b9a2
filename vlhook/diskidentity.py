# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a path really is: the same disk under two names has one identity (safety rules, 27).

An identity is only given where it is certain, on every host that may use the
disk alike; None otherwise. Never st_dev: it differs from host to host.

    device mapper   its UUID: LVM's, or the WWID that a multipath map stands for
    other devices   the WWID that the storage gives, and the number of the partition
    NFS             server, export, file id
    GFS2, OCFS2     the identity of the device that the file system is on, inode
    local files     this host, file system and inode: nobody else can open them

`stat` may hang on dead storage: called in a process of its own, with a deadline.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple, Optional

LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "f2fs", "reiserfs", "jfs"))
NFS = frozenset(("nfs", "nfs4"))
CLUSTER = frozenset(("gfs2", "ocfs2"))
_ESCAPE = re.compile(r"\\([0-7]{3})")
_SYS_BLOCK = Path("/sys/dev/block")
_MOUNTINFO = Path("/proc/self/mountinfo")


class Mount(NamedTuple):
    device: str
    kind: str
    source: str


def identity(path: str, host: str, sys_block: Path = _SYS_BLOCK, mountinfo: Path = _MOUNTINFO) -> Optional[str]:
    """The identity of the image at `path`, None if it is not certain. `host`: a name that only this host has.

    Raises OSError where the path cannot be looked at.
    """
    found = os.stat(path)
    if stat.S_ISBLK(found.st_mode):
        return device_identity(found.st_rdev, sys_block)
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return None
    mount = mounts(mountinfo).get(f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}")
    if mount is None:
        # Subvolumes of btrfs have device numbers that no mount has.
        return None
    if mount.kind in NFS:
        return f"nfs {mount.source} {found.st_ino}"
    if mount.kind in CLUSTER:
        device = device_identity(found.st_dev, sys_block)
        return f"{mount.kind} {device} {found.st_ino}" if device else None
    if mount.kind in LOCAL:
        return f"local {host} {mount.device} {found.st_ino}"
    return None


def mounts(mountinfo: Path = _MOUNTINFO) -> dict[str, Mount]:
    """Device number (major:minor) → what is mounted. Raises OSError."""
    found: dict[str, Mount] = {}
    for line in mountinfo.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if len(words) >= 5 and len(rest) >= 2:
            found[words[2]] = Mount(words[2], rest[0], _plain(rest[1]))
    return found


def device_identity(number: int, sys_block: Path = _SYS_BLOCK) -> Optional[str]:
    """The identity of a block device, by what the kernel knows of it."""
    entry = sys_block / f"{os.major(number)}:{os.minor(number)}"
    part = _text(entry / "partition")
    if part:
        whole = _whole(entry.resolve().parent)
        return f"{whole} part {part}" if whole else None
    return _whole(entry)


def _whole(entry: Path) -> Optional[str]:
    uuid = _text(entry / "dm/uuid")
    if uuid:
        if uuid.startswith("mpath-"):
            return f"wwid {_scsi_name(uuid[len('mpath-'):])}"
        return f"dm {uuid}" if uuid.startswith("LVM-") else None
    for name in ("wwid", "device/wwid"):
        wwid = _text(entry / name)
        if wwid and _is_unique(wwid):
            return f"wwid {_scsi_name(wwid)}"
    return None


def _is_unique(wwid: str) -> bool:
    """A t10 name made of vendor and model alone, or an NVMe name without a serial number, is no name."""
    return wwid.startswith(("naa.", "eui.", "uuid."))


def _scsi_name(name: str) -> str:
    """As multipath writes it (3 and hexadecimal digits) and as the kernel does (naa. and the same digits)."""
    lower = name.lower()
    if re.fullmatch(r"3[0-9a-f]{16,32}", lower):
        return f"naa.{lower[1:]}"
    if re.fullmatch(r"2[0-9a-f]{16}", lower):
        return f"eui.{lower[1:]}"
    return lower


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
