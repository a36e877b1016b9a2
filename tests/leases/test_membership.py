# SPDX-License-Identifier: LGPL-2.1-or-later
"""The renewing thread on a real lockspace file."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.leases.rig import Rig, eventually
from vlhook.leases import membership
from vlhook.leases.clock import Moment
from vlhook.leases.driver import Cancel
from vlhook.leases.errors import (
    Abandoned,
    HostIdInUse,
    LockspaceLost,
    NameInUse,
    NotCreated,
    NotMember,
    StorageError,
)
from vlhook.leases.geometry import FILE
from vlhook.leases.membership import HostLease
from vlhook.leases.records import Leader


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, io_timeout=1)
    yield rig
    rig.stop()


def record(rig: Rig, host_id: int) -> Leader:
    return Leader.decode(rig.lockspace.read_bytes()[FILE.delta(host_id) :])


def harm(rig: Rig, host_id: int, byte: int) -> None:
    with rig.lockspace.open("r+b") as file:
        file.seek(FILE.delta(host_id) + byte)
        file.write(b"\xee")


def joined(rig: Rig, host_id: int = 1) -> HostLease:
    (host,) = rig.join(host_id)
    return host.lease


def test_a_member_renews_until_it_leaves(rig: Rig) -> None:
    lease = joined(rig)
    before = record(rig, 1).timestamp
    for _ in range(2):
        assert lease.wait_renewal(60)
    assert record(rig, 1).timestamp > before
    assert lease.last_ok.monotonic == record(rig, 1).timestamp
    assert lease.latest
    assert lease.latest.error is None
    lease.leave()
    assert record(rig, 1).free
    assert record(rig, 1).owner_generation == 1


def test_who_leaves_before_it_ever_renewed_leaves_all_the_same(rig: Rig) -> None:
    lease = membership.join(rig.space(1), None)
    lease.leave()
    assert record(rig, 1).free


def test_hosts_see_each_other_live(rig: Rig) -> None:
    one, two = rig.join(1, 2)
    eventually(lambda: bool(one.lease.seen(2) and one.lease.seen(2).ever_changed), "host 1 sees host 2 renew")  # type: ignore[union-attr]
    assert one.lease.seen(2).name == b"host-2"  # type: ignore[union-attr]
    assert two.lease.identity.host_id == 2


def test_damage_of_the_own_record_is_the_end_at_once(rig: Rig) -> None:
    """Row 13."""
    lease = joined(rig)
    harm(rig, 1, 100)
    lease.wait_renewal(60)
    eventually(lambda: lease.lost is not None, "noticed at the next renewal")
    assert isinstance(lease.lost, LockspaceLost)
    with pytest.raises(NotMember, match="the record of host id 1 is no longer ours"):
        lease.check()


def test_damage_of_another_hosts_record_is_an_alarm_only(rig: Rig) -> None:
    lease, other = (host.lease for host in rig.join(1, 2))
    other.stop()
    alarms: list[tuple[int, str]] = []
    lease.on_alarm = lambda host_id, what: alarms.append((host_id, what))
    harm(rig, 2, 100)
    eventually(lambda: bool(alarms), "told")
    assert alarms[0] == (2, "damaged record")
    assert lease.why_not() is None


def test_a_renewal_that_fails_is_repeated_and_the_lease_ages_from_the_last_good_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = joined(rig)
    real, on = os.pwritev, threading.Event()

    def pwritev(fd: int, views: Any, at: int) -> int:
        if on.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, views, at)

    monkeypatch.setattr(os, "pwritev", pwritev)
    failures: list[object] = []
    lease.on_renewed = lambda _, renewal: failures.append(renewal.error)
    on.set()
    eventually(lambda: len([f for f in failures if isinstance(f, StorageError)]) >= 2, "tried again")
    good = lease.last_ok
    on.clear()
    eventually(lambda: lease.last_ok is not good, "renewed")
    assert lease.lost is None
    assert lease.why_not() is None


def test_a_host_id_in_use_is_refused_whoever_asks(rig: Rig) -> None:
    joined(rig)
    space = rig.space(1)
    with pytest.raises(NameInUse, match="clone"):
        membership.join(space, None)
    stranger = type(space)(space.name, space.where, 1, b"stranger", 1)
    with pytest.raises(HostIdInUse, match="host id 1 .* is in use by host host-1"):
        membership.join(stranger, None)


def test_a_join_can_be_given_up(rig: Rig) -> None:
    joined(rig).stop()
    cancel = Cancel()
    cancel.cancel("the keeper stops")
    with pytest.raises(Abandoned, match="the keeper stops"):
        membership.join(rig.space(1), None, cancel)


def test_an_absent_lockspace(tmp_path: Path, rig: Rig) -> None:
    rig.lockspace.unlink()
    with pytest.raises(NotCreated):
        membership.join(rig.space(1), None)


def test_resuming_after_8n_is_refused_without_a_look(rig: Rig) -> None:
    lease = joined(rig)
    lease.stop()
    now = Moment.now()
    for late in (
        Moment(now.monotonic - 8, now.boottime),
        Moment(now.monotonic, now.boottime - 8),  # the machine slept
    ):
        with pytest.raises(NotMember, match="not renewed for 8 s"):
            membership.resume(rig.space(1), lease.member.record, late)


def test_resuming_with_another_io_timeout_is_refused(rig: Rig) -> None:
    """Others count on the one that stands in the record."""
    lease = joined(rig)
    lease.stop()
    rig.io_timeout = 2
    with pytest.raises(LockspaceLost, match="io_timeout was changed from 1 to 2"):
        membership.resume(rig.space(1), lease.member.record, Moment.now())


def test_time_asleep_counts_for_the_age_of_the_lease() -> None:
    """Safety rules, 8: MONOTONIC stands still during a suspend, BOOTTIME does not."""
    now = Moment.now()
    assert Moment(now.monotonic, now.boottime - 100).age() >= 100
    assert Moment(now.monotonic - 100, now.boottime).age() >= 100
