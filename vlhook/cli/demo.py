# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook demo`: the main job on this one machine, with real processes and real files."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.option("--keep", is_flag=True, help="Keep the files (they are kept anyway when something fails).")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Where to put them; default: a new one in /tmp.",
)
def demo_command(keep: bool, directory: Path | None) -> None:
    """Two hosts, one disk: see a start refused, a hand-over, and a dead host.

    Two keepers with an io_timeout of 1 s share one lease directory, as two
    hosts would share it over NFS. libvirt's hook is called as libvirt calls it,
    with a real domain XML; where libvirt would run QEMU, a stand-in process
    with QEMU's command line runs. Needs no root, no libvirt and no QEMU, and
    takes less than a minute.
    """
    from ..demo import Demo

    sys.exit(Demo(directory, keep, click.echo).run())
