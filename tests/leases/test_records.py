# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records byte for byte, against everything that sanlock 3.8.5 wrote (format document, 3)."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.leases.images import SPACE, image, manifest, names, resource_name
from vlhook.leases import records
from vlhook.leases.errors import (
    BadDblockChecksum,
    BadLeaderChecksum,
    BadMagic,
    BadResourceName,
    BadSectorSize,
    BadSpaceName,
    BadVersion,
    Cleared,
    GeometryInvalid,
    LeaseError,
    NumHostsTooSmall,
    RecordError,
    UnsupportedFlags,
)
from vlhook.leases.geometry import FILE, Geometry
from vlhook.leases.records import (
    Dblock,
    Leader,
    ModeBlock,
    Request,
    check_delta,
    check_leader,
    decode_host_sector,
    host_sector,
    host_sectors,
    show_name,
)

LEADER_FIELDS = [
    "magic", "version", "flags", "sector_size", "num_hosts", "max_hosts", "owner_id", "owner_generation", "lver",
    "timestamp", "unused1", "checksum", "unused2", "io_timeout", "write_id", "write_generation", "write_timestamp",
]  # fmt: skip
DAMAGED_LEADERS = {"resource_corrupt_leader_checksum"}
DAMAGED_DBLOCKS = {"resource_corrupt_dblock2_checksum": 2}


def assert_leader(leader: Leader, expected: dict[str, Any]) -> None:
    assert {f: getattr(leader, f) for f in LEADER_FIELDS} == {f: expected[f] for f in LEADER_FIELDS}
    assert show_name(leader.space_name) == expected["space_name"]
    assert show_name(leader.resource_name) == expected["resource_name"]
    assert (leader.checksum == leader.computed_checksum()) == expected["checksum_ok"]
    assert leader.geometry("x").area == expected["align_mb"] << 20


def geometry_of(name: str) -> Geometry:
    return Leader.decode(image(name)).geometry(name)


def sector_at(name: str, offset: int) -> bytes:
    return image(name)[offset : offset + geometry_of(name).sector]


# ------------------------------------------------------------------- what sanlock wrote, field by field


@pytest.mark.parametrize("name", names("lockspace"))
def test_every_field_of_every_lockspace_image(name: str) -> None:
    entry, geo = manifest()[name]["decoded"], geometry_of(name)
    assert (geo.sector, geo.area >> 20, geo.max_hosts) == (
        entry["sector_size"],
        entry["align_mb"],
        entry["max_host_id"],
    )
    found = records.delta_records(image(name), geo)
    assert_leader(found[1], entry["first"])
    used = {h: r for h, r in found.items() if r.owner_id or r.timestamp or r.owner_generation}
    assert sorted(used) == sorted(int(h) for h in entry["hosts"])
    for host_id, record in used.items():
        expected = entry["hosts"][str(host_id)]
        assert_leader(record, expected)
        assert records.bitmap_hosts(sector_at(name, geo.delta(host_id))) == expected["bitmap"]


@pytest.mark.parametrize("name", names("lockspace"))
def test_damage_in_a_lockspace_is_found_exactly_where_it_is(name: str) -> None:
    entry, geo = manifest()[name]["decoded"], geometry_of(name)
    bad = set()
    for host_id, record in records.delta_records(image(name), geo).items():
        try:
            check_delta(record, entry["space_name"].encode(), f"host id {host_id}")
        except BadLeaderChecksum as error:
            assert str(error).startswith(f"host id {host_id}: checksum of the lockspace record is wrong")
            bad.add(host_id)
    assert bad == ({2} if name == "lockspace_corrupt_host2" else set())
    assert (not bad) == entry["all_ok"]


@pytest.mark.parametrize("name", names("resource"))
def test_every_field_of_every_lease_image(name: str) -> None:
    entry, geo = manifest()[name]["decoded"], geometry_of(name)
    assert_leader(Leader.decode(image(name)), entry["leader"])
    request = Request.decode(sector_at(name, geo.request))
    assert vars(request) == {f: entry["request"][f] for f in ("magic", "version", "lver", "force_mode")}
    for host_id, expected in entry["dblocks"].items():
        data = sector_at(name, geo.dblock(int(host_id)))
        mode = ModeBlock.decode(data)
        assert (mode.flags, mode.generation, mode.shared) == (
            expected["mode_flags"],
            expected["mode_generation"],
            expected["shared"],
        )
        if not expected["checksum_ok"]:
            with pytest.raises(BadDblockChecksum):
                Dblock.decode(data, int(host_id), "x")
            continue
        block = Dblock.decode(data, int(host_id), "x")
        fields = ("mbal", "bal", "inp", "inp2", "inp3", "lver", "flags")
        assert {f: getattr(block, f) for f in fields} == {f: expected[f] for f in fields}
        assert block.released == expected["released"]


