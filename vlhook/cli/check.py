# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook check-start` and `vlhook check-migrate`: would it work here now, and if not, why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Optional

import click

from ..errors import VlhookError
from ..keeper.client import call
from .checks.check import FAIL, Host
from .checks.libvirt import hook
from .common import json_option, run_dir_option
from .config import config_dir_option

SCHEMA = 1
SECONDS = 30.0
URI = "qemu:///system"
uri_option = click.option("--uri", default=URI, show_default=True, help="The libvirtd of this host.")
xml_option = click.option(
    "--xml", "file", type=click.File("rb"), help="The guest's XML, '-' for standard input, instead of asking libvirt."
)


class LibvirtTells(VlhookError):
    msg = "libvirt ({uri}) does not tell of guest {guest}: {why}"
    hint = "see 'virsh list --all', or give the guest's XML with --xml"
    code = "VLH-C125"


class OtherGuest(VlhookError):
    msg = "the XML is that of guest {found}, not of {guest}"
    hint = "give the XML of that guest"
    code = "VLH-C126"


class XmlNeeded(VlhookError):
    msg = "host {host} is this host, and libvirt does not know here what guest {guest} looks like where it runs"
    hint = "virsh -c qemu+ssh://SOURCE/system dumpxml {guest} | vlhook check-migrate {guest} {host} --xml -"
    code = "VLH-C127"


@click.command()
@click.argument("guest")
@xml_option
@uri_option
@json_option
@config_dir_option
@run_dir_option
@click.pass_context
def check_start_command(
    ctx: click.Context, guest: str, file: Optional[BinaryIO], uri: str, as_json: bool, config_dir: Path, run_dir: Path
) -> None:
    """Say whether GUEST, a name or UUID, would start on this host now, and if not, why.

    Asks what a start asks: whether this host may take leases, and whether each
    disk of the guest is free, by name and, where that is certain, under other
    names. Reads only: no lease is taken, no file is made, and another host that
    looks sees nothing of it. A moment later the answer may be another. libvirt's own
    reasons (memory, networks, missing images) are not looked at.

    Exit status: 0 it would, 1 it would not, 2 it cannot be told.

    \b
    Examples:
      vlhook check-start web1
      vlhook check-start --json --xml web1.xml web1
    """
    xml = _read(file) if file else _defined(uri, guest)
    report = call(run_dir, "check", SECONDS, xml=xml)
    _check_name(report, guest)
    report["why"] += _hook(config_dir)
    _show(ctx, report, as_json, guest, "would start here now", "would not start here now")


@click.command()
@click.argument("guest")
@click.argument("host")
@xml_option
@uri_option
@json_option
@config_dir_option
@run_dir_option
@click.pass_context
def check_migrate_command(
    ctx: click.Context,
    guest: str,
    host: str,
    file: Optional[BinaryIO],
    uri: str,
    as_json: bool,
    config_dir: Path,
    run_dir: Path,
) -> None:
    """Say whether GUEST may migrate live to HOST now, and if not, why.

    HOST is the destination: its host id or its name, as in 'vlhook hosts'. Each
    side knows its own part. On the host where the guest runs: whether it holds its
    leases and is not on its way already, and whether HOST lives. On HOST itself,
    with the XML of the running guest: whether the leases could be claimed there,
    that is, whether they are held for this very guest. Reads only, as
    'vlhook check-start'.

    Exit status: 0 as far as this host can tell it may, 1 it may not, 2 it
    cannot be told.

    \b
    Examples:
      vlhook check-migrate web1 h2
      virsh -c qemu+ssh://h1/system dumpxml web1 | vlhook check-migrate web1 h2 --xml -
    """
    told = call(run_dir, "status")
    names = {str(told["host_id"]), told["host_name"], told["host_name"].partition(".")[2]}
    if host in names:
        if file is None:
            raise XmlNeeded(guest=guest, host=host)
        report = call(run_dir, "check", SECONDS, xml=_read(file), incoming=True)
        _check_name(report, guest)
        report["why"] += _hook(config_dir)
        _show(ctx, report, as_json, guest, "may migrate to this host now", "would not be taken in here now")
        return
    name, uuid = _running(uri, guest)
    report = call(run_dir, "check-leave", SECONDS, uuid=uuid, guest=name, to=host)
    good = f"may migrate to host {host}, as far as this host can tell"
    _show(ctx, report, as_json, guest, good, f"may not migrate to host {host} now")


def _hook(config_dir: Path) -> list[str]:
    """A hook that libvirt would pass over: the guest would run without any lease."""
    found = hook(Host(config_dir=config_dir))
    return [f"{finding.what}; {finding.mend}" for finding in found if finding.verdict == FAIL]


def _read(file: BinaryIO) -> str:
    return file.read().decode("utf-8", "surrogateescape")


def _check_name(report: dict[str, Any], guest: str) -> None:
    found = (report["guest"], report["uuid"])
    if any(found) and guest not in found:
        raise OtherGuest(found=report["guest"], guest=guest)


@contextmanager
def _domain(uri: str, guest: str) -> Iterator[Any]:
    """The guest by its name or UUID. Raises LibvirtTells, also for what is asked of the guest."""
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        yield _look_up(libvirt.openReadOnly(uri), guest)
    except libvirt.libvirtError as error:
        raise LibvirtTells(uri=uri, guest=guest, why=error.get_error_message() or error) from None


def _look_up(connection: Any, guest: str) -> Any:
    """Raises libvirt.libvirtError: what libvirt says of the name."""
    import libvirt

    try:
        return connection.lookupByName(guest)
    except libvirt.libvirtError:
        try:
            return connection.lookupByUUIDString(guest)
        except libvirt.libvirtError:
            pass
        raise


def _defined(uri: str, guest: str) -> str:
    """The XML with which it would be started; of a transient guest that runs, the one it has."""
    import libvirt

    with _domain(uri, guest) as domain:
        return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if domain.isPersistent() else 0))


def _running(uri: str, guest: str) -> tuple[str, str]:
    with _domain(uri, guest) as domain:
        return domain.name(), domain.UUIDString()


def _show(ctx: click.Context, report: dict[str, Any], as_json: bool, guest: str, yes: str, no: str) -> None:
    good = not report["why"]
    if as_json:
        click.echo(json.dumps({**report, "yes": good}, indent=1))
    else:
        for line in _lines(report, report["guest"] or guest, yes if good else no):
            click.echo(line)
    ctx.exit(0 if good else 1)


def _lines(report: dict[str, Any], guest: str, verdict: str) -> Iterator[str]:
    yield f"guest {guest} {verdict}{':' if report['why'] or report['leases'] else ''}"
    for why in report["why"]:
        yield f"    {why}"
    for lease in [] if report["why"] else report["leases"]:
        by = "  (by libvirt's sanlock plugin)" if lease["by"] == "sanlock" else ""
        kind = "" if lease["kind"] == "disk" else f"  ({lease['kind']})"
        yield f"    {lease['mode']:<9}  {lease['disk'] or lease['file']}{kind}{by}"
