# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is read, the outcome is a documented error or none, in bounded time and memory.

VLHOOK_FUZZ_SECONDS sets how long each target is tried, VLHOOK_FUZZ_SEED with which random numbers; `make fuzz` tries
them for long. What was found is in `test_found.py`.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.fuzz import disk_targets, text_targets
from tests.fuzz.fuzzer import MIB, Target, examine, fuzz
from vlhook.leases.errors import LeaseError

SECONDS = float(os.environ.get("VLHOOK_FUZZ_SECONDS", "1.5"))
SEED = int(os.environ.get("VLHOOK_FUZZ_SEED", "0")) or time.time_ns() % 1_000_000
TARGETS = disk_targets.TARGETS + text_targets.TARGETS

pytestmark = pytest.mark.timeout(int(SECONDS * 4) + 300)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_no_input_is_found_that_breaks_the_rules(target: Target) -> None:
    result = fuzz(target, SECONDS, SEED)
    print(f"{target.name}: {result.runs} inputs, {result.kept} kept, {result.lines} pairs of lines, seed {SEED}")
    assert not result.crashes, "\n".join(str(crash) for crash in result.crashes) + f"\nVLHOOK_FUZZ_SEED={SEED}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name.replace(" ", "-"))
def test_seeds_reach_what_lies_behind_the_first_checks(target: Target) -> None:
    """A target whose every seed is refused at the door tests the door only."""
    outcomes = set()
    for seed in target.seeds:
        try:
            target.run(seed)
            outcomes.add("ok")
        except (*target.errors, AssertionError) as error:
            outcomes.add(type(error).__name__)
    assert "ok" in outcomes or len(outcomes) > 2


# ------------------------------------------------------------------------------- the fuzzer finds what is there


def test_it_finds_an_error_that_is_not_documented_behind_several_checks() -> None:
    from tests.fuzz import planted

    found = fuzz(Target("planted", planted.nested, [b"aaaaaa"]), 30, 1, most=1)
    assert [crash.what for crash in found.crashes] == ["KeyError: 'found'"]
    assert found.crashes[0].data.startswith(b"vlh")


@pytest.mark.parametrize(("run", "what"), [("endless", "does not come to an end"), ("greedy", "it takes"),
                                           ("two_lines", "more than one line")])  # fmt: skip
def test_it_finds_loops_greed_and_errors_of_two_lines(run: str, what: str) -> None:
    from tests.fuzz import planted

    target = Target(run, getattr(planted, run), [b"\xff\xff\xff\x01"], (LeaseError,), memory=MIB)
    assert what in examine(target, target.seeds[0])
