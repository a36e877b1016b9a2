# SPDX-License-Identifier: LGPL-2.1-or-later
"""Membership by this process itself: vlhookd renews the host's id, and takes the leases by Disk Paxos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from ..leases import membership
from ..leases.delta import OwnTrace, Space
from ..leases.driver import Cancel
from ..leases.errors import LeaseError
from ..leases.files import LeaseFiles
from ..leases.membership import HostLease
from ..leases.names import LOCKSPACE_NAME
from ..leases.native import NativeEngine
from ..leases.sanlockclient import SanlockClient
from ..leases.sanlockerrors import SanlockUnreachable
from .state import Member

NAME = NativeEngine.name
DAEMON_SECONDS = 3.0


class DaemonHasLockspace(LeaseError):
    msg = "the sanlock daemon of this host ({socket}) has joined lockspace {space}"
    hint = "the native engine does not run beside it: set engine = sanlock or auto, or stop that daemon"
    code = "VLH-K204"


class Natively:
    name = NAME

    def join(self, space: Space, trace: Optional[OwnTrace], cancel: Cancel) -> HostLease:
        """Raises LeaseError, also where the sanlock daemon of this host has the lockspace."""
        check_no_daemon()
        return membership.join(space, trace, cancel)

    def resume(self, space: Space, member: Member) -> HostLease:
        return membership.resume(space, member.record, member.last_ok)

    def engine(
        self, lease: HostLease, files: LeaseFiles, alarm: Callable[[str], None], foreign: bool
    ) -> NativeEngine:
        return NativeEngine(lease, files, alarm, foreign=foreign)


def check_no_daemon() -> None:
    """Two members of one lockspace on one host would each think the other's guests are elsewhere.

    Raises DaemonHasLockspace, and what the client raises if a daemon is there and does not answer.
    """
    client = SanlockClient(timeout=DAEMON_SECONDS)
    try:
        spaces = client.get_lockspaces()
    except SanlockUnreachable:
        return
    if any(space.name == LOCKSPACE_NAME for space in spaces):
        raise DaemonHasLockspace(socket=client.socket_path, space=LOCKSPACE_NAME)
