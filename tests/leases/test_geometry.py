# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where each record lies (format document, 1)."""

from __future__ import annotations

import pytest

from vlhook.leases.errors import BadSectorSize, GeometryInvalid, HostIdTooLarge
from vlhook.leases.geometry import FILE, MIB, Geometry, geometry, of_leader

TABLE = [
    (512, 1, 0x10, 2000, 2048),
    (4096, 1, 0x10, 250, 256),
    (4096, 2, 0x20, 500, 512),
    (4096, 4, 0x40, 1000, 1024),
    (4096, 8, 0x80, 2000, 2048),
]


@pytest.mark.parametrize(("sector", "mib", "flag", "hosts", "sectors"), TABLE)
def test_the_five_pairs_of_the_format(sector: int, mib: int, flag: int, hosts: int, sectors: int) -> None:
    geo = geometry(sector, mib * MIB)
    assert (geo.flag, geo.max_hosts, geo.area // geo.sector) == (flag, hosts, sectors)
    assert of_leader(sector, flag, "x") == geo
    assert of_leader(sector, flag | 0x1, "x") == geo, "other flags do not change the sizes"


@pytest.mark.parametrize(("sector", "mib", "flag", "hosts", "sectors"), TABLE)
def test_every_hosts_sector_lies_within_the_area_and_meets_no_other(
    sector: int, mib: int, flag: int, hosts: int, sectors: int
) -> None:
    geo = geometry(sector, mib * MIB)
    deltas = [geo.delta(h) for h in range(1, hosts + 1)]
    dblocks = [geo.dblock(h) for h in range(1, hosts + 1)]
    assert deltas == [(h - 1) * sector for h in range(1, hosts + 1)]
    assert dblocks == [(h + 1) * sector for h in range(1, hosts + 1)]
    assert dblocks[0] > geo.request > 0
    assert max(deltas[-1], dblocks[-1]) + sector <= geo.area


@pytest.mark.parametrize("host_id", [0, -1, 2001, 1 << 63])
def test_no_host_id_beyond_the_area_has_a_place(host_id: int) -> None:
    with pytest.raises(HostIdTooLarge):
        FILE.delta(host_id)
    with pytest.raises(HostIdTooLarge):
        FILE.dblock(host_id)


@pytest.mark.parametrize(("sector", "area"), [(512, 2 * MIB), (512, 8 * MIB), (4096, 3 * MIB), (4096, 0), (512, 0x10)])
def test_other_pairs_do_not_exist(sector: int, area: int) -> None:
    with pytest.raises(GeometryInvalid):
        geometry(sector, area)


@pytest.mark.parametrize("sector", [0, 1, 511, 1024, 2048, 8192, 1 << 31])
def test_other_sector_sizes_do_not_exist(sector: int) -> None:
    with pytest.raises(BadSectorSize):
        of_leader(sector, 0x10, "x")


@pytest.mark.parametrize("flags", [0x20, 0x30, 0xF0, 0x80])
def test_an_align_flag_that_does_not_fit_the_sector_is_refused(flags: int) -> None:
    with pytest.raises(GeometryInvalid):
        of_leader(512, flags, "x")


def test_without_an_align_flag_the_area_holds_2000_hosts() -> None:
    assert of_leader(512, 0, "x") == geometry(512, MIB)
    assert of_leader(4096, 0, "x") == geometry(4096, 8 * MIB)


@pytest.mark.parametrize(
    ("geo", "num_hosts", "sectors"),
    [
        (FILE, 2000, 2048),
        (FILE, 8, 16),
        (FILE, 14, 16),
        (FILE, 15, 32),
        (FILE, 1, 4),
        (geometry(4096, MIB), 250, 256),
        (geometry(4096, 8 * MIB), 2000, 2048),
    ],
)
def test_a_ballot_reads_a_power_of_two_of_sectors_that_covers_all_hosts(
    geo: Geometry, num_hosts: int, sectors: int
) -> None:
    assert geo.ballot_length(num_hosts) == sectors * geo.sector
    assert geo.dblock(num_hosts) + geo.sector <= geo.ballot_length(num_hosts) <= geo.area


def test_regular_files_are_always_512_bytes_and_one_mebibyte() -> None:
    assert (FILE.sector, FILE.area, FILE.max_hosts) == (512, MIB, 2000)
