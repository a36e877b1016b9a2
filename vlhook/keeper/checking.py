# SPDX-License-Identifier: LGPL-2.1-or-later
"""Would this guest start here now, may it come in, may it leave? Answers, and changes nothing.

Calls of the keeper's socket; each answers with `why`, a list of lines, empty for yes:

    check {"xml": XML, "incoming": BOOL}      its start here, or its arrival by a live migration
    check-leave {"uuid": UUID, "guest": NAME, "to": HOST}    its migration from here to another host

They judge as the gates do, by the same code, at this moment; what holds a
second later nobody knows, so the gates judge again.
"""

from __future__ import annotations

import time
import uuid as uuids
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

from ..errors import VlhookError
from ..leases import overview
from ..leases.effects import HostView
from ..leases.engine import Refused, Tenant, Want
from ..leases.errors import LeaseError
from ..leases.hosts import FREE, LIVE, UNKNOWN, state
from ..leases.names import LOCKSPACE_NAME
from ..leases.records import show_name
from . import messages
from .follow import BadCall
from .gates import NEVER, UNSUPPORTED_POLICIES
from .host import Host
from .moves import only_claimed
from .needs import Needs
from .plugin import daemons
from .protector import Protector, name_of
from .qemu import Processes
from .readers import XmlRefused
from .state import ENDING, RUNNING, Caller, Incarnation
from .table import Table

SCHEMA = 1
SECONDS = 20.0


