# SPDX-License-Identifier: LGPL-2.1-or-later
"""A hundred thousand simulated runs of 2 to 4 hosts in each test run.

VLHOOK_SCHEDULES: how many. After a failure the message says how to see the run again.
"""

from __future__ import annotations

import os

import pytest

from vlhook.simulate import plan, run

SCHEDULES = int(os.environ.get("VLHOOK_SCHEDULES", "100000"))
PARTS = 20
MINUTES = 40
"""One run in so many is one of minutes, with machines that crash; the others are of seconds."""


def assert_well(figures: run.Figures) -> None:
    print(figures)
    if figures.failed:
        small = run.shrink(figures.failed[0])
        again = run.run(small, whole_areas=False)
        actions = "\n".join(str(action) for _, action in small.chosen())
        pytest.fail(f"{figures.wrong[0]}\nmade small:\n{actions}\n{again.wrong}\n{small.command()}")


@pytest.mark.parametrize("part", range(PARTS))
def test_short_runs(part: int) -> None:
    count = (SCHEDULES - SCHEDULES // MINUTES) // PARTS
    figures = run.several(part * count, count, plan.CONTEND, 0, 0.0)
    assert_well(figures)
    assert figures.runs == count
    assert figures.grants > count


@pytest.mark.parametrize("part", range(PARTS))
def test_runs_with_accidents(part: int) -> None:
    count = SCHEDULES // MINUTES // PARTS
    figures = run.several(part * count, count, plan.ACCIDENTS, 0, 0.0)
    assert_well(figures)
    assert figures.grants > count


@pytest.mark.parametrize("part", range(PARTS // 4))
def test_runs_with_guests_that_move(part: int) -> None:
    count = SCHEDULES // MINUTES // PARTS * 5
    figures = run.several(part * count, count, plan.MOVES, 0, 0.0)
    assert_well(figures)
    assert figures.grants > count


def test_two_hours_of_twelve_hosts() -> None:
    figures = run.several(1, 1, plan.DAY, 12, 2.0)
    assert_well(figures)
    assert figures.simulated > 2 * 3600
    assert figures.grants > 200
