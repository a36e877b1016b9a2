# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of the sanlock daemon, on hosts where it takes the leases."""

from __future__ import annotations

import contextlib
import grp
import pwd
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ...keeper.accounts import ownership
from ...keeper.bysanlock import SANLOCK as ENGINE
from ...leases import overview
from ...leases.delta import Space
from ...leases.directory import lockspace_path
from ...leases.errors import LeaseError, one_line
from ...leases.names import LOCKSPACE_NAME
from ...leases.sanlockclient import SanlockClient
from ...leases.sanlockerrors import SanlockUnreachable
from ...leases.sanlockspace import DaemonState, SanlockTooShort, check_able, look
from .check import ASK_SECONDS, FAIL, GOOD, NOTE, WARN, Check, Finding, Host, output

UNIT = "sanlock.service"
START = "systemctl enable --now sanlock"
ANEW = "systemctl restart sanlock vlhookd   (when no guest of this host holds leases)"
CAP_DAC_OVERRIDE = 1 << 1
LATE_RENEWALS = 3
"""Renewals come every 2 io_timeouts; so many of them missing are told."""


def sanlock(host: Host) -> Iterator[Finding]:
    engine = host.settings.engine
    if engine == "native":
        return
    client = SanlockClient(host.sanlock_socket, timeout=ASK_SECONDS)
    try:
        state = look(client, LOCKSPACE_NAME)
    except SanlockUnreachable as error:
        yield _absent(host, engine, error)
        return
    except LeaseError as error:
        what = f"{one_line(error)}: while it hangs, no guest gets leases"
        yield Finding(FAIL, what, f"journalctl -u sanlock, then {ANEW}")
        return
    yield Finding(GOOD, f"sanlock {state.version} answers at {client.socket_path}; its host name is {state.host_name}")
    yield from _space(host, state)
    yield _watchdog(host, state)
    yield from _rights(host, client.socket_path)
    yield from _boot(host, engine)


def _driven(host: Host) -> bool:
    """Whether the keeper has joined by the daemon."""
    report = host.status()
    return report is not None and report["engine"] == ENGINE and report["membership"]["state"] == "joined"


def _absent(host: Host, engine: str, error: LeaseError) -> Finding:
    if engine == ENGINE or _driven(host):
        return Finding(FAIL, f"{one_line(error)}: while it does not run, no guest gets leases", START)
    return Finding(NOTE, "no sanlock daemon runs here: with engine = auto vlhookd takes the leases itself")


# ---------------------------------------------------------------------- the lockspace


def _space(host: Host, state: DaemonState) -> Iterator[Finding]:
    settings, found = host.settings, state.space
    wanted = Space(
        LOCKSPACE_NAME.encode(), lockspace_path(settings.disk_lease_dir), settings.host_id, b"", settings.io_timeout
    )
    try:
        if settings.host_id:
            check_able(wanted, state)
    except SanlockTooShort as error:
        yield Finding(FAIL, error.reason(), "vlhook config set io_timeout 10   (the same on all hosts)")
        return
    except LeaseError as error:
        yield Finding(FAIL, error.reason(), ANEW)
        return
    report = host.status()
    if found is None:
        if _driven(host):
            yield Finding(FAIL, f"sanlock does not have lockspace {LOCKSPACE_NAME} any more", "vlhook status")
        elif report is not None and report["membership"]["state"] == "joined":
            what = "vlhookd has joined without the daemon, and goes on so until it starts without guests"
            yield Finding(NOTE, what, "systemctl restart vlhookd   (when no guest of this host holds leases)")
        else:
            yield Finding(NOTE, f"sanlock has not joined {LOCKSPACE_NAME}; vlhookd has it join when it starts")
        return
    if not found.good:
        yield Finding(FAIL, f"lockspace {LOCKSPACE_NAME}: {found.trouble()}", "sanlock client status; vlhook status")
        return
    age = time.monotonic() - found.last_ok
    what = f"sanlock has joined {LOCKSPACE_NAME} as host {found.lockspace.host_id}, generation {found.generation}, "
    what += f"io_timeout {found.io_timeout} s, and renewed it {age:.0f} s ago"
    if age > LATE_RENEWALS * 2 * found.io_timeout:
        yield Finding(WARN, what, "vlhook doctor direct-io; journalctl -u sanlock")
    else:
        yield Finding(GOOD, what)


