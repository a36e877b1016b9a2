# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever number the daemon refuses with, a start says who stands in the way, or else what sanlock said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vlhook.keeper.messages import in_the_way
from vlhook.leases import sanlocktaking
from vlhook.leases.claiming import ACQUIRING, Entry
from vlhook.leases.engine import Refused, Tenant, Want
from vlhook.leases.errors import HeldByOther, LeaseError, OwnerMaybeDead
from vlhook.leases.owner import Holder
from vlhook.leases.sanlockclient import SanlockClient
from vlhook.leases.sanlockerrors import refusal
from vlhook.leases.sanlockstate import HeldLease
from vlhook.leases.sanlocktaking import Taking
from vlhook.leases.sanlockwire import Disk, Resource

ERRNO = (1, 2, 3, 5, 7, 11, 12, 13, 16, 17, 19, 22, 28, 90, 115, 117)
SANLOCK = (
    *range(201, 204), *range(210, 215), *range(220, 232), *range(240, 248), 250, 251, *range(260, 263), *range(270, 274)
)  # fmt: skip
"""The daemon's numbers: errno values, and its own (format document, 13)."""
NOT_JOINED, ON_THIS_HOST = -28, (-17, -117)
RESULTS = [-number for number in (*ERRNO, *SANLOCK)]
ELSEWHERE = [result for result in RESULTS if result not in (NOT_JOINED, *ON_THIS_HOST)]
TENANT = Tenant("g.1", "g", "00000000-0000-0000-0000-000000000001")
WANT = Want("0" * 32, "LS", False, "/srv/disk")


class Daemon(SanlockClient):
    """Tells of these leases."""

    def __init__(self, *leases: HeldLease) -> None:
        super().__init__("/nowhere")
        self._leases = leases

    def leases(self, deadline: float | None = None) -> tuple[HeldLease, ...]:
        return self._leases


class Files:
    """The lease directory: `obstacle` is what the lease itself tells."""

    space = "LS"

    def __init__(self, why: LeaseError | None) -> None:
        self._why = why

    def resource(self, want: Want) -> Resource:
        return Resource(want.space, want.name, (Disk(f"/leases/{want.name}"),))

    def make(self, host: object, want: Want) -> bool:
        return False

    def obstacle(self, host: object, want: Want) -> None:
        if self._why:
            raise self._why


class Guest:
    tenant = TENANT

    def __init__(self, result: int) -> None:
        self._result = result

    def open(self) -> None:
        pass

    def acquire(self, batch: Sequence[Resource]) -> None:
        raise refusal("acquire", self._result, batch[0].name)


def line(result: int, obstacle: LeaseError | None = None, *leases: HeldLease) -> str:
    """What the administrator reads when the daemon refused the only lease of a guest with `result`."""
    host = SimpleNamespace(
        check=lambda: None, why_not=lambda: None, identity=SimpleNamespace(host_id=1), client=Daemon(*leases)
    )
    taking = Taking(cast(Any, host), cast(Any, Files(obstacle)), lambda what: None)
    with pytest.raises(Refused) as caught:
        taking.take(cast(Any, Guest(result)), [Entry(WANT, TENANT, ACQUIRING)])
    return in_the_way(caught.value, "/leases")


@pytest.fixture(autouse=True)
def nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanlocktaking, "PATIENCE_SECONDS", 0.0)


@pytest.mark.parametrize("result", ELSEWHERE)
def test_a_living_holder_is_named_whatever_the_number(result: int) -> None:
    holder = Holder(7, 3, b"mark.node7", 10, True, 1.0, 140.0)
    said = line(result, HeldByOther(name=WANT.name, owner_id=7, owner_generation=3, holder=holder))
    assert "disk /srv/disk is in use by host 7 (node7) which is alive" in said


@pytest.mark.parametrize("result", ELSEWHERE)
def test_of_a_silent_holder_it_is_said_when_the_disk_is_free(result: int) -> None:
    holder = Holder(7, 3, b"mark.node7", 10, False, 33.0, 107.0)
    said = line(result, OwnerMaybeDead(name=WANT.name, owner_id=7, owner_generation=3, holder=holder))
    assert "host 7 (node7) which is silent for 33 s; if that host is dead the disk is free at " in said


@pytest.mark.parametrize("result", ELSEWHERE)
def test_where_nobody_is_in_the_way_sanlock_is_quoted_in_words_and_number(result: int) -> None:
    said = line(result)
    assert "disk /srv/disk: sanlock: acquire" in said
    assert f"(result {result}" in said
    assert "vlhook does not know" not in said
    assert f"[lease file /leases/{WANT.name}]" in said


@pytest.mark.parametrize("holder", [None, Holder(7, 3, b"mark.node7", 10, True, 1.0, 140.0)])
def test_28_says_that_the_lockspace_is_not_joined_and_nothing_of_a_full_disk(holder: Holder | None) -> None:
    obstacle = HeldByOther(name=WANT.name, owner_id=7, owner_generation=3, holder=holder) if holder else None
    said = line(NOT_JOINED, obstacle)
    assert "lockspace LS" in said
    assert "not known to sanlock any more" in said
    assert "space left" not in said


@pytest.mark.parametrize("result", ON_THIS_HOST)
def test_what_another_program_of_this_host_has_is_told_by_its_pid(result: int) -> None:
    lease = HeldLease(Files(None).resource(WANT), "held", 4711, 1, False)
    assert "pid 4711" in line(result, None, lease)


@pytest.mark.parametrize("result", ON_THIS_HOST)
def test_what_a_former_keeper_left_behind_is_said_to_be_given_back(result: int) -> None:
    lease = HeldLease(Files(None).resource(WANT), "orphan", 4711, 1, False)
    assert "still being given back" in line(result, None, lease)


def test_every_number_of_the_daemon_is_among_those_tried() -> None:
    documented = Path(sanlocktaking.__file__).with_name("sanlockerrors.py").read_text()
    known = {result for result in range(-300, 0) if f"\n    {result}: (" in documented}
    assert known == set(RESULTS)