@pytest.mark.parametrize("name", [n for n in names("resource") if n not in DAMAGED_DBLOCKS])
def test_exactly_the_sectors_that_are_not_blank_are_found(name: str) -> None:
    entry, geo = manifest()[name]["decoded"], geometry_of(name)
    found = host_sectors(image(name), geo, entry["leader"]["num_hosts"], name)
    assert [str(s.host_id) for s in found] == list(entry["dblocks"])


@pytest.mark.parametrize("name", names("resource"))
def test_damage_in_a_lease_is_found_exactly_where_it_is(name: str) -> None:
    geo, leader = geometry_of(name), Leader.decode(image(name))
    expected: type[LeaseError] | None = None
    if name in DAMAGED_LEADERS:
        expected = BadLeaderChecksum
    elif name == "resource_cleared":
        expected = Cleared
    elif name in DAMAGED_DBLOCKS:
        expected = BadDblockChecksum
    try:
        check_leader(leader, SPACE, resource_name(name), 1, name)
        host_sectors(image(name), geo, leader.num_hosts, name)
    except LeaseError as error:
        assert type(error) is expected
        assert name in str(error)
        if isinstance(error, BadDblockChecksum):
            assert "host 2" in str(error)
    else:
        assert expected is None


# ---------------------------------------------------------------------------- and written again


