# SPDX-License-Identifier: LGPL-2.1-or-later
"""A <disk> element → what its lease is named after, or why it gets none.

Every disk is one or the other; a kind or shape that is not known here is an
error, which refuses the start (safety rules, 4). The table is docs/lease-names.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Union

from lxml import etree

from .errors import DomainError
from .urls import Host, UrlError, canonical_url
from .volumes import NamedPools, Pools, VolumeError, volume_path

DEVICES = ("disk", "lun", "cdrom", "floppy")
# The attributes of <source> that name the image, for each type of disk.
NAMING = {
    "file": ("file",),
    "block": ("dev",),
    "dir": ("dir",),
    "network": ("protocol", "name"),
    "volume": ("pool", "volume"),
    "nvme": ("type", "namespace"),
    "vhostuser": ("type", "path"),
    "vhostvdpa": ("dev",),
}
HOST_LOCAL = {
    "nvme": "an NVMe device given to the guest belongs to this host alone",
    "vhostuser": "the image belongs to the server behind a socket of this host; protect it there",
    "vhostvdpa": "a vDPA device belongs to this host alone",
}


class BadDisk(DomainError):
    """A disk that cannot be decided. Fields: `disk` (vda, or its place), `why`."""

    msg = "disk {disk}: {why}"
    hint = "vlhook cannot tell what to protect; change the disk in the guest's XML"
    code = "VLH-D103"


class VolumeUnknown(BadDisk):
    msg = "disk {disk}: volume {volume} of pool {pool}: {why}"
    hint = "{step}"
    code = "VLH-D104"


class BadNetworkSource(BadDisk):
    code = "VLH-D105"


@dataclass(frozen=True)
class Skipped:
    """A disk that gets no lease, and why. `source` is for people."""

    target: str
    type: str
    device: str
    source: str
    reason: str


@dataclass(frozen=True)
class Image:
    """What a writable disk is on. `source`: the path or URL whose bytes name the lease.

    `path`: the file, device or directory of this host, None for a network disk.
    """

    target: str
    type: str
    device: str
    source: str
    path: Optional[str]
    shared: bool

    def skipped(self, reason: str) -> Skipped:
        return Skipped(self.target, self.type, self.device, self.source, reason)


def read_disk(element: etree._Element, number: int, pools: Pools) -> Union[Image, Skipped]:
    """What the `number`-th <disk> is. Raises BadDisk, for a volume only if the disk is writable."""
    target = _target(element, number)
    kind, device = _kind(element, target), element.get("device", "disk")
    if device not in DEVICES:
        raise BadDisk(disk=target, why=f"device '{device}' is not known to vlhook")
    source = _only(element, "source", target)
    named = source is not None and any(source.get(name) for name in NAMING[kind])
    shown = _shown(source, kind) if source is not None else ""

    def skipped(reason: str) -> Skipped:
        return Skipped(target, kind, device, shown, reason)

    if not named and device in ("cdrom", "floppy"):
        return skipped("no medium")
    if device == "cdrom":
        return skipped("a CD-ROM is never written")
    if element.find("readonly") is not None:
        return skipped("read-only")
    if kind in HOST_LOCAL:
        return skipped(HOST_LOCAL[kind])
    if source is None or not named:
        raise BadDisk(disk=target, why="it names no source")
    _check_shape(source, kind, target)
    shared = element.find("shareable") is not None
    name, path = _identity(source, kind, target, pools)
    return Image(target, kind, device, name, path, shared)


def read_mirror(element: etree._Element, number: int, pools: Pools) -> list[Image]:
    """The image that a block job of a running guest writes to, beside the disk's own: copy or active commit.

    Raises BadDisk.
    """
    target = _target(element, number)
    mirror = _only(element, "mirror", target)
    if mirror is None:
        return []
    source = _only(mirror, "source", target)
    if source is None:
        raise BadDisk(disk=target, why="its block job writes to an image that the XML does not name")
    kind = _kind(mirror, target)
    if kind in HOST_LOCAL:
        return []
    _check_shape(source, kind, target)
    name, path = _identity(source, kind, target, pools)
    return [Image(target, kind, element.get("device", "disk"), name, path, False)]


def _target(element: etree._Element, number: int) -> str:
    place = f"number {number}"
    target = _only(element, "target", place)
    if target is None or not target.get("dev"):
        raise BadDisk(disk=place, why="it has no <target dev>")
    return target.get("dev", "")


def _only(element: etree._Element, tag: str, disk: str) -> Optional[etree._Element]:
    found = element.findall(tag)
    if len(found) > 1:
        raise BadDisk(disk=disk, why=f"it has {len(found)} <{tag}> elements")
    return found[0] if found else None


def _kind(element: etree._Element, disk: str) -> str:
    # 'file' is libvirt's default, but it always writes the type out.
    kind = element.get("type")
    if kind is None:
        raise BadDisk(disk=disk, why="it has no type")
    if kind not in NAMING:
        raise BadDisk(disk=disk, why=f"type '{kind}' is not known to vlhook")
    return kind


def _check_shape(source: etree._Element, kind: str, disk: str) -> None:
    """No attribute that would name another image than the one that is locked."""
    others = {name for names in NAMING.values() for name in names} - set(NAMING[kind])
    for name in sorted(others):
        if source.get(name):
            raise BadDisk(disk=disk, why=f"its source has '{name}', which type '{kind}' has not")


def _identity(source: etree._Element, kind: str, disk: str, pools: Pools) -> tuple[str, Optional[str]]:
    """(what names the lease, the path on this host)."""
    if kind == "network":
        return _url(source, disk), None
    if kind == "volume":
        if source.get("mode") == "direct" and isinstance(pools, NamedPools):
            pools = pools.states  # libvirt makes a network disk of it
        try:
            path = volume_path(pools, source.get("pool", ""), source.get("volume", ""))
        except VolumeError as error:
            raise VolumeUnknown(disk=disk, **vars(error)) from None
    else:
        path = source.get(NAMING[kind][0], "")
    if not path.startswith("/"):
        raise BadDisk(disk=disk, why=f"path '{path}' depends on QEMU's directory; write it from '/'")
    return path, path


def _url(source: etree._Element, disk: str) -> str:
    hosts = [
        Host(host.get("name", ""), host.get("port", ""), host.get("transport", ""), host.get("socket", ""))
        for host in source.findall("host")
    ]
    snapshot = _only(source, "snapshot", disk)
    try:
        return canonical_url(
            source.get("protocol", ""),
            source.get("name", ""),
            hosts,
            query=source.get("query", ""),
            snapshot=snapshot.get("name", "") if snapshot is not None else "",
        )
    except UrlError as error:
        raise BadNetworkSource(disk=disk, why=error.what_and_why()) from None


def _shown(source: etree._Element, kind: str) -> str:
    """The source for people, of whatever shape it is."""
    words = [source.get(name, "") for name in NAMING[kind]]
    return {"network": ":", "volume": "/"}.get(kind, " ").join(words)
