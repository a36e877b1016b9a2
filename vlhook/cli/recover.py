# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook recover`: after a mess, checks that nothing lives, explains, and puts things right."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click

from .. import processes as proc
from ..errors import VlhookError
from ..keeper.client import call
from ..keeper.releasenote import FOLDER
from ..keeper.state import StateStore
from .common import run_dir_option
from .hostid import state_dir_option

START = "systemctl restart vlhook-guard vlhookd"
_LOCK = "keeper.lock"
SYNC_SECONDS = 120.0


class StillLives(VlhookError):
    msg = "nothing was changed: {what}"
    hint = "{step}"
    code = "VLH-C156"


@click.command()
@run_dir_option
@state_dir_option
@click.option("--proc-dir", default="/proc", hidden=True)
@click.option("--yes", is_flag=True, help="Remove the damaged state without asking.")
@click.option("--dry-run", is_flag=True, help="Say what is found and would be done.")
@click.option("--no-services", is_flag=True, help="Do not start guard and keeper afterwards.")
@click.pass_context
def recover_command(
    ctx: click.Context, run_dir: Path, state_dir: Path, proc_dir: str, yes: bool, dry_run: bool, no_services: bool
) -> None:
    """Put the keeper right after its state was damaged or lost.

    Looks at what there is: the keeper, the guests it remembers, the QEMU
    processes that live. Nothing is removed while a keeper runs, or while any
    QEMU process lives whose leases are not known: then the command says which,
    and what to do. When nothing lives that could write to a disk, the state of
    the former keeper is removed and the services are started; this host then
    joins anew. Leases on the storage are not touched: those of this host's
    former life are free when it has joined.

    Exit status: 0 nothing was to do, or it is done; 1 declined, or --dry-run
    found something to do; 2 something lives, or a step failed.
    """
    scene = Scene(run_dir, state_dir, proc_dir)
    for line in scene.story():
        click.echo(line)
    if not scene.needs_recovery():
        return
    scene.check_dead()
    for path in scene.left_overs():
        click.echo(f"to be removed: {path}")
    if dry_run:
        ctx.exit(1)
    if not yes and not (sys.stdin.isatty() and click.confirm("nothing lives that could write; remove them?")):
        click.echo("nothing was changed; use --yes")
        ctx.exit(1)
    scene.remove()
    click.echo("removed")
    if not no_services:
        done = subprocess.run(START.split(), check=False)
        ctx.exit(2 if done.returncode else 0)
    click.echo(f"now: {START}")


class Scene:
    """What a keeper left in its directories, and what lives."""

    def __init__(self, run_dir: Path, state_dir: Path, proc_dir: str) -> None:
        self._run_dir, self._state_dir, self._proc_dir = run_dir, state_dir, proc_dir
        self._store = StateStore(run_dir, state_dir, proc.boot_id())
        self._scan = proc.scan(proc_dir)
        self._status = self._ask()
        self._damage = self._damaged()

    def _ask(self) -> Optional[dict[str, Any]]:
        try:
            return call(self._run_dir, "status")
        except VlhookError:
            return None

    def _damaged(self) -> str:
        """Why the keeper cannot go on with what is there, "" if it can."""
        try:
            member, guests = self._store.load_member(), self._store.load_guests()
            joined = self._store.joined_in_this_boot()
        except VlhookError as error:
            return error.what_and_why()
        if member is None and (guests or joined) and self._scan.guests:
            return "the run directory was lost, and QEMU processes run of whose leases nothing is known"
        return ""

    def story(self) -> Iterator[str]:
        if self._status:
            member = self._status["membership"]
            yield f"vlhookd runs: {member['state']}" + (f", {member['why']}" if member.get("why") else "")
        else:
            yield "vlhookd does not answer" + (", but a process of it still has its lock" if self._locked() else "")
        for uuid, found in sorted(self._scan.guests.items()):
            yield f"QEMU of guest {uuid} runs (pid {', '.join(str(pid) for pid, _ in found)})"
        for pid, _, name in self._scan.unknown:
            yield f"process {pid} ({name}) cannot be told: it may be a QEMU that is stuck in the kernel"
        yield f"state: {self._damage}" if self._damage else "state: in order"

    def needs_recovery(self) -> bool:
        return bool(self._damage)

    def _locked(self) -> bool:
        """Whether a keeper has the lock, perhaps one that is stuck in the kernel."""
        try:
            fd = os.open(self._run_dir / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def check_dead(self) -> None:
        """Raises StillLives."""
        if self._scan.guests:
            pids = [str(pid) for found in self._scan.guests.values() for pid, _ in found]
            step = "end those guests first (virsh destroy, or kill), then run this again"
            raise StillLives(what=f"QEMU processes live: {', '.join(pids)}", step=step)
        if self._scan.unknown:
            pids = [str(pid) for pid, _, _ in self._scan.unknown]
            raise StillLives(
                what=f"processes that may be QEMU live: {', '.join(pids)}",
                step="mend their storage, or reset this host",
            )
        if self._status is not None or self._locked():
            raise StillLives(what="vlhookd runs", step="systemctl stop vlhookd, then run this again")

    def left_overs(self) -> list[Path]:
        names = ["membership", "cleaning"]
        found = [self._run_dir / name for name in names]
        found += [path for folder in ("guests", FOLDER) for path in sorted((self._run_dir / folder).glob("*"))]
        return [path for path in [*found, self._state_dir / "joined"] if path.exists()]

    def remove(self) -> None:
        """What a guest that was killed had written must be on its disk before others may take it (safety rules, 5)."""
        try:
            subprocess.run(["sync"], timeout=SYNC_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise StillLives(
                what=f"this host's data are not all on the disks: {error}", step="mend the storage"
            ) from error
        for path in self.left_overs():
            path.unlink(missing_ok=True)