@pytest.mark.parametrize("name", names("lockspace"))
def test_a_lockspace_written_again_is_the_same_to_the_byte(name: str) -> None:
    geo, data = geometry_of(name), image(name)
    again = bytearray(geo.area)
    for host_id, record in records.delta_records(data, geo).items():
        offset = geo.delta(host_id)
        sector = bytearray(record.sector(geo))
        for other in records.bitmap_hosts(data[offset : offset + geo.sector]):
            sector[records.BITMAP_AT + (other - 1) // 8] |= 1 << (other - 1) % 8
        again[offset : offset + geo.sector] = sector
    assert bytes(again) == data


@pytest.mark.parametrize("name", [n for n in names("resource") if n not in DAMAGED_DBLOCKS])
def test_a_lease_written_again_is_the_same_to_the_byte_but_for_padding(name: str) -> None:
    geo, data = geometry_of(name), bytearray(image(name))
    leader = Leader.decode(data)
    again = bytearray(geo.area)
    again[: geo.sector] = leader.sector(geo)
    request = Request.decode(sector_at(name, geo.request)).encode()
    again[geo.request : geo.request + len(request)] = request
    data[geo.request + 20 : geo.request + 24] = bytes(4)
    for host in host_sectors(data, geo, leader.num_hosts, name):
        offset = geo.dblock(host.host_id)
        again[offset : offset + geo.sector] = host_sector(geo, host.dblock, host.mode)
        data[offset + records.MODE_AT + 4 : offset + records.MODE_AT + 8] = bytes(4)
    assert bytes(again) == bytes(data)


@pytest.mark.parametrize("name", [n for n in names() if n not in DAMAGED_LEADERS])
def test_sealing_a_record_computes_the_checksum_that_sanlock_computed(name: str) -> None:
    leader = Leader.decode(image(name))
    assert replace(leader, checksum=0).sealed() == leader


# --------------------------------------------------------------- what is refused, in which order


def lease(**changes: Any) -> Leader:
    base = Leader.decode(image("resource_released_host1"))
    return replace(base, **changes).sealed()


NAME = resource_name("resource_released_host1")


@pytest.mark.parametrize(
    ("changes", "error", "result"),
    [
        ({"magic": 0}, BadMagic, -223),
        ({"magic": records.DELTA_MAGIC}, BadMagic, -223),
        ({"magic": records.CLEARED_MAGIC}, Cleared, -223),
        ({"version": 0x00050004}, BadVersion, -224),
        ({"version": 0x00080000}, BadVersion, -224),
        ({"version": 0}, BadVersion, -224),
        ({"flags": 0x10 | 0x2}, UnsupportedFlags, -224),
        ({"flags": 0x10 | 0x80000000}, UnsupportedFlags, -224),
        ({"space_name": b"OTHER".ljust(48, b"\0")}, BadSpaceName, -226),
        ({"space_name": SPACE + bytes(29) + b"x"}, BadSpaceName, -226),
        ({"resource_name": NAME[:-1].ljust(48, b"\0")}, BadResourceName, -227),
        ({"resource_name": (NAME + b"0").ljust(48, b"\0")}, BadResourceName, -227),
        ({"sector_size": 1000}, BadSectorSize, -225),
        ({"flags": 0x20}, GeometryInvalid, -230),
        ({"num_hosts": 6}, NumHostsTooSmall, -228),
        ({"num_hosts": 0}, RecordError, -201),
        ({"num_hosts": 2001}, RecordError, -201),
        ({"max_hosts": 1 << 40}, RecordError, -201),
    ],
)
def test_a_leader_that_is_not_what_it_must_be_is_refused(
    changes: dict[str, Any], error: type[LeaseError], result: int
) -> None:
    with pytest.raises(error) as caught:
        check_leader(lease(**changes), SPACE, NAME, 7, "/leases/x")
    assert type(caught.value) is error
    assert caught.value.result == result
    assert str(caught.value).startswith("/leases/x: ")
    assert "?>" not in str(caught.value), "a field of the message was not given"


ORDER: list[tuple[dict[str, Any], type[LeaseError]]] = [
    ({"magic": 5}, BadMagic),
    ({"version": 5}, BadVersion),
    ({"space_name": bytes(48)}, BadSpaceName),
    ({"resource_name": bytes(48)}, BadResourceName),
    ({"num_hosts": 1}, NumHostsTooSmall),
    ({"checksum": 5}, BadLeaderChecksum),
]


@pytest.mark.parametrize("first", range(len(ORDER)))
def test_the_first_fault_in_the_order_of_the_format_document_is_the_one_named(first: int) -> None:
    changes: dict[str, Any] = {}
    for change, _ in ORDER[first:]:
        changes.update(change)
    leader = replace(lease(), **changes)
    with pytest.raises(ORDER[first][1]) as caught:
        check_leader(leader, SPACE, NAME, 2, "x")
    assert type(caught.value) is ORDER[first][1]


@pytest.mark.parametrize("version", [0x00060000, 0x00060003, 0x00060004, 0x0006FFFF, 0x00070000, 0x00070001])
def test_any_minor_of_a_known_version_is_read(version: int) -> None:
    check_leader(lease(version=version), SPACE, NAME, 1, "x")


@pytest.mark.parametrize(("version", "good"), [(0x00030001, True), (0x00050000, True), (0x00040000, False)])
def test_delta_records_of_sanlock_3_and_5_are_read_and_no_other(version: int, good: bool) -> None:
    record = Leader.decode(image("lockspace_hosts_1_2_7_alive"))
    changed = replace(record, version=version).sealed()
    if good:
        check_delta(changed, SPACE, "x")
    else:
        with pytest.raises(BadVersion, match="3.x or 5.x"):
            check_delta(changed, SPACE, "x")


def test_names_are_compared_over_all_48_bytes() -> None:
    """Row 31: a name compared at random. Bytes after the NUL count too."""
    dirty = lease(resource_name=NAME.ljust(47, b"\0") + b"x")
    with pytest.raises(BadResourceName):
        check_leader(dirty, SPACE, NAME, 1, "x")


@given(st.integers(0, 167 * 8 + 7))
def test_any_flipped_bit_of_the_first_168_bytes_of_a_leader_is_refused(bit: int) -> None:
    data = bytearray(image("resource_acquired_host1")[:200])
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LeaseError):
        check_leader(Leader.decode(data), SPACE, resource_name("resource_acquired_host1"), 1, "x")


@given(st.integers(0, 47 * 8 + 7))
def test_any_flipped_bit_of_a_dblock_is_refused(bit: int) -> None:
    """Row 10: dblocks had no checksum."""
    data = bytearray(sector_at("resource_acquired_host1", FILE.dblock(1)))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadDblockChecksum):
        Dblock.decode(data, 1, "x")


@given(st.binary(min_size=200, max_size=200))
def test_garbage_is_refused_and_never_anything_worse(data: bytes) -> None:
    for check in (
        lambda: check_leader(Leader.decode(data), SPACE, NAME, 1, "x"),
        lambda: check_delta(Leader.decode(data), SPACE, "x"),
    ):
        with pytest.raises(LeaseError) as caught:
            check()
        assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------- dblocks and modes

