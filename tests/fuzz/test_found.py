# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fuzzer found, once and for all; and the same rules for any field of any record."""

from __future__ import annotations

import zlib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import disk_targets, text_targets
from tests.fuzz.disk_targets import LEASE, NAME, SPACE, HostTable, drive
from vlhook.keeper.messages import refusal
from vlhook.keeper.state import StateDamaged, StateStore
from vlhook.keeper.wire import pack, read_message
from vlhook.leases import directory, paxos
from vlhook.leases.area import Identity
from vlhook.leases.effects import LOCKSPACE, RESOURCE
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import HeldByOther, LeaseError, RecordError
from vlhook.leases.geometry import FILE
from vlhook.leases.holder import HolderRecord
from vlhook.leases.hostids import Machine, Note
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.owner import Holder
from vlhook.leases.records import Dblock, Leader, ModeBlock, host_sector

BEYOND = [1 << 62, (1 << 64) - 1, 10**30]
"""Seconds of the epoch that no clock can show."""


@pytest.mark.parametrize("since", BEYOND)
def test_a_note_of_a_host_id_with_an_impossible_date_is_told_without_it(since: int) -> None:
    assert str(Note(3, Machine("m", "node-7", "b"), since)) == "it was set for host node-7"


@pytest.mark.parametrize("since", BEYOND)
def test_a_holder_record_with_an_impossible_date_does_not_hide_who_holds_the_lease(since: int) -> None:
    record = HolderRecord(2, 1, 4, since, bytes(16), 1, "db", "/images/db.img")
    holder = Holder(2, 1, b"u.host-two", 10, alive=True, silent_for=0.0, free_in=140.0, record=record)
    error = HeldByOther(name="x", owner_id=2, owner_generation=1, holder=holder)
    line = refusal("web", Refused([(Want("x", LOCKSPACE_NAME, False, "/images/db.img"), error)]), "/leases")
    assert "guest db" in line
    assert "host 2 (host-two)" in line
    assert "of the epoch" in line


@pytest.mark.parametrize(
    "data",
    [pack(b"call", [b"status", b"[" * 5000]), pack(b"hook", [b"web", b"start", b"begin", b"-", "²".encode(), b""])],
    ids=["deep JSON", "a digit that is no number"],
)
def test_a_request_that_made_the_keeper_stumble_is_answered(data: bytes) -> None:
    text_targets.request(data)


@pytest.mark.parametrize(
    "body", [b'{"boot_id": "boot", "record": "00"}', b"[" * 5000], ids=["short record", "deep JSON"]
)
def test_damaged_state_whose_checksum_is_right_is_damaged_state(tmp_path: Path, body: bytes) -> None:
    store = StateStore(tmp_path, tmp_path, "boot")
    (tmp_path / "membership").write_bytes(b"%08x\n" % zlib.crc32(body) + body)
    with pytest.raises(StateDamaged, match="membership"):
        store.load_member()


# ------------------------------------------------------------------------------------------- any field, any value

WORD = st.sampled_from([0, 1, 2, 3, 2000, 2001, (1 << 63), (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
SIZES = dict.fromkeys(("magic", "version", "flags", "sector_size", "checksum"), 32)
SIZES |= {"unused2": 16, "io_timeout_raw": 16}
ANY_FIELD = st.dictionaries(
    st.sampled_from([f.name for f in fields(Leader) if f.name not in ("space_name", "resource_name")]), WORD, max_size=3
)
BLOCKS = st.dictionaries(st.integers(1, 9), st.tuples(st.builds(Dblock, WORD, WORD, WORD, WORD, WORD, WORD,
         st.integers(0, 3)), st.builds(ModeBlock, st.integers(0, 3), WORD)), max_size=3)  # fmt: skip


def leader(base: bytes, changes: dict[str, int]) -> Leader:
    fitting = {name: value & ((1 << SIZES.get(name, 64)) - 1) for name, value in changes.items()}
    made = replace(Leader.decode(base), **fitting)
    return made if "checksum" in changes else made.sealed()


@given(ANY_FIELD, BLOCKS, st.dictionaries(st.integers(1, 9), ANY_FIELD, max_size=3), st.booleans())
def test_a_hostile_disk_makes_an_acquire_fail_or_succeed_and_nothing_else(
    changes: dict[str, int],
    blocks: dict[int, tuple[Dblock, ModeBlock]],
    hosts: dict[int, dict[str, int]],
    shared: bool,
) -> None:
    lease, space = bytearray(disk_targets.FRESH_LEASE), bytearray(disk_targets.FRESH_SPACE)
    lease[:200] = leader(bytes(lease), changes).encode()
    for host_id, (block, mode) in blocks.items():
        lease[FILE.dblock(host_id) : FILE.dblock(host_id) + 512] = host_sector(FILE, block, mode)
    for host_id, fields_of in hosts.items():
        at = FILE.delta(host_id)
        space[at : at + 200] = leader(bytes(space[at : at + 200]), fields_of).encode()
    table = HostTable()
    table.observe(bytes(space), FILE, 990.0)
    try:
        drive(paxos.acquire(LEASE, disk_targets.ME, shared=shared), {RESOURCE: lease, LOCKSPACE: space}, table)
    except LeaseError as error:
        assert "\n" not in str(error)


@given(st.from_regex(rb"[A-Za-z]{1,20}", fullmatch=True), st.lists(st.binary(max_size=300), max_size=16),
       st.integers(1, 50))  # fmt: skip
def test_a_message_is_read_as_it_was_packed_in_pieces_of_any_size(verb: bytes, parts: list[bytes], size: int) -> None:
    left = memoryview(pack(verb, parts))

    def receive(most: int) -> bytes:
        nonlocal left
        chunk, left = bytes(left[: min(size, most)]), left[min(size, most) :]
        return chunk

    assert read_message(receive) == (verb, parts)


def test_a_ballot_number_that_cannot_be_outbid_is_refused_before_anything_is_written() -> None:
    lease = bytearray(directory.format_resource(FILE, SPACE, NAME))
    lease[FILE.dblock(1) : FILE.dblock(1) + 512] = host_sector(FILE, Dblock(mbal=(1 << 64) - 1, lver=1))
    before = bytes(lease)
    areas = {RESOURCE: lease, LOCKSPACE: bytearray(disk_targets.FRESH_SPACE)}
    with pytest.raises(RecordError, match="ballot or version"):
        drive(paxos.acquire(LEASE, Identity(3, 5)), areas, HostTable())
    assert lease == before
