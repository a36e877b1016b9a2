# SPDX-License-Identifier: LGPL-2.1-or-later
"""A disk of type volume → the path that libvirt will use, without asking libvirt (safety rules, 26).

libvirt keeps one file for each active pool, `<storage run directory>/<pool>.xml`,
and removes it when the pool stops. In the four kinds of pool that keep their volumes
below one directory, a volume's path is that directory, a slash and the volume's name.
In others (disk, iscsi, scsi, mpath, zfs) it is what somebody has named who may ask libvirt.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Callable, Mapping
from typing import Optional

from . import safexml
from .errors import DomainError

POOL_TYPES = ("dir", "fs", "netfs", "logical")
MAX_STATE = 1 << 20

# The state file of an active pool, as libvirt wrote it; None for a pool that is not active.
Pools = Callable[[str], Optional[bytes]]


class NamedPools:
    """Pools as `states` tells, and the paths of volumes that vlhook-watch has named: pool → volume → path."""

    def __init__(self, states: Pools, named: Mapping[str, Mapping[str, str]]) -> None:
        self.states = states
        self._named = named

    def __call__(self, pool: str) -> Optional[bytes]:
        return self.states(pool)

    def path(self, pool: str, volume: str) -> Optional[str]:
        path = self._named.get(pool, {}).get(volume)
        return path if path and path.startswith("/") else None


class VolumeError(DomainError):
    """It is not known which file or device a volume is. Fields: `pool`, `volume`, `why`, `step`."""

    msg = "volume {volume} of pool {pool}: {why}"
    hint = "{step}"
    code = "VLH-D114"


def is_name(text: str) -> bool:
    """Can `text` be the name of a pool or of a volume: one component of a path?"""
    return bool(text) and "/" not in text and "\0" not in text and text not in (".", "..")


def volume_path(pools: Pools, pool: str, volume: str) -> str:
    """The path of `volume` in the active pool `pool`, as libvirt and its lock plugin form it.

    Raises VolumeError where it cannot be told for certain.
    """
    for what, name in (("pool", pool), ("volume", volume)):
        if not is_name(name):
            why = f"'{name}' cannot be the name of a {what}"
            step = f"the name of a {what} is one file name, without '/'"
            raise VolumeError(pool=pool, volume=volume, why=why, step=step)
    try:
        state = pools(pool)
    except OSError as error:
        why = f"the pool's state cannot be read: {error.strerror}"
        raise VolumeError(pool=pool, volume=volume, why=why, step="ask for it as root") from None
    if state is None:
        step = f"start the pool, then the guest: virsh pool-start {shlex.quote(pool)}"
        raise VolumeError(pool=pool, volume=volume, why="the pool is not active", step=step)
    named = pools.path(pool, volume) if isinstance(pools, NamedPools) else None
    directory = _target_directory(state, pool, volume, named is not None)
    return f"{directory}/{volume}" if directory is not None else named or ""


def pools_in(storage_run_directory: str) -> Pools:
    """The pools whose state lies in that directory. The files are root's own, mode 0600.

    The callable raises OSError for a state that is there and cannot be read.
    """

    def state(pool: str) -> Optional[bytes]:
        try:
            return _read(os.path.join(storage_run_directory, pool + ".xml"))
        except FileNotFoundError:
            return None

    return state


def _read(path: str) -> bytes:
    """The whole file; never waits, whatever lies there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        data = file.read(MAX_STATE + 1)
    if len(data) > MAX_STATE:
        raise OSError(errno.EFBIG, "larger than the state of a pool can be", path)
    return data


def _target_directory(state: bytes, pool: str, volume: str, named: bool) -> Optional[str]:
    """None in a pool of another kind, whose volumes were `named`."""

    def damaged(why: str) -> VolumeError:
        step = f"let libvirt write it anew: virsh pool-destroy {shlex.quote(pool)}, then pool-start"
        return VolumeError(pool=pool, volume=volume, why=f"the pool's state {why}", step=step)

    try:
        root = safexml.parse(state, "it")
    except safexml.BadXml as error:
        raise damaged(f"is damaged ({error.what_and_why()})") from None
    found = root.findall("pool")
    if root.tag != "poolstate" or len(found) != 1:
        raise damaged("is not that of one pool")
    if found[0].findtext("name") != pool:
        raise damaged(f"is that of another pool, {found[0].findtext('name')}")
    kind = found[0].get("type")
    if kind not in POOL_TYPES and named:
        return None
    if kind not in POOL_TYPES:
        why = f"in a pool of type {kind} only libvirt knows a volume's path, and vlhook-watch has not named it"
        step = "start vlhook-watch, or give the disk its path ('block') or its address ('network') in the guest's XML"
        raise VolumeError(pool=pool, volume=volume, why=why, step=step)
    paths = found[0].findall("target/path")
    if len(paths) != 1 or len(paths[0]) or not (paths[0].text or "").startswith("/"):
        raise damaged("names no target directory")
    return paths[0].text or ""
