# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook setup`: from nothing to protected, on one host, in steps that say what they do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import click

from ..config import settings
from ..demo import DemoFailed, install_hook
from ..errors import VlhookError
from ..mounts import mount_of
from .checks.check import Host
from .checks.host import UNITS
from .checks.libvirt import HOOKS, _known, installed_hook
from .checks.storage import SHARED_TYPES, fstab_line
from .common import coloured, run_dir_option
from .config import config_dir_option, new_value, write
from .hostid import assign, choose, state_dir_option

PROGRAM_SECONDS = 300.0
POLL_SECONDS = 0.5
_EXPORT = re.compile(r"[^\s:]+:/\S*")


class StepFailed(VlhookError):
    msg = "{step}: {why}"
    hint = "mend that and run 'vlhook setup' again: what is done already is left as it is"
    code = "VLH-C151"


class NobodyToAsk(VlhookError):
    msg = "setup asks before each step, and standard input is no terminal"
    hint = "use --yes to do all steps, or --dry-run to see them"
    code = "VLH-C152"


@dataclass(frozen=True)
class Wishes:
    directory: Optional[str]
    nfs: Optional[str]
    host_id: str
    io_timeout: Optional[int]
    main_hook: bool
    services: bool
    wait: float


@dataclass(frozen=True)
class Step:
    """`what` will be done by `do`. Steps are made when they are due, and only where something is to do."""

    what: str
    do: Callable[[], object]


