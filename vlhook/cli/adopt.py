# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook adopt`: leases for a guest that runs without them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from ..errors import VlhookError
from ..keeper.client import KeeperSays, call
from .common import run_dir_option

URI = "qemu:///system"
SECONDS = 150.0
"""More than the keeper gives itself: hook_deadline is at most 120."""


class LibvirtSays(VlhookError):
    msg = "libvirt ({uri}): {why}"
    hint = "see 'virsh -c {uri} list'; nothing was changed"
    code = "VLH-C191"


class NotRunning(VlhookError):
    msg = "guest {guest} does not run"
    hint = "nothing was changed; it gets its leases when it is started"
    code = "VLH-C192"


class Migrating(VlhookError):
    msg = "guest {guest} is migrating"
    hint = "nothing was changed; try again when the migration is over, on the host where it runs then"
    code = "VLH-C193"


class Domain:
    """A running guest, as libvirt tells of it. Every method raises LibvirtSays."""

    def __init__(self, uri: str, name: str) -> None:
        import libvirt

        libvirt.registerErrorHandler(lambda *_: None, None)
        self._libvirt = libvirt
        self._uri = uri
        with self._errors():
            self._domain = self._find(libvirt.open(uri), name)
            self.name: str = self._domain.name()

    def _find(self, connection: Any, name: str) -> Any:
        try:
            return connection.lookupByName(name)
        except self._libvirt.libvirtError:
            try:
                return connection.lookupByUUIDString(name)
            except self._libvirt.libvirtError:
                pass
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._libvirt.libvirtError as error:
            raise LibvirtSays(uri=self._uri, why=error.get_error_message() or str(error)) from error

    def live_xml(self) -> str:
        """The XML of the guest as it runs. Raises NotRunning, Migrating."""
        with self._errors():
            if not self._domain.isActive():
                raise NotRunning(guest=self.name)
            if self._migrates():
                raise Migrating(guest=self.name)
            return str(self._domain.XMLDesc(0))

    def _migrates(self) -> bool:
        libvirt = self._libvirt
        moves = (libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
        if self._domain.jobStats().get("operation") in moves:
            return True
        reasons = (
            (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION),
            (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY),
            (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
            (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY),
        )
        return tuple(self._domain.state()) in reasons


@click.command()
@click.argument("guest")
@click.option("--connect", "uri", default=URI, show_default=True, help="The libvirt that runs the guest.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape.")
@run_dir_option
@click.pass_context
def adopt_command(ctx: click.Context, guest: str, uri: str, as_json: bool, run_dir: Path) -> None:
    """Take the leases of GUEST, a name or UUID, while it runs without them.

    For guests that were started before vlhook was installed, or that libvirt's
    sanlock plugin protects no longer ('vlhook status' names them). All of its
    leases are taken or none: if another guest has one of its disks, here or on
    another host, the adoption is refused, the guest runs on as it is, and an
    alarm is raised, because then the disk may be written twice already. An adopted
    guest is as any other from then on: if this host loses its leases, it is ended.

    Exit status: 0 its leases are held, 1 they could not be had, 2 the command
    could not do its work.
    """
    domain = Domain(uri, guest)
    try:
        answer = call(run_dir, "adopt", SECONDS, guest=domain.name, xml=domain.live_xml())
        if answer["key"]:
            _confirm(run_dir, domain, answer["key"])
    except KeeperSays as error:
        if as_json:
            report = {"schema": 1, "guest": domain.name, "adopted": False, "why": str(error)}
            click.echo(json.dumps({**report, "code": error.__dict__["keeper_code"]}, indent=1))
        else:
            click.echo(f"vlhook: {error}", err=True)
        ctx.exit(1)
    if as_json:
        by = answer["by"] or ("vlhook" if answer["key"] else None)
        report = {"schema": 1, "guest": domain.name, "adopted": bool(answer["key"]), "protector": by}
        click.echo(json.dumps({**report, "leases": answer["leases"]}, indent=1))
    else:
        _say(domain.name, answer)


def _confirm(run_dir: Path, domain: Domain, key: str) -> None:
    try:
        xml = domain.live_xml()
    except VlhookError:
        with suppress(KeeperSays):
            call(run_dir, "adopted", SECONDS, key=key, xml="")  # refused, and the leases are given back
        raise
    call(run_dir, "adopted", SECONDS, key=key, xml=xml)


def _say(guest: str, answer: dict[str, Any]) -> None:
    if not answer["key"]:
        by = answer["by"]
        click.echo(f"guest {guest}: {by} protects it already" if by else f"guest {guest} needs no leases")
        return
    click.echo(f"guest {guest} is protected now, by {len(answer['leases'])} leases:")
    for lease in answer["leases"]:
        kind = "" if lease["kind"] == "disk" else f"  ({lease['kind']})"
        click.echo(f"    {lease['disk'] or lease['file']}  {lease['lease']}{kind}")
