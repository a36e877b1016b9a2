# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages to the service manager, after sd_notify(3): one datagram each, never waiting, never failing.

The manager also keeps descriptors for a service that is restarted (its
descriptor store): `store`, `unstore`, and `take_stored` in the successor.
"""

from __future__ import annotations

import array
import os
import select
import socket

BARRIER_SECONDS = 2.0
_FIRST_PASSED = 3


def notify(*lines: str, descriptors: tuple[int, ...] = ()) -> bool:
    """Send lines such as "READY=1" to NOTIFY_SOCKET; False if nobody takes them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        with socket.socket(socket.AF_UNIX, kind) as sender:
            passed = array.array("i", descriptors)
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)] if descriptors else []
            sender.sendmsg(["\n".join(lines).encode()], extra, 0, address)
    except OSError:
        return False
    return True


def watchdog_interval() -> float | None:
    """Send "WATCHDOG=1" every so many seconds: half of what the manager allows; None: it does not ask."""
    try:
        limit = int(os.environ.get("WATCHDOG_USEC", "0"))
        owner = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return limit / 2e6 if limit > 0 and owner == os.getpid() else None


def store(name: str, descriptor: int) -> bool:
    """Have the manager keep a copy of this descriptor; True once it has taken the message in."""
    return notify("FDSTORE=1", f"FDNAME={name}", descriptors=(descriptor,)) and _barrier()


def unstore(name: str) -> None:
    notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def take_stored() -> dict[str, list[int]]:
    """The descriptors that the manager kept for us, by name; the caller owns them. Once, at start."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[int]] = {}
    if pid != str(os.getpid()) or not count.isdigit():
        return found
    for number in range(min(int(count), len(names))):
        descriptor = _FIRST_PASSED + number
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            continue
        found.setdefault(names[number], []).append(descriptor)
    return found


def _barrier() -> bool:
    """Whether the manager has read everything up to here: it closes the pipe that it is sent."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        if not notify("BARRIER=1", descriptors=(theirs,)):
            return False
    finally:
        os.close(theirs)
    try:
        poll = select.poll()
        poll.register(ours, select.POLLHUP)
        return bool(poll.poll(BARRIER_SECONDS * 1000))
    finally:
        os.close(ours)
