# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook names`: which leases a guest's start asks for, and why."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Optional

import click

from ..config import settings
from ..domain import Guest, parse_guest
from ..errors import DomainError, VlhookError
from ..keeper.gates import UNSUPPORTED_POLICIES
from ..leases.names import LOCKSPACE_NAME, lease_path
from ..volumes import pools_in
from .config import config_dir_option

_RULES = ("auto_disk_leases", "require_lease_for_disks", "nvram_leases", "tpm_leases")


@click.command()
@click.argument("domain", type=click.File("rb"))
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape.")
@click.option("--lease-dir", help="The lease directory.  [default: disk_lease_dir of qemu-sanlock.conf]")
@config_dir_option
@click.option(
    "--storage-run-dir",
    type=click.Path(path_type=Path),
    default=Path("/run/libvirt/storage"),
    show_default=True,
    help="Where libvirt keeps the state of active storage pools; names disks of type volume.",
)
@click.pass_context
def names_command(
    ctx: click.Context,
    domain: BinaryIO,
    as_json: bool,
    lease_dir: Optional[str],
    config_dir: Path,
    storage_run_dir: Path,
) -> None:
    """Show which leases the guest in DOMAIN.xml needs, and why other disks get none.

    DOMAIN is a file, or '-' for standard input, as in 'virsh dumpxml web1 | vlhook names -'.
    A lease is named by the MD5 of the disk's source path, byte for byte as in the XML, so two
    spellings of one path are two leases; when it starts, each disk whose identity is certain has a
    second lease on that, which depends on the host and is not shown here. This host's settings say
    what gets a lease. Nothing is read but these, the XML and the state of storage pools, and nothing
    is taken. Exit status: 0 the start would ask for these leases, 1 it would be refused for the
    reason given, 2 the file cannot be read.
    """

    found = settings.examine(config_dir)[0]
    lease_dir = lease_dir or found.disk_lease_dir
    rules = {name: getattr(found, name) for name in _RULES}
    try:
        guest = parse_guest(domain.read(), pools=pools_in(str(storage_run_dir)), **rules)
        _check_refused(guest)
    except VlhookError as error:
        if as_json:
            click.echo(json.dumps({"schema": 1, "refused": str(error), "code": error.code}, indent=1))
        else:
            click.echo(f"vlhook: the start would be refused: {error}", err=True)
        ctx.exit(1)
    if as_json:
        click.echo(json.dumps({"schema": 1, **_with_files(guest, lease_dir)}, indent=1))
    else:
        _show(guest, lease_dir)
    sys.stdout.flush()


def _check_refused(guest: Guest) -> None:
    """What the keeper refuses beyond what the XML itself forbids. Raises DomainError."""
    if guest.on_lockfailure in UNSUPPORTED_POLICIES:
        why = f"<on_lockfailure>{guest.on_lockfailure}</on_lockfailure> would let it run on without its leases"
        raise DomainError(why=f"{why}; use poweroff or pause")
    for lease in guest.leases:
        if lease.lockspace != LOCKSPACE_NAME:
            why = f"lease {lease.name} is of lockspace {lease.lockspace}, and this host has {LOCKSPACE_NAME}"
            raise DomainError(why=why)


def _with_files(guest: Guest, lease_dir: str) -> dict[str, object]:
    data = asdict(guest)
    for lease in data["leases"]:
        lease["file"] = lease["path"] or lease_path(lease_dir, lease["name"])
    return data


def _show(guest: Guest, lease_dir: str) -> None:
    click.echo(f"guest {guest.name} ({guest.uuid}): {len(guest.leases)} leases")
    for lease in guest.leases:
        mode = "shared" if lease.shared else "exclusive"
        path = lease.path or lease_path(lease_dir, lease.name)
        place = f"{path}, byte {lease.offset}" if lease.offset else path
        click.echo(f"  {','.join(lease.targets):<8} {mode:<9}  {lease.source}\n{'':21}{place}")
    for disk in guest.skipped:
        click.echo(f"  {disk.target:<8} none       {disk.source or '-'}: {disk.reason}")
