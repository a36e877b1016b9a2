# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of other hosts (format document, 6.4), by the observer's clock only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.leases import directory
from vlhook.leases.effects import HostView
from vlhook.leases.geometry import FILE
from vlhook.leases.hosts import DEAD, FAIL, FREE, LIVE, UNKNOWN, Alarm, HostTable, state
from vlhook.leases.records import Leader, pad_name

from .images import image

SPACE = b"LS"


class Disk:
    """A lockspace whose records a test writes; `look` is one renewal read of the observer."""

    def __init__(self) -> None:
        self.area = bytearray(directory.format_lockspace(FILE, SPACE, 10))
        self.table = HostTable()

    def write(self, host_id: int, generation: int, timestamp: int, io_timeout: int = 2, **more: int) -> None:
        record = replace(
            Leader.decode(memoryview(self.area)[FILE.delta(host_id) :]),
            owner_id=host_id,
            owner_generation=generation,
            timestamp=timestamp,
            io_timeout_raw=io_timeout,
            resource_name=pad_name(b"host-%d" % host_id),
            **more,
        ).sealed()
        self.area[FILE.delta(host_id) : FILE.delta(host_id) + 512] = record.sector(FILE)

    def damage(self, host_id: int, byte: int, value: int) -> None:
        self.area[FILE.delta(host_id) + byte] = value

    def look(self, at: float) -> list[Alarm]:
        return self.table.observe(bytes(self.area), FILE, at)

    def view(self, host_id: int) -> HostView:
        view = self.table.get(host_id)
        assert view
        return view


@pytest.mark.parametrize(
    ("silent", "expected"),
    [(0, LIVE), (16, LIVE), (16.5, FAIL), (76, FAIL), (76.5, DEAD), (1e6, DEAD)],
)
def test_states_of_a_host_that_was_seen_changing(silent: float, expected: str) -> None:
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    disk.write(5, 1, 104)
    disk.look(1004)
    disk.look(1004 + silent)
    assert state(disk.view(5), 1004 + silent) == expected


@pytest.mark.parametrize(("silent", "expected"), [(0, UNKNOWN), (16, UNKNOWN), (16.5, FAIL), (76, FAIL), (76.5, DEAD)])
def test_states_of_a_host_that_never_changed_since_the_first_look(silent: float, expected: str) -> None:
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    disk.look(1000 + silent)
    assert state(disk.view(5), 1000 + silent) == expected


def test_a_host_that_appears_later_is_alive_at_its_first_sight() -> None:
    disk = Disk()
    disk.look(1000)
    disk.write(5, 1, 1)
    disk.look(1004)
    assert state(disk.view(5), 1004) == LIVE


def test_a_released_host_is_free_however_long_ago() -> None:
    disk = Disk()
    disk.write(5, 3, 0)
    disk.look(1000)
    assert state(disk.view(5), 1000) == FREE
    assert state(disk.view(5), 9e9) == FREE


def test_a_host_id_that_was_never_used_has_no_row() -> None:
    disk = Disk()
    disk.look(1000)
    assert disk.table.get(5) is None
    assert disk.table.rows() == {}


def test_death_is_judged_by_the_owners_io_timeout() -> None:
    """Row 19: the reference once assumed that every host has the observer's io_timeout."""
    disk = Disk()
    disk.write(1, 1, 50, io_timeout=1)
    disk.write(2, 1, 50, io_timeout=20)
    disk.look(0)
    assert state(disk.view(1), 69) == DEAD
    assert state(disk.view(2), 69) == UNKNOWN
    assert state(disk.view(2), 220) == FAIL
    assert state(disk.view(2), 221) == DEAD


def test_an_io_timeout_of_zero_means_the_default_of_ten() -> None:
    disk = Disk()
    disk.write(1, 1, 50, io_timeout=0)
    disk.look(0)
    assert state(disk.view(1), 140) == FAIL
    assert state(disk.view(1), 141) == DEAD


def test_another_hosts_clock_is_never_compared_with_ours() -> None:
    """Row 2: a timestamp far ahead of, or behind, the observer's clock says nothing."""
    for timestamp in (1, 10**12):
        disk = Disk()
        disk.write(5, 1, timestamp)
        disk.look(500_000)
        disk.write(5, 1, timestamp + 1)
        disk.look(500_004)
        assert state(disk.view(5), 500_004) == LIVE


