# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of a lockspace that has failed: the daemon keeps it for as long as anything holds it (sanlock companion, 2).

Until it has ended, the daemon's watchdog goes on counting. So it is not left to the next joining, which
needs the storage: a host whose guests have all ended must not be reset for want of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .delta import Space
from .records import show_name
from .sanlockclient import SanlockClient
from .sanlockspace import SpaceState, look
from .sanlockwire import Config

ANSWER_SECONDS = 3.0


def end(client: SanlockClient, found: SpaceState) -> None:
    """Give back what was left behind in it, and take USED back. No guest of this host is left. Raises SanlockError."""
    name = found.lockspace.name
    deadline = time.monotonic() + ANSWER_SECONDS
    orphans = [one.resource for one in client.leases(deadline) if one.orphan and one.resource.space == name]
    if orphans:
        with client.register(deadline) as registered:
            for orphan in orphans:
                registered.release_orphan(orphan, deadline=deadline)
    if found.used:
        client.set_config(name, Config.UNUSED, deadline=deadline)


def end_failed(client: SanlockClient, space: Space, nobody_runs: Callable[[], bool]) -> bool:
    """`end` the lockspace if the daemon has it as `space`, it has failed, and no guest is left; True: it was done.

    Without any I/O on the storage. Raises SanlockError.
    """
    found = look(client, show_name(space.name), time.monotonic() + ANSWER_SECONDS).space
    if found is None or not (found.dead or found.killing):
        return False
    if (found.lockspace.host_id, found.lockspace.disk.path) != (space.host_id, space.where) or not nobody_runs():
        return False
    end(client, found)
    return True
