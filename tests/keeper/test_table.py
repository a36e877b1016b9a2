# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of incarnations: an end is final, and requests of one guest are serial."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from vlhook.keeper.state import (
    ACQUIRING,
    ENDING,
    GRANTED,
    PREPARED,
    RUNNING,
    STARTING,
    Caller,
    Incarnation,
    StateStore,
    StateUnwritable,
)
from vlhook.keeper.table import GuestBusy, LifeOver, Table

UUID = "6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    store = StateStore(tmp_path / "run", tmp_path / "lib", "boot")
    store.prepare()
    return Table(store)


def life(table: Table) -> Incarnation:
    return Incarnation(UUID, "g", 1, Caller(1, 1), table.next_sequence(), ACQUIRING, 5)


@pytest.mark.parametrize("phase", [GRANTED, PREPARED, RUNNING])
def test_a_life_that_is_ending_enters_no_other_phase(table: Table, phase: str) -> None:
    one = life(table)
    table.put(one, ACQUIRING)
    assert table.end(one)
    with pytest.raises(LifeOver, match="guest g"):
        table.put(one, phase)
    assert one.phase == ENDING


def test_an_end_that_cannot_be_written_is_an_end_all_the_same(table: Table, tmp_path: Path) -> None:
    """On a full /run a guest whose leases are being given back must not pass the second gate."""
    one = life(table)
    table.put(one, ACQUIRING)
    table.put(one, PREPARED)
    (tmp_path / "run/guests").rename(tmp_path / "run/away")
    with pytest.raises(StateUnwritable):
        table.end(one)
    (tmp_path / "run/away").rename(tmp_path / "run/guests")
    with pytest.raises(LifeOver):
        table.put(one, STARTING)


def test_who_has_left_the_phase_it_was_judged_in_is_not_ended(table: Table) -> None:
    one = life(table)
    table.put(one, ACQUIRING)
    table.put(one, PREPARED)
    table.put(one, STARTING)
    assert not table.end(one, since=PREPARED)
    assert one.phase == STARTING
    assert table.end(one, since=STARTING)
    table.drop(one)
    assert not table.end(one)


@pytest.mark.parametrize("phase", [GRANTED, PREPARED, RUNNING, ENDING])
def test_a_life_that_was_dropped_does_not_come_back(table: Table, phase: str) -> None:
    one = life(table)
    table.put(one, ACQUIRING)
    table.drop(one)
    with pytest.raises(LifeOver):
        table.put(one, phase)
    assert table.all() == []


def test_a_second_request_of_one_guest_waits_and_gives_up_at_its_deadline(table: Table) -> None:
    with table.one_request(UUID, "g", time.monotonic() + 5):
        with pytest.raises(GuestBusy), table.one_request(UUID, "g", time.monotonic()):
            pass
        with table.one_request("other", "h", time.monotonic()):
            pass
    with table.one_request(UUID, "g", time.monotonic()):
        pass


def test_waiting_for_an_end_ends_with_it(table: Table) -> None:
    one = life(table)
    table.put(one, ACQUIRING)
    assert not table.wait_gone([one], time.monotonic())
    threading.Timer(0.05, table.drop, [one]).start()
    assert table.wait_gone([one], time.monotonic() + 20)
