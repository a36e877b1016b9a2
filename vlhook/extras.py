# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest writes beside its disks, and libvirt's sanlock plugin leaves unprotected: NVRAM and TPM state.

Each is named like a disk, by the MD5 of its path. The default directory of
NVRAM is every host's own, and its files are named after guests, so that two
guests of one name on two hosts would exclude each other for nothing: a file
there has no lease. TPM state lies below the guest's UUID: the path tells
guests apart wherever it is.
"""

from __future__ import annotations

from typing import Optional

from lxml import etree

from .disks import Skipped

LOCAL_NVRAM = ("/var/lib/libvirt/qemu/nvram/", "/var/lib/libvirt/nvram/")
SWTPM = "/var/lib/libvirt/swtpm"


def nvram(root: etree._Element) -> tuple[Optional[str], Optional[Skipped]]:
    """(the path that gets a lease, or why there is none)."""
    element = root.find("os/nvram")
    if element is None:
        return None, None
    source = element.find("source")
    kind = element.get("type", "file")
    path = (element.text or "").strip()
    if source is not None:
        path = source.get("file") or source.get("dev") or ""
    if kind not in ("file", "block") or not path.startswith("/"):
        return None, Skipped("nvram", kind, "nvram", path, "only NVRAM in a file or device of this host has a lease")
    if path.startswith(LOCAL_NVRAM):
        return None, Skipped("nvram", kind, "nvram", path, "it lies in this host's own directory")
    return path, None


def tpm_state(root: etree._Element, uuid: str) -> Optional[str]:
    """The directory, or file, of an emulated TPM's state; None: the guest has none that it keeps."""
    for backend in root.findall("devices/tpm/backend"):
        if backend.get("type") != "emulator":
            continue
        source = backend.find("source")
        path = source.get("path", "") if source is not None else ""
        return path if path.startswith("/") else f"{SWTPM}/{uuid}"
    return None
