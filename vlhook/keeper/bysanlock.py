# SPDX-License-Identifier: LGPL-2.1-or-later
"""Membership by the sanlock daemon of this host, which vlhookd drives; and which of the two ways it is.

    native    always ourselves; never beside a daemon that has the lockspace
    sanlock   always the daemon; while it does not run no guest gets leases
    auto      the daemon where its socket answers when the host joins, otherwise ourselves
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Optional, Union

from ..leases.delta import OwnTrace, Space
from ..leases.driver import Cancel
from ..leases.errors import StorageError
from ..leases.files import LeaseFiles
from ..leases.membership import HostLease
from ..leases.names import LOCKSPACE_NAME
from ..leases.owner import fail_seconds
from ..leases.sanlock import SanlockEngine
from ..leases.sanlockclient import SanlockClient
from ..leases.sanlockerrors import SanlockBusy, SanlockError, SanlockNotJoined, SanlockUnreachable
from ..leases.sanlockmembership import ANSWER_SECONDS, REMOVE_SECONDS, DaemonLease, attach, join
from ..leases.sanlockwire import Config
from .natively import NAME as NATIVE
from .natively import Natively
from .state import Member

SANLOCK, AUTO = SanlockEngine.name, "auto"


class BySanlock:
    """`nobody_runs`: no guest of this host is left, so the lockspace may end (safety rules, 25)."""

    name = SANLOCK

    def __init__(self, nobody_runs: Callable[[], bool]) -> None:
        self._client = SanlockClient(timeout=ANSWER_SECONDS)
        self._nobody_runs = nobody_runs

    def join(self, space: Space, trace: Optional[OwnTrace], cancel: Cancel) -> HostLease:
        """Raises LeaseError."""
        lease = join(self._client, space, cancel, self._nobody_runs)
        lease.may_let_go = self._nobody_runs
        return lease

    def resume(self, space: Space, member: Member) -> HostLease:
        """Raises StorageError where it makes sense to ask again, LeaseError where the generation is over."""
        try:
            lease = attach(self._client, space, member.record.owner_generation)
        except SanlockUnreachable:
            raise  # the daemon is dead: nobody renews, and whoever joins anew frees what the old one held
        except SanlockError as error:
            if member.last_ok.age() >= fail_seconds(member.io_timeout):
                raise
            raise StorageError(op="resumption", where="sanlock", why=str(error)) from error
        lease.added = member.added
        lease.may_let_go = self._nobody_runs
        return lease

    def engine(
        self, lease: HostLease, files: LeaseFiles, alarm: Callable[[str], None], foreign: bool
    ) -> SanlockEngine:
        assert isinstance(lease, DaemonLease)
        return SanlockEngine(lease, files, alarm, foreign=foreign)


def leave_former(member: Member) -> None:
    """Out of the lockspace that a former keeper had the daemon join; no guest is left. Raises LeaseError."""
    if member.engine != SANLOCK or not member.added:
        return
    client = SanlockClient(timeout=ANSWER_SECONDS)
    try:
        for space in client.get_lockspaces():
            if (space.name, space.host_id, space.disk.path) == (LOCKSPACE_NAME, member.host_id, member.lockspace):
                client.set_config(space.name, Config.UNUSED)
                client.remove_lockspace(space, only_unused=True, deadline=time.monotonic() + REMOVE_SECONDS)
    except (SanlockBusy, SanlockNotJoined, SanlockUnreachable):
        return  # somebody else uses it, or it has ended: joining anew tells


Way = Union[Natively, BySanlock]


def way_of(engine: str, nobody_runs: Callable[[], bool]) -> Way:
    """How to join, by the setting. Raises SanlockError where `auto` cannot tell: a daemon that does not answer."""
    if engine == AUTO:
        try:
            SanlockClient(timeout=ANSWER_SECONDS).version(time.monotonic() + ANSWER_SECONDS)
        except SanlockUnreachable:
            engine = NATIVE
    return Natively() if engine == NATIVE else BySanlock(nobody_runs)