def _watchdog(host: Host, state: DaemonState) -> Finding:
    if state.use_watchdog:
        return Finding(GOOD, "sanlock uses wdmd (-w 1): it resets this host if guests cannot be stopped")
    what = "sanlock uses no watchdog (-w 0)"
    if host.settings.watchdog == "off":
        return Finding(
            WARN, f"{what}, and vlhookd may use none (watchdog = off): nothing resets this host",
            "vlhook config set watchdog automatic, or -w 1 in sanlock.conf"
        )  # fmt: skip
    return Finding(NOTE, f"{what}: vlhookd arms one itself, by its setting watchdog ({host.settings.watchdog})")


# ---------------------------------------------------------------- whom the files belong to


@dataclass(frozen=True)
class Account:
    """As whom the daemon opens files. `any_file`: permissions do not bind it."""

    uid: int
    gid: int
    groups: frozenset[int]
    any_file: bool

    def __str__(self) -> str:
        return f"{self.user}:{self.group}"

    @property
    def user(self) -> str:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(self.uid).pw_name
        return str(self.uid)

    @property
    def group(self) -> str:
        with contextlib.suppress(KeyError):
            return grp.getgrgid(self.gid).gr_name
        return str(self.gid)

    def may(self, path: Path, bits: int) -> bool:
        """`bits` as of a class of users: 6 is to read and write, 1 to enter a directory."""
        if self.any_file:
            return True
        stat = path.stat()
        if stat.st_uid == self.uid:
            shift = 6
        else:
            shift = 3 if stat.st_gid in self.groups else 0
        return stat.st_mode >> shift & bits == bits


def account(socket_path: str, proc_dir: str) -> Optional[Account]:
    """Of the daemon that listens on that socket; None where it cannot be told."""
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(ASK_SECONDS)
            peer.connect(socket_path)
            pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        text = (Path(proc_dir) / str(pid) / "status").read_text()
    except OSError:
        return None
    words = {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}
    try:
        uid, gid = int(words["Uid"][3]), int(words["Gid"][3])
        groups = frozenset({gid, *map(int, words["Groups"])})
        return Account(uid, gid, groups, bool(int(words["CapEff"][0], 16) & CAP_DAC_OVERRIDE))
    except (KeyError, IndexError, ValueError):
        return None


def _rights(host: Host, socket_path: str) -> Iterator[Finding]:
    found, directory = account(socket_path, host.proc_dir), host.lease_dir
    if found is None or not directory.is_dir():
        return
    if not found.any_file and max(ownership(host.settings).uid, 0) != found.uid:
        what = f"sanlock runs as {found.user}, and the lease files that vlhookd makes belong to another user: "
        mend = f"vlhook config set user {found.user} && vlhook config set group {found.group}"
        yield Finding(FAIL, f"{what}it cannot write them", f"{mend} && systemctl restart vlhookd")
    if not found.may(directory, 1):
        what = f"sanlock runs as {found.user}, who may not enter {directory}"
        yield Finding(FAIL, what, f"chgrp {found.group} {directory} && chmod g+rwx {directory}")
        return
    names = [name for name in (LOCKSPACE_NAME, *overview.lease_names(str(directory))) if (directory / name).exists()]
    closed = [name for name in names if not found.may(directory / name, 6)]
    if closed:
        what = f"sanlock runs as {found.user}, who may not read and write {len(closed)} files of {directory}, "
        which = "*" if len(closed) > 1 else closed[0]
        yield Finding(FAIL, f"{what}such as {closed[0]}", f"chown {found} {directory}/{which}")
    else:
        yield Finding(GOOD, f"sanlock runs as {found.user} and may write all {len(names)} files of {directory}")


# ------------------------------------------------------------------------- at the next boot


def _boot(host: Host, engine: str) -> Iterator[Finding]:
    """vlhookd must find the daemon: `auto` would take the leases itself, `sanlock` refuse all guests."""
    if not host.path("/run/systemd/system").is_dir():
        return
    if (output("systemctl", "is-enabled", UNIT) or "").strip() != "enabled":
        then = "no guest gets leases" if engine == ENGINE else "vlhookd takes the leases itself"
        yield Finding(WARN, f"{UNIT} is not started at boot: {then} then", "systemctl enable sanlock")
    after = (output("systemctl", "show", "vlhookd.service", "-p", "After", "--value") or "").split()
    if after and UNIT not in after:
        what = f"vlhookd.service is not ordered after {UNIT}: it may start, and stop, before it has the daemon"
        yield Finding(WARN, what, f"systemctl edit vlhookd   ([Unit] After={UNIT})")


SANLOCK = (Check("sanlock", sanlock),)
