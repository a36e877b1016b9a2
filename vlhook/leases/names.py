# SPDX-License-Identifier: LGPL-2.1-or-later
"""Source path → lease name → lease file (format document, 12)."""

from __future__ import annotations

import os

from .digests import md5_hex

LOCKSPACE_NAME = "__LIBVIRT__DISKS__"


def lease_name(source: bytes) -> str:
    """32 lower-case hex digits: the MD5 of exactly the bytes of the disk's source path.

    Nothing is resolved or cleaned up: libvirt's sanlock plugin hashes the same
    bytes, and both must come to the same lease.
    """
    return md5_hex(source)


def lease_path(directory: str, name: str) -> str:
    """The lease file of `name` in the lease directory."""
    return os.path.join(directory, name)
