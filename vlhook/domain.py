# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML → the guest: which disks and <lease>s need a lease, in which mode, and why not.

The names are libvirt's sanlock plugin's wherever that covers a disk: the MD5
of the source path, byte for byte as in the XML (format document, 12). Network
disks are named by a canonical URL (docs/lease-names.md). Every <disk> is
accounted for, with a lease or with the reason why it gets none; a kind or a
source that is not known here refuses the start (safety rules, 4).

Runs in the keeper's reader, on XML that may be hostile: whatever it holds, the
outcome is a Guest or a DomainError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Optional

from lxml import etree

from . import extras, metadata, safexml
from .chains import Chain, chain_of
from .disks import BadDisk, Image, Skipped, read_disk, read_mirror
from .errors import DomainError
from .leases.names import LOCKSPACE_NAME, lease_name
from .safexml import BadXml
from .volumes import NamedPools, Pools

__all__ = [
    "BadDisk",
    "BadGuest",
    "BadLease",
    "BadXml",
    "DomainError",
    "Guest",
    "LeaseNeed",
    "LeaseRequired",
    "NamedPools",
    "Skipped",
    "parse_guest",
]

EXTRAS = ("nvram", "tpm")
POLICIES = ("poweroff", "restart", "pause", "ignore")
MAX_NAME = 48  # bytes of a name on disk (format document, 3.1)
MAX_OFFSET = (1 << 63) - 1

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SOURCE = re.compile(rb"<source\b[^<]*")
_QUOTED = re.compile(rb"""'[^']*'|"[^"]*\"""")


class BadGuest(DomainError):
    """The guest as a whole. Field: `why`."""

    hint = "see the guest's XML with 'virsh dumpxml'"
    code = "VLH-D102"


class BadLease(DomainError):
    """A <lease> element. Fields: `number` (from 1), `why`."""

    msg = "<lease> number {number}: {why}"
    hint = "it needs <lockspace>, <key> and <target path='/…' offset='BYTES'/>; correct the guest's XML"
    code = "VLH-D106"


class LeaseRequired(DomainError):
    """Field: `disk`."""

    msg = "disk {disk} is writable and the guest has no <lease>, which require_lease_for_disks demands"
    hint = "add a <lease> to the guest, or set auto_disk_leases = 1 in qemu-sanlock.conf"
    code = "VLH-D107"


@dataclass(frozen=True)
class LeaseNeed:
    """A lease the guest needs.

    `path`: the lease file that a <lease> names; None: the file `name` in the lease
    directory. `offset` in bytes. `source`: what is protected, for people.
    `targets`: the disks on it (vda, …). `kind`: 'disk', 'lease', 'nvram' or 'tpm'.
    """

    name: str
    lockspace: str
    path: Optional[str]
    offset: int
    shared: bool
    source: str
    targets: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Guest:
    """What libvirt wants to run.

    `uuid` in lower case; `domain_id` None if the XML has none; `on_lockfailure` as in
    the XML. `writable_paths`: the files, devices and directories of this host (UTF-8)
    that QEMU writes, whose dirty pages must be on disk before a lease is given up.
    `volumes`: those that are volumes, so that the XML does not name them.
    `chain`: the paths below the top images of a running guest, which it may write again;
    `chains`: what the XML says of them. `token`: that of an incoming migration (metadata.py).
    """

    name: str
    uuid: str
    domain_id: Optional[int]
    on_lockfailure: Optional[str]
    leases: tuple[LeaseNeed, ...]
    skipped: tuple[Skipped, ...]
    writable_paths: tuple[str, ...]
    chain: tuple[str, ...] = ()
    chains: tuple[Chain, ...] = ()
    token: Optional[str] = None
    volumes: tuple[str, ...] = ()


def no_pools(_name: str) -> Optional[bytes]:
    """No pool is active."""
    return None


