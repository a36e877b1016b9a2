# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from vlhook import lastok
from vlhook.lastok import CHECKSUM, NOTHING, PAGE_SIZE, SLOT_OFFSETS, SLOT_SIZE, Page
from vlhook.processes import start_time

SECOND = 1_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / lastok.FILE_NAME)


def now(clock: int = time.CLOCK_MONOTONIC) -> int:
    return time.clock_gettime_ns(clock)


def store(
    page: Page, *, age: float = 0, asleep: float = 0, io_timeout: int = 10, generation: int = 3
) -> None:
    """A renewal `age` seconds ago, after which the machine was suspended for `asleep` seconds."""
    page.store(
        io_timeout=io_timeout, host_id=7, generation=generation,
        last_ok_monotonic=now() - int(age * SECOND),
        last_ok_boottime=now(time.CLOCK_BOOTTIME) - int((age + asleep) * SECOND),
    )


def damage(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_what_the_keeper_stores_is_what_the_guard_loads(path: str) -> None:
    writer = Page.create(path)
    reader = Page.open(path)
    before = now()
    store(writer, age=2)
    snapshot = reader.load()
    assert snapshot is not None
    assert (snapshot.io_timeout, snapshot.host_id, snapshot.generation) == (10, 7, 3)
    assert snapshot.limit == 80
    assert (snapshot.keeper_pid, snapshot.keeper_start) == (os.getpid(), start_time(os.getpid()))
    assert before <= snapshot.heartbeat <= now()
    assert snapshot.elapsed() >= 2


def test_a_new_page_says_nothing(path: str) -> None:
    Page.create(path)
    assert Page.open(path).load() is None
    assert os.stat(path).st_size == PAGE_SIZE
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_heartbeat_does_not_renew(path: str) -> None:
    writer = Page.create(path)
    store(writer, age=50)
    stored = writer.load()
    writer.heartbeat()
    beaten = Page.open(path).load()
    assert stored is not None
    assert beaten is not None
    assert beaten.heartbeat > stored.heartbeat
    assert beaten._replace(sequence=0, heartbeat=0) == stored._replace(sequence=0, heartbeat=0)


def test_a_heartbeat_before_any_renewal_makes_no_member(path: str) -> None:
    Page.create(path).heartbeat()
    snapshot = Page.open(path).load()
    assert snapshot is not None
    assert not snapshot.member


def test_the_worse_clock_counts(path: str) -> None:
    writer = Page.create(path)
    store(writer, age=1, asleep=300)
    snapshot = writer.load()
    assert snapshot is not None
    assert snapshot.elapsed() >= 301


def test_a_renewal_in_the_future_is_infinitely_old(path: str) -> None:
    writer = Page.create(path)
    store(writer, age=-60)
    snapshot = writer.load()
    assert snapshot is not None
    assert snapshot.elapsed() == float("inf")


def test_slots_are_written_in_turn(path: str) -> None:
    writer = Page.create(path)
    seen = []
    for _ in range(4):
        before = Path(path).read_bytes()
        writer.heartbeat()
        after = Path(path).read_bytes()
        seen.append([at for at in SLOT_OFFSETS if before[at : at + SLOT_SIZE] != after[at : at + SLOT_SIZE]])
    assert seen[0] != seen[1]
    assert seen[2:] == seen[:2]
    assert all(len(changed) == 1 for changed in seen)


@pytest.mark.parametrize("written", range(0, SLOT_SIZE, 3))
def test_a_write_that_stopped_half_way_leaves_the_one_before(path: str, written: int) -> None:
    writer = Page.create(path)
    for generation in (1, 2, 3):
        store(writer, generation=generation)
    old = Path(path).read_bytes()
    store(writer, generation=4)
    new = Path(path).read_bytes()
    offset = next(at for at in SLOT_OFFSETS if old[at : at + SLOT_SIZE] != new[at : at + SLOT_SIZE])
    damage(path, offset, new[offset : offset + written] + old[offset + written : offset + SLOT_SIZE])
    snapshot = Page.open(path).load()
    assert snapshot is not None
    # Either the torn slot happens to be one of the two whole ones, or it is not believed.
    assert snapshot.generation == (4 if Path(path).read_bytes() == new else 3)


@pytest.mark.parametrize("bit", range(0, SLOT_SIZE * 8, 17))
def test_a_slot_with_one_wrong_bit_does_not_exist(path: str, bit: int) -> None:
    writer = Page.create(path)
    writer.write(NOTHING._replace(io_timeout=10, host_id=1, generation=5))
    raw = bytearray(Path(path).read_bytes())
    offset = next(at for at in SLOT_OFFSETS if any(raw[at : at + SLOT_SIZE]))
    raw[offset + bit // 8] ^= 1 << bit % 8
    Path(path).write_bytes(raw)
    assert Page.open(path).load() is None


def test_garbage_with_a_good_checksum_but_of_another_boot_is_not_believed(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lastok, "boot_id", lambda: b"another boot id.")
        store(Page.create(path))
    assert Page.open(path).load() is None
    # Nor does a keeper carry on from it.
    writer = Page.create(path)
    writer.heartbeat()
    snapshot = writer.load()
    assert snapshot is not None
    assert not snapshot.member


@pytest.mark.parametrize("size", [0, 50, 3000])
def test_a_page_that_is_truncated_under_its_reader_is_no_page_and_no_crash(path: str, size: int) -> None:
    writer = Page.create(path)
    store(writer)
    reader = Page.open(path)
    os.truncate(path, size)
    snapshot = reader.load()
    assert snapshot is None or size == 3000
    # The keeper's next heartbeats make it whole.
    writer.heartbeat()
    writer.heartbeat()
    repaired = reader.load()
    assert repaired is not None
    assert repaired.generation == 3


def test_a_heartbeat_in_one_thread_never_undoes_a_renewal_in_another(path: str) -> None:
    page = Page.create(path)
    reader = Page.open(path)
    ended = threading.Event()

    def beat() -> None:
        while not ended.is_set():
            page.heartbeat()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=beat) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for generation in range(1, 300):
            store(page, generation=generation)
            seen = reader.load()
            assert seen is not None
            assert seen.generation == generation
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)


