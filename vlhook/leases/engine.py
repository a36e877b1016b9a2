# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every engine offers the keeper: many leases of one guest, all or none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

from .area import Identity
from .errors import InDoubtHere, LeaseError
from .owner import Holder


@dataclass(frozen=True)
class Want:
    """A lease that a guest needs.

    `path`: the lease file, or None for the file of that name in the lease
    directory, which is then made if absent. `offset` in bytes. `source`: the
    disk, for people. `kind`: what it stands for (`domain.LeaseNeed`, or 'identity').
    `claim`: the guest migrates in, so the lease may be claimed from the host it comes
    from; what nobody holds is taken as ever (claimfiles.py).
    """

    name: str
    space: str
    shared: bool
    source: str
    path: str | None = None
    offset: int = 0
    kind: str = "disk"
    claim: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.space, self.name


@dataclass(frozen=True)
class Owned:
    """A lease that this host holds for a guest; what must survive a restart of the keeper.

    `claim`: so far it is only claimed; `lver` is then the owner's version.
    """

    want: Want
    path: str
    lver: int
    inode: int
    claim: bool = False


@dataclass(frozen=True)
class Tenant:
    """The guest incarnation on whose behalf a lease is held; `key` is unique on this host."""

    key: str
    guest: str
    uuid: str


class Refused(Exception):
    """Not all leases were to be had; none was kept. `failures`: (what was wanted, why not)."""

    def __init__(self, failures: Sequence[tuple[Want, LeaseError]]) -> None:
        super().__init__("; ".join(str(error) for _, error in failures))
        self.failures = tuple(failures)


Conflict = Callable[[Want], Optional[LeaseError]]
"""What on this host stands in the way of a want; called under the engine's condition."""
POLL_SECONDS = 0.1


def in_the_way(conflict: Conflict, wants: Sequence[Want]) -> list[tuple[Want, LeaseError]]:
    """What stands in the way of each of `wants` on this host, for those that something does."""
    return [(want, why) for want in wants for why in [conflict(want)] if why]


def wait_for_way(
    changed: threading.Condition, conflict: Conflict, wants: Sequence[Want], deadline: float, gone: Callable[[], bool]
) -> None:
    """Until nothing on this host stands in the way of `wants`; only what is just being settled is waited for.

    The caller holds `changed`. Raises Refused.
    """
    while True:
        conflicts = in_the_way(conflict, wants)
        passing = conflicts and all(isinstance(why, InDoubtHere) for _, why in conflicts)
        if not passing or time.monotonic() >= deadline or gone():
            break
        changed.wait(POLL_SECONDS)
    if conflicts:
        raise Refused(conflicts)


class Engine(Protocol):
    """Any method may be called from any thread."""

    name: str

    def acquire(
        self, tenant: Tenant, wants: Sequence[Want], deadline: float, gone: Callable[[], bool]
    ) -> list[Owned]:
        """All of `wants`, by CLOCK_MONOTONIC `deadline`, unless `gone()` says the caller hung up.

        Raises Refused. What an attempt left is given back in the background; until
        that has worked it counts as held here.
        """

    def judge(self, tenant: Tenant, wants: Sequence[Want], deadline: float) -> list[tuple[Want, LeaseError]]:
        """What of `wants` would be refused to `tenant` at this moment, and why; by reading alone."""

    def release(self, tenant: Tenant, deadline: float, wants: Sequence[Want] | None = None) -> bool:
        """Give back all that `tenant` holds, or these; False: not all by `deadline`, and it is tried on."""

    def restore(self, tenant: Tenant, owned: Sequence[Owned]) -> list[tuple[Owned, LeaseError]]:
        """Take over what a former keeper of the same generation held; returns what is lost."""

    def settle(self, tenant: Tenant, wants: Sequence[Want]) -> None:
        """Clean up after an acquire of a former keeper whose outcome is not known."""

    def holds(self, tenant: Tenant, wants: Sequence[Want]) -> bool:
        """Whether every one of `wants` is held for `tenant` at this moment."""

    def convert(self, tenant: Tenant) -> None:
        """Make what `tenant` has claimed its own, in the background, as soon as the owner gives it up.

        What becomes of a claim is told by `on_converted` or `on_lost`.
        """

    def owns(self, tenant: Tenant, wants: Sequence[Want]) -> bool:
        """As `holds`, and none of it is only claimed: no other host owns it any more."""

    def mark_running(self, tenant: Tenant, deadline: float) -> bool:
        """Say in the claims of `tenant` that its guest runs here; False: not all by `deadline`, and it is tried on."""

    def held_elsewhere(self, wants: Sequence[Want], deadline: float) -> bool:
        """Does another host hold one of `wants` exclusively, for all that can be found out by `deadline`?"""

    def elsewhere(self, tenant: Tenant, deadline: float) -> list[Holder]:
        """The living hosts that claim or own a lease of `tenant` for the same guest. Raises LeaseError."""

    def identity(self) -> Identity | None:
        """This host's (host id, generation), None while it has not joined."""

    def why_not(self) -> str | None:
        """None while leases can be taken and used, else the reason."""
