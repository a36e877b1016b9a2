# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checker finds the known holes when they are put back, and tells how they are reached."""

from __future__ import annotations

import pytest

from tests.faults import FAULTS, planted
from tests.model.invariants import DECIDED_ANEW, REMOVED, SLIPPED_IN, TWO_HOLDERS, TWO_VALUES, UNAVAILABLE
from tests.model.runs import Setup
from tests.model.search import by_switches, complete, without_collector

LIMIT = 300_000
SETUPS = {
    "generation check removed": (Setup(("xx", "x"), crashes=1), TWO_HOLDERS),
    "dblock values zeroed on release": (Setup(("xx", "x")), TWO_HOLDERS),
    "release ignores write_id": (Setup(("x", "xx")), TWO_HOLDERS),
    "next version taken from a fresh leader after a wait": (Setup(("x", "x")), TWO_HOLDERS),
    "success on another host's commit": (Setup(("x", "x")), TWO_HOLDERS),
    "a version that was given up is owned again": (Setup(("xx", "x"), abandons=1), TWO_HOLDERS),
    "a new ballot wipes RELEASED and what was accepted": (Setup(("xx", "x"), abandons=1), TWO_HOLDERS),
    "the leader's version is always believed": (Setup(("xx", "x")), UNAVAILABLE),
    "phase 2 is not read back": (Setup(("x", "x")), TWO_HOLDERS),
    "mode block written after the leader is freed": (Setup(("s", "x")), TWO_HOLDERS),
    "silent is dead": (Setup(("x", "x")), TWO_HOLDERS),
    "brief although the lease is not free": (Setup(("x", "x"), brief=True), TWO_HOLDERS),
    "brief without the own sector": (Setup(("xx", "x"), abandons=1, pauses=1, attempts=2, brief=True), TWO_VALUES),
    "clean-up can be given up": (Setup(("x", "x"), abandons=1, errors=1), UNAVAILABLE),
    "a claim is not followed by a second read": (Setup(("M", "c", "x")), SLIPPED_IN),
    "the ballot of a conversion does not show the claim": (Setup(("M", "c", "x")), SLIPPED_IN),
    "a shared acquire does not heed claims": (Setup(("M", "c", "s")), SLIPPED_IN),
    "a claim that is withdrawn leaves its mode block": (Setup(("M", "c", "x")), UNAVAILABLE),
    "a later version is joined after a torn read": (Setup(("M", "U", "x")), TWO_HOLDERS),
    "an early leader is left to the daemon": (Setup(("m", "D", "xx"), pauses=0, attempts=1), DECIDED_ANEW),
    "a clean-up releases in the file that it removed": (Setup(("k", "dd")), REMOVED),
    "a clean-up does not begin the next version": (Setup(("k", "dd"), crashes=1, pauses=0, attempts=2), REMOVED),
    "what a clean-up has begun is joined": (Setup(("k", "x", "x")), REMOVED),
    "a clean-up takes RELEASED for the end": (Setup(("kl", "xx", "d"), pauses=0, attempts=2), REMOVED),
}


TIMED = {"a host is ended on somebody's word alone"}
"""Faults in what takes time, which is the simulator's part."""


def test_every_fault_is_sought() -> None:
    assert set(SETUPS) == set(FAULTS) - TIMED


@pytest.mark.parametrize("fault", SETUPS)
def test_the_checker_finds(fault: str) -> None:
    setup, sought = SETUPS[fault]
    with planted(fault), without_collector():
        outcome = by_switches(setup, LIMIT, sought)
    print(f"{fault}: {outcome}")
    assert sought in outcome.wrong
    steps = outcome.story.splitlines()
    assert len(steps) > 5
    if sought == TWO_HOLDERS:
        assert sum("HOLDS" in line for line in steps) >= 2
        assert "HOLDS" in steps[-1]


def test_the_daemon_would_lose_what_is_only_claimed() -> None:
    """Its first write wipes the claim, and for a moment a rival can win although the guest runs here."""
    with without_collector():
        outcome = by_switches(Setup(("M", "T", "x")), LIMIT, TWO_HOLDERS)
    assert TWO_HOLDERS in outcome.wrong, str(outcome)


def test_the_daemon_must_not_take_over_while_an_old_write_is_under_way() -> None:
    """The source's release lands late, its leader stands again, and the daemon decides our version anew."""
    with without_collector():
        outcome = complete(Setup(("m", "U", "x"), pauses=0, attempts=2), sought=DECIDED_ANEW)
    assert DECIDED_ANEW in outcome.wrong, str(outcome)


def test_a_fault_is_gone_when_its_test_is_over() -> None:
    setup, _ = SETUPS["success on another host's commit"]
    with planted("success on another host's commit"):
        assert by_switches(setup, LIMIT).wrong
    assert not by_switches(setup, 2000).wrong
