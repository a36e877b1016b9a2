# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a host loses, no other gets the disk while the first one's QEMU can still write to it.

Judged beneath both hosts, by the last write that reached the disk. When things happened is measured and not
asserted: a busy machine is late. VLHOOK_DRILL=all runs every scenario, which takes a while.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlhook.drill.scenarios import SCENARIOS, run

ALWAYS = ("back-before", "back-after", "stuck")
CHOSEN = tuple(SCENARIOS) if os.environ.get("VLHOOK_DRILL") == "all" else ALWAYS

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.xdist_group(f"drill-{n}")) for n in CHOSEN])
def test_no_second_host_gets_the_disk_before_the_first_is_done_with_it(name: str, tmp_path: Path) -> None:
    outcome = run(SCENARIOS[name], tmp_path)
    assert outcome.problems == []
    if not SCENARIOS[name].harmless:
        granted, wrote = outcome.times["granted"], outcome.times["wrote"]
        assert granted
        assert wrote
        assert wrote < granted
    if name == "stuck":
        assert outcome.times["watchdog"], "a process that no signal reaches is stopped by the watchdog alone"