def parse_guest(
    xml: bytes,
    *,
    auto_disk_leases: bool = True,
    require_lease_for_disks: bool = False,
    pools: Pools = no_pools,
    identity_only: bool = False,
    nvram_leases: bool = False,
    tpm_leases: bool = False,
) -> Guest:
    """The guest that `xml` describes. Raises DomainError, and nothing else.

    `auto_disk_leases` and `require_lease_for_disks` as in qemu-sanlock.conf; the
    latter counts only without the former. `pools`: the state of active storage
    pools. `nvram_leases`, `tpm_leases`: leases for these too (`extras.py`).
    `identity_only`: name, UUID and id only, and nothing else is an error: for
    events after which nothing is taken.
    """
    root = safexml.parse(xml, "the domain XML")
    if root.tag != "domain":
        raise BadGuest(why=f"it begins with <{root.tag}>, not with <domain>")
    guest = Guest(_name(root), _uuid(root), _domain_id(root), None, (), (), ())
    if identity_only:
        return guest
    _check_namespaces(root)
    devices = root.findall("devices")
    if len(devices) != 1:
        raise BadGuest(why=f"it has {len(devices)} <devices> elements, not one")
    explicit = [_lease(element, n) for n, element in enumerate(devices[0].findall("lease"), 1)]
    images, skipped = _disks(devices[0], pools, strict=auto_disk_leases)
    _check_spelling(xml, images)
    if auto_disk_leases:
        needs = [_disk_lease(image) for image in images]
    else:
        needs = []
        _check_required(images, explicit, require_lease_for_disks)
        skipped += [image.skipped("auto_disk_leases is off: only <lease> elements count") for image in images]
    if nvram_leases:
        path, why_not = extras.nvram(root)
        needs += [_extra_lease(path, "nvram")] if path else []
        skipped += [why_not] if why_not else []
    if tpm_leases:
        path = extras.tpm_state(root, guest.uuid)
        needs += [_extra_lease(path, "tpm")] if path else []
    leases = _merged(needs + explicit)
    written = [i.path for i in images if i.path] + [n.source for n in needs if n.kind in EXTRAS]
    return replace(
        guest,
        on_lockfailure=_policy(root),
        leases=leases,
        skipped=tuple(skipped),
        writable_paths=tuple(dict.fromkeys(written)) if leases else (),
        chain=_chain(devices[0]),
        chains=tuple(c for c in map(chain_of, devices[0].findall("disk")) if c),
        token=metadata.token_of(root),
        volumes=tuple(i.path for i in images if i.type == "volume" and i.path) if auto_disk_leases else (),
    )


# --------------------------------------------------------------- the guest


def _only_text(root: etree._Element, tag: str) -> str:
    found = root.findall(tag)
    if len(found) != 1 or len(found[0]) or not found[0].text:
        raise BadGuest(why=f"it does not have one <{tag}>")
    return found[0].text


def _name(root: etree._Element) -> str:
    name = _only_text(root, "name")
    if "/" in name or "\n" in name:
        raise BadGuest(why=f"its name '{name}' cannot be a guest's")
    return name


def _uuid(root: etree._Element) -> str:
    text = _only_text(root, "uuid").strip()
    if not _UUID.fullmatch(text):
        raise BadGuest(why=f"'{text}' is no UUID")
    return text.lower()


def _domain_id(root: etree._Element) -> Optional[int]:
    text = root.get("id")
    if text is None or text == "-1":
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise BadGuest(why=f"its id '{text}' is no number")
    return int(text)


def _policy(root: etree._Element) -> Optional[str]:
    if root.find("on_lockfailure") is None:
        return None
    text = _only_text(root, "on_lockfailure")
    if text not in POLICIES:
        raise BadGuest(why=f"<on_lockfailure> is '{text}', not one of {', '.join(POLICIES)}")
    return text


def _check_namespaces(root: etree._Element) -> None:
    """libvirt's own elements have no namespace: one that has is not what it looks like.

    Extensions such as <qemu:commandline> stand beside them with a prefix, and
    <metadata> holds what it likes.
    """
    for part in root:
        if part.tag.startswith("{") and part.prefix:
            continue
        inside = [part] if part.tag == "metadata" else part.iter()
        for element in inside:
            if element.tag.startswith("{"):
                name = etree.QName(element)
                raise BadGuest(why=f"element <{name.localname}> is in the namespace '{name.namespace}'")


def _check_spelling(xml: bytes, images: list[Image]) -> None:
    """libvirt writes a tab or line break in an attribute as it is, and every XML parser then reads a blank.

    Such a path is another one than the file's: another lease than the plugin's, another file to sync.
    """
    if not any(" " in image.source for image in images):
        return
    for source in _SOURCE.finditer(xml):
        for value in _QUOTED.findall(source.group()):
            if any(blank in value for blank in (b"\t", b"\r", b"\n")):
                raise BadGuest(why="the source of a disk has a tab or a line break; rename it")


