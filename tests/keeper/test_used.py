# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's connection to the sanlock daemon that is found closed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from vlhook.keeper.log import Log
from vlhook.keeper.used import Used
from vlhook.leases.engine import Tenant

GUEST = Tenant("g.1", "g", "00000000-0000-0000-0000-000000000001")


@pytest.mark.parametrize(("why_not", "ended"), [(None, ["g.1"]), ("the sanlock daemon has ended", [])])
def test_its_guest_is_ended_here_only_while_the_daemon_lives(why_not: str | None, ended: list[str]) -> None:
    """Else the host's lease is lost as a whole, and the guests may have a grace."""
    life = SimpleNamespace(key=GUEST.key)
    table = SimpleNamespace(of=lambda uuid: [life])
    used = Used(cast(Any, None), cast(Any, table), cast(Any, None), Log("test"))
    found: list[str] = []
    used.lost = lambda life: found.append(life.key)
    engine = SimpleNamespace(broken=lambda: [GUEST], mend=lambda tenant: ["a lease"])
    lease = SimpleNamespace(why_not=lambda: why_not)
    used._mend(cast(Any, lease), cast(Any, engine))
    assert found == ended
