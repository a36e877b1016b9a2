# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: `vlhook COMMAND`. Each family of commands is a module of its own.

Exit status: 0 all is well, 1 something is wrong or was refused, 2 the command
could not do its work (bad usage, no keeper, unreadable file).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, Optional

import click

import vlhook

from ..errors import VlhookError
from ..leases.errors import LeaseError

COMMANDS = {
    "adopt": ("adopt", "adopt_command"),
    "attach-disk": ("disks", "attach_disk_command"),
    "calibrate": ("calibrate", "calibrate_command"),
    "check-migrate": ("check", "check_migrate_command"),
    "check-start": ("check", "check_start_command"),
    "cleanup": ("cleanup", "cleanup_command"),
    "config": ("config", "config_group"),
    "demo": ("demo", "demo_command"),
    "detach-disk": ("disks", "detach_disk_command"),
    "doctor": ("doctor", "doctor_command"),
    "drill": ("drill", "drill_command"),
    "dump": ("dump", "dump_command"),
    "explain": ("explain", "explain_command"),
    "fence-ack": ("fenceack", "fence_ack_command"),
    "host-id": ("hostid", "host_id_command"),
    "hosts": ("hosts", "hosts_command"),
    "leases": ("leases", "leases_command"),
    "metrics": ("metrics", "metrics_command"),
    "names": ("names", "names_command"),
    "recover": ("recover", "recover_command"),
    "replay": ("replay", "replay_command"),
    "run": ("run", "run_command"),
    "setup": ("setup", "setup_command"),
    "simulate": ("simulate", "simulate_command"),
    "size": ("size", "size_command"),
    "status": ("status", "status_command"),
    "who": ("leases", "who_command"),
}


class Commands(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f".{module}", __name__), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (VlhookError, LeaseError) as error:
            from .common import folded, screen_width

            code = vars(error).get("keeper_code") or error.code
            for line in folded([f"vlhook: {error} [{code}]"], screen_width(sys.stderr)):
                click.echo(line, err=True)
            ctx.exit(2)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(vlhook.__version__, prog_name="vlhook")
def cli() -> None:
    """One disk image, one running guest: leases for libvirt's disks on shared storage.

    vlhookd takes a lease for each disk when a guest starts, on any host of the
    network, and gives it back when the guest is gone. These commands show what
    is held, by whom and why, and set things up. Start with 'vlhook demo'.
    """


def main() -> None:
    words = sys.argv[1:]
    if os.path.basename(sys.argv[0]) == "virt-sanlock-cleanup":
        words.insert(0, "cleanup")
    try:
        cli.main(words, prog_name="vlhook")
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
