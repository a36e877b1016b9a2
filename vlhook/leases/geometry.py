# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sector and area sizes, and where in an area each record lies (format document, 1)."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import BadSectorSize, GeometryInvalid, HostIdTooLarge

MIB = 1 << 20
ALIGN_MASK = 0xF0
_AREA_OF_FLAG = {0x10: MIB, 0x20: 2 * MIB, 0x40: 4 * MIB, 0x80: 8 * MIB}
_FLAG_OF_AREA = {area: flag for flag, area in _AREA_OF_FLAG.items()}
_MAX_HOSTS = {
    (512, MIB): 2000,
    (4096, MIB): 250,
    (4096, 2 * MIB): 500,
    (4096, 4 * MIB): 1000,
    (4096, 8 * MIB): 2000,
}
HEADER = 4096
"""Bytes to read of an area of which nothing is known yet."""


@dataclass(frozen=True)
class Geometry:
    """Sizes in bytes. Only the five pairs of the format exist; use `geometry()`."""

    sector: int
    area: int
    max_hosts: int

    @property
    def flag(self) -> int:
        """The align bit that says this area size in a leader record."""
        return _FLAG_OF_AREA[self.area]

    def delta(self, host_id: int) -> int:
        """Byte of the delta record of `host_id` in a lockspace area."""
        return (self._fits(host_id) - 1) * self.sector

    def dblock(self, host_id: int) -> int:
        """Byte of the sector of `host_id` in a resource area."""
        return (self._fits(host_id) + 1) * self.sector

    @property
    def request(self) -> int:
        return self.sector

    def ballot_length(self, num_hosts: int) -> int:
        """Bytes a ballot reads: a power of two of sectors that covers all dblocks."""
        sectors = 1
        while sectors < num_hosts + 2:
            sectors *= 2
        return min(sectors * self.sector, self.area)

    def _fits(self, host_id: int) -> int:
        if not 1 <= host_id <= self.max_hosts:
            raise HostIdTooLarge(where="this area", found=host_id, expected=self.max_hosts)
        return host_id


_ALL = {(sector, area): Geometry(sector, area, hosts) for (sector, area), hosts in _MAX_HOSTS.items()}


def geometry(sector: int, area: int, where: str = "geometry") -> Geometry:
    """The geometry of that pair of sizes.

    Raises BadSectorSize (-225) and GeometryInvalid (-230).
    """
    if sector not in (512, 4096):
        raise BadSectorSize(where=where, found=sector, expected="512 or 4096")
    try:
        return _ALL[sector, area]
    except KeyError:
        raise GeometryInvalid(where=where, found=sector, expected=area) from None


def of_leader(sector_size: int, flags: int, where: str) -> Geometry:
    """The geometry that a leader record states.

    Without an align bit (older formats) areas are 1 MiB at 512 and 8 MiB at 4096.
    """
    bits = flags & ALIGN_MASK
    area = _AREA_OF_FLAG.get(bits, bits) if bits else MIB if sector_size == 512 else 8 * MIB
    return geometry(sector_size, area, where)


FILE = geometry(512, MIB)
"""What regular files get, whatever the file system beneath."""