# --------------------------------------------------------------- its disks


def _disks(devices: etree._Element, pools: Pools, *, strict: bool) -> tuple[list[Image], list[Skipped]]:
    """Every disk, once. `strict`: an undecided disk is an error, else only its path is not known."""
    own: list[Image] = []
    copies: list[Image] = []
    skipped: list[Skipped] = []
    elements = devices.findall("disk")
    for number, element in enumerate(elements, 1):
        try:
            found = read_disk(element, number, pools)
        except BadDisk as error:
            if strict or type(error) is BadDisk:
                raise
            found = _undecided(element, error)
        if isinstance(found, Image):
            own.append(found)
        else:
            skipped.append(found)
        copies += read_mirror(element, number, pools)
    images = own + copies
    if len(own) + len(skipped) != len(elements):
        raise BadGuest(why="not every <disk> is accounted for")
    return images, skipped


def _chain(devices: etree._Element) -> tuple[str, ...]:
    found = devices.findall("disk//backingStore/source")
    paths = (source.get(name) for source in found for name in ("file", "dev", "dir"))
    return tuple(dict.fromkeys(path for path in paths if path))


def _undecided(element: etree._Element, error: BadDisk) -> Image:
    """A disk that would get no lease anyway, on a volume or server that cannot be told."""
    target = element.find("target")
    return Image(
        target=target.get("dev", "") if target is not None else "",
        type=element.get("type", ""),
        device=element.get("device", "disk"),
        source=f"unknown: {error.what_and_why()}",
        path=None,
        shared=element.find("shareable") is not None,
    )


def _disk_lease(image: Image) -> LeaseNeed:
    return LeaseNeed(
        name=lease_name(image.source.encode()),
        lockspace=LOCKSPACE_NAME,
        path=None,
        offset=0,
        shared=image.shared,
        source=image.source,
        targets=(image.target,),
        kind="disk",
    )


def _extra_lease(path: str, kind: str) -> LeaseNeed:
    return LeaseNeed(lease_name(path.encode()), LOCKSPACE_NAME, None, 0, False, path, (kind,), kind)


def _check_required(images: list[Image], explicit: list[LeaseNeed], required: bool) -> None:
    for image in images:
        if required and not explicit and not image.shared:
            raise LeaseRequired(disk=image.target)


# -------------------------------------------------------------- its leases


def _lease(element: etree._Element, number: int) -> LeaseNeed:
    lockspace = _lease_text(element, "lockspace", number)
    key = _lease_text(element, "key", number)
    targets = element.findall("target")
    if len(targets) != 1:
        raise BadLease(number=number, why="it does not have one <target>")
    path, offset = targets[0].get("path", ""), targets[0].get("offset", "0")
    if not path.startswith("/"):
        raise BadLease(number=number, why=f"its path '{path}' is not absolute")
    if not re.fullmatch(r"[0-9]{1,19}", offset) or int(offset) > MAX_OFFSET:
        raise BadLease(number=number, why=f"its offset '{offset}' is not a number of bytes")
    return LeaseNeed(key, lockspace, path, int(offset), False, f"<lease> {lockspace}:{key}", (), "lease")


def _lease_text(element: etree._Element, tag: str, number: int) -> str:
    found = element.findall(tag)
    text = found[0].text or "" if len(found) == 1 and not len(found[0]) else ""
    if not text.strip():
        raise BadLease(number=number, why=f"it does not have one <{tag}>")
    if len(text.encode()) > MAX_NAME:
        raise BadLease(number=number, why=f"its {tag} '{text}' is longer than {MAX_NAME} bytes")
    return text


def _merged(needs: list[LeaseNeed]) -> tuple[LeaseNeed, ...]:
    """The same disk twice in one guest is one lease; exclusive wins over shared.

    One lease cannot be in two files: the second would be left out, or taken in the first one's mode.
    """
    merged: dict[tuple[str, str], LeaseNeed] = {}
    for need in needs:
        key = (need.lockspace, need.name)
        known = merged.get(key, need)
        if (known.path, known.offset) != (need.path, need.offset):
            by = f"disk {known.targets[0]}" if known.targets else "another <lease>"
            raise BadGuest(why=f"{need.source} is the lease of {by} as well, which names another file")
        targets = tuple(dict.fromkeys(known.targets + need.targets))
        merged[key] = replace(known, shared=known.shared and need.shared, targets=targets)
    return tuple(merged.values())
