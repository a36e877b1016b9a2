# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard's list is kept whole by the keeper, whatever became of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Optional

import pytest

from vlhook.guardclient import GuardClient, Watched
from vlhook.keeper.guarding import Guarding
from vlhook.keeper.log import Log
from vlhook.keeper.state import RUNNING, Caller, Incarnation, StateStore
from vlhook.keeper.table import Table
from vlhook.leases.engine import Want

GUESTS = {f"00000000-0000-4000-8000-00000000000{number}": f"guest{number}" for number in range(3)}


class Guard(GuardClient):
    """Its list is complete by its own account, whatever is missing. `asked`: how often for all names."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.names = dict(GUESTS)
        self.asked = 0

    def extent(self) -> tuple[bool, int]:
        return True, len(self.names)

    def watched(self) -> list[Watched]:
        self.asked += 1
        return [Watched(uuid, name, False, ()) for uuid, name in self.names.items()]

    def watch(self, uuid: str, name: str) -> None:
        self.names[uuid] = name

    def bind(self, uuid: str, pid: int, start: int, pidfd: Optional[int] = None) -> None:
        pass

    def complete(self) -> None:
        pass


class Turns(threading.Event):
    """Stops after the last of `acts`, one of which is done before each turn."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        super().__init__()
        self._acts = list(acts)

    def wait(self, timeout: Optional[float] = None) -> bool:
        if not self._acts:
            return True
        self._acts.pop(0)()
        return False


def nothing() -> None: ...


@pytest.fixture
def guarding(tmp_path: Path) -> Guarding:
    table = Table(StateStore(tmp_path, tmp_path, "boot"))
    want = Want("0" * 32, "__LIBVIRT__DISKS__", False, "/srv/disk.img")
    table.load(
        [Incarnation(uuid, name, 1, Caller(1, 1), 1, RUNNING, 0, wants=[want]) for uuid, name in GUESTS.items()]
    )
    made = Guarding(tmp_path, table, lambda life: None, Log("test"))
    made.client = Guard()
    return made


def test_a_guest_that_vanished_from_the_guards_list_is_named_to_it_in_the_next_turn(guarding: Guarding) -> None:
    guard = guarding.client
    assert isinstance(guard, Guard)
    guarding.mind(Turns(nothing, guard.names.popitem))
    assert guard.names == GUESTS


def test_the_names_are_not_asked_for_while_nothing_has_changed(guarding: Guarding) -> None:
    guard = guarding.client
    assert isinstance(guard, Guard)
    guarding.mind(Turns(*[nothing] * 10))
    assert guard.asked == 1
