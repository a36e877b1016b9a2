# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shared disk: whole sectors, read and written one at a time, each at one instant."""

from __future__ import annotations

import struct

from ..leases.directory import format_lockspace, format_resource
from ..leases.geometry import FILE

SECTOR = FILE.sector
SPACE = b"SIMULATION"
_OWNER = struct.Struct("<QQQ")
_OWNER_AT, _TIMESTAMP_AT = 32, 152


class Violation(Exception):
    """Something happened that must never happen. The text says what, in one line."""


class Area:
    """A lockspace (`lease` empty) or the area of one lease; beyond its used sectors it is zero.

    `whole`: reads of the whole area are answered with all of its 1 MiB, as real
    storage does. Without it they end after the last used sector, which saves most
    of the time of a short run: no record lies behind it.
    """

    def __init__(self, hosts: int, lease: bytes, io_timeout: int, whole: bool) -> None:
        self.lease = lease.decode()
        used = hosts + 2 if lease else max(hosts, 8)
        if lease:
            image = format_resource(FILE, SPACE, lease, num_hosts=hosts)
        else:
            image = format_lockspace(FILE, SPACE, io_timeout)
        self._take(image, used, whole)
        self.decided: dict[int, tuple[int, int]] = {}

    def _take(self, image: bytes, used: int, whole: bool) -> None:
        self.sectors = [image[i * SECTOR : (i + 1) * SECTOR] for i in range(used)]
        self._size = FILE.area if whole else used * SECTOR
        self._tail = image[used * SECTOR : self._size]

    def copy(self) -> Area:
        """Another area as this one was when it was made; formatting anew costs more."""
        other = Area.__new__(Area)
        other.lease, other.sectors, other.decided = self.lease, list(self.sectors), {}
        other._size, other._tail = self._size, self._tail
        return other

    def read(self, first: int, count: int) -> list[bytes]:
        return self.sectors[first : first + count]

    def finish(self, parts: list[bytes], first: int, count: int) -> bytes:
        """The bytes of a read whose sectors were found to be `parts`."""
        if first + count > len(self.sectors):
            behind = (first + count - len(self.sectors)) * SECTOR
            parts = [*parts, self._tail[:behind] if behind < len(self._tail) else self._tail]
        return b"".join(parts)

    def write(self, first: int, data: bytes) -> None:
        """One sector lands. Raises Violation if it makes a version the property of a second owner."""
        self.sectors[first] = data
        if first == 0 and self.lease:
            self._check_owner(data)

    def _check_owner(self, leader: bytes) -> None:
        owner_id, generation, lver = _OWNER.unpack_from(leader, _OWNER_AT)
        owner = (owner_id, generation)
        if self.decided.setdefault(lver, owner) != owner and lver:
            was = self.decided[lver]
            raise Violation(
                f"lease {self.lease}: version {lver} belonged to host {was[0]} generation {was[1]}"
                f" and is now written as host {owner_id} generation {generation}"
            )
