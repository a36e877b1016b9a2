# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook dump` on every image that the real sanlock made, and on anything else."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leases.images import image, manifest, names
from vlhook.cli import cli
from vlhook.leases.directory import format_lockspace, format_resource
from vlhook.leases.geometry import FILE
from vlhook.leases.holder import RUNNING, HolderRecord
from vlhook.leases.inspect import inspect, with_lockspace
from vlhook.leases.records import Dblock, Leader, ModeBlock, host_sector

DAMAGED = {
    "lockspace_corrupt_host2": (512, "host id 2: checksum of the lockspace record is wrong"),
    "resource_corrupt_leader_checksum": (0, "leader: checksum of the leader is wrong"),
    "resource_corrupt_dblock2_checksum": (1536, "dblock: checksum of the dblock of host 2 is wrong"),
}
HOLDERS: dict[str, list[tuple[int, int, str]]] = {
    "resource_acquired_host1": [(1, 1, "exclusive")],
    "resource_acquired_host2_lver2": [(2, 1, "exclusive")],
    "resource_request_lver3_graceful": [(2, 1, "exclusive")],
    "resource_shared_host1": [(1, 1, "shared")],
    "resource_shared_hosts_1_2": [(1, 1, "shared"), (2, 1, "shared")],
    "resource_shared_host2_only": [(2, 1, "shared")],
    "resource_ballot_phase2_adopted_by_host2": [(1, 2, "exclusive")],
    "resource_short_hold_leader_only_host1": [(1, 3, "exclusive")],
    "resource_short_hold_mode_written_host1": [(1, 4, "exclusive"), (1, 4, "shared")],
    "resource_committed_by_other": [(2, 2, "exclusive")],
    "resource_acquired_host1_after_dblock_release": [(1, 5, "exclusive")],
}
"""Who holds, by image (format document, 7.9); nobody in the others."""
LOCKSPACE = inspect(image("lockspace_hosts_1_2_7_alive"))
UUID = "c7a5fdbd-9edc-4d8a-84c1-d2f4d1f0a001"


