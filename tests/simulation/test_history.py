# SPDX-License-Identifier: LGPL-2.1-or-later
"""Histories that a lock can have, and histories that it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlhook.simulate.history import (
    ACQUIRED,
    BEGIN,
    EXCLUSIVE,
    LOST,
    REFUSED,
    RELEASE,
    RELEASED,
    SHARED,
    Event,
    Recorder,
    faults,
    read_events,
    read_history,
)


def history(*steps: tuple[int, str, str, int]) -> list[Event]:
    """Events of lease a, a second apart: (host, what, mode, lver)."""
    return [Event(float(i), h, 1, "a", what, mode, lver) for i, (h, what, mode, lver) in enumerate(steps)]


def test_holdings_one_after_the_other_are_a_locks_history() -> None:
    events = history(
        (1, BEGIN, EXCLUSIVE, 0),
        (2, BEGIN, EXCLUSIVE, 0),
        (1, ACQUIRED, EXCLUSIVE, 1),
        (2, REFUSED, EXCLUSIVE, 0),
        (1, RELEASE, EXCLUSIVE, 1),
        (2, ACQUIRED, EXCLUSIVE, 2),
        (1, RELEASED, EXCLUSIVE, 1),
        (2, LOST, EXCLUSIVE, 2),
        (1, ACQUIRED, EXCLUSIVE, 3),
    )
    assert list(faults(events)) == []


def test_sharing_is_allowed_and_may_be_learned_of_in_any_order() -> None:
    events = history((2, ACQUIRED, SHARED, 2), (1, ACQUIRED, SHARED, 1), (2, RELEASE, SHARED, 2))
    assert list(faults(events)) == []


@pytest.mark.parametrize(("first", "second"), [(EXCLUSIVE, EXCLUSIVE), (EXCLUSIVE, SHARED), (SHARED, EXCLUSIVE)])
def test_two_holders_are_found(first: str, second: str) -> None:
    events = history((1, ACQUIRED, first, 1), (2, ACQUIRED, second, 2), (1, RELEASE, first, 1))
    (fault,) = faults(events)
    assert fault.startswith("two holders")
    assert "host 1" in fault
    assert "host 2" in fault


def test_leases_do_not_conflict_with_each_other() -> None:
    one = Event(1.0, 1, 1, "a", ACQUIRED, EXCLUSIVE, 1)
    other = Event(2.0, 2, 1, "b", ACQUIRED, EXCLUSIVE, 1)
    assert list(faults([one, other])) == []


@pytest.mark.parametrize("mode", [EXCLUSIVE, SHARED])
def test_a_version_that_goes_back_is_found(mode: str) -> None:
    events = history((1, ACQUIRED, EXCLUSIVE, 5), (1, RELEASE, EXCLUSIVE, 5), (2, ACQUIRED, mode, 4))
    (fault,) = faults(events)
    assert fault.startswith("versions go back")


def test_a_version_granted_twice_is_found() -> None:
    events = history((1, ACQUIRED, SHARED, 5), (2, ACQUIRED, SHARED, 5))
    (fault,) = faults(events)
    assert fault.startswith("one version granted twice")


def test_a_release_of_what_is_not_held_and_time_that_goes_back_are_found() -> None:
    events = [Event(2.0, 1, 1, "a", RELEASE, EXCLUSIVE, 1), Event(1.0, 1, 1, "a", BEGIN)]
    found = list(faults(events))
    assert found[0].startswith("released without being held")
    assert found[1].startswith("time goes back")


def test_events_survive_as_json_lines() -> None:
    events = history((1, ACQUIRED, SHARED, 7), (1, RELEASE, SHARED, 7))
    lines = [event.to_json() for event in events]
    assert list(read_events([*lines, "\n"])) == events
    assert json.loads(lines[0])["what"] == "acquired"


@pytest.mark.parametrize("line", ["[]", "{}", '{"at": 1}', "no json", '{"at": "x", "host": 1}'])
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        list(read_events([line]))


def test_guests_of_one_host_may_share_one_grant_but_not_exclude_each_other() -> None:
    one = Event(1.0, 1, 1, "a", ACQUIRED, SHARED, 3, "vm1")
    other = one._replace(at=2.0, guest="vm2")
    assert list(faults([one, other])) == []
    (fault,) = faults([one, other._replace(mode=EXCLUSIVE, lver=4)])
    assert fault.startswith("two holders")
    assert len(list(faults([one, one._replace(at=2.0)]))) == 1
    between = one._replace(at=1.5, what=RELEASE)
    assert list(faults([one, between, one._replace(at=2.0)])) == []


def test_holdings_of_unknown_version_are_checked_for_overlaps_only() -> None:
    events = history((1, ACQUIRED, EXCLUSIVE, 0), (1, RELEASE, EXCLUSIVE, 0), (2, ACQUIRED, EXCLUSIVE, 0))
    assert list(faults(events)) == []
    assert len(list(faults([*events, Event(9.0, 1, 1, "a", ACQUIRED, EXCLUSIVE, 0)]))) == 1


def test_processes_record_one_history_together(tmp_path: Path) -> None:
    path = tmp_path / "history"
    program = (
        "import sys; from vlhook.simulate.history import *\n"
        "recorder = Recorder(sys.argv[1], int(sys.argv[2]))\n"
        "for _ in range(200): recorder.note(ACQUIRED, 'a', SHARED); recorder.note(RELEASE, 'a', SHARED)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, path, str(host)]) for host in (1, 2, 3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    events = read_history(path)
    assert len(events) == 1200
    assert {event.host for event in events} == {1, 2, 3}
    assert list(faults(events)) == []
    recorder = Recorder(path, 4)
    recorder.note(ACQUIRED, "a")
    Recorder(path, 5).note(ACQUIRED, "a")
    recorder.close()
    assert [fault.split(":")[0] for fault in faults(read_history(path))] == ["two holders"]