@dataclass
class Setup:
    host: Host
    wishes: Wishes
    notes: list[str] = field(default_factory=list)

    def parts(self) -> list[tuple[str, Callable[[], Iterator[Step]]]]:
        return [
            ("settings", self.settings),
            ("directory", self.directory),
            ("mount", self.mount),
            ("host id", self.host_id),
            ("hook", self.hook),
            ("services", self.services),
            ("libvirt", self.libvirt),
        ]

    # -- the parts: each yields the steps that are still to do

    def settings(self) -> Iterator[Step]:
        wanted = {"disk_lease_dir": self.wishes.directory, "io_timeout": self.wishes.io_timeout}
        now = settings.examine(self.host.config_dir)[0]
        for name, value in wanted.items():
            if value is not None and getattr(now, name) != value:
                yield Step(f"set {name} to {value}", self._setter(name, str(value)))

    def _setter(self, name: str, value: str) -> Callable[[], object]:
        return lambda: write(self.host.config_dir, name, new_value(name, value), self._runs())

    def _runs(self) -> bool:
        """Whether a keeper goes on with former settings; one that setup starts has the new ones."""
        return self.host.status() is not None

    def directory(self) -> Iterator[Step]:
        path = self._lease_dir
        if not path.is_dir():
            yield Step(f"make the directory {path}, for root only", lambda: _make(path))

    @property
    def _lease_dir(self) -> Path:
        """That of the settings, or the one they will have."""
        return Path(self.wishes.directory) if self.wishes.directory else self.host.lease_dir

    def mount(self) -> Iterator[Step]:
        path, export = self._lease_dir, self.wishes.nfs
        if export is None:
            self._note_local(path)
            return
        fstab = self.host.path("/etc/fstab")
        text = fstab.read_text() if fstab.exists() else ""
        fields = [line.split() for line in text.splitlines() if not line.lstrip().startswith("#")]
        if not any(line[1:2] == [str(path)] for line in fields):
            line = fstab_line(path, export)
            yield Step(f"add to {fstab}: {line}", lambda: _append(fstab, text, line))
        found = mount_of(path, Path(self.host.proc_dir) / "self/mountinfo") if path.is_dir() else None
        if found is None or found.kind not in SHARED_TYPES:
            yield Step(f"mount {path}", lambda: _run("mount", str(path)))

    def _note_local(self, path: Path) -> None:
        """Two hosts that each have a directory of their own do not keep each other out."""
        above = next(one for one in (path, *path.parents) if one.is_dir())
        found = mount_of(above, Path(self.host.proc_dir) / "self/mountinfo")
        if found is None or found.kind in SHARED_TYPES:
            return
        self.notes += [
            f"{path} is on {found.kind}, which protects this host against itself only;",
            "for several hosts mount there what they all share: --nfs, or a line in /etc/fstab such as",
            fstab_line(path, "SERVER:/EXPORT"),
        ]

    def host_id(self) -> Iterator[Step]:
        now = settings.examine(self.host.config_dir)[0].host_id
        wish = self.wishes.host_id
        if wish == "auto" and not now:
            yield Step(
                "choose a host id that no other host has",
                lambda: choose(self.host.config_dir, self.host.state_dir, self._runs()),
            )
        elif wish != "auto" and now != int(wish):
            value = new_value("host_id", wish)
            places = self.host.config_dir, self.host.state_dir
            yield Step(f"set host_id to {wish}", lambda: assign(places[0], value, False, places[1], self._runs()))

    def hook(self) -> Iterator[Step]:
        found = installed_hook(self.host.config_dir)
        if found and os.access(found, os.X_OK):
            return
        target = self.host.config_dir / HOOKS[1 if self.wishes.main_hook else 0]
        if found is None and target.exists():
            raise StepFailed(step="hook", why=f"{target} is somebody else's file, and is not overwritten")
        yield Step(f"install the hook as {target}", lambda: _install(found or target))

    def services(self) -> Iterator[Step]:
        if self.wishes.services:
            for unit in UNITS:
                if _run_quietly("systemctl", "is-enabled", unit) and _run_quietly("systemctl", "is-active", unit):
                    continue
                yield Step(f"enable and start {unit}", _starter(unit))
            if not self._joined():
                yield Step("wait until this host has joined the lockspace", self._wait_joined)

    def _joined(self) -> bool:
        self.host = Host(**{name: getattr(self.host, name) for name in _PLACES})
        report = self.host.status()
        return bool(report and report["membership"]["state"] == "joined")

    def _wait_joined(self) -> None:
        until = time.monotonic() + self.wishes.wait
        while not self._joined():
            if time.monotonic() >= until:
                report = self.host.status()
                why = report["membership"]["why"] if report else self.host.why_no_status
                raise StepFailed(step="join", why=f"not within {self.wishes.wait:.0f} s: {why}")
            time.sleep(POLL_SECONDS)

    def libvirt(self) -> Iterator[Step]:
        hook = installed_hook(self.host.config_dir)
        if hook is None:
            return  # a dry run
        stale = [finding for finding in _known(self.host, hook) if finding.verdict == "fail"]
        if stale:
            name = stale[0].what.split()[0]
            yield Step(
                f"reload {name}, so that it sees the hook; guests go on", lambda: _run("systemctl", "reload", name)
            )


_PLACES = ("config_dir", "run_dir", "state_dir", "libvirt_run_dir", "proc_dir", "root")


def _make(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o770)


def _append(path: Path, text: str, line: str) -> None:
    """Whole or not at all: a broken fstab keeps a host from booting."""
    new = path.with_name(path.name + ".vlhook-new")
    new.write_text(text + ("" if not text or text.endswith("\n") else "\n") + line + "\n")
    if path.exists():
        new.chmod(path.stat().st_mode & 0o777)
    os.replace(new, path)