values = st.integers(0, (1 << 64) - 1)
small = st.integers(0, (1 << 32) - 1)
dblocks = st.builds(Dblock, values, values, values, values, values, values, small)


@given(dblocks)
def test_a_dblock_survives_encoding(block: Dblock) -> None:
    assert Dblock.decode(block.encode(), 1, "x") == block


def test_a_zeroed_sector_is_a_blank_dblock() -> None:
    assert Dblock.decode(bytes(512), 1, "x") == Dblock()
    assert host_sector(FILE, Dblock()) == bytes(512)


def test_zero_values_with_a_checksum_of_their_own_are_no_damage() -> None:
    data = bytes(48) + struct.pack("<II", 0xCB5AD842, 1)
    assert Dblock.decode(data, 1, "x") == Dblock(flags=1)


def test_released_only_sets_the_flag() -> None:
    """Row 25: zeroing the dblock at release let a second host own the same version again."""
    block = Dblock(2001, 2001, 1, 3, 77, 5)
    released = block.with_released()
    assert released.released
    assert not block.released
    assert replace(released, flags=0) == block
    assert released.encode()[:52] == block.encode()[:52], "the flag is outside the checksum"


@given(dblocks, st.sampled_from([FILE, Geometry(4096, 8 << 20, 2000)]), st.integers(0, 3), values)
def test_dblock_and_mode_block_share_one_sector_and_the_rest_is_zero(
    block: Dblock, geo: Geometry, flags: int, generation: int
) -> None:
    mode = ModeBlock(flags, generation)
    sector = host_sector(geo, block, mode)
    assert len(sector) == geo.sector
    found = decode_host_sector(sector, 1, "x")
    assert (found.dblock, found.mode) == (block, mode)
    assert sector[56:128] == bytes(72)
    assert sector[144:] == bytes(geo.sector - 144)


def test_padding_may_contain_garbage() -> None:
    sector = bytearray(host_sector(FILE, Dblock(1, lver=1), ModeBlock(1, 9)))
    sector[132:136] = b"\xde\xad\xbe\xef"
    assert ModeBlock.decode(sector) == ModeBlock(1, 9)
    request = bytearray(sector_at("resource_request_lver3_graceful", 512))
    request[20:24] = b"\xde\xad\xbe\xef"
    assert Request.decode(request).force_mode == 2


@pytest.mark.parametrize(
    ("data", "at"),
    [(b"\x01", 128), (Dblock(lver=7).encode(), 0), (Dblock(flags=1).encode(), 0), (Dblock(mbal=1 << 63).encode(), 0)],
)
@pytest.mark.parametrize("host_id", [1, 2, 1000, 1999, 2000])
def test_a_sector_is_found_whatever_part_of_it_is_used(data: bytes, at: int, host_id: int) -> None:
    area = bytearray(FILE.area)
    offset = FILE.dblock(host_id) + at
    area[offset : offset + len(data)] = data
    assert [s.host_id for s in host_sectors(area, FILE, 2000, "x")] == [host_id]
    assert host_sectors(area, FILE, host_id - 1, "x") == [], "hosts above num_hosts take no part"


@given(st.dictionaries(st.integers(1, 2000), dblocks, max_size=8))
def test_the_quick_search_finds_what_a_plain_loop_finds(wanted: dict[int, Dblock]) -> None:
    area = bytearray(FILE.area)
    for host_id, block in wanted.items():
        area[FILE.dblock(host_id) : FILE.dblock(host_id) + 512] = host_sector(FILE, block)
    plain = {h: b for h, b in wanted.items() if b != Dblock()}
    assert {s.host_id: s.dblock for s in host_sectors(area, FILE, 2000, "x")} == plain


# ------------------------------------------------------------------------------------------- names


def test_names_fill_48_bytes_and_no_more() -> None:
    assert records.pad_name(b"a" * 48) == b"a" * 48
    assert records.pad_name(b"") == bytes(48)
    for bad in (b"a" * 49, b"a\0b"):
        with pytest.raises(ValueError, match="not a lease name"):
            records.pad_name(bad)


@given(st.binary(min_size=48, max_size=48))
def test_a_hostile_name_is_shown_on_one_line(name: bytes) -> None:
    assert show_name(name).isprintable()
