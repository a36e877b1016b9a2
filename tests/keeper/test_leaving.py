# SPDX-License-Identifier: LGPL-2.1-or-later
"""A keeper that stops gives its host id back only when nothing of it can still write to a lease."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlhook.keeper import host as module
from vlhook.keeper.host import Host, Where
from vlhook.keeper.log import Log
from vlhook.keeper.state import StateStore
from vlhook.lastok import Page
from vlhook.leases.directory import Ownership
from vlhook.leases.engine import Want
from vlhook.leases.errors import NotMember
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.records import Leader
from vlhook.processes import boot_id

pytestmark = pytest.mark.xdist_group("leaving")
WANT = Want("0" * 32, LOCKSPACE_NAME, False, "/a")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    leases = tmp_path / "leases"
    leases.mkdir()
    store = StateStore(tmp_path / "run", tmp_path / "state", boot_id())
    store.prepare()
    page = Page.create(str(tmp_path / "run/last_ok"))
    where = Where(str(leases), 1, "name.node", 1, Ownership())
    made = Host(where, store, page, boot_id(), Log("test"))
    assert made.join(None, threading.Event())
    yield made
    made.abandon()
    page.close()


def free(host: Host) -> bool:
    record = Path(host.where.directory, LOCKSPACE_NAME).read_bytes()[FILE.delta(1) :]
    return Leader.decode(record).free


def test_the_id_is_kept_while_a_clean_up_is_under_way(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another host takes the lease, and the late 'cleared' of ours is written over its ownership."""
    engine, begun, go_on = host.engine, threading.Event(), threading.Event()
    assert engine

    def slow(*_: object) -> bool:
        begun.set()
        return go_on.wait(60)

    monkeypatch.setattr(engine._files, "clean", slow)
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.2)
    cleaner = threading.Thread(target=engine.clean, args=(WANT,))
    cleaner.start()
    assert begun.wait(60)
    assert not host.leave(lambda: True, threading.Condition())
    assert not free(host)
    go_on.set()
    cleaner.join()


def test_nobody_writes_under_an_id_that_was_given_back(host: Host) -> None:
    lease = host.lease
    assert lease
    assert host.leave(lambda: True, threading.Condition())
    assert free(host)
    with pytest.raises(NotMember, match="it is leaving the lockspace"):
        lease.check()


def test_a_guest_that_came_at_the_last_moment_keeps_the_id(host: Host) -> None:
    assert not host.leave(lambda: False, threading.Condition())
    assert not free(host)
    assert host.engine