def dump(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["dump", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def put(tmp_path: Path) -> Any:
    """put(data, name) is a file with that content."""

    def make(data: bytes, name: str = "area") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


# ---------------------------------------------------------------------------------- every image of the real sanlock


@pytest.mark.parametrize("name", names())
def test_an_image_decodes_to_the_fields_of_its_manifest(name: str, put: Any) -> None:
    entry, decoded = manifest()[name], manifest()[name]["decoded"]
    status, output = dump("--json", put(image(name)))
    report = json.loads(output)
    assert (report["schema"], report["offset"], report["space"]) == (1, 0, "__LIBVIRT__DISKS__")
    assert report["ok"] == (name not in DAMAGED)
    assert status == (1 if name in DAMAGED else 0)
    assert report["area_size"] == entry["size"]
    if entry["kind"] == "lockspace":
        assert report["kind"] == "lockspace"
        assert (report["sector_size"], report["max_hosts"]) == (decoded["sector_size"], decoded["max_host_id"])
        assert {str(h["host_id"]) for h in report["hosts"]} == set(decoded["hosts"])
        for host in report["hosts"]:
            expected = dict(decoded["hosts"][str(host["host_id"])])
            assert host["notices"] == expected.pop("bitmap")
            assert host["ok"] == expected["checksum_ok"]
            assert host["record"] == {k: v for k, v in expected.items() if k != "align_mb"}
        return
    assert report["kind"] == ("cleared lease" if name == "resource_cleared" else "lease")
    assert report["leader"] == {k: v for k, v in decoded["leader"].items() if k != "align_mb"}
    if report["kind"] == "lease":
        assert {k: report["request"][k] for k in decoded["request"]} == decoded["request"]
    assert {str(h["host_id"]) for h in report["hosts"]} == set(decoded["dblocks"])
    for host in report["hosts"]:
        expected = decoded["dblocks"][str(host["host_id"])]
        assert (host["dblock"] is not None) == expected["checksum_ok"]
        assert (host["mode"]["flags"], host["mode"]["generation"]) == (
            expected["mode_flags"],
            expected["mode_generation"],
        )
        for key in ("mbal", "bal", "inp", "inp2", "inp3", "lver", "flags", "released"):
            assert host["dblock"] is None or host["dblock"][key] == expected[key]


@pytest.mark.parametrize("name", names())
def test_an_image_is_shown_on_a_page(name: str, put: Any) -> None:
    status, output = dump(put(image(name)))
    assert status == (1 if name in DAMAGED else 0)
    assert len(output.splitlines()) < 15
    assert ("FAULT" in output) == (name in DAMAGED)
    assert all(line.isprintable() for line in output.splitlines())
    assert len(dump("--all", put(image(name)))[1]) >= len(output)


@pytest.mark.parametrize("name", names("resource"))
def test_who_holds_is_told(name: str) -> None:
    report = inspect(image(name))
    assert [(h.host_id, h.generation, h.mode) for h in report.holders] == HOLDERS.get(name, [])
    assert report.holders_known == (name != "resource_corrupt_leader_checksum")


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_told_with_its_byte_in_the_file(name: str, put: Any) -> None:
    at, what = DAMAGED[name]
    path = put(bytes(1 << 20) + image(name))
    status, output = dump(path, "--offset", 1 << 20, "--json")
    assert status == 1
    (fault,) = json.loads(output)["faults"]
    assert fault["offset"] == (1 << 20) + at
    assert fault["what"].startswith(what)
    assert f"FAULT at byte {(1 << 20) + at}: {what}" in dump(path, "--offset", 1 << 20)[1]


# ------------------------------------------------------------------------------------------- text for people


def taken(record: HolderRecord | None = None, **leader: Any) -> bytearray:
    """The lease that host 1 generation 1 holds at version 1, perhaps with a holder record."""
    area = bytearray(image("resource_acquired_host1"))
    area[:512] = replace(Leader.decode(area), **leader).sealed().sector(FILE)
    if record:
        block = Dblock.decode(area[1024:1536], 1, "x")
        area[1024:1536] = host_sector(FILE, block, ModeBlock(), record.encode())
    return area


def test_the_guest_that_holds_is_named(put: Any) -> None:
    record = HolderRecord(
        1, 1, 1, 1_700_000_000, bytes.fromhex(UUID.replace("-", "")), RUNNING, "web1", "/i/web1.qcow2"
    )
    output = dump(put(taken(record)))[1]
    assert "held exclusively by host 1, generation 1, version 1\n" in output
    assert f"for guest web1 (UUID {UUID}) since 2023-11-1" in output
    assert "disk /i/web1.qcow2" in output


def test_a_record_of_an_earlier_generation_names_nobody(put: Any) -> None:
    assert "for guest" not in dump(put(taken(HolderRecord(1, 9, 1, 0, bytes(16), RUNNING, "old", "/x"))))[1]


def test_a_record_with_an_impossible_time_is_shown_all_the_same(put: Any) -> None:
    record = HolderRecord(1, 1, 1, (1 << 64) - 1, bytes(16), RUNNING, "web1", "/x")
    assert f"since second {(1 << 64) - 1} of the epoch" in dump(put(taken(record)))[1]


def test_a_lockspace_beside_the_lease_tells_names_and_who_is_still_a_member(put: Any) -> None:
    lease = put(taken())
    put(image("lockspace_hosts_1_2_7_alive"), "__LIBVIRT__DISKS__")
    output = dump(lease)[1]
    assert "held exclusively by host 1 (host-a), generation 1" in output
    assert "host 1: a member of the lockspace under this generation" in output


@pytest.mark.parametrize(
    ("lockspace", "generation", "membership"),
    [
        ("lockspace_hosts_1_2_7_alive", 1, "member"),
        ("lockspace_hosts_1_2_7_alive", 2, "unknown"),
        ("lockspace_all_released", 5, "left"),
        ("lockspace_all_released", 4, "came back"),
        ("lockspace_fresh_512_1M_io10", 1, "unknown"),
    ],
)
def test_a_given_lockspace_tells_whether_the_holder_still_counts(
    put: Any, lockspace: str, generation: int, membership: str
) -> None:
    lease, space = put(taken(owner_generation=generation)), put(image(lockspace), "space")
    status, output = dump(lease, "--lockspace", space, "--json")
    (holder,) = json.loads(output)["holders"]
    assert holder["membership"] == membership
    assert status == 0
    text = dump(lease, "--lockspace", space)[1]
    assert ("free for others" in text) == (membership in ("left", "came back"))


def test_a_damaged_record_of_the_holder_tells_nothing(put: Any) -> None:
    report = inspect(bytes(taken(owner_id=2, write_id=2)))
    (holder,) = with_lockspace(report, inspect(image("lockspace_corrupt_host2"))).holders
    assert (holder.membership, holder.counts) == ("unknown", True)


@pytest.mark.parametrize("other", [format_lockspace(FILE, b"OTHER", 10), image("resource_released_host1"), b"junk"])
def test_a_lockspace_file_that_is_another_ones_is_told(put: Any, other: bytes) -> None:
    status, output = dump(put(taken()), "--lockspace", put(other, "space"))
    assert status == 0
    assert "note: the lockspace file is that of" in output or "unknown" in output


def test_what_goes_on_in_a_lease_is_noted(put: Any) -> None:
    assert "asks the owner to give way (version 3)" in dump(put(image("resource_request_lver3_graceful")))[1]
    assert "began to and did not finish" in dump(put(image("resource_ballot_phase2_only_host1")))[1]
    assert "on the way to a shared lease" in dump(put(image("resource_short_hold_leader_only_host1")))[1]
    behind = taken()
    behind[1536:2048] = host_sector(FILE, Dblock(2002, 2002, 2, 1, 5, 7))
    assert "the leader is behind (version 1, a host is at 7)" in dump(put(behind))[1]


def test_a_second_area_in_the_file_is_noted(put: Any) -> None:
    path = put(image("resource_released_host1") * 2)
    assert "another one at --offset 1048576" in dump(path)[1]
    assert "note:" not in dump(path, "--offset", 1 << 20)[1]


def test_a_free_lease_says_who_had_it_last(put: Any) -> None:
    assert "free at version 0, never taken" in dump(put(image("resource_fresh_512_1M")))[1]
    assert "free at version 2; host 2 was the last owner" in dump(put(image("resource_released_host2")))[1]


# ------------------------------------------------------------------------------------------ anything else


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "only 0 bytes are here"),
        (bytes(100), "only 100 bytes are here"),
        (bytes(1 << 20), "all zero, never formatted or half made"),
        (b"\x7fELF" + bytes(5000), "magic 0x464c457f"),
        (image("resource_acquired_host1")[:5000], "FAULT at byte 5000: the file ends here, the area needs 1048576"),
        (image("lockspace_hosts_1_2_7_alive")[:700], "FAULT at byte 700: the file ends here"),
        (image("lockspace_hosts_1_2_7_alive")[:200], "FAULT at byte 200: the file ends here"),
        (bytes(taken(sector_size=1000)), "sector size 1000 is neither"),
        (bytes(taken(flags=0x20)), "no valid pair"),
        (bytes(taken(flags=0x12)), "flags 0x2"),
        (bytes(taken(version=0x00090000)), "version 0x00090000 is not one vlhook knows"),
        (bytes(taken(num_hosts=1 << 60)), "number of hosts"),
        (bytes(taken(owner_id=1 << 60)), "owned by host id"),
        (bytes(taken(num_hosts=0)), "number of hosts"),
    ],
)
def test_what_is_no_good_area_is_said_in_a_line(put: Any, data: bytes, text: str) -> None:
    status, output = dump(put(data))
    assert status == 1
    assert text in output
    json.loads(dump("--json", put(data))[1])


