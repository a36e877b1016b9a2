# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of libvirt: the hook, whether the running daemon knows it, lock managers, SELinux and AppArmor."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ... import processes as proc
from ...config import settings
from ...config.settings import SettingsError
from ...keeper.plugin import has_plugin
from .check import FAIL, GOOD, NOTE, PROGRAM_SECONDS, WARN, Check, Finding, Host, output

HOOKS = ("hooks/qemu.d/10-vlhook", "hooks/qemu")
DAEMONS = ("virtqemud", "libvirtd")
RELOAD = "systemctl try-reload-or-restart virtqemud libvirtd"
_OURS = b"vlhook.hook"


def installed_hook(config_dir: Path) -> Optional[Path]:
    """Our hook, where libvirt looks for it."""
    for name in HOOKS:
        path = config_dir / name
        try:
            if path.is_file() and _OURS in path.read_bytes():
                return path
        except OSError:
            continue
    return None


def hook(host: Host) -> Iterator[Finding]:
    path = installed_hook(host.config_dir)
    if path is None:
        target = host.config_dir / HOOKS[0]
        yield Finding(FAIL, f"the hook is not installed: guests start without leases ({target} is missing)",
                      "vlhook setup")  # fmt: skip
        return
    if not os.access(path, os.X_OK):
        yield Finding(FAIL, f"{path} is not executable; libvirt passes it over", f"chmod 0755 {path} && {RELOAD}")
        return
    if path.stat().st_mode & stat.S_IWOTH:
        yield Finding(FAIL, f"everybody may change {path}", f"chmod 0755 {path}")
    try:
        ran = subprocess.run(
            [str(path), "doctor", "prepare", "doctor", "-"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": "/usr/bin:/bin"},
            timeout=PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding(FAIL, f"{path} cannot be run: {error}", f"head -1 {path}")
        return
    # An event that is none: refused by the hook itself, and no keeper is asked.
    if b"unknown event" not in ran.stderr:
        last = ran.stderr.decode("utf-8", "replace").strip().splitlines()
        yield Finding(FAIL, f"{path} fails: {last[-1] if last else 'no reason'}", "reinstall the package vlhook")
    else:
        yield Finding(GOOD, f"the hook is installed and runs: {path}")
    yield from _known(host, path)


def _known(host: Host, path: Path) -> Iterator[Finding]:
    """libvirt looks for hooks when it starts and when it is reloaded (SIGHUP), and at no other time."""
    daemon = running_daemon(host)
    if daemon is None:
        yield Finding(NOTE, "libvirt's QEMU daemon does not run; it sees the hook when it starts")
        return
    name, pid, started = daemon
    changed = max(path.stat().st_ctime, path.parent.stat().st_ctime if path.parent.name == "qemu.d" else 0)
    since = max(started, _reloaded(name))
    if since >= changed:
        yield Finding(GOOD, f"{name} (pid {pid}) was started or reloaded after the hook was installed")
    else:
        yield Finding(FAIL, f"{name} (pid {pid}) was last started or reloaded before the hook was installed", RELOAD)


def running_daemon(host: Host) -> Optional[tuple[str, int, float]]:
    """(name, pid, start in seconds of the epoch) of libvirt's QEMU daemon."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    ticks = os.sysconf("SC_CLK_TCK")
    for entry in sorted(Path(host.proc_dir).iterdir(), key=lambda path: path.name):
        if not entry.name.isdigit():
            continue
        try:
            found = proc.read_stat(int(entry.name), host.proc_dir)
        except OSError:
            continue
        if found and not found.ended and found.name in DAEMONS:
            return found.name, int(entry.name), boot + found.start / ticks
    return None


def _reloaded(name: str) -> float:
    """When systemd last saw the unit change its state, a reload included; seconds of the epoch."""
    text = output("systemctl", "show", name, "-p", "StateChangeTimestampMonotonic", "--value")
    if not text or not text.strip().isdigit():
        return 0.0
    return time.time() - time.monotonic() + int(text) / 1e6


def lock_manager(host: Host) -> Iterator[Finding]:
    """What qemu.conf says, and what the libvirtd that runs has read of it: it reads it when it starts."""
    try:
        manager = settings.read_lock_manager(host.config_dir)
    except SettingsError as error:
        yield Finding(WARN, error.what_and_why())
        return
    daemon = running_daemon(host)
    name, pid = daemon[:2] if daemon else ("libvirtd", 0)
    loaded = bool(pid) and has_plugin(pid, host.proc_dir)
    if manager == "sanlock":
        yield _plugin(host, name, pid, loaded)
    elif loaded:
        what = f"{name} (pid {pid}) still has libvirt's sanlock plugin, which lock_manager does not name any more"
        yield Finding(WARN, what, f"systemctl restart {name}")
    elif manager in (None, "nop"):
        yield Finding(GOOD, "lock_manager is not set in qemu.conf: vlhook protects the disks")
    elif manager == "lockd":
        yield Finding(NOTE, "lock_manager is lockd: virtlockd locks the disks as well")
    else:
        yield Finding(WARN, f"lock_manager is {manager}, of which vlhook knows nothing", "vlhook config show")


def _plugin(host: Host, name: str, pid: int, loaded: bool) -> Finding:
    if pid and not loaded:
        what = f"lock_manager is sanlock, and {name} (pid {pid}) has not loaded that plugin: what it should protect is "
        return Finding(FAIL, f"{what}refused", f"systemctl restart {name}")
    found = host.settings
    disks = found.auto_disk_leases and found.origin("auto_disk_leases").file is not None
    takes = "disks with a path and <lease> elements" if disks else "<lease> elements only"
    return Finding(GOOD, f"lock_manager is sanlock: libvirt's plugin takes {takes}, vlhook the rest")


def _booleans(host: Host) -> Iterator[Finding]:
    """SELinux's switches; which of them are needed where is in docs/install.md."""
    with contextlib.suppress(SettingsError):
        if settings.read_lock_manager(host.config_dir) == "sanlock":
            yield from _off(NOTE, "sanlock_use_nfs", "the sanlock daemon needs it where leases are on NFS")
            yield from _off(NOTE, "virt_use_sanlock", "libvirt's sanlock plugin needs it")
    yield from _off(NOTE, "virt_use_nfs", "needed where images or leases are on NFS")
    yield from _off(FAIL, "virt_hooks_unconfined", "libvirt may not call the hook, and no guest starts")


def _off(verdict: str, name: str, why: str) -> Iterator[Finding]:
    told = output("getsebool", name)
    if told and told.strip().endswith("off"):
        yield Finding(verdict, f"SELinux is enforcing and {name} is off: {why}", f"setsebool -P {name} on")


def confinement(host: Host) -> Iterator[Finding]:
    enforce = host.path("/sys/fs/selinux/enforce")
    if enforce.exists() and enforce.read_text().strip() == "1":
        yield from _booleans(host)
        yield Finding(
            NOTE, "SELinux is enforcing: if the hook is denied, the audit log says so", "ausearch -m avc -ts recent"
        )
    profile = host.path("/sys/kernel/security/apparmor/profiles")
    try:
        confined = [line for line in profile.read_text().splitlines() if line.startswith(("libvirtd", "virtqemud"))]
    except OSError:
        confined = []
    if confined:
        yield Finding(NOTE, f"AppArmor confines {confined[0].split()[0]}; a denied hook is named in the kernel's log",
                      "journalctl -k -g apparmor=.DENIED")  # fmt: skip


LIBVIRT = (
    Check("hook", hook),
    Check("lock-manager", lock_manager),
    Check("confinement", confinement),
)
