# SPDX-License-Identifier: LGPL-2.1-or-later
"""The watchdog behind one small facade: armed exactly while guests of this host hold leases.

It is the last of three: the keeper stops guests from last_ok + 8N on, the guard
kills them at the end of the grace, and if that cannot be shown to have worked,
the watchdog resets the host before others take over at last_ok + 8N + 60. So it
is fed with the time of the last good renewal, never with now, and disarmed only
when every guest is gone and its images are flushed (safety rules, 5 and 10).

    wdmd     the watchdog daemon, where it runs; it has the device then
    device   /dev/watchdog itself, where it does not
    sanlock  with the sanlock engine, where the daemon uses wdmd itself: nothing is armed here
    none     nothing resets the host; status says so

What is armed stays armed when the keeper dies. The descriptor is in the service
manager's store then, and the next keeper goes on with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional, Union

from .. import notify
from ..errors import VlhookError
from ..leases.clock import Moment
from ..leases.membership import HostLease
from . import watchdevice, wdmd
from .log import Log
from .watchdevice import WatchdogDevice
from .wdmd import Wdmd

REQUIRED = "required"  # no guest gets leases without it
AUTOMATIC = "automatic"  # used if it is there
OFF = "off"
SANLOCK = "sanlock"

LOOP_SECONDS = 1.0
RETRY_SECONDS = 5.0
STALE_BEAT_SECONDS = 5.0


class WatchdogMissing(VlhookError):
    msg = "watchdog = required, and no watchdog can be armed: {why}"
    hint = "start wdmd, or set watchdog to automatic or off in qemu-vlhook.conf"
    code = "VLH-K904"


@dataclass(frozen=True)
class Places:
    """Where the watchdogs of this host are."""

    wdmd_socket: str = wdmd.SOCKET
    device: str = watchdevice.DEVICE


class Watchdog:
    """`lease` is asked for anew each time; `needed()`: some guest holds, takes or gives back leases."""

    def __init__(
        self,
        setting: str,
        places: Places,
        name: str,
        lease: Callable[[], Optional[HostLease]],
        needed: Callable[[], bool],
        log: Log,
    ) -> None:
        self._setting = setting
        self._places = places
        self._name = name
        self._lease = lease
        self._needed = needed
        self._log = log
        self._lock = threading.RLock()
        self._armed: Union[Wdmd, WatchdogDevice, None] = None
        self._why = ""
        self._failed = ""
        self._found = "none"
        self._good_from: Optional[Moment] = None
        self._limit = 0
        self._beat = time.monotonic()
        self._taken_over = False
        self._tried_at = 0.0

    # -- life

    def adopt(self, last_ok: Optional[Moment], limit: int) -> None:
        """Go on with what a former keeper had armed. `last_ok`: its last good renewal in this boot."""
        self._good_from, self._limit = last_ok, limit
        for name, descriptors in notify.take_stored().items():
            for descriptor in descriptors:
                if name == wdmd.STORED_AS:
                    self._armed = Wdmd.adopt(self._places.wdmd_socket, descriptor)
                elif name == watchdevice.STORED_AS:
                    self._armed = WatchdogDevice.adopt(self._places.device, descriptor)
        if self._armed:
            self._log.notice("watchdog", what=self._kind(), why="kept from before the restart")

    def start(self, stop: threading.Event) -> None:
        self._look()
        threading.Thread(target=self._run, args=(stop,), name="watchdog", daemon=True).start()

    def taken_over(self) -> None:
        """The guests of a former keeper are known again: from now on an empty table means no guests."""
        self._taken_over = True
        self.settle()

    def beat(self) -> None:
        """From the loop that judges the host's lease: a keeper that hangs feeds no device."""
        self._beat = time.monotonic()

    def renewed(self, lease: HostLease) -> None:
        """After each renewal that is known to have reached the disk. Never waits."""
        self._good_from, self._limit = lease.last_ok, lease.limit
        armed = self._armed
        if isinstance(armed, Wdmd):
            try:
                armed.feed(lease.last_ok.monotonic, lease.limit)
            except VlhookError as error:
                self._log.alarm("watchdog", str(error))

    # -- arming

    def require(self) -> None:
        """Before leases are taken for a guest. Raises WatchdogMissing if there must be a watchdog and is none."""
        if self._setting == OFF or self._elsewhere():
            return
        with self._lock:
            if self._armed is None:
                self._try()
            if self._armed is None and self._setting == REQUIRED:
                raise WatchdogMissing(why=self._failed)

    def settle(self) -> None:
        """Disarm if no guest needs it any more."""
        with self._lock:
            if not self._taken_over or self._needed():
                return
            self._failed = ""
            if self._armed is None:
                return
            armed, self._armed = self._armed, None
            try:
                armed.disarm()
            except VlhookError as error:
                self._log.error("watchdog", error=error)
            else:
                self._log.info("watchdog", what="disarmed", why="no guest holds leases")

    def _try(self) -> None:
        self._tried_at = time.monotonic()
        try:
            self._arm()
        except VlhookError as error:
            if self._failed != str(error):
                self._log.warning("watchdog", what="not armed", why=error)
            self._failed = str(error)
        else:
            self._failed = ""
            self._log.calm("watchdog")
            self._log.info("watchdog", what=f"{self._kind()} armed")

    def _arm(self) -> None:
        lease = self._lease()
        if lease is None or lease.why_not():
            raise WatchdogMissing(why="this host has no good lease")
        self._good_from, self._limit = lease.last_ok, lease.limit
        missing = wdmd.there(self._places.wdmd_socket)
        if missing == "it does not run":
            self._armed = WatchdogDevice.open(self._places.device)
            return
        wdmd.check_io_timeout(self._places.wdmd_socket, lease.space.io_timeout)
        client = Wdmd.connect(self._places.wdmd_socket, self._name)
        try:
            client.feed(lease.last_ok.monotonic, lease.limit)
        except VlhookError:
            client.drop()
            raise
        self._armed = client

    # -- the loop

    def _run(self, stop: threading.Event) -> None:
        looked = time.monotonic()
        while not stop.wait(LOOP_SECONDS):
            try:
                self._turn()
                if time.monotonic() - looked >= RETRY_SECONDS:
                    looked = time.monotonic()
                    self._look()
            except Exception as error:  # whatever it was, the watchdog needs its next turn
                self._log.error("watchdog", error=repr(error))

    def _turn(self) -> None:
        self.settle()
        with self._lock:
            if isinstance(self._armed, WatchdogDevice):
                self._feed_device(self._armed)
            elif isinstance(self._armed, Wdmd):
                if not self._armed.alive():
                    self._armed.drop()
                    self._armed = None
                    self._log.alarm("watchdog", "wdmd went away with the watchdog armed: it may reset this host")
            elif self._setting == OFF or not self._taken_over or self._elsewhere():
                return
            elif self._needed() and self._lease():
                self._try_again()

    def _elsewhere(self) -> bool:
        """The sanlock daemon has its watchdog reset the host; a second one would be no safer."""
        lease = self._lease()
        return lease is not None and lease.watchdog_elsewhere

    def _try_again(self) -> None:
        if time.monotonic() - self._tried_at >= RETRY_SECONDS:
            self._try()

    def _feed_device(self, device: WatchdogDevice) -> None:
        if time.monotonic() - self._beat > STALE_BEAT_SECONDS or self._good_from is None:
            return
        if self._good_from.age() < self._limit:
            try:
                device.feed()
            except VlhookError as error:
                self._log.alarm("watchdog", str(error))

    # -- for status

    def _look(self) -> None:
        """What could be armed, without arming it."""
        if self._setting == OFF or self._armed:
            return
        places = self._places
        missing = wdmd.there(places.wdmd_socket)
        if missing is None:
            self._found, self._why = "wdmd", ""
        elif missing == "it does not run" and watchdevice.there(places.device) is None:
            self._found, self._why = "device", ""
        else:
            self._found = "none"
            also = f", {places.device}: {watchdevice.there(places.device)}" if missing == "it does not run" else ""
            self._why = f"wdmd: {missing}{also}"

    def _kind(self) -> str:
        armed = self._armed
        if armed is None:
            return "none"
        return "wdmd" if isinstance(armed, Wdmd) else "device"

    def state(self) -> dict[str, Any]:
        """`watchdog`: off, none, wdmd, device or sanlock; `armed`; `stored`: it survives the keeper; `why`."""
        armed = self._armed
        lease = self._lease()
        if armed is None and self._elsewhere():
            return {"watchdog": SANLOCK, "setting": self._setting, "armed": self._needed(), "stored": True, "why": ""}
        why, found = self._why, self._found
        if armed is None and self._failed:
            found, why = "none", self._failed
        elif found == "wdmd" and lease and lease.space.io_timeout < wdmd.MIN_IO_TIMEOUT:
            found, why = "none", f"wdmd needs an io_timeout of {wdmd.MIN_IO_TIMEOUT} or more"
        kind = self._kind() if armed else (OFF if self._setting == OFF else found)
        return {
            "watchdog": kind,
            "setting": self._setting,
            "armed": armed is not None,
            "stored": bool(armed and armed.stored),
            "why": "" if armed else why,
        }
