# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands between a host that lost its storage and two writers, put together from the settings."""

from __future__ import annotations

import threading
from typing import Any, Optional

from ..config.settings import Settings
from ..leases.membership import HostLease
from .budget import Budget
from .drain import Syncer
from .host import Host
from .inhibit import Inhibitor
from .log import Log
from .service import Service
from .state import Incarnation, Member
from .stopping import LibvirtHelper
from .table import Table
from .watchdog import Places, Watchdog


class Fencing:
    def __init__(
        self, settings: Settings, places: Places, libvirt_uri: str, host: Host, table: Table, log: Log
    ) -> None:
        self._table = table
        self.libvirt = LibvirtHelper(libvirt_uri, log)
        self.syncer = Syncer()
        self.grace = float(settings.lockfailure_grace)
        self._held: set[str] = set()
        name = f"vlhook:{settings.host_id}"
        self.watchdog = Watchdog(settings.watchdog, places, name, lambda: host.lease, self.needed, log)
        self.budget = Budget(lambda: host.where.directory, self.guests, log)
        self.inhibitor = Inhibitor(log)
        self.service = Service(self.guests, lambda: host.lease, host.ended_by_sanlock, log)
        host.grace = settings.lockfailure_grace
        host.on_good = self._renewed

    def begin(self, member: Optional[Member], stop: threading.Event) -> None:
        """At start, before anything may block. `member`: what a former keeper of this boot left."""
        self.watchdog.adopt(member.last_ok if member else None, 8 * member.io_timeout if member else 0)
        self.watchdog.start(stop)
        self.libvirt.start()
        self.syncer.start()

    def taken_over(self) -> None:
        """From now on a guest that is not in the table does not exist."""
        self.watchdog.taken_over()
        self._settle()

    def guard_guest(self, life: Incarnation) -> None:
        """Before leases are taken for a guest that is in the table. Raises WatchdogMissing."""
        self._held.add(life.key)
        self.watchdog.require()
        self.inhibitor.hold()

    def guest_dropped(self) -> None:
        """A guest is gone, its images are flushed, and it is no longer in the table."""
        self._held &= {life.key for life in self._table.all()}
        self._settle()

    def _settle(self) -> None:
        self.watchdog.settle()
        if self.needed():
            self.inhibitor.hold()
        else:
            self.inhibitor.release()

    def stop(self) -> None:
        """The helpers; what is armed stays as it is."""
        self.libvirt.stop()
        self.syncer.stop()

    def needed(self) -> bool:
        """Whether some guest of this host holds leases, takes them or gives them back."""
        return any(life.wants or life.key in self._held for life in self._table.all())

    def state(self) -> dict[str, Any]:
        """For status. Latencies of renewals in seconds."""
        latency = {"average": self.budget.average, "longest": self.budget.worst}
        return {**self.watchdog.state(), "grace": self.grace, "latency": latency, "sleep": self.inhibitor.state()}

    def shortcoming(self) -> str:
        """", no watchdog" where nothing would reset this host; for the service manager's status line."""
        return ", no watchdog" if self.watchdog.state()["watchdog"] in ("none", "off") else ""

    def _renewed(self, lease: HostLease) -> None:
        self.budget.renewed(lease)
        self.watchdog.renewed(lease)
        self.libvirt.start()
        self.syncer.start()

    def guests(self) -> list[str]:
        """Names of the guests that hold leases, take them or give them back."""
        return [life.guest for life in self._table.all() if life.wants]
