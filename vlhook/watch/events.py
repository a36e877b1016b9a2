# SPDX-License-Identifier: LGPL-2.1-or-later
"""The connection to libvirtd: what happened to which guest, and a look at everybody every few seconds.

Two threads: libvirt's event loop only puts UUIDs into a queue; the worker
looks at guests and may hang with libvirtd. A connection that broke, or that
libvirtd does not keep alive, is made anew for as long as it takes.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Optional

import libvirt

from ..errors import VlhookError
from ..keeper.log import Log
from .guests import Guests
from .pools import volumes

RECONNECT_SECONDS = 1.0
LOOP_MS = 500
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 5, 3
DISK_EVENTS = (
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
)


def run_event_loop() -> None:
    """libvirt's default event loop, for the rest of the process. Before the first connection is made."""
    libvirt.virEventRegisterDefaultImpl()
    # Without a timer the loop may sleep for ever in poll, deaf to callbacks that are added later.
    libvirt.virEventAddTimeout(LOOP_MS, lambda *_: None, None)
    libvirt.registerErrorHandler(lambda *_: None, None)

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="events", daemon=True).start()


class Watch:
    """`uri`: the libvirtd of this host. `interval`: seconds between looks at everybody."""

    def __init__(self, uri: str, interval: float, guests: Guests, log: Log) -> None:
        self._uri = uri
        self._interval = interval
        self._guests = guests
        self._log = log
        self._connection: Any = None
        self._changed: queue.Queue[str] = queue.Queue()
        self._resumed: set[str] = set()
        self._broken = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            try:
                self._connect()
                self._serve(stop)
            except libvirt.libvirtError as error:
                self._log.alarm("libvirt", f"libvirtd ({self._uri}) does not answer: {error}")
            self._disconnect()
            stop.wait(RECONNECT_SECONDS)

    def _connect(self) -> None:
        self._broken.clear()
        self._connection = libvirt.open(self._uri)
        self._connection.registerCloseCallback(lambda *_: self._hang_up(), None)
        self._connection.setKeepAlive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT)
        add = self._connection.domainEventRegisterAny
        add(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        for event in DISK_EVENTS:
            add(None, event, self._disk, None)
        self._log.calm("libvirt")
        self._log.notice("watching", uri=self._uri)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            try:
                connection.close()
            except libvirt.libvirtError:
                pass

    def _hang_up(self) -> None:
        self._broken.set()
        self._changed.put("")

    def _lifecycle(self, _connection: Any, domain: Any, event: int, _detail: int, _opaque: Any) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self._resumed.add(domain.UUIDString())
        if event in (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_RESUMED):
            self._changed.put(domain.UUIDString())

    def _disk(self, _connection: Any, domain: Any, *_: Any) -> None:
        self._changed.put(domain.UUIDString())

    # -- the worker

    def _serve(self, stop: threading.Event) -> None:
        next_pass = 0.0
        while not (stop.is_set() or self._broken.is_set()):
            if time.monotonic() >= next_pass:
                self._look_at_all()
                next_pass = time.monotonic() + self._interval
            uuid = self._next(min(0.5, max(0.0, next_pass - time.monotonic())))
            if uuid and uuid in self._resumed:
                self._resumed.discard(uuid)
                self._tell_resumed(uuid)
            if uuid:
                self._look(self._domain(uuid))
        self._log.alarm("libvirt", f"the connection to libvirtd ({self._uri}) broke")

    def _tell_resumed(self, uuid: str) -> None:
        """On either side of a migration the keeper has to know at once (safety rules, 21)."""
        try:
            self._guests.cpus_run(uuid)
        except VlhookError as error:
            self._away(error)

    def _next(self, seconds: float) -> Optional[str]:
        try:
            return self._changed.get(timeout=seconds)
        except queue.Empty:
            return None

    def _domain(self, uuid: str) -> Any:
        try:
            return self._connection.lookupByUUIDString(uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _look_at_all(self) -> None:
        domains = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        for domain in domains:
            self._look(domain)
        try:
            self._guests.only([domain.UUIDString() for domain in domains])
            self._guests.volumes(self._pools())
            self._log.calm("keeper")
        except VlhookError as error:
            self._away(error)

    def _pools(self) -> dict[str, dict[str, str]]:
        """A libvirtd without a storage driver has no pools."""
        try:
            return volumes(self._connection)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return {}
            raise

    def _look(self, domain: Any) -> None:
        if domain is None:
            return
        try:
            self._guests.look(domain)
        except VlhookError as error:
            self._away(error)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                raise

    def _away(self, error: VlhookError) -> None:
        self._log.alarm("keeper", str(error))
        self._guests.keeper_was_away()