def _install(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    try:
        install_hook(new)
    except DemoFailed as error:
        raise StepFailed(step="hook", why=f"{vars(error)['why']}; install the package vlhook anew") from error
    os.replace(new, target)


def _starter(unit: str) -> Callable[[], object]:
    return lambda: _run("systemctl", "enable", "--now", unit)


def _run(*command: str) -> None:
    """Raises StepFailed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepFailed(step=" ".join(command), why=getattr(error, "strerror", None) or str(error)) from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise StepFailed(step=" ".join(command), why=last[-1] if last else f"exit status {done.returncode}")


def _run_quietly(*command: str) -> bool:
    try:
        _run(*command)
    except StepFailed:
        return False
    return True


def _check_nfs(_ctx: click.Context, _param: click.Parameter, value: Optional[str]) -> Optional[str]:
    if value is not None and not _EXPORT.fullmatch(value):
        raise click.BadParameter("give it as SERVER:/EXPORT")
    return value


def _check_host_id(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if value != "auto" and not (value.isdigit() and 1 <= int(value) <= 2000):
        raise click.BadParameter("give a number from 1 to 2000, or 'auto'")
    return value


@click.command()
@click.option("--dir", "directory", metavar="DIR", help="The lease directory.  [default: what is set]")
@click.option(
    "--nfs", metavar="SERVER:/EXPORT", callback=_check_nfs, help="Mount this on the lease directory, by /etc/fstab."
)
@click.option("--host-id", default="auto", show_default=True, metavar="N", callback=_check_host_id,
              help="This host's number; 'auto' keeps the one it has, or chooses.")  # fmt: skip
@click.option(
    "--io-timeout", type=click.IntRange(1, 120), metavar="SECONDS", help="The same on all hosts; 15 and more on NFS."
)
@click.option("--main-hook", is_flag=True, help="Install as hooks/qemu, for libvirt older than 6.5.")
@click.option("--no-services", is_flag=True, help="Start nothing; for images and installers.")
@click.option(
    "--wait", type=click.FloatRange(0), default=200.0, show_default=True, help="Seconds to wait for the join."
)
@click.option("--yes", is_flag=True, help="Do every step without asking.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--libvirt-run-dir", type=click.Path(path_type=Path), default=Path("/run/libvirt"), hidden=True)
@click.option("--proc-dir", default="/proc", hidden=True)
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
@config_dir_option
@state_dir_option
@run_dir_option
def setup_command(
    directory: Optional[str],
    nfs: Optional[str],
    host_id: str,
    io_timeout: Optional[int],
    main_hook: bool,
    no_services: bool,
    wait: float,
    yes: bool,
    dry_run: bool,
    **places: Any,
) -> None:
    """Set this host up: lease directory, host id, hook, services; then its guests are protected.

    Each step is shown before it is done, and asked for on a terminal. What is
    as it should be already is left alone, so it can be run again at any time.
    The first host makes the lockspace when its vlhookd starts. No guest is
    stopped, and none that runs is protected until it is started again, or taken
    in by 'vlhook adopt'.

    Exit status: 0 all is set up (or --dry-run), 1 a step was declined, 2 a step
    failed. 'vlhook doctor' checks the outcome.

    \b
    Examples:
      vlhook setup --dry-run
      vlhook setup --nfs filer:/export/leases --io-timeout 15 --yes
    """
    if not (yes or dry_run or sys.stdin.isatty()):
        raise NobodyToAsk()
    if directory is not None:
        new_value("disk_lease_dir", directory)
    wishes = Wishes(directory, nfs, host_id, io_timeout, main_hook, not no_services, wait)
    setup = Setup(Host(**places), wishes)
    declined = 0
    for name, part in setup.parts():
        steps = 0
        for step in part():
            steps += 1
            click.echo(f"{coloured(f'{name:<9}', 'dim')}  {step.what}")
            if dry_run:
                continue
            if not yes and not click.confirm("           do it?", default=True):
                declined += 1
                continue
            try:
                step.do()
            except OSError as error:
                raise StepFailed(step=step.what, why=error.strerror or str(error)) from error
        if not steps:
            click.echo(f"{coloured(f'{name:<9}', 'dim')}  {coloured('nothing to do', 'good')}")
        for note in setup.notes:
            click.echo(f"{coloured(f'{name:<9}', 'dim')}  {note}")
        setup.notes.clear()
    click.echo("nothing was changed" if dry_run else "done; check with: vlhook doctor")
    click.get_current_context().exit(1 if declined else 0)
