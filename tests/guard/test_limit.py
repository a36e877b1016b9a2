# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlhook.guard import limit as limits
from vlhook.guard.limit import Limit
from vlhook.guard.work import Log
from vlhook.lastok import NOTHING, Page, Snapshot
from vlhook.processes import start_time

SECOND = 1_000_000_000


def renewal(age: float, *, beat: float = 0, start: int = 0) -> Snapshot:
    monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return NOTHING._replace(
        io_timeout=10, host_id=1, generation=1, last_ok_monotonic=monotonic - int(age * SECOND),
        last_ok_boottime=time.clock_gettime_ns(time.CLOCK_BOOTTIME) - int(age * SECOND),
        heartbeat=monotonic - int(beat * SECOND), keeper_pid=os.getpid(), keeper_start=start,
    )


@pytest.fixture
def limit(tmp_path: Path) -> Iterator[Limit]:
    with open(os.devnull, "wb") as nowhere:
        log = Log("test", nowhere.fileno())
        yield Limit(str(tmp_path / "last_ok"), log)
        log.close()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page.create(str(tmp_path / "last_ok"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SETTLE_SECONDS", 0)


def test_a_new_guard_gives_the_keeper_a_moment_to_repair_the_page(limit: Limit, page: Page) -> None:
    limit.resume(renewal(200))
    limit.read()
    assert limit.overdue() is None
    assert not limit.expired()
    page.write(renewal(1))
    limit.read()
    assert (limit.overdue() or 0) < -70


@pytest.mark.usefixtures("settled")
def test_after_that_moment_what_the_list_says_counts(limit: Limit) -> None:
    limit.resume(renewal(200))
    limit.read()
    assert limit.expired()
    assert (limit.overdue() or 0) >= 120


@pytest.mark.usefixtures("settled")
def test_with_no_knowledge_the_smallest_limit_counts_from_the_start(limit: Limit) -> None:
    assert not limit.expired()
    assert -8 <= (limit.overdue() or 0) < 0


def test_the_limit_is_8n(limit: Limit, page: Page) -> None:
    page.write(renewal(79))
    limit.read()
    assert not limit.expired()
    page.write(renewal(80))
    limit.read()
    assert limit.expired()


def test_a_renewal_in_the_future_is_not_believed(limit: Limit, page: Page) -> None:
    page.write(renewal(30))
    limit.read()
    page.write(renewal(-1000))
    limit.read()
    assert limit.member is not None
    assert 30 <= limit.member.elapsed() < 1000


def test_a_heartbeat_without_membership_does_not_erase_the_renewal(limit: Limit, page: Page) -> None:
    page.write(renewal(30))
    limit.read()
    page.write(renewal(0)._replace(io_timeout=0, host_id=0, generation=0))
    limit.read()
    assert limit.member is not None
    assert limit.member.generation == 1
    assert limit.member.elapsed() >= 30


def test_a_keeper_acts_only_if_it_lives_and_beats(limit: Limit, page: Page) -> None:
    own = start_time(os.getpid()) or 0
    assert not limit.keeper_acts()
    for beat, start, acts in ((0, own, True), (10, own, False), (-10, own, False), (0, own - 1, False)):
        page.write(renewal(0, beat=beat, start=start))
        limit.read()
        assert limit.keeper_acts() == acts
