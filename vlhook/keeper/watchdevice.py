# SPDX-License-Identifier: LGPL-2.1-or-later
"""A watchdog device of the kernel, used without a daemon (daemon document, 3.4; safety rules, 10).

Opening it arms it. It is set to 50 s, not to the 60 that others wait after the
limit, so that the reset comes before the take-over. It is fed only while the
host's lease is good: the last feed is before last_ok + 8N, so the reset is
before last_ok + 8N + 50.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from typing import Optional

from .. import notify
from ..errors import VlhookError

DEVICE = "/dev/watchdog"
TIMEOUT = 50
STORED_AS = "vlhook-watchdog"
_SET_TIMEOUT, _GET_TIMEOUT, _KEEPALIVE = 0xC0045706, 0x80045707, 0x80045705


class DeviceUnusable(VlhookError):
    msg = "the watchdog device {device} cannot be used: {why}"
    hint = "see who has it open (wdmd, or systemd with RuntimeWatchdogSec), or set watchdog in qemu-vlhook.conf"
    code = "VLH-K903"


class WatchdogDevice:
    """The open device, armed. Raises DeviceUnusable."""

    def __init__(self, path: str, descriptor: int, stored: bool) -> None:
        self.stored = stored
        self._path = path
        self._fd = descriptor
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str) -> WatchdogDevice:
        """Open, and so arm; a device that cannot be set to 50 s is disarmed again."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            why = "it is in use" if error.errno == errno.EBUSY else error.strerror
            raise DeviceUnusable(device=path, why=why) from error
        device = cls(path, descriptor, notify.store(STORED_AS, descriptor))
        try:
            device._set_timeout()
        except BaseException:
            device.disarm()
            raise
        return device

    @classmethod
    def adopt(cls, path: str, descriptor: int) -> WatchdogDevice:
        """Continue with the descriptor of a former keeper, from the service manager's store."""
        return cls(path, descriptor, True)

    def _set_timeout(self) -> None:
        try:
            fcntl.ioctl(self._fd, _SET_TIMEOUT, struct.pack("i", TIMEOUT))
            found = struct.unpack("i", fcntl.ioctl(self._fd, _GET_TIMEOUT, bytes(4)))[0]
        except OSError as error:
            raise DeviceUnusable(device=self._path, why=f"its timeout cannot be set: {error.strerror}") from error
        if not 0 < found <= TIMEOUT:
            raise DeviceUnusable(device=self._path, why=f"its timeout is {found} s and must be {TIMEOUT} at most")

    def feed(self) -> None:
        with self._lock:
            if self._fd < 0:
                return
            try:
                fcntl.ioctl(self._fd, _KEEPALIVE, bytes(4))
            except OSError as error:
                raise DeviceUnusable(device=self._path, why=f"it cannot be fed: {error.strerror}") from error

    def disarm(self) -> None:
        """Only when nothing of this host can write any more."""
        with self._lock:
            if self._fd < 0:
                return
            try:
                os.write(self._fd, b"V")
            except OSError as error:
                raise DeviceUnusable(device=self._path, why=f"it cannot be disarmed: {error.strerror}") from error
            finally:
                if self.stored:
                    notify.unstore(STORED_AS)
                os.close(self._fd)
                self._fd = -1


def there(path: str) -> Optional[str]:
    """None if there is a device that could be opened; otherwise why not. Opens nothing: that would arm it."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISDIR(found.st_mode) or not os.access(path, os.W_OK):
        return "it cannot be written"
    return None
