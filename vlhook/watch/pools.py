# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the volumes are of pools whose state file does not tell: only libvirt knows (safety rules, 26)."""

from __future__ import annotations

from typing import Any

import libvirt

from ..safexml import parse
from ..volumes import POOL_TYPES


def volumes(connection: Any) -> dict[str, dict[str, str]]:
    """Pool → volume → path, of all active pools that are not of `POOL_TYPES`. Raises libvirt.libvirtError.

    A volume without a path on this host (rbd, gluster) is left out: its disk is a network disk.
    """
    found = {}
    for pool in connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
        try:
            if _kind(pool) not in POOL_TYPES:
                found[pool.name()] = _paths(pool)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_OPERATION_INVALID):
                raise
    return found


def _kind(pool: Any) -> str:
    return parse(pool.XMLDesc(0).encode("utf-8", "surrogateescape"), "the pool's XML").get("type", "")


def _paths(pool: Any) -> dict[str, str]:
    paths = {}
    for volume in pool.listAllVolumes():
        try:
            name, path = volume.name(), volume.path()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise
            continue
        if path and path.startswith("/"):
            paths[name] = path
    return paths
