# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the sanlock daemon has for others on this host: no lease file tells of them.

On disk a host owns a lease as a whole, so what another program of this host has from the same
daemon, and what a keeper left behind there, looks like our own. Only the daemon knows better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from .engine import Tenant, Want
from .errors import HeldHere, InDoubtHere, LeaseError
from .sanlockclient import SanlockClient
from .sanlockguest import ANSWER_SECONDS
from .sanlockstate import HeldLease

Failures = list[tuple[Want, LeaseError]]
Judge = Callable[[Tenant, Sequence[Want], float], Failures]


def in_the_way(want: Want, leases: Iterable[HeldLease]) -> LeaseError | None:
    """What of the daemon's `leases` keeps this host from getting `want`; the caller knows of its own guests."""
    for one in leases:
        if (one.resource.space, one.resource.name) != want.key:
            continue
        if one.orphan:
            why = "sanlock has it from an earlier vlhookd"
            return InDoubtHere(name=want.name, guest="?", doing="given back", why=why)
        if not (one.shared and want.shared):
            guest = f"with pid {one.pid}, which has it from sanlock directly,"
            return HeldHere(name=want.name, guest=guest, tenants=())
    return None


def with_daemon(judge: Judge, client: SanlockClient) -> Judge:
    """`judge`, which reads the lease files, and then the word of the daemon, which a start would ask as well."""

    def both(tenant: Tenant, wants: Sequence[Want], deadline: float) -> Failures:
        silent: LeaseError | None = None
        leases: tuple[HeldLease, ...] = ()
        try:
            leases = client.leases(min(deadline, time.monotonic() + ANSWER_SECONDS))
        except LeaseError as error:
            silent = error
        failed = judge(tenant, wants, deadline)
        seen = {want.key for want, _ in failed}
        rest = [(want, silent or in_the_way(want, leases)) for want in wants if want.key not in seen]
        return failed + [(want, why) for want, why in rest if why]

    return both