@pytest.mark.parametrize(("generation", "timestamp"), [(1, 104), (2, 100), (2, 104)])
def test_a_change_of_generation_or_timestamp_is_a_sign_of_life(generation: int, timestamp: int) -> None:
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    disk.write(5, generation, timestamp)
    disk.look(1200)
    view = disk.view(5)
    assert (view.last_live, view.generation, view.timestamp) == (1200, generation, timestamp)
    assert view.name == b"host-5"


def test_an_event_is_no_sign_of_life() -> None:
    """Only owner, generation and timestamp count; another write to the sector does not."""
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    disk.write(5, 1, 100, write_id=9, write_generation=1)
    disk.look(1010)
    view = disk.view(5)
    assert (view.last_live, view.last_check) == (1000, 1010)


def test_the_last_check_moves_with_every_look() -> None:
    """wait_for_owner takes 'changed at the very last check' from these two (format document, 7.1 D 3)."""
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    assert disk.view(5).last_live == disk.view(5).last_check == 1000
    disk.look(1004)
    assert (disk.view(5).last_live, disk.view(5).last_check) == (1000, 1004)


def test_a_damaged_record_counts_as_alive_while_its_timestamp_changes_and_is_not_believed() -> None:
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    disk.damage(5, 0, 0xFF)
    disk.damage(5, 40, 77)
    disk.damage(5, 152, 101)
    assert disk.look(1004) == [Alarm(5, "damaged record")]
    view = disk.view(5)
    assert (view.last_live, view.generation) == (1004, 1)
    disk.look(1008)
    assert disk.view(5).last_live == 1004


def test_damage_without_a_new_timestamp_is_no_sign_of_life() -> None:
    disk = Disk()
    disk.write(5, 1, 100)
    disk.look(1000)
    disk.damage(5, 60, 0xFF)
    assert disk.look(1004) == [Alarm(5, "damaged record")]
    assert disk.view(5).last_live == 1000


def test_damage_of_a_record_that_was_never_seen_whole_is_told_and_gives_no_row() -> None:
    disk = Disk()
    disk.write(5, 1, 100)
    disk.damage(5, 60, 0xFF)
    assert disk.look(1000) == [Alarm(5, "damaged record")]
    assert disk.table.get(5) is None


@pytest.mark.parametrize(("generation", "timestamp"), [(1, 200), (2, 99)])
def test_a_record_that_goes_back_in_time_is_an_alarm(generation: int, timestamp: int) -> None:
    """Row 37: a delayed write put an older record over a newer one."""
    disk = Disk()
    disk.write(5, 2, 100)
    disk.look(1000)
    disk.write(5, generation, timestamp)
    assert disk.look(1004) == [Alarm(5, "record went back in time")]


def test_leaving_and_joining_are_no_alarms() -> None:
    disk = Disk()
    for at, (generation, timestamp) in enumerate([(1, 100), (1, 0), (2, 5), (2, 9)]):
        disk.write(5, generation, timestamp)
        assert disk.look(1000 + at) == []


def test_a_real_lockspace_gives_its_three_hosts() -> None:
    table = HostTable()
    assert table.observe(image("lockspace_hosts_1_2_7_alive"), FILE, 10) == []
    assert {h: (v.generation, v.name) for h, v in table.rows().items()} == {
        1: (1, b"host-a"),
        2: (1, b"host-b"),
        7: (1, b"host-g"),
    }


def test_the_damaged_record_of_a_real_lockspace_is_told() -> None:
    assert HostTable().observe(image("lockspace_corrupt_host2"), FILE, 10) == [Alarm(2, "damaged record")]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12))
def test_nobody_is_dead_before_8n_plus_60_without_a_change(steps: list[tuple[int, int]]) -> None:
    """However records change: at the time of any change, and 76 s on, a host with N=2 is not dead."""
    disk = Disk()
    at, changed, before = 0.0, 0.0, None
    for generation, timestamp in steps:
        at += 4
        disk.write(5, generation, timestamp)
        disk.look(at)
        if (generation, timestamp) != before:
            before, changed = (generation, timestamp), at
        view = disk.table.get(5)
        if view and timestamp:
            assert state(view, changed + 76) != DEAD
            assert state(view, changed + 76.001) == DEAD
