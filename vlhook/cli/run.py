# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook run`: holds the leases of images while an offline tool works on them.

To the keeper the tool is a guest: the same two gates, the same watching, and
the guard ends it in time if this host's lease is lost. The process that stands
for QEMU is unshare(1), with `-uuid UUID` on its command line; the tool and all
its children live in a process namespace that ends with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid as uuids
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import click

from ..errors import VlhookError
from ..keeper.client import call
from .common import run_dir_option

SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.1
# Not exec: process 1 of a namespace does not get the terminal's interrupt, its child does.
_SHELL = 'shift; "$@"; exit $?'
_GATE = "from vlhook.hook import entry; entry()"


class RunRefused(VlhookError):
    msg = "{why}"
    hint = "nothing was run"
    code = "VLH-C153"


class CannotRun(VlhookError):
    msg = "{command} cannot be run: {why}"
    hint = "nothing was run"
    code = "VLH-C154"


class BeforeAndAfter(click.Command):
    """Takes what stands after '--' away before click reads the rest."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["vlhook.command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(cls=BeforeAndAfter)
@click.option("--shared", is_flag=True, help="Share the images with others that share them (<shareable/>).")
@click.argument("paths", nargs=-1, metavar="PATH... -- COMMAND...", required=True)
@run_dir_option
@click.pass_context
def run_command(ctx: click.Context, shared: bool, paths: tuple[str, ...], run_dir: Path) -> None:
    """Run COMMAND while this host holds the leases of the images PATH...

    For qemu-img, virt-resize and other tools that change an image while no
    guest runs: no guest that uses one of the images starts meanwhile, on any
    host, and COMMAND is not run while one does. Give each path as it stands in
    the guest's XML: it names the lease. If this host loses its own lease,
    COMMAND is killed with all its children.

    Exit status: that of COMMAND; 2 if it was not run, and the reason.

    \b
    Examples:
      vlhook run /srv/images/web1.img -- qemu-img resize /srv/images/web1.img +10G
      vlhook run /srv/a.qcow2 /srv/b.qcow2 -- virt-resize --expand /dev/sda1 /srv/a.qcow2 /srv/b.qcow2
    """
    command = ctx.meta.get("vlhook.command")
    if not command:
        raise click.UsageError("write '--' and the command after the images")
    images = [os.path.join(os.getcwd(), path) for path in paths]
    for path in images:
        real = os.path.realpath(path)
        if real != path:
            click.echo(f"note: the lease of {path} is taken; its other name {real} would be another lease", err=True)
    ctx.exit(Run(run_dir, images, shared).run(command))


class Run:
    """One run: a guest of the keeper's that libvirt knows nothing of."""

    def __init__(self, run_dir: Path, paths: list[str], shared: bool) -> None:
        self._run_dir = run_dir
        self._name = f"vlhook-run-{os.getpid()}"
        self._uuid = str(uuids.uuid4())
        self._xml = self._domain(paths, shared)

    def _domain(self, paths: list[str], shared: bool) -> str:
        share = "<shareable/>" if shared else ""
        disks = "".join(
            f"<disk type={kind} device='disk'><source {name}={quoteattr(path)}/><target dev='vd{i}'/>{share}</disk>"
            for i, path in enumerate(paths)
            for kind, name in [("'block'", "dev") if path.startswith("/dev/") else ("'file'", "file")]
        )
        head = f"<domain type='qemu' id='{os.getpid()}'><name>{escape(self._name)}</name><uuid>{self._uuid}</uuid>"
        return f"{head}<devices>{disks}</devices></domain>"

    def run(self, command: list[str]) -> int:
        """Exit status of `command`. Raises RunRefused and CannotRun; then it was not run."""
        if shutil.which(command[0]) is None:
            raise CannotRun(command=command[0], why="no such program")
        unshare = shutil.which("unshare")
        if unshare is None:
            raise CannotRun(command=command[0], why="the program unshare (util-linux) is missing")
        self._check_namespaces(unshare)
        try:
            for operation in ("prepare", "start"):
                self._gate(operation)
            space = [unshare, "--fork", "--pid", "--kill-child=KILL", "--", "/bin/sh", "-c", _SHELL]
            status = self._wait(subprocess.Popen([*space, "-uuid", self._uuid, *command]))
        finally:
            self._tell("release", "end")
        self._settle()
        return status

    @staticmethod
    def _wait(process: subprocess.Popen[bytes]) -> int:
        """The terminal's interrupt goes to the command as well; it decides."""
        while True:
            try:
                status = process.wait()
                return status if status >= 0 else 128 - status
            except KeyboardInterrupt:
                continue

    def _check_namespaces(self, unshare: str) -> None:
        tried = subprocess.run([unshare, "--fork", "--pid", "/bin/true"], capture_output=True, text=True, check=False)
        if tried.returncode:
            raise CannotRun(command="unshare", why=tried.stderr.strip() or "it may not make a process namespace")

    def _gate(self, operation: str) -> None:
        done = self._tell(operation, "begin")
        if done.returncode:
            line = done.stderr.decode("utf-8", "replace").strip()
            raise RunRefused(why=line.replace(f"vlhook: guest {self._name} is not started: ", "") or "no reason given")

    def _tell(self, operation: str, suboperation: str) -> subprocess.CompletedProcess[bytes]:
        """As libvirt calls the hook; this process is the hook's libvirtd."""
        package = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": package, "VLHOOK_RUN_DIR": str(self._run_dir)}
        words = [sys.executable, "-c", _GATE, self._name, operation, suboperation, "-"]
        return subprocess.run(words, input=self._xml.encode(), capture_output=True, env=environment, check=False)

    def _settle(self) -> None:
        """Until the images are flushed and the leases given back, so that the next start finds them free."""
        until = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < until:
            try:
                guests = call(self._run_dir, "status")["guests"]
            except VlhookError:
                return
            if all(guest["uuid"] != self._uuid for guest in guests):
                return
            time.sleep(POLL_SECONDS)
        click.echo("vlhook run: the leases are not given back yet; see 'vlhook status'", err=True)
