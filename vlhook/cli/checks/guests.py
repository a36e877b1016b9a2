# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of guests and pools: running without a lease, disks under unstable paths, iSCSI pools."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ...domain import Guest, parse_guest
from ...errors import VlhookError
from .check import FAIL, GOOD, WARN, Check, Finding, Host

_UNSTABLE = re.compile(r"/dev/(sd[a-z]+[0-9]*|vd[a-z]+[0-9]*|dm-[0-9]+|nvme[0-9]+n[0-9]+(p[0-9]+)?|mapper/mpath[a-z]+)")
_STABLE = ("by-path", "by-id")
_POOL_TYPE = re.compile(rb"""<pool\s+type=["'](iscsi|scsi|iscsi-direct)["']""")
_POOL_PATH = re.compile(rb"<path>\s*([^<\s]+)\s*</path>")
_LARGEST = 16 << 20


def without_lease(host: Host) -> Iterator[Finding]:
    """Guests that nobody protects: they ran before vlhook came, or past its hook."""
    report = host.status()
    if report is None:
        return
    if report["others_unknown"]:
        yield Finding(WARN, f"which guests run cannot be told: {report['others_unknown']}")
        return
    stray = [other for other in report["others"] if other["protector"] == "nobody"]
    for other in stray:
        who = f"guest {other['name']} (UUID {other['uuid']}, pid {other['pid']})"
        name = other["uuid"] if other["name"] == "?" else other["name"]
        yield Finding(FAIL, f"{who} runs without leases; another host may start it", f"vlhook adopt {name}")
    if not stray:
        yield Finding(GOOD, f"{len(report['guests']) + len(report['others'])} guests run, none of them unprotected")


def defined(host: Host) -> Iterator[tuple[Path, Guest]]:
    """The guests that libvirt has defined on this host."""
    for path in sorted((host.config_dir / "qemu").glob("*.xml")):
        try:
            yield path, parse_guest(path.read_bytes()[:_LARGEST], pools=lambda name: _pool(host, name))
        except (VlhookError, OSError):
            continue


def _pool(host: Host, name: str) -> Optional[bytes]:
    try:
        return (host.libvirt_run_dir / "storage" / f"{name}.xml").read_bytes()
    except OSError:
        return None


def paths(host: Host) -> Iterator[Finding]:
    """A name that the kernel gives anew at each boot may be another disk on another host."""
    count = 0
    for _, guest in defined(host):
        for lease in guest.leases:
            if _UNSTABLE.fullmatch(lease.source):
                count += 1
                yield Finding(FAIL, f"guest {guest.name}: {lease.source} may be another disk after a boot or elsewhere",
                              f"virsh edit {guest.name}   (use {stable(host, lease.source)})")  # fmt: skip
    if not count:
        yield Finding(GOOD, "no guest that is defined here names a disk by an unstable path")


def stable(host: Host, device: str) -> str:
    """A name of the same device that stays, as far as this host can tell."""
    for kind in _STABLE:
        for link in sorted(host.path(f"/dev/disk/{kind}").glob("*")):
            if os.path.basename(os.path.realpath(link)) == os.path.basename(device):
                return f"/dev/disk/{kind}/{link.name}"
    return "its name in /dev/disk/by-path"


def refused(host: Host) -> Iterator[Finding]:
    """Guests that would not start, because vlhook cannot tell what to protect."""
    for path in sorted((host.config_dir / "qemu").glob("*.xml")):
        try:
            parse_guest(path.read_bytes()[:_LARGEST], pools=lambda name: _pool(host, name))
        except VlhookError as error:
            yield Finding(WARN, f"guest {path.stem} would be refused: {error}", f"vlhook names {path}")
        except OSError:
            continue


def pools(host: Host) -> Iterator[Finding]:
    """Volumes of a pool are named by its target path, which must lead to the same disk on all hosts."""
    for path in sorted((host.config_dir / "storage").glob("*.xml")):
        try:
            xml = path.read_bytes()[:_LARGEST]
        except OSError:
            continue
        if not _POOL_TYPE.search(xml):
            continue
        found = _POOL_PATH.findall(xml)
        target = found[-1].decode("utf-8", "replace") if found else "nothing"
        if target == "/dev/disk/by-path":
            yield Finding(GOOD, f"pool {path.stem}: its volumes are named by /dev/disk/by-path")
        else:
            yield Finding(FAIL, f"pool {path.stem} names its volumes by {target}, which differs from host to host",
                          f"virsh pool-edit {path.stem}   (target path: /dev/disk/by-path)")  # fmt: skip


GUESTS = (
    Check("without-lease", without_lease),
    Check("disk-paths", paths),
    Check("refused-guests", refused),
    Check("pools", pools),
)