@pytest.mark.parametrize("make", ["absent", "directory", "forbidden"])
def test_what_cannot_be_read_is_status_2_and_one_line(tmp_path: Path, make: str) -> None:
    path = tmp_path / "x"
    if make == "directory":
        path.mkdir()
    elif make == "forbidden":
        path = Path("/proc/self/mem")
    status, output = dump(path)
    assert status == 2
    assert output.startswith(f"vlhook: {path}: cannot be read: ")
    assert len(output.splitlines()) == 1


def test_wrong_usage_is_status_2(put: Any) -> None:
    assert dump()[0] == 2
    assert dump(put(b""), "--offset", -1)[0] == 2
    assert dump(put(b""), "--offset", 1 << 64)[0] == 2
    assert dump(put(b""), "--lockspace", "/nonexistent/x")[0] == 2


def test_a_pipe_does_not_hang_the_command(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert dump(tmp_path / "pipe")[0] in (1, 2)


def test_the_file_is_only_read(put: Any) -> None:
    path = put(image("resource_acquired_host1"))
    path.chmod(0o400)
    before = path.stat()
    assert dump(path)[0] == 0
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_the_help_teaches() -> None:
    status, output = dump("--help")
    assert status == 0
    for word in ("lockspace", "generation", "lver", "FAULT", "Exit status", "--lockspace", "--all", "Examples"):
        assert word in output


def assert_decent(data: bytes) -> None:
    report = inspect(data)
    json.dumps(report.as_dict())
    judged = with_lockspace(report, LOCKSPACE)
    from vlhook.cli.dump import _lines

    assert all(line.isprintable() for line in _lines(judged, Path("x"), True))


@given(st.binary(max_size=5000))
def test_no_bytes_raise(data: bytes) -> None:
    assert not inspect(data).ok
    assert_decent(data)


MAGICS = [b"\x10\x20\x21\x12", b"\x10\x20\x15\x06", b"\x16\x20\x28\x11"]


@given(st.sampled_from(MAGICS), st.binary(min_size=196, max_size=3000))
@settings(max_examples=60)
def test_no_bytes_behind_a_right_magic_raise(magic: bytes, data: bytes) -> None:
    assert_decent(magic + data)


@given(
    st.sampled_from(["resource_shared_hosts_1_2", "resource_acquired_host2_lver2", "lockspace_host2_released"]),
    st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=20),
    st.booleans(),
)
@settings(max_examples=60)
def test_no_changed_bytes_raise_even_under_a_right_checksum(
    name: str, changes: list[tuple[int, int]], sealed: bool
) -> None:
    data = bytearray(image(name))
    for place, value in changes:
        data[place] = value
    if sealed:
        data[:200] = Leader.decode(data).sealed().encode()
    assert_decent(bytes(data))


def test_every_size_of_area_is_decoded(put: Any) -> None:
    from vlhook.leases.geometry import MIB, geometry

    for sector, mib in ((512, 1), (4096, 1), (4096, 2), (4096, 4), (4096, 8)):
        geo = geometry(sector, mib * MIB)
        for data in (format_lockspace(geo, b"LS", 10), format_resource(geo, b"LS", b"R")):
            status, output = dump(put(data))
            assert status == 0
            assert f"{sector}-byte sectors, {mib} MiB, host ids up to {geo.max_hosts}" in output
