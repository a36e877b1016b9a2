# SPDX-License-Identifier: LGPL-2.1-or-later
"""Claims by their files: made, looked after, converted, found again. Blocks, as files.py does.

A lease that no other host holds exclusively is not claimed but taken as at any
start. That is no exception to the rule that only the source's own lease is
claimed (safety rules, 17): it asks for no favour, so it needs no veto. It is what a
migration with its storage to another path needs, and one from a host without vlhook.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Union

from . import claims, release
from .area import Lease
from .blockio import BlockFile, await_io
from .claims import Claimed
from .driver import Cancel
from .engine import Owned, Tenant, Want
from .errors import AreaTooShort, BadMagic, ClaimDisturbed, ClaimLost, FileReplaced, NotCreated, NothingToClaim
from .files import LeaseFiles, record_of
from .holder import INCOMING, RUNNING
from .membership import HostLease
from .owner import Holder
from .release import Held

DISTURBED_SECONDS = 3.0
"""How long a claim is tried again that a rival in the middle of its own attempt has disturbed."""
RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class _Open:
    lease: Lease
    file: BlockFile


class ClaimFiles:
    """`foreign`: claim also from an owner that does not say which guest it is for (claim_foreign)."""

    def __init__(self, files: LeaseFiles, foreign: bool) -> None:
        self._files = files
        self._foreign = foreign

    def claim(
        self, host: HostLease, want: Want, tenant: Tenant, cancel: Cancel
    ) -> tuple[Union[Claimed, Held], Owned]:
        """Claim `want`, or take it if nobody else has it. Raises LeaseError; then nothing of it is left."""
        try:
            return self.claim_held(host, want, tenant, cancel)
        except (NothingToClaim, NotCreated, AreaTooShort, BadMagic):
            return self._files.take(host, want, tenant, cancel)

    def claim_held(self, host: HostLease, want: Want, tenant: Tenant, cancel: Cancel) -> tuple[Claimed, Owned]:
        """Claim `want`. Raises NothingToClaim if nobody else has it, LeaseError; then nothing of it is left."""
        until = time.monotonic() + DISTURBED_SECONDS
        while True:
            try:
                return self._claim(host, want, tenant, cancel)
            except ClaimDisturbed:
                if time.monotonic() >= until or cancel.wait(RETRY_SECONDS):
                    raise

    def _claim(self, host: HostLease, want: Want, tenant: Tenant, cancel: Cancel) -> tuple[Claimed, Owned]:
        path = self._files.path_of(want)
        with BlockFile(path, want.offset) as file:
            lease = self._files.lease_of(host, want, path)
            steps = claims.claim(lease, host.identity, record_of(tenant, want), foreign=self._foreign)
            claimed = self._files.drive(host, steps, file, cancel, want.name)
            # Who removed the file has removed the source's lease with it: it is none of ours to hold on to.
            if not file.is_current():
                self._files.drive(host, release.settle(lease, host.identity, claimed.geometry), file)
                raise FileReplaced(where=path)
            return claimed, Owned(want, path, claimed.lver, file.identity()[1], claim=True)

    def held_elsewhere(self, host: HostLease, want: Want) -> bool:
        """As `claims.held_elsewhere`. Raises LeaseError."""
        path = self._files.path_of(want)
        try:
            file = BlockFile(path, want.offset, writable=False)
        except NotCreated:
            return False
        with file:
            lease = self._files.lease_of(host, want, path)
            return self._files.drive(host, claims.held_elsewhere(lease, host.identity), file)

    def try_convert(
        self, host: HostLease, owned: Owned, claimed: Claimed, tenant: Tenant, running: bool, cancel: Cancel
    ) -> Held | None:
        """One look, as `claims.try_convert`. Raises LeaseError; ClaimLost is final, NotMember too."""
        with self._open(host, owned) as found:
            record = replace(record_of(tenant, owned.want), state=RUNNING if running else INCOMING)
            steps = claims.try_convert(found.lease, host.identity, record, claimed.geometry)
            return self._files.drive(host, steps, found.file, cancel, owned.want.name)

    def reassert(self, host: HostLease, owned: Owned, held: Held) -> Held:
        """As `claims.reassert`; only by the thread that converted. Raises LeaseError."""
        with self._open(host, owned) as found:
            return self._files.drive(host, claims.reassert(found.lease, host.identity, held), found.file)

    def mark_running(self, host: HostLease, owned: Owned, claimed: Claimed, tenant: Tenant) -> None:
        """As `claims.mark_running`; only by the thread that converts. Raises LeaseError."""
        with self._open(host, owned) as found:
            record = record_of(tenant, owned.want)
            steps = claims.mark_running(found.lease, host.identity, record, claimed.geometry)
            self._files.drive(host, steps, found.file)

    def find(self, host: HostLease, owned: Owned) -> Union[Claimed, Held]:
        """What the disk says of a claim that a former keeper had. Raises LeaseError if it is lost."""
        await_io(owned.path, owned.want.offset)
        with self._open(host, owned) as found:
            geo = self._files.geometry(found.file, found.lease)
            return self._files.drive(host, claims.still_claimed(found.lease, host.identity, geo), found.file)

    def elsewhere(self, host: HostLease, owned: Owned, tenant: Tenant) -> list[Holder]:
        """As `claims.elsewhere`. Raises LeaseError."""
        with self._open(host, owned) as found:
            geo = self._files.geometry(found.file, found.lease)
            uuid = record_of(tenant, owned.want).uuid
            return self._files.drive(host, claims.elsewhere(found.lease, host.identity, uuid, geo), found.file)

    @contextmanager
    def _open(self, host: HostLease, owned: Owned) -> Iterator[_Open]:
        with BlockFile(owned.path, owned.want.offset) as file:
            if file.identity()[1] != owned.inode:
                why = "its file was replaced"
                raise ClaimLost(name=owned.want.name, where=owned.path, why=why)
            yield _Open(self._files.lease_of(host, owned.want, owned.path), file)