def test_a_heartbeat_repairs_a_page_of_garbage(path: str) -> None:
    writer = Page.create(path)
    store(writer, generation=9)
    damage(path, 0, os.urandom(PAGE_SIZE))
    assert Page.open(path).load() is None
    writer.heartbeat()
    snapshot = Page.open(path).load()
    assert snapshot is not None
    assert snapshot.generation == 9


def test_the_next_keeper_carries_on_what_the_page_says(path: str) -> None:
    first = Page.create(path)
    store(first, generation=4)
    first.close()
    second = Page.create(path)
    second.heartbeat()
    snapshot = second.load()
    assert snapshot is not None
    assert snapshot.generation == 4
    assert snapshot.sequence == 2


def test_a_reader_notices_that_the_page_is_another_file(path: str) -> None:
    Page.create(path)
    reader = Page.open(path)
    assert not reader.replaced()
    os.rename(path, path + ".old")
    assert reader.replaced()
    Page.create(path)
    assert reader.replaced()


@pytest.mark.parametrize("io_timeout", [0, -1, 256])
def test_an_impossible_io_timeout_is_not_stored(path: str, io_timeout: int) -> None:
    with pytest.raises(ValueError, match="io_timeout"):
        store(Page.create(path), io_timeout=io_timeout)


def test_a_page_that_is_too_short_is_not_opened(path: str) -> None:
    Path(path).write_bytes(b"short")
    with pytest.raises(ValueError, match="file size"):
        Page.open(path)


def test_a_symbolic_link_is_not_followed(path: str, tmp_path: Path) -> None:
    os.symlink(tmp_path / "elsewhere", path)
    with pytest.raises(OSError, match="symbolic"):
        Page.create(path)


def test_the_slot_is_as_the_format_says(path: str) -> None:
    writer = Page.create(path)
    writer.write(NOTHING._replace(
        io_timeout=10, host_id=7, generation=3, last_ok_monotonic=0x1111, last_ok_boottime=0x2222,
        heartbeat=0x3333, keeper_pid=44, keeper_start=55, flags=66,
    ))
    raw = Path(path).read_bytes()[2048 : 2048 + SLOT_SIZE]
    fields = {
        8: (4, 1), 12: (4, 66), 16: (8, 1), 24: (4, 10), 28: (4, 7), 32: (8, 3), 40: (8, 0x1111),
        48: (8, 0x2222), 56: (8, 0x3333), 64: (4, 44), 68: (4, 0), 72: (8, 55),
    }
    assert raw[:8] == b"VLHLASTO"
    for offset, (width, value) in fields.items():
        assert int.from_bytes(raw[offset : offset + width], "little") == value
    assert raw[80:96] == lastok.boot_id()
    assert CHECKSUM.size == 4
    assert SLOT_SIZE == 100
