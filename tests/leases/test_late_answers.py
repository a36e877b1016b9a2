# SPDX-License-Identifier: LGPL-2.1-or-later
"""An answer that comes late tells what was true when it was given; nothing is concluded from it for now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.leases.disk import Host, Task, World
from tests.leases.rig import Rig
from vlhook.leases import delta, membership
from vlhook.leases.effects import LOCKSPACE, RESOURCE, Read
from vlhook.leases.errors import NotMember, OwnerMaybeDead, SharedByOthers


def two_hosts(shared: bool) -> tuple[World, Host, Host]:
    """Host 1 holds the lease and was last seen alive a while ago; io_timeout 10, so 8N is longer than 60 s."""
    world = World(io_timeout=10)
    one, two = world.host(1), world.host(2)
    world.now += 1
    one.renew()
    two.renew()
    one.acquire(shared=shared).run()
    world.now += 70
    two.renew()
    return world, one, two


def answer_late(task: Task[Any], seconds: float) -> None:
    """Host 1's record is read now; before the answer comes host 1 renews, and time goes by."""
    while not (isinstance(task.next, Read) and task.next.area == LOCKSPACE):
        task.step()
    answer = task._perform(task.next)
    task.world.hosts[1].renew()
    task.world.now += seconds
    task._advance(lambda: task._steps.send(answer))


def test_an_owner_is_not_dead_because_the_answer_about_it_came_late() -> None:
    world, one, two = two_hosts(shared=False)
    task = two.acquire()
    answer_late(task, 75.0)
    assert world.now - two.member.last_ok < 80, "this host itself is still a member"
    task.raises(OwnerMaybeDead)
    assert world.owner() == (1, 1)


def test_a_sharer_is_not_dead_because_the_answer_about_it_came_late() -> None:
    world, _, two = two_hosts(shared=True)
    task = two.acquire()
    answer_late(task, 75.0)
    task.raises(SharedByOthers)
    assert world.sector(1).mode.shared
    assert not any(area == RESOURCE for area, _ in world.writes(2)), "not even a ballot"


def test_a_renewal_that_was_answered_after_8n_revives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timestamp may be younger than 8N: what was written late. Others may have gone on meanwhile."""
    (host,) = Rig(tmp_path).join(1)
    lease = host.lease
    real = delta.renew
    monkeypatch.setattr(membership.Moment, "age", lambda self: 0.0)

    def answered_late(*args: Any) -> Any:
        done = yield from real(*args)
        monkeypatch.setattr(membership.Moment, "age", lambda self: 1000.0)
        return done

    monkeypatch.setattr(delta, "renew", answered_late)
    before = lease.last_ok
    assert not lease._renew(True)
    assert isinstance(lease.lost, NotMember)
    assert lease.last_ok is before
    monkeypatch.setattr(membership.Moment, "age", lambda self: 0.0)
    assert lease.why_not()
    with pytest.raises(NotMember):
        lease.check()
