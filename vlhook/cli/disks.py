# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook attach-disk` and `vlhook detach-disk`: as virsh does it, with the lease first and last."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from lxml import etree

from ..errors import VlhookError
from ..keeper.client import call
from ..safexml import parse
from ..watch.guests import SECONDS, disk_element, within
from .common import run_dir_option

DETACH_SECONDS = 30.0
uri_option = click.option("--uri", default="qemu:///system", show_default=True, help="The libvirtd of this host.")


class LibvirtRefuses(VlhookError):
    msg = "guest {guest}: {what}: {why}"
    hint = "see 'virsh dominfo {guest}'"
    code = "VLH-C121"


class LeaseRefused(VlhookError):
    msg = "guest {guest}: the disk is not attached: {why}"
    hint = "nothing was changed"
    code = "VLH-C122"


class NotADisk(VlhookError):
    msg = "{file}: {why}"
    hint = "it must hold one <disk> element, as 'virsh attach-device' takes it"
    code = "VLH-C123"


class StillAttached(VlhookError):
    msg = "guest {guest} has not let go of disk {target} within {seconds:.0f} s; its lease is kept"
    hint = "vlhook-watch gives the lease back when the guest does; or shut the guest down"
    code = "VLH-C124"


@click.command()
@click.argument("guest")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--config", is_flag=True, help="Add it to the guest's definition, too.")
@uri_option
@run_dir_option
def attach_disk_command(guest: str, file: Path, config: bool, uri: str, run_dir: Path) -> None:
    """Attach a disk to a running guest, with its lease taken first.

    FILE holds the <disk> element, as for 'virsh attach-device'. If another
    guest holds the lease, on this or another host, nothing is attached and the
    holder is named. 'virsh attach-device' does it the other way round: the
    lease is taken just after, and if it is refused the disk is taken away again.
    Exit status: 0 attached, 2 refused.

    \b
    Example:
      vlhook attach-disk web data.xml
    """
    disk = _disk(file)
    domain = _running(uri, guest)
    xml = _with_disk(domain.XMLDesc(0), disk)
    answer = call(run_dir, "attach", SECONDS, xml=xml)
    if answer["state"] != "protected":
        why = answer["refused"][0]["why"] if answer["refused"] else f"the guest is {answer['state']}"
        raise LeaseRefused(guest=guest, why=why)
    import libvirt

    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if config else 0)
    try:
        domain.attachDeviceFlags(disk, flags)
    except libvirt.libvirtError as error:
        raise LibvirtRefuses(guest=guest, what="the disk is not attached", why=error) from None
    finally:
        call(run_dir, "follow", SECONDS, asked=time.monotonic(), xml=domain.XMLDesc(0), settled=True)
    click.echo(f"attached to {guest}: {', '.join(answer['taken']) or 'a disk that needs no lease'}")


@click.command()
@click.argument("guest")
@click.argument("target")
@click.option("--config", is_flag=True, help="Remove it from the guest's definition, too.")
@uri_option
@run_dir_option
def detach_disk_command(guest: str, target: str, config: bool, uri: str, run_dir: Path) -> None:
    """Detach a disk from a running guest and give its lease back.

    TARGET is the disk's name in the guest's XML, such as vdb. The lease is kept
    until the guest has let go of the disk and all of it is on the storage.
    Exit status: 0 detached, 2 not (yet).
    """
    domain = _running(uri, guest)
    disk = disk_element(domain.XMLDesc(0), target)
    if disk is None:
        raise LibvirtRefuses(guest=guest, what=f"it has no disk {target}", why="see 'virsh domblklist'")
    import libvirt

    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | (libvirt.VIR_DOMAIN_AFFECT_CONFIG if config else 0)
    try:
        domain.detachDeviceFlags(disk, flags)
    except libvirt.libvirtError as error:
        raise LibvirtRefuses(guest=guest, what=f"disk {target} is not detached", why=error) from None
    if not within(DETACH_SECONDS, lambda: disk_element(domain.XMLDesc(0), target) is None):
        raise StillAttached(guest=guest, target=target, seconds=DETACH_SECONDS)
    answer = call(run_dir, "follow", SECONDS, asked=time.monotonic(), xml=domain.XMLDesc(0), settled=True)
    click.echo(f"detached from {guest}: {target}; given back: {', '.join(answer['released']) or 'no lease'}")


def _running(uri: str, guest: str) -> Any:
    """The guest by name or UUID. Raises LibvirtRefuses."""
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.open(uri)
        try:
            domain = connection.lookupByName(guest)
        except libvirt.libvirtError:
            domain = connection.lookupByUUIDString(guest)
        if not domain.isActive():
            raise LibvirtRefuses(guest=guest, what="it does not run", why="change its definition with 'virsh edit'")
    except libvirt.libvirtError as error:
        raise LibvirtRefuses(guest=guest, what="libvirt does not give it out", why=error) from None
    return domain


def _disk(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NotADisk(file=file, why=error.strerror) from None
    root = parse(data, str(file))
    if root.tag != "disk":
        raise NotADisk(file=file, why=f"it begins with <{root.tag}>")
    return etree.tostring(root, encoding="unicode")


def _with_disk(xml: str, disk: str) -> str:
    root = parse(xml.encode(), "the guest's XML")
    devices = root.find("devices")
    if devices is None:
        raise NotADisk(file="the guest's XML", why="it has no <devices>")
    devices.append(etree.fromstring(disk))
    return etree.tostring(root, encoding="unicode")
