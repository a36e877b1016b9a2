# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who protects which lease on this host: vlhook or libvirt's sanlock plugin (safety rules, 22 and 23).

The plugin of the *running* libvirtd takes what it takes, whatever vlhook would
like. So the guest's leases are divided at prepare: those that the plugin really
takes are left to it, but only if it can take them (the sanlock daemon has
joined their lockspace); the others are vlhook's. A lease that neither can take
refuses the start. That the plugin did take its leases is checked at `started`.

One host cannot be a member of a lockspace twice. While the plugin is to take
disk leases, or the sanlock daemon has their lockspace, the native engine stays
out of it ("stands aside"), and leaves it as soon as no guest needs it. Each
guest so keeps the protector with which it was started until it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from ..config.settings import QEMU_FILE, Settings, SettingsError, read_lock_manager
from ..errors import VlhookError
from ..leases.directory import lockspace_path
from ..leases.engine import Want
from ..leases.errors import LeaseError
from ..leases.names import LOCKSPACE_NAME
from ..leases.sanlockclient import SanlockClient
from ..leases.sanlockerrors import SanlockBusy, SanlockError, SanlockUnreachable
from .log import Log
from .plugin import DaemonView, MapsUnreadable, daemon_with_plugin, has_plugin, look
from .state import Caller, Incarnation

DAEMON_SECONDS = 3.0
REMOVE_SECONDS = 30.0
SANLOCK = "sanlock"


class PluginNotLoaded(VlhookError):
    msg = "lock_manager is sanlock in {path}, but the running libvirtd (pid {pid}) has not loaded its sanlock plugin"
    hint = "restart libvirtd, then start the guest again; or set lock_manager to nop"
    code = "VLH-K721"


class DaemonSilent(VlhookError):
    msg = "{what} is to be locked by libvirt's sanlock plugin, but the sanlock daemon does not answer: {why}"
    hint = "see 'systemctl status sanlock', then start the guest again"
    code = "VLH-K722"


class SpaceNotJoined(VlhookError):
    msg = "{what} is to be locked by libvirt's sanlock plugin, but the sanlock daemon has not joined lockspace {space}"
    hint = "see 'sanlock client status'; {step}"
    code = "VLH-K724"


class SpaceElsewhere(VlhookError):
    msg = (
        "{what} is to be locked by libvirt's sanlock plugin, but the sanlock daemon has lockspace {space} in"
        " {found}, and disk_lease_dir is {directory}"
    )
    hint = "one of the two was changed: restart libvirtd and vlhookd when no guest runs here"
    code = "VLH-K725"


class NobodyTakes(VlhookError):
    msg = "{what} gets no lease: libvirt's sanlock plugin takes none for it, and vlhook cannot, because {why}"
    hint = "remove that disk, or set lock_manager to nop when no guest of the plugin runs here"
    code = "VLH-K726"


def want_of(lease: dict[str, Any]) -> Want:
    """A `domain.LeaseNeed`, as the reader sends it, as what the engines understand."""
    return Want(
        name=lease["name"],
        space=lease["lockspace"] or LOCKSPACE_NAME,
        shared=lease["shared"],
        source=lease["source"],
        path=lease["path"],
        offset=lease["offset"],
        kind=lease["kind"],
    )


def is_extra(lease: dict[str, Any]) -> bool:
    """One that libvirt's plugin does not know: on an identity, on NVRAM or TPM state."""
    return lease["kind"] not in ("disk", "lease")


def name_of(want: Want) -> str:
    return f"disk {want.source}" if want.source else f"lease {want.name}"


