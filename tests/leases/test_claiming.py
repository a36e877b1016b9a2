# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine's claims on real files: made, looked after, converted, withdrawn, found again by a successor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.leases.rig import Rig, RigHost, by, eventually, tenant
from vlhook.leases import directory, files
from vlhook.leases.blockio import BlockFile
from vlhook.leases.directory import Ownership
from vlhook.leases.engine import Owned, Tenant, Want
from vlhook.leases.errors import (
    ClaimedByOther,
    ClaimLost,
    ClaimRefused,
    HeldByOther,
    HeldHere,
    LeaseError,
    SharedByOthers,
    StorageError,
)
from vlhook.leases.geometry import FILE
from vlhook.leases.holder import INCOMING, RUNNING, decode_holder
from vlhook.leases.native import NativeEngine
from vlhook.leases.records import ModeBlock, host_sector

pytestmark = pytest.mark.xdist_group("claiming")
GUEST = tenant("web1")


class Told:
    """What an engine told of its claims."""

    def __init__(self, host: RigHost) -> None:
        self.converted: list[Owned] = []
        self.lost: list[LeaseError] = []
        host.engine.claims.on_converted = lambda _, owned: self.converted.append(owned)
        host.engine.claims.on_lost = lambda _, error: self.lost.append(error)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("leases"))
    rig.join(1, 2, 3)
    for host in rig.hosts.values():
        eventually(lambda host=host: all(host.lease.seen(n) for n in (1, 2, 3)), "the hosts know each other")
    yield rig
    rig.stop()


@pytest.fixture
def want(rig: Rig, request: pytest.FixtureRequest) -> Want:
    return rig.want(request.node.name)


@pytest.fixture
def hosts(rig: Rig, want: Want) -> Iterator[tuple[RigHost, RigHost, RigHost]]:
    one, two, three = (rig.hosts[n] for n in (1, 2, 3))
    yield one, two, three
    for host in (one, two, three):
        host.engine.release(GUEST, by())
        assert host.guests(want) == []


def moving(want: Want) -> Want:
    return replace(want, claim=True)


def claims(rig: Rig, want: Want, host: RigHost) -> bool:
    return rig.sector(want, host.me[0]).mode == ModeBlock(0x3, host.me[1])


def state(rig: Rig, want: Want, host_id: int) -> int:
    record = decode_holder(rig.sector(want, host_id).holder_bytes)
    return record.state if record else 0


Hosts = tuple[RigHost, RigHost, RigHost]


