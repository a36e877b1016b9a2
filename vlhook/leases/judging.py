# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an acquire or a claim would meet now, by reading alone: nothing is written, nothing is waited for.

It is right for the moment of the look; a start judges everything again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from . import claims, paxos
from .blockio import BlockFile
from .engine import Conflict, Tenant, Want, in_the_way
from .errors import LeaseError, NotCreated, NothingToClaim, StorageError, Timeout
from .files import LeaseFiles, record_of
from .membership import HostLease
from .workers import Workers


class Judging:
    """For an engine: `foreign` as in `ClaimFiles`, `conflict` what on this host stands in the way, under `changed`."""

    def __init__(
        self,
        host: HostLease,
        files: LeaseFiles,
        workers: Workers,
        foreign: bool,
        changed: threading.Condition,
        conflict: Conflict,
    ) -> None:
        self._host = host
        self._files = files
        self._workers = workers
        self._foreign = foreign
        self._changed = changed
        self._conflict = conflict

    def judge(self, tenant: Tenant, wants: Sequence[Want], deadline: float) -> list[tuple[Want, LeaseError]]:
        """As `Engine.judge`."""
        with self._changed:
            here = in_the_way(self._conflict, wants)
        return here or self._failures(tenant, wants, deadline)

    def _failures(self, tenant: Tenant, wants: Sequence[Want], deadline: float) -> list[tuple[Want, LeaseError]]:
        """Which of `wants` would be refused at this moment, and why; each look from a thread of its own."""
        answers: queue.SimpleQueue[tuple[Want, LeaseError | None]] = queue.SimpleQueue()
        begun = time.monotonic()
        for want in wants:
            self._workers.run(partial(self._answer, tenant, want, answers.put))
        found: dict[Want, LeaseError | None] = {}
        for _ in wants:
            try:
                want, error = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            found[want] = error
        failed: list[tuple[Want, LeaseError]] = []
        for want in wants:
            slow = Timeout(name=want.name, seconds=time.monotonic() - begun, why="the storage is slow")
            refusal = found.get(want, slow)
            if refusal:
                failed.append((want, refusal))
        return failed

    def _answer(self, tenant: Tenant, want: Want, put: Callable[[tuple[Want, LeaseError | None]], None]) -> None:
        error: LeaseError | None = None
        try:
            self._judge(tenant, want)
        except LeaseError as failure:
            error = failure
        except Exception as failure:
            error = StorageError(op="read", where=want.name, why=f"{type(failure).__name__}: {failure}")
        put((want, error))

    def _judge(self, tenant: Tenant, want: Want) -> None:
        """Raises the LeaseError that would refuse it."""
        path = self._files.path_of(want)
        try:
            file = BlockFile(path, want.offset, writable=False)
        except NotCreated:
            if want.path is None:
                return  # it would be made
            raise
        with file:
            lease, me = self._files.lease_of(self._host, want, path), self._host.identity
            if want.claim:
                record = record_of(tenant, want)
                try:
                    self._files.drive(self._host, claims.claimable(lease, me, record, foreign=self._foreign), file)
                    return
                except NothingToClaim:
                    pass  # then it would be taken as at any start
            self._files.drive(self._host, paxos.judge(lease, me, want.shared), file)
