# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose state file is looked at, and when: one guest's news must cost nothing for the other 249."""

from __future__ import annotations

import os
import shutil
import struct
import time
from pathlib import Path

import pytest

from vlhook.keeper import runstates
from vlhook.keeper.log import Log
from vlhook.keeper.runstates import IN_MOVED_TO, IN_Q_OVERFLOW, News, RunStates
from vlhook.keeper.state import RUNNING, Caller, Incarnation, StateStore
from vlhook.keeper.table import Table
from vlhook.leases.engine import Owned, Want

ONE, TWO = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"


def _life(uuid: str, guest: str, qemu: int) -> Incarnation:
    want = Want("0" * 32, "__LIBVIRT__DISKS__", False, f"/srv/{guest}.img")
    return Incarnation(
        uuid, guest, 1, Caller(1, 1), 1, RUNNING, 0, wants=[want], owned=[Owned(want, "/leases/x", 1, 1)], qemu=qemu
    )


class Watching:
    """Two guests, one and two, with processes 101 and 102; both have been looked at."""

    def __init__(self, base: Path) -> None:
        self.dir = base / "qemu"
        self.dir.mkdir()
        store = StateStore(base, base, "boot")
        store.prepare()
        self.table = Table(store)
        self.lives = {"one": _life(ONE, "one", 101), "two": _life(TWO, "two", 102)}
        self.table.load(list(self.lives.values()))
        self.heard: list[tuple[str, str]] = []
        self.states = RunStates(base, self.table, Log("test"))
        self.states.on_resumed = lambda life: self.heard.append((life.guest, "resumed"))
        self.states.on_paused = lambda life: self.heard.append((life.guest, "paused"))
        for guest, life in self.lives.items():
            self.says(guest, "running", "booted", life.qemu)
        self.states.look()

    def says(self, guest: str, state: str, reason: str, pid: int) -> None:
        new = self.dir / f"{guest}.xml.new"
        new.write_text(f"<domstatus state='{state}' reason='{reason}' pid='{pid}'>\n")
        new.rename(self.dir / f"{guest}.xml")


@pytest.fixture
def watching(tmp_path: Path) -> Watching:
    return Watching(tmp_path)


def test_a_guest_is_looked_at_when_its_file_was_written_and_no_other_is(watching: Watching) -> None:
    watching.says("one", "paused", "user", 101)
    watching.says("two", "paused", "user", 102)
    watching.states.look(set())
    assert watching.heard == []
    watching.states.look({"two.xml", "three.xml"})
    assert watching.heard == [("two", "paused")]


def test_news_of_unknown_extent_and_the_sweep_are_about_all_guests(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.says("one", "paused", "user", 101)
    watching.states.look(None)
    assert watching.heard == [("one", "paused")]
    watching.says("two", "paused", "user", 102)
    monkeypatch.setattr(runstates, "SWEEP_SECONDS", 0.0)
    watching.states.look(set())
    assert watching.heard == [("one", "paused"), ("two", "paused")]


def test_a_guest_that_became_known_after_its_file_was_written_is_looked_at(watching: Watching) -> None:
    watching.says("three", "paused", "migration", 103)
    watching.table.load([_life("00000000-0000-4000-8000-000000000003", "three", 103)])
    watching.states.look(set())
    assert watching.heard == [("three", "paused")]


def test_a_guest_whose_process_turns_out_to_be_another_one_is_looked_at(watching: Watching) -> None:
    watching.says("one", "paused", "user", 201)
    watching.states.look({"one.xml"})
    assert watching.heard == []
    watching.lives["one"].qemu = 201
    watching.table.save(watching.lives["one"])
    watching.states.look(set())
    assert watching.heard == [("one", "paused")]


def test_a_pause_that_goes_on_is_told_again_without_news(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    watching.says("one", "paused", "user", 101)
    watching.states.look({"one.xml"})
    watching.states.look(set())
    assert watching.heard == [("one", "paused")]
    later = time.monotonic() + runstates.PAUSED_SECONDS
    monkeypatch.setattr(runstates.time, "monotonic", lambda: later)
    monkeypatch.setattr(runstates, "SWEEP_SECONDS", 1e9)
    watching.states.look(set())
    assert watching.heard == [("one", "paused")] * 2
    watching.states.look(set())
    assert watching.heard == [("one", "paused")] * 2


def test_the_kernel_names_the_files_that_were_written(watching: Watching) -> None:
    news = News(watching.dir)
    assert news.wait() is None, "what was written before the watch began is not known"
    watching.says("one", "paused", "user", 101)
    watching.says("two", "running", "unpaused", 102)
    told = news.wait()
    assert told is not None
    assert {"one.xml", "two.xml"} <= told


def test_a_directory_that_is_made_anew_is_watched_again(watching: Watching) -> None:
    news = News(watching.dir)
    news.wait()
    shutil.rmtree(watching.dir)
    assert news.wait() is None
    watching.dir.mkdir()
    assert news.wait() is None
    watching.says("one", "paused", "user", 101)
    assert "one.xml" in (news.wait() or ())


def test_where_the_kernel_lost_news_all_guests_are_looked_at(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    news = News(watching.dir)
    news.wait()
    name = b"one.xml".ljust(16, b"\0")
    told = struct.pack("iIII", 1, IN_MOVED_TO, 0, 16) + name + struct.pack("iIII", -1, IN_Q_OVERFLOW, 0, 0)
    ready, feed = os.pipe2(os.O_NONBLOCK)
    os.write(feed, told)
    monkeypatch.setattr(news, "_fd", ready)
    assert news.wait() is None
    os.close(ready)
    os.close(feed)


def test_a_look_that_fails_is_made_anew_and_hides_no_other_guest(watching: Watching) -> None:
    """one comes first."""
    both = {"one.xml", "two.xml"}
    for guest, pid in (("one", 101), ("two", 102)):
        watching.says(guest, "paused", "user", pid)
    watching.states.look(both)
    watching.heard.clear()
    works, failed = watching.states.on_resumed, []

    def fails_once(life: Incarnation) -> None:
        if life.guest == "one" and not failed:
            failed.append(life)
            raise RuntimeError("can't start new thread")
        works(life)

    watching.states.on_resumed = fails_once
    for guest, pid in (("one", 101), ("two", 102)):
        watching.says(guest, "running", "unpaused", pid)
    watching.states.look(both)
    assert watching.heard == [("two", "resumed")]
    watching.states.look(set())
    assert watching.heard == [("two", "resumed"), ("one", "resumed")]