def test_a_lease_moves_with_its_guest_and_is_never_free(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, three = hosts
    one.start("web1", want)
    [owned] = two.start("web1", moving(want))
    assert owned.claim
    assert (claims(rig, want, two), rig.owner(want), state(rig, want, 2)) == (True, one.me, INCOMING)
    assert two.engine.holds(GUEST, [moving(want)])
    told = Told(two)
    two.engine.convert(GUEST)
    assert isinstance(three.why("db1", want), HeldByOther)
    one.stop("web1")
    assert isinstance(three.why("db1", want), (SharedByOthers, HeldByOther))
    eventually(lambda: bool(told.converted), "the conversion")
    [now] = told.converted
    assert (now.claim, now.want) == (False, moving(want))
    assert (rig.owner(want), state(rig, want, 2)) == (two.me, RUNNING)
    assert not claims(rig, want, two)
    two.stop("web1")
    assert rig.owner(want) is None
    three.start("web1", want)


def test_a_rival_that_tries_without_end_never_gets_it(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, three = hosts
    one.start("web1", want)
    told, over, tries = Told(two), threading.Event(), 0
    outcomes: list[object] = []

    def try_on() -> None:
        nonlocal tries
        while not over.is_set() or tries < 5:
            tries += 1
            shared = replace(want, shared=tries % 3 == 0)
            outcomes.append(three.refusal("db1", shared)[0][1])

    rival = threading.Thread(target=try_on)
    rival.start()
    for source, target in ((one, two), (two, one)):
        told = Told(target)
        target.start("web1", moving(want))
        target.engine.convert(GUEST)
        source.stop("web1")
        eventually(lambda told=told: bool(told.converted), "the conversion")
    over.set()
    rival.join()
    kinds = (HeldByOther, SharedByOthers, ClaimedByOther)
    assert all(isinstance(error, kinds) or "short hold" in str(error) for error in outcomes), outcomes


def test_a_migration_that_fails_withdraws_the_claim(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, three = hosts
    one.start("web1", want)
    for converting in (False, True):
        two.start("web1", moving(want))
        if converting:
            two.engine.convert(GUEST)
        two.stop("web1")
        assert not claims(rig, want, two)
        assert rig.owner(want) == one.me
    one.stop("web1")
    three.start("web1", want)


def test_one_refused_claim_and_the_others_are_withdrawn(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    other = rig.want("of-another-guest")
    one.start("web1", want)
    one.engine.acquire(Tenant("db.1", "db", "11111111-9edc-4d8a-84c1-d2f4d1f0a001"), [other], by(), lambda: False)
    failures = two.refusal("web1", moving(want), moving(other))
    assert [type(error) for _, error in failures] == [HeldByOther]
    assert failures[0][1].__dict__["holder"].record.guest == "db"
    assert not claims(rig, want, two)
    assert one.engine.release(Tenant("db.1", "db", ""), by())


def test_what_nobody_holds_is_taken_as_at_any_start(rig: Rig, hosts: Hosts, want: Want) -> None:
    """A migration with its storage, or from a host that has no leases."""
    _, two, three = hosts
    [owned] = two.start("web1", moving(want))
    assert not owned.claim
    assert rig.owner(want) == two.me
    assert isinstance(three.why("db1", want), HeldByOther)
    two.stop("web1")
    [owned] = two.start("web1", moving(want))
    assert not owned.claim


def test_what_is_shared_is_not_claimed(hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    one.start("web1", replace(want, shared=True))
    assert isinstance(two.why("web1", moving(want)), SharedByOthers)


def test_guests_of_the_claiming_host_are_kept_apart(hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    one.start("web1", want)
    two.start("web1", moving(want))
    assert isinstance(two.why("db1", want), HeldHere)
    assert isinstance(two.why("db1", moving(want)), HeldHere)


def test_only_by_setting_a_claim_is_made_on_an_owner_that_says_nothing(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    directory.create_lease(str(rig.path(want)), FILE, want.space.encode(), want.name.encode(), Ownership())
    one.start("web1", want)
    own = rig.sector(want, 1)
    with BlockFile(str(rig.path(want))) as file:
        file.write(FILE.dblock(1), host_sector(FILE, own.dblock, own.mode))
    assert isinstance(two.why("web1", moving(want)), ClaimRefused)
    two.engine = NativeEngine(two.lease, two.files, two.alarms.append, foreign=True)
    told = Told(two)
    two.start("web1", moving(want))
    two.engine.convert(GUEST)
    one.stop("web1")
    eventually(lambda: bool(told.converted), "the conversion")


def test_the_source_learns_whether_the_guest_runs_where_it_goes(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, three = hosts
    one.start("web1", want)
    assert one.engine.elsewhere(GUEST, by()) == []
    two.start("web1", moving(want))
    two.engine.convert(GUEST)

    def seen() -> list[tuple[int, int]]:
        return [(h.host_id, h.record.state) for h in one.engine.elsewhere(GUEST, by()) if h.record]

    assert seen() == [(2, INCOMING)]
    assert two.engine.mark_running(GUEST, by())
    assert seen() == [(2, RUNNING)]
    assert claims(rig, want, two)
    assert two.engine.elsewhere(GUEST, by())[0].record.state == RUNNING  # type: ignore[union-attr]
    assert three.engine.elsewhere(GUEST, by()) == []


def test_a_host_with_other_guests_has_nothing_to_mark(hosts: Hosts) -> None:
    assert hosts[2].engine.mark_running(GUEST, by())


# ------------------------------------------------------------------------------------------------ after a restart


def test_a_restarted_engine_goes_on_with_its_claims(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    one.start("web1", want)
    owned = two.start("web1", moving(want))
    again = two.restarted()
    told = Told(again)
    assert again.engine.restore(GUEST, owned) == []
    assert again.engine.holds(GUEST, [moving(want)])
    one.stop("web1")
    eventually(lambda: bool(told.converted), "the conversion")
    assert rig.owner(want) == two.me
    two.engine = again.engine


def test_a_restarted_engine_finds_what_was_converted_meanwhile(rig: Rig, hosts: Hosts, want: Want) -> None:
    """The conversion was on disk, and not yet in the keeper's state."""
    one, two, _ = hosts
    one.start("web1", want)
    owned = two.start("web1", moving(want))
    told = Told(two)
    two.engine.convert(GUEST)
    one.stop("web1")
    eventually(lambda: bool(told.converted), "the conversion")
    again = two.restarted()
    told_again = Told(again)
    assert again.engine.restore(GUEST, owned) == []
    assert told_again.converted == told.converted
    two.engine = again.engine
    two.stop("web1")
    assert rig.owner(want) is None


@pytest.mark.parametrize("harm", ["emptied", "replaced"])
def test_a_claim_that_is_gone_is_told_by_a_restarted_engine(rig: Rig, hosts: Hosts, want: Want, harm: str) -> None:
    one, two, _ = hosts
    one.start("web1", want)
    owned = two.start("web1", moving(want))
    if harm == "emptied":
        with BlockFile(str(rig.path(want))) as file:
            file.write(FILE.dblock(2), bytes(512))
    else:
        os.rename(rig.path(want), rig.folder / "old")
        directory.create_lease(str(rig.path(want)), FILE, want.space.encode(), want.name.encode(), Ownership())
    again = two.restarted()
    [(lease, error)] = again.engine.restore(GUEST, owned)
    assert (lease, type(error)) == (owned[0], ClaimLost)


def test_a_claim_that_is_gone_is_told_and_does_not_let_a_start_through(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    one.start("web1", want)
    two.start("web1", moving(want))
    told = Told(two)
    with BlockFile(str(rig.path(want))) as file:
        file.write(FILE.dblock(2), bytes(512))
    two.engine.convert(GUEST)
    eventually(lambda: bool(told.lost), "the loss")
    assert not two.engine.holds(GUEST, [moving(want)])


def test_an_unfinished_claim_of_a_former_engine_is_withdrawn(rig: Rig, hosts: Hosts, want: Want) -> None:
    one, two, _ = hosts
    one.start("web1", want)
    two.start("web1", moving(want))
    again = two.restarted()
    again.engine.settle(GUEST, [moving(want)])
    eventually(lambda: not claims(rig, want, two), "the withdrawal")
    two.engine = again.engine
    assert rig.owner(want) == one.me


# -------------------------------------------------------------------------------------------------- bad storage


def failing(monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[bool], None]:
    """Writes to that lease file fail while told to."""
    fails = False
    write = BlockFile.write

    def broken(self: BlockFile, offset: int, data: bytes) -> None:
        if fails and name in self.path:
            raise StorageError(op="write", where=self.path, why="injected")
        write(self, offset, data)

    monkeypatch.setattr(BlockFile, "write", broken)

    def switch(on: bool) -> None:
        nonlocal fails
        fails = on

    return switch


def test_a_conversion_that_meets_storage_errors_is_tried_on(
    rig: Rig, hosts: Hosts, want: Want, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BRIEF", False)  # the third host is to find the claim before it writes
    one, two, three = hosts
    one.start("web1", want)
    two.start("web1", moving(want))
    told = Told(two)
    one.stop("web1")
    switch = failing(monkeypatch, want.name)
    switch(True)
    two.engine.convert(GUEST)
    eventually(lambda: any(want.name in alarm and "injected" in alarm for alarm in two.alarms), "the alarm")
    assert two.engine.holds(GUEST, [moving(want)])
    assert isinstance(three.why("db1", want), SharedByOthers)
    switch(False)
    eventually(lambda: bool(told.converted), "the conversion")


def test_a_withdrawal_that_meets_storage_errors_is_tried_on_and_the_claim_counts(
    rig: Rig, hosts: Hosts, want: Want, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = hosts
    one.start("web1", want)
    two.start("web1", moving(want))
    two.engine.convert(GUEST)
    switch = failing(monkeypatch, want.name)
    switch(True)
    assert not two.engine.release(GUEST, by(0.5))
    assert two.guests(want) == ["web1"]
    switch(False)
    eventually(lambda: two.guests(want) == [], "the withdrawal")
    assert not claims(rig, want, two)


