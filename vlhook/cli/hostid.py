# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook host-id`: this host's number in the lease directory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from ..config import settings
from ..errors import VlhookError
from ..keeper.identity import FILE as IDENTITY_FILE
from ..keeper.identity import as_noted, this_machine
from ..leases import hostids
from ..leases.directory import Ownership
from ..leases.errors import LeaseError, one_line
from ..leases.hostids import HostIds, Machine
from ..mounts import missing_mount
from .config import config_dir_option, new_value, write

STATE_DIR = Path("/var/lib/vlhook")
state_dir_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=STATE_DIR,
    envvar="VLHOOK_STATE_DIR",
    show_default=True,
    help="Where vlhookd keeps this host's identity.",
)


class NoMachineIdentity(VlhookError):
    msg = "this machine cannot be told from its clones: it has neither a machine-id nor a DMI UUID"
    hint = "run systemd-machine-id-setup, then try again; or choose an id yourself: vlhook host-id set N"
    code = "VLH-C111"


class CannotChoose(VlhookError):
    msg = "no host id can be chosen: {why}"
    hint = (
        "see that the lease directory, disk_lease_dir in qemu-sanlock.conf, is mounted and writable; "
        "or choose an id yourself: vlhook host-id set N"
    )
    code = "VLH-C112"


@click.group(invoke_without_command=True)
@config_dir_option
@state_dir_option
@click.option("--auto", is_flag=True, help="Set a number that is no other host's.")
@click.pass_context
def host_id_command(ctx: click.Context, config_dir: Path, state_dir: Path, auto: bool) -> None:
    """Show or set this host's number in the lease directory.

    Every host that uses the directory needs a number of its own, from 1 to 2000.
    'vlhook host-id --auto' chooses it and notes in the lease directory for which
    machine it was chosen; any number of hosts may do so at once. The note also
    shows a clone, which brought its settings along, that the number is not its
    own.
    """
    ctx.obj = (config_dir, state_dir)
    if ctx.invoked_subcommand is None:
        if auto:
            choose(config_dir, state_dir)
        else:
            ctx.invoke(show)
    elif auto:
        raise click.UsageError("--auto goes without a command")


@host_id_command.command("show")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape.")
@click.pass_context
def show(ctx: click.Context, as_json: bool = False) -> None:
    """Show this host's number, and whether the lease directory says that it is another host's.

    Exit status: 0 it is set and nothing speaks against it, 1 otherwise.
    """
    config_dir, state_dir = ctx.obj
    found = settings.load(config_dir)
    trouble = "" if found.host_id else "host_id is not set: vlhook host-id --auto"
    unseen = ""
    if found.host_id:
        try:
            ids = hostids.look(found.disk_lease_dir)
            who = ids.taken_by_other(found.host_id, _machine(), _own_name(state_dir))
            trouble = f"it is another host's: {who}" if who else ""
        except (LeaseError, NoMachineIdentity) as error:
            unseen = one_line(error)
    if as_json:
        report = {
            "schema": 1, "host_id": found.host_id or None, "origin": str(found.origin("host_id")),
            "lease_directory": found.disk_lease_dir, "trouble": trouble or None, "not_checked": unseen or None,
        }  # fmt: skip
        click.echo(json.dumps(report, indent=1))
    else:
        if found.host_id:
            click.echo(f"{found.host_id}  ({found.origin('host_id')})")
        if trouble:
            click.echo(f"WRONG: {trouble}")
        if unseen:
            click.echo(f"not compared with the lease directory: {unseen}")
    ctx.exit(1 if trouble else 0)


@host_id_command.command("set")
@click.argument("number")
@click.option("--force", is_flag=True, help="Also if the lease directory says that it is another host's.")
@click.pass_obj
def set_(dirs: tuple[Path, Path], number: str, force: bool) -> None:
    """Set this host's number to NUMBER, if it is not another host's."""
    config_dir, state_dir = dirs
    assign(config_dir, new_value("host_id", number), force=force, state_dir=state_dir)


def assign(
    config_dir: Path, value: str, force: bool, state_dir: Path = STATE_DIR, consequences: bool = True
) -> None:
    """Note `value` in the lease directory and write it into qemu-sanlock.conf.

    A lease directory that is not there yet, or cannot be written, does not stop
    it: vlhookd finds out at the latest. Raises HostIdTaken, VlhookError.
    """
    host_id = int(value)
    directory = settings.examine(config_dir)[0].disk_lease_dir
    try:
        machine = _machine()
        ids = hostids.look(directory)
        who = ids.taken_by_other(host_id, machine, _own_name(state_dir))
        if who and (not force or host_id > ids.last):
            raise hostids.HostIdTaken(where=directory, host_id=host_id, who=who)
        fresh = hostids.bind(directory, host_id, machine, Ownership(), force)
    except hostids.HostIdTaken:
        raise
    except (LeaseError, NoMachineIdentity) as error:
        click.echo(f"not compared with the lease directory: {one_line(error)}", err=True)
        write(config_dir, "host_id", value, consequences)
        return
    _write_or_unbind(config_dir, ids, host_id, machine, fresh, consequences)


def choose(config_dir: Path, state_dir: Path, consequences: bool = True) -> None:
    """Pick an id, note it, set it; what is set already stays if it is no other host's.

    Raises CannotChoose, NoFreeHostId, VlhookError.
    """
    found = settings.examine(config_dir)[0]
    directory = found.disk_lease_dir
    missing = missing_mount(directory)
    if missing:
        raise CannotChoose(why=f"/etc/fstab names {missing.source} for {missing.point}, which is not mounted")
    machine = _machine()
    while True:
        try:
            ids = hostids.look(directory)
            host_id = ids.choose(machine, _own_name(state_dir), found.host_id)
            fresh = hostids.bind(directory, host_id, machine, Ownership())
            break
        except hostids.HostIdTaken:
            continue  # another host was quicker, and has left its note
        except hostids.NoFreeHostId:
            raise
        except LeaseError as error:
            raise CannotChoose(why=error.reason()) from error
    _write_or_unbind(config_dir, ids, host_id, machine, fresh, consequences)


def _write_or_unbind(
    config_dir: Path, ids: HostIds, host_id: int, machine: Machine, fresh: bool, consequences: bool
) -> None:
    try:
        write(config_dir, "host_id", str(host_id), consequences)
    except BaseException:
        if fresh:
            hostids.unbind(ids.directory, host_id, machine)
        raise
    for other in ids.notes:
        if other != host_id:
            hostids.unbind(ids.directory, other, machine)


def _machine() -> Machine:
    machine = as_noted(this_machine())
    if machine is None:
        raise NoMachineIdentity()
    return machine


def _own_name(state_dir: Path) -> str:
    """The name under which vlhookd joins on this host; "" before its first start, and on a clone."""
    try:
        stored = json.loads((state_dir / IDENTITY_FILE).read_text("utf-8"))
        return str(stored["name"]) if stored["machine"] == asdict(this_machine()) else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""
