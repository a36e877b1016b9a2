# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook fence-ack`: an administrator says that a host is off."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..keeper.client import call
from .common import run_dir_option

MARGIN_SECONDS = 60


class NoSuchHost(VlhookError):
    msg = "host id {host_id} is not in use, as far as this host has seen"
    hint = "there is nothing to free; see 'vlhook dump' on the lockspace file"
    code = "VLH-C401"


@click.command()
@click.argument("host_id", type=click.IntRange(1, 2000))
@click.option("--name", help="The host's name, instead of the question for it.")
@click.option("--how", help="How it was fenced, instead of the question for it.")
@run_dir_option
def fence_ack_command(host_id: int, name: Optional[str], how: Optional[str], run_dir: Path) -> None:
    """Free the disks of a dead host early: you vouch that HOST_ID cannot write.

    A host that fell silent may still write for 8 io_timeouts and 60 seconds:
    140 seconds by default. Nobody takes its disks before. If you know that it
    is off, because you pulled its plug, or fenced it and saw it go down, this
    spares you the last 60 of them.

    IF IT IS NOT OFF, TWO GUESTS WRITE TO ONE DISK, AND THE DISK IS DESTROYED. A
    host that does not answer the network is not off.

    You are asked for the host's name and for how it was fenced. Both are
    written to fence-ack.log in the state directory of this host. Exit status:
    0 done, 2 refused, with the reason.
    """
    found = next((row for row in call(run_dir, "hosts")["hosts"] if row["host_id"] == host_id), None)
    if found is None:
        raise NoSuchHost(host_id=host_id)
    click.echo(_describe(found))
    name = name or click.prompt("Type the name of the host that is off")
    how = how or click.prompt("How was it fenced, and how do you know")
    wait = 10 * (found["io_timeout"] or 10)
    click.echo(f"It must be silent for 8 io_timeouts; this may take up to {wait} s …")
    answer = call(
        run_dir, "fence-ack", wait + MARGIN_SECONDS, host_id=host_id, host=name, how=how, by=_operator()
    )
    click.echo(f"Done: what {answer['name']} held under generation {answer['generation']} is free.")


def _describe(row: dict[str, Any]) -> str:
    return (
        f"Host id {row['host_id']}: {row['name']}, generation {row['generation']}, state {row['state']},"
        f" silent for {row['silent']:.0f} s."
    )


def _operator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    sudo = os.environ.get("SUDO_USER")
    return f"{sudo} as {user}" if sudo else user