class Protector:
    """`directory` is asked for anew each time: a keeper that resumes keeps its former one."""

    def __init__(
        self,
        *,
        config_dir: Path,
        run_dir: Path,
        proc_dir: str,
        settings: Settings,
        directory: Callable[[], str],
        log: Log,
    ) -> None:
        self._config_dir = config_dir
        self._proc_dir = proc_dir
        self._directory = directory
        self._log = log
        # The plugin takes disks only if it is told so; for vlhook the same setting is on by default.
        self._plugin_takes_disks = settings.auto_disk_leases and settings.origin("auto_disk_leases").file is not None
        self._client = SanlockClient(timeout=DAEMON_SECONDS)
        self._stood_aside = run_dir / "stood-aside"
        """The lockspace that the sanlock daemon has is there for the plugin, and for nobody else."""
        self._manager: tuple[Optional[tuple[int, ...]], Optional[str]] = ((-1,), None)

    # -- the two facts

    def lock_manager(self) -> Optional[str]:
        """`lock_manager` in qemu.conf as it is now. Raises SettingsError."""
        path = self._config_dir / QEMU_FILE
        try:
            stat = path.stat()
            stamp: Optional[tuple[int, ...]] = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        except OSError:
            stamp = None
        if stamp is None or stamp != self._manager[0]:
            self._manager = (stamp, read_lock_manager(self._config_dir))
        return self._manager[1]

    def view(self, deadline: float) -> DaemonView:
        """The sanlock daemon now. Raises SanlockError."""
        return look(self._client, min(deadline, time.monotonic() + DAEMON_SECONDS))

    # -- a guest's leases

    def divide(
        self, caller: Caller, leases: Sequence[dict[str, Any]], deadline: float
    ) -> tuple[list[Want], list[Want]]:
        """(what vlhook takes, what the plugin of the libvirtd `caller` takes).

        Raises VlhookError where the plugin should take a lease and cannot.
        """
        if not leases:
            return [], []
        if not has_plugin(caller.pid, self._proc_dir):
            if self.lock_manager() == SANLOCK:
                raise PluginNotLoaded(path=self._config_dir / QEMU_FILE, pid=caller.pid)
            return [want_of(lease) for lease in leases], []
        own = [want_of(lease) for lease in self._left_by_plugin(leases)]
        deferred = [want_of(lease) for lease in leases if self._taken_by_plugin(lease)]
        if deferred:
            self._check_joined(deferred, deadline)
        return own, deferred

    def _left_by_plugin(self, leases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """vlhook's leases. Extra ones only where vlhook is in the lockspace: the plugin's guests do without."""
        left = [lease for lease in leases if not self._taken_by_plugin(lease)]
        return [lease for lease in left if not is_extra(lease)] if self._plugin_takes_disks else left

    def divide_running(
        self, life: Incarnation, leases: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[Want]]:
        """The same for a guest that runs and may have other disks by now: it keeps its protector."""
        if not life.deferred and (life.wants or self.aside() is None):
            return list(leases), []
        mine = {want.key for want in life.wants}
        deferred = [want_of(lease) for lease in leases if self._taken_by_plugin(lease)]
        deferred = [want for want in deferred if want.key not in mine]
        keys = {want.key for want in deferred}
        taken = [lease for lease in leases if self._taken_by_plugin(lease) and want_of(lease).key not in keys]
        return taken + self._left_by_plugin(leases), deferred

    def _taken_by_plugin(self, lease: dict[str, Any]) -> bool:
        """It takes every <lease>, and disks with a path on this host; a network disk is named by a URL."""
        if is_extra(lease):
            return False
        return lease["kind"] == "lease" or (self._plugin_takes_disks and str(lease["source"]).startswith("/"))

    def _check_joined(self, deferred: Sequence[Want], deadline: float) -> None:
        try:
            spaces = self.view(deadline).spaces
        except SanlockError as error:
            raise DaemonSilent(what=name_of(deferred[0]), why=error) from error
        for want in deferred:
            space = spaces.get(want.space)
            if space is None:
                ours = want.space == LOCKSPACE_NAME
                step = "restart libvirtd, whose plugin joins it" if ours else "join it: sanlock client add_lockspace"
                raise SpaceNotJoined(what=name_of(want), space=want.space, step=step)
            expected = lockspace_path(self._directory())
            if want.space == LOCKSPACE_NAME and space.disk.path != expected:
                raise SpaceElsewhere(
                    what=name_of(want), space=want.space, found=space.disk.path, directory=self._directory()
                )

    def nobody(self, own: Sequence[Want], deferred: Sequence[Want], why_not: str) -> str:
        """Why a guest cannot have the leases that are vlhook's to take, for people."""
        if not deferred and not self.aside():
            return why_not
        return str(NobodyTakes(what=name_of(own[0]), why=why_not))

    # -- this host's membership

    def aside(self) -> Optional[str]:
        """Why the native engine leaves the lockspace to the sanlock daemon; None if it does not."""
        try:
            manager = self.lock_manager()
        except SettingsError:
            return None  # libvirt would not start with such a file
        if manager != SANLOCK or not self._plugin_takes_disks:
            return None
        return "lock_manager is sanlock and auto_disk_leases is 1: libvirt's plugin takes the leases of this host"

    def note_aside(self) -> None:
        """Remember, also for a successor, that the daemon joins the lockspace for the plugin."""
        if not self._stood_aside.exists():
            try:
                self._stood_aside.touch(mode=0o600)
            except OSError as error:
                self._log.warning("state", error=error)

    def make_way(self) -> None:
        """Have the daemon leave the lockspace that the plugin joined, when nobody uses it any more.

        Only on a host that stood aside for the plugin, whose libvirtd has it no
        longer; and never while any lease is held in it. What fails is tried again.
        """
        try:
            if not self._stood_aside.exists() or self.lock_manager() == SANLOCK:
                return
            if daemon_with_plugin(self._proc_dir) is not None:
                return
            for space in self._client.get_lockspaces():
                if space.name == LOCKSPACE_NAME:
                    self._client.remove_lockspace(space, only_unused=True, deadline=time.monotonic() + REMOVE_SECONDS)
                    self._log.notice("lockspace-removed", space=space.name, host_id=space.host_id)
            self._stood_aside.unlink()
        except SanlockBusy:
            return  # a guest of the plugin still runs
        except SanlockUnreachable:
            self._stood_aside.unlink(missing_ok=True)  # a daemon that ended has left every lockspace
        except (LeaseError, SettingsError, MapsUnreadable, OSError) as error:
            self._log.warning("make-way", error=error)
