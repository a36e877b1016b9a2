# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a former keeper's guest held, found again: with the daemon as an orphan, or in the lease file as a claim."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from .claiming import RETRY_SECONDS, Entry
from .engine import Owned, Want
from .errors import LeaseError, NotMember, StorageError
from .sanlockfiles import SanlockFiles
from .sanlockguest import GuestConnection, listed, silent
from .sanlockmembership import DaemonLease
from .sanlockstate import HeldLease

POLL_SECONDS = 0.1
NOTICE_SECONDS = 5.0
"""How long the daemon may take to notice that a former keeper's connection has closed."""


class Finding:
    """`held_by_us`: how many guests hold a lease already. `find_claim`: what became of a claim that is ours alone."""

    def __init__(
        self,
        host: DaemonLease,
        files: SanlockFiles,
        alarm: Callable[[str], None],
        held_by_us: Callable[[Want], int],
        find_claim: Callable[[Entry, Owned], None],
    ) -> None:
        self._host = host
        self._files = files
        self._alarm = alarm
        self._held_by_us = held_by_us
        self._find_claim = find_claim

    def claim(self, guest: GuestConnection, entry: Entry, lease: Owned) -> None:
        """What was claimed: the daemon may have taken it over by now. Raises LeaseError if it is lost."""
        resource = self._files.resource(lease.want)
        while True:
            try:
                if listed(self._host.client, resource):
                    self.adopt(guest, lease)
                    entry.owned = self._files.confirm(self._host, lease.want, guest.tenant)
                else:
                    self._find_claim(entry, lease)
                return
            except LeaseError as failure:
                says_nothing = silent(failure) or isinstance(failure, StorageError)
                if not says_nothing or self._host.why_not():
                    raise
                self._alarm(f"lease {lease.want.name} after the restart: {failure}; it is tried again")
                time.sleep(RETRY_SECONDS)

    def adopt(self, guest: GuestConnection, lease: Owned) -> None:
        """A daemon that does not answer well says nothing about the lease: it is asked again."""
        resource = self._files.resource(lease.want)
        until = time.monotonic() + NOTICE_SECONDS
        while True:
            try:
                guest.open()
                found = listed(self._host.client, resource)
                if any(one.orphan for one in found):
                    guest.adopt(resource)
                    return
                if lease.want.shared and len(found) == self._held_by_us(lease.want) > 0:
                    # All sharers of a dead keeper leave one orphan; who comes after the first joins it.
                    guest.acquire([resource])
                    return
                if not found or time.monotonic() >= until:
                    raise self._not_there(lease, found)
            except LeaseError as failure:
                if not silent(failure) or self._host.why_not():
                    raise
                self._alarm(f"lease {lease.want.name} after the restart: {failure}; it is tried again")
                time.sleep(RETRY_SECONDS)
                continue
            time.sleep(POLL_SECONDS)

    def _not_there(self, lease: Owned, found: Sequence[HeldLease]) -> NotMember:
        state = f"lists it as {found[0].state} for process {found[0].pid}" if found else "has it no more"
        why = f"not the owner of {lease.path} any more: sanlock {state}"
        return NotMember(space=self._files.space, host_id=self._host.identity.host_id, why=why)


def foreign(lease: HeldLease) -> bool:
    """Held by another program of this host, not by us nor by a keeper that has died."""
    return not lease.orphan and lease.pid != os.getpid() and os.path.exists(f"/proc/{lease.pid}")
