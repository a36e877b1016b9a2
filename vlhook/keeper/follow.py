# SPDX-License-Identifier: LGPL-2.1-or-later
"""The leases of a running guest follow its disks.

libvirt calls no hook when a disk is attached, detached or changed, nor at a
snapshot or block job (hook events document, 2). Somebody who may ask libvirt,
vlhook-watch or a command, sends the guest's live XML; what it needs beyond
what it holds is taken, what it does not use any more is flushed and given back.

Whatever a crash interrupts leaves a lease too many for a while, never one too
few: what is taken is wanted first, and what is given back is no longer owned
in the state before it is given back on disk (`takeover` settles it).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.engine import Refused, Want
from ..leases.errors import ClaimedByOther, HeldByOther, HeldHere, OwnerMaybeDead, SharedByOthers
from . import messages
from .deferral import Deferrals
from .drain import Drain
from .host import Host
from .log import Log
from .needs import Needs
from .protector import want_of
from .state import ENDING, RUNNING, Incarnation
from .table import LifeOver, Table

SCHEMA = 1
OTHERS = (ClaimedByOther, HeldByOther, HeldHere, OwnerMaybeDead, SharedByOthers)
STALE_SECONDS, KEPT_SECONDS = 10.0, 600.0
SECONDS = 15.0
DRAIN_SECONDS = 5.0
ATTACH_SECONDS = 120.0
"""A lease that was taken for a disk which is about to be attached is kept that long without the disk."""


class BadCall(VlhookError):
    msg = "the call needs {what}"
    code = "VLH-K304"


@dataclass(frozen=True)
class RefusedDisk:
    """A disk in use without its lease. `line`: why, for people. Without `targets` nobody else is known to have it."""

    targets: tuple[str, ...]
    source: str
    line: str

    def as_dict(self) -> dict[str, Any]:
        return {"targets": list(self.targets), "source": self.source, "why": self.line}


class Follow:
    """The calls `follow` and `attach` of the keeper's socket."""

    def __init__(
        self,
        *,
        table: Table,
        host: Host,
        needs: Needs,
        watch_guest: Callable[[Incarnation], None],
        rebind: Callable[[Incarnation], None],
        deferrals: Deferrals,
        log: Log,
    ) -> None:
        self._table = table
        self._host = host
        self._needs = needs
        self._watch_guest = watch_guest
        self._rebind = rebind
        self._deferrals = deferrals
        self._log = log
        self._attached: dict[tuple[str, tuple[str, str]], float] = {}
        self._taken: dict[tuple[str, tuple[str, str]], float] = {}

    def follow(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """`xml`: the live XML of a running guest. Takes and gives back; see `_answer` for what is returned.

        `asked`: CLOCK_MONOTONIC before libvirt was asked for the XML.
        `settled`: what was taken by `attach` is attached by now or will not be.
        Raises VlhookError: nothing was decided.
        """
        return self._follow(arguments, attach=False)

    def attach(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `follow` for XML with a disk that is about to be attached: takes only, all or nothing."""
        return self._follow(arguments, attach=True)

    def running(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """`uuids`: all guests that run. What was wrong with others is over."""
        uuids = arguments.get("uuids")
        if not isinstance(uuids, list):
            raise BadCall(what="a list 'uuids'")
        self._log.calm_others("disks ", [f"disks {uuid}" for uuid in uuids])
        return {"schema": SCHEMA}

    def _follow(self, arguments: dict[str, Any], attach: bool) -> dict[str, Any]:
        xml = arguments.get("xml")
        if not isinstance(xml, str):
            raise BadCall(what="a text 'xml'")
        begun = time.monotonic()
        deadline = begun + SECONDS
        asked = arguments.get("asked", begun - STALE_SECONDS)
        if not isinstance(asked, (int, float)):
            raise BadCall(what="a number 'asked'")
        guest = self._needs.of(xml.encode("utf-8", "surrogatepass"), deadline)
        with self._table.one_request(guest["uuid"], guest["name"], deadline):
            life = self._life(guest["uuid"])
            if life is None or life.phase != RUNNING:
                return self._without(guest, life)
            if arguments.get("settled"):
                self._attached = {key: until for key, until in self._attached.items() if key[0] != life.key}
            guest["leases"] = self._deferrals.follow(life, guest["leases"], attach)
            refused, taken = self._take(life, guest, deadline, attach)
            released = [] if attach else self._give(life, guest, asked, deadline)
        self._tell(guest, refused)
        state = "protected" if not refused else "refused" if any(disk.targets for disk in refused) else "undecided"
        return _answer(state, refused, taken, released)

    def _life(self, uuid: str) -> Optional[Incarnation]:
        lives = [life for life in self._table.of(uuid) if life.phase != ENDING]
        return lives[-1] if lives else None

    def _without(self, guest: dict[str, Any], life: Optional[Incarnation]) -> dict[str, Any]:
        """A guest that is not known as running: it is just starting, or runs without leases."""
        if life is not None or self._table.of(guest["uuid"]):
            return _answer("changing", [], [], [])
        disks = [lease["source"] for lease in guest["leases"]]
        if not disks:
            return _answer("nothing to protect", [], [], [])
        if self._deferrals.plugin_has(guest["uuid"], guest["leases"]):
            return _answer("protected", [], [], [])
        text = f"guest {guest['name']} runs without leases, its disks are not protected ({', '.join(disks[:3])})"
        self._log.alarm(f"disks {guest['uuid']}", f"{text}; take them: vlhook adopt {guest['name']}")
        return _answer("unprotected", [], [], [])

    def _tell(self, guest: dict[str, Any], refused: list[RefusedDisk]) -> None:
        key = f"disks {guest['uuid']}"
        if refused:
            self._log.alarm(key, f"guest {guest['name']} uses a disk without its lease: {refused[0].line}")
        else:
            self._log.calm(key)

    # -- taking

    def _take(
        self, life: Incarnation, guest: dict[str, Any], deadline: float, attach: bool
    ) -> tuple[list[RefusedDisk], list[str]]:
        held = {lease.want.key: lease.want for lease in life.owned}
        missing = [(lease, want_of(lease)) for lease in guest["leases"] if want_of(lease).key not in held]
        refused = [
            RefusedDisk((), lease["source"], "its lease is held shared, and now it is written")
            for lease in guest["leases"]
            if want_of(lease).key in held and held[want_of(lease).key].shared and not lease["shared"]
        ]
        if not missing:
            return refused, []
        self._want(life, [want for _, want in missing], guest)
        groups = [missing] if attach else [[one] for one in missing]
        taken: list[str] = []
        for group in groups:
            why, somebody = self._acquire(life, [want for _, want in group], deadline, attach)
            if not why:
                taken += [want.source for _, want in group]
                continue
            refused += [
                RefusedDisk(tuple(lease["targets"]) if somebody else (), lease["source"], why) for lease, _ in group
            ]
        return refused, taken

    def _want(self, life: Incarnation, wants: list[Want], guest: dict[str, Any]) -> None:
        """The guard and the state know of it before anything is taken. Raises VlhookError."""
        first = not life.wants
        known = {want.key for want in life.wants}
        life.wants = life.wants + [want for want in wants if want.key not in known]
        life.images = list(dict.fromkeys([*life.images, *guest["writable_paths"]]))
        life.devices = {**life.devices, **guest["devices"]}
        self._table.put(life, RUNNING)
        if first:
            self._watch_guest(life)
            self._rebind(life)

    def _acquire(self, life: Incarnation, wants: list[Want], deadline: float, attach: bool) -> tuple[str, bool]:
        """Why they are not held now, "" if they are; and whether somebody else has one of them."""
        engine, why_not = self._host.engine, self._host.why_not()
        if engine is None or why_not:
            return why_not or "the host left the lockspace", False
        try:
            owned = engine.acquire(life.tenant, wants, deadline, lambda: False)
        except Refused as refused:
            # What the storage has not confirmed as given back stays wanted, for a successor to see to it.
            if engine.release(life.tenant, time.monotonic(), wants):
                keys = {want.key for want in wants}
                life.wants = [want for want in life.wants if want.key not in keys]
                self._table.put(life, RUNNING)
            somebody = any(isinstance(error, OTHERS) for _, error in refused.failures)
            return messages.in_the_way(refused, self._host.where.directory), somebody
        life.owned = life.owned + owned
        try:
            self._table.put(life, RUNNING)
        except LifeOver:
            engine.release(life.tenant, deadline, wants)
            raise
        now = time.monotonic()
        self._taken = {key: at for key, at in self._taken.items() if at > now - KEPT_SECONDS}
        self._taken.update({(life.key, want.key): now for want in wants})
        if attach:
            until = time.monotonic() + ATTACH_SECONDS
            self._attached.update({(life.key, want.key): until for want in wants})
        for want in wants:
            self._log.info("taken", guest=life.guest, uuid=life.uuid, disk=want.source)
        return "", False

    # -- giving back

    def _give(self, life: Incarnation, guest: dict[str, Any], asked: float, deadline: float) -> list[str]:
        used = {want_of(lease).key for lease in guest["leases"]}
        # A second lease stays with its disk, also when its identity cannot be told just now.
        paths = {lease["source"] for lease in guest["leases"]} | set(guest["chain"])
        surplus = [
            want
            for want in life.wants
            if want.key not in used and want.source not in paths and self._may_give(life, want, asked)
        ]
        surplus = [want for want in surplus if self._is_flushed(life, want)]
        engine = self._host.engine
        if not surplus or engine is None:
            return []
        keys = {want.key for want in surplus}
        life.owned = [owned for owned in life.owned if owned.want.key not in keys]
        self._table.put(life, RUNNING)
        if not engine.release(life.tenant, deadline, surplus):
            self._log.warning("not-released", guest=life.guest, disk=surplus[0].source)
            return []
        life.wants = [want for want in life.wants if want.key not in keys]
        sources = {want.source for want in surplus}
        life.images = [path for path in life.images if path not in sources]
        self._table.put(life, RUNNING)
        for want in surplus:
            self._log.info("given-back", guest=life.guest, uuid=life.uuid, disk=want.source)
        return [want.source for want in surplus]

    def _may_give(self, life: Incarnation, want: Want, asked: float) -> bool:
        """Not what is about to be attached, nor what was taken after the XML was asked for."""
        key = (life.key, want.key)
        return self._attached.get(key, 0.0) <= time.monotonic() and self._taken.get(key, 0.0) < asked

    def _is_flushed(self, life: Incarnation, want: Want) -> bool:
        """QEMU has closed it; what this host's page cache still has must not reach the disk later."""
        left = Drain([want.source], life.devices).run(DRAIN_SECONDS) if want.source in life.images else []
        if left:
            self._log.error("not-drained", guest=life.guest, image=want.source, why=left[0].why)
        return not left


def _answer(state: str, refused: list[RefusedDisk], taken: list[str], released: list[str]) -> dict[str, Any]:
    """`state`: protected, refused, undecided (no lease, but nobody else is known to have it),
    unprotected, changing (starting or ending), nothing to protect.
    """
    return {
        "schema": SCHEMA,
        "state": state,
        "refused": [disk.as_dict() for disk in refused],
        "taken": taken,
        "released": released,
    }
