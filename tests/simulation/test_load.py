# SPDX-License-Identifier: LGPL-2.1-or-later
"""The load of a site, computed: what hosts ask of the storage, and what becomes of it when that is too much."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vlhook.leases.geometry import MIB
from vlhook.simulate import load
from vlhook.simulate.load import Storm
from vlhook.simulate.site import Site, steady, steps_of_a_start

SMALL = Site(hosts=20, guests=5, disks=2, boot=10.0)


def test_a_lease_that_the_host_held_is_taken_again_by_three_reads_of_it_and_three_writes() -> None:
    asked = steps_of_a_start(7)
    assert [size for size in asked if size >= MIB] == [MIB] * 3
    assert [size for size in asked if size == 512] == [512] * 3


def test_at_rest_each_host_reads_the_lockspace_and_writes_its_sector_every_two_io_timeouts() -> None:
    rest = steady(Site(hosts=2000))
    assert rest.operations == 2000 * 2 / 20
    assert rest.bytes == 2000 * (MIB + 512) / 20
    assert steady(Site(hosts=2000, directories=4)).share == pytest.approx(rest.share)


def test_every_guest_runs_and_what_was_read_is_what_the_leases_ask_for() -> None:
    figures = Storm(SMALL).run()
    starts = SMALL.leases * sum(steps_of_a_start(1))
    assert 8 * SMALL.io_timeout < figures.joined < figures.runs
    assert starts < figures.bytes < starts + SMALL.hosts * 20 * MIB
    assert figures.lost == 0


def test_a_server_that_is_too_slow_delays_starts_and_two_directories_halve_that() -> None:
    slow = replace(SMALL, bandwidth=20 * MIB, start=0.0)
    one, two = Storm(slow).run(), Storm(replace(slow, directories=2)).run()
    assert one.runs - one.joined > 1.4 * (two.runs - two.joined)


def test_a_host_whose_renewals_wait_too_long_behind_starts_is_counted_as_lost() -> None:
    figures = Storm(replace(SMALL, io_timeout=1, bandwidth=12 * MIB, at_once=5, boot=0.1)).run()
    assert figures.lost > 0
    assert figures.age >= 8


def test_the_command_prints_a_row_for_each_combination(capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(["--hosts", "2", "3", "--guests", "1", "--at-once", "1", "2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "hosts"
    assert [row.split()[0] for row in rows] == ["2", "2", "3", "3"]
    assert load.main(["--hosts", "2", "--guests", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leases"] == 4


def test_a_storage_that_cannot_even_carry_the_renewals_is_no_endless_computation() -> None:
    figures = Storm(replace(SMALL, io_timeout=1, bandwidth=MIB, longest=600.0)).run()
    assert figures.runs == float("inf")