class Checking:
    def __init__(self, table: Table, host: Host, needs: Needs, protector: Protector, processes: Processes) -> None:
        self._table = table
        self._host = host
        self._needs = needs
        self._protector = protector
        self._processes = processes

    # -- here

    def check(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call `check`. Raises VlhookError where it cannot be told."""
        xml, incoming = arguments.get("xml"), arguments.get("incoming", False)
        if not isinstance(xml, str) or not isinstance(incoming, bool):
            raise BadCall(what="a text 'xml' and a truth value 'incoming'")
        deadline = time.monotonic() + SECONDS
        data = xml.encode("utf-8", "surrogateescape")
        try:
            guest = self._needs.of(data, deadline)
        except XmlRefused as error:
            return _answer("", "", [str(error)], [])
        why = [*self._policy(guest), *self._lives(guest["uuid"])]
        own, deferred, trouble = self._divide(guest, deadline)
        why += trouble
        if incoming:
            own = [replace(want, claim=not want.shared) for want in own]
        refused = self._refused(guest, own, deferred, deadline)
        failed = {want.key: self._line(want, error) for want, error in refused}
        why += [failed[want.key] for want in _named([want for want, _ in refused])]
        theirs = self._held_on_disk(deferred) if deferred and not incoming else {}
        why += list(dict.fromkeys(theirs.values()))
        rows = [self._row(want, "vlhook", failed.get(want.key)) for want in own]
        rows += [self._row(want, "sanlock", theirs.get(want.key)) for want in deferred]
        return _answer(guest["name"], guest["uuid"], why, rows)

    def _line(self, want: Want, error: LeaseError) -> str:
        return messages.in_the_way(Refused([(want, error)]), self._host.where.directory)

    def _policy(self, guest: dict[str, Any]) -> list[str]:
        policy = guest["on_lockfailure"]
        if policy not in UNSUPPORTED_POLICIES:
            return []
        return [f"<on_lockfailure>{policy}</on_lockfailure> would let it run on without its leases"]

    def _lives(self, uuid: str) -> list[str]:
        """An earlier life of it that is not over."""
        lives = self._table.of(uuid)
        sign = self._processes.sign_of_life(uuid, min((life.born for life in lives), default=NEVER))
        if sign:
            return [f"it runs on this host already: {sign}"]
        if any(life.phase == ENDING for life in lives):
            return ["its last run on this host has not ended yet"]
        return ["it is just being started on this host"] if lives else []

    def _divide(self, guest: dict[str, Any], deadline: float) -> tuple[list[Want], list[Want], list[str]]:
        pids = daemons(self._processes.proc_dir)
        caller = Caller(pids[0] if pids else 0, 0)
        try:
            own, deferred = self._protector.divide(caller, guest["leases"], deadline)
        except VlhookError as error:
            return [], [], [str(error)]
        why_not = self._host.why_not()
        if own and why_not:
            return own, deferred, [self._protector.nobody(own, deferred, why_not)]
        return own, deferred, []

    def _refused(
        self, guest: dict[str, Any], own: Sequence[Want], deferred: Sequence[Want], deadline: float
    ) -> list[tuple[Want, LeaseError]]:
        engine = self._host.engine
        if engine is None or self._host.why_not() or not own:
            return []
        tenant = Tenant(f"check.{uuids.uuid4()}", guest["name"], guest["uuid"])
        return engine.judge(tenant, own, deadline)

    def _held_on_disk(self, deferred: Sequence[Want]) -> dict[tuple[str, str], str]:
        """Of what libvirt's plugin would take: who has it, as the lease files say."""
        names = {want.name: want for want in deferred if want.space == LOCKSPACE_NAME and want.path is None}
        seen = overview.whole(self._host.where.directory, names)
        found = {}
        for view in seen.leases:
            want = names[view.name]
            holders = [holder for holder in view.holders if holder.counts]
            if not holders or (want.shared and all(holder.mode == overview.SHARED for holder in holders)):
                continue
            first = holders[0]
            who = f"guest {first.guest} on " if first.guest else ""
            host = show_name(first.host_name.encode()).partition(".")[2] or first.host_name
            where = f"host {first.host_id} ({host}) [lease file {view.path}]"
            found[want.key] = f"{name_of(want)} is in use by {who}{where}"
        return found

    def _row(self, want: Want, by: str, why: Optional[str]) -> dict[str, Any]:
        return {
            "lease": want.name,
            "disk": want.source,
            "kind": want.kind,
            "mode": "shared" if want.shared else "exclusive",
            "file": want.path or f"{self._host.where.directory}/{want.name}",
            "by": by,
            "why": why,
        }

    # -- from here

    def check_leave(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call `check-leave`. Raises VlhookError where it cannot be told."""
        uuid, name, to = (arguments.get(key) for key in ("uuid", "guest", "to"))
        if not (isinstance(uuid, str) and isinstance(name, str) and isinstance(to, str)):
            raise BadCall(what="texts 'uuid', 'guest' and 'to'")
        lives = [life for life in self._table.of(uuid.lower()) if life.phase != ENDING]
        why = self._target(to)
        if not lives or lives[-1].phase != RUNNING:
            why.append(f"guest {name} does not run on this host with leases of vlhook")
            return _answer(name, uuid, why, [])
        life = lives[-1]
        why += self._leaving(life)
        rows = [self._row(want, "vlhook", None) for want in life.wants]
        rows += [self._row(want, "sanlock", None) for want in life.deferred]
        return _answer(name, uuid, why, rows)

    def _leaving(self, life: Incarnation) -> list[str]:
        engine, why_not = self._host.engine, self._host.why_not()
        if life.wants and (why_not or engine is None):
            return [why_not or "the host left the lockspace"]
        if engine is None:
            return []
        if only_claimed(life, engine):
            return ["it has only just come to this host: its former host has not given its leases up yet"]
        if not engine.holds(life.tenant, life.wants):
            return ["this host does not hold all of its leases; see 'vlhook status'"]
        others = engine.elsewhere(life.tenant, time.monotonic() + SECONDS)
        return [f"it is on its way to host {other.host_id} already" for other in others]

    def _target(self, to: str) -> list[str]:
        """Whether the host with that id or name is a living member of the lockspace."""
        lease = self._host.lease
        if lease is None:
            return [f"whether host {to} lives is not known: {self._host.why_not()}"]
        now = time.monotonic()
        found = [(n, view) for n, view in lease.table.rows().items() if to in (str(n), *_names(view))]
        joined = [(n, view) for n, view in found if state(view, now) != FREE]
        if not joined:
            return [f"no host {to} is in the lockspace: vlhookd does not run there, or it has another lease directory"]
        if any(n == self._host.where.host_id for n, _ in joined):
            return [f"host {to} is this host"]
        [(number, view), *more] = joined
        if more:
            ids = ", ".join(str(n) for n, _ in joined)
            return [f"several hosts are called {to}: say which by its host id ({ids})"]
        if state(view, now) == UNKNOWN:
            return [f"host {number} has not been seen alive yet: ask again in {2 * view.io_timeout} s"]
        if state(view, now) != LIVE:
            return [f"host {number} has been silent for {now - view.last_live:.0f} s"]
        return []


def _names(view: HostView) -> tuple[str, str]:
    full = show_name(view.name)
    return full, full.partition(".")[2]


def _named(refused: Sequence[Want]) -> list[Want]:
    """Without those on an identity whose disk is refused by its name as well."""
    named = {want.source for want in refused if want.kind != "identity"}
    return [want for want in refused if want.kind != "identity" or want.source not in named]


def _answer(name: str, uuid: str, why: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": SCHEMA, "guest": name, "uuid": uuid, "why": why, "leases": rows}
