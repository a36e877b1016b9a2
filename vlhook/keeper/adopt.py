# SPDX-License-Identifier: LGPL-2.1-or-later
"""Adoption: a guest that runs without leases gets them while it runs (safety rules, 24).

Two calls, because only libvirt knows the guest's disks, and the keeper does not
speak with libvirt: `adopt` with the live XML binds QEMU's pidfd, names the guest
to the guard and takes the leases; `adopted` with the XML as it is then checks
that the very process still lives and that its disks are the same ones. Only
then is the adoption final. Without the second call, or where it fails, the
leases are given back. A refusal leaves the guest as it was: alive, and
without leases, about which an alarm is raised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.engine import Refused, Want
from ..leases.sanlockerrors import SanlockError, SanlockUnreachable
from ..processes import Process, open_process
from . import messages
from .ending import Endings
from .gates import UNSUPPORTED_POLICIES
from .host import Host
from .log import Log
from .needs import Needs
from .opened import Opened
from .protector import DAEMON_SECONDS, Protector, is_extra, name_of, want_of
from .qemu import Processes
from .state import ACQUIRING, ENDING, GRANTED, RUNNING, Caller, Incarnation
from .table import Table

CONFIRM_SECONDS = 60.0
NOBODY = Caller(0, 0)
"""No libvirtd started this life; the one that finds it again at a reconnect becomes its caller."""


class NotAdopted(VlhookError):
    """Fields: `guest`, `why`. The guest runs on as before."""

    msg = "guest {guest} is not adopted and runs on without leases: {why}"
    code = "VLH-K731"


class BadAdoption(VlhookError):
    msg = "the keeper does not understand this adoption: {why}"
    hint = "use 'vlhook adopt GUEST' of the same version as vlhookd"
    code = "VLH-K732"


class Adoptions:
    def __init__(
        self,
        *,
        table: Table,
        host: Host,
        protector: Protector,
        needs: Needs,
        processes: Processes,
        endings: Endings,
        watch_guest: Callable[[Incarnation], None],
        bound: Callable[[Incarnation, Process], None],
        opened: Opened,
        look: Callable[[], None],
        default_policy: str,
        seconds: float,
        log: Log,
    ) -> None:
        self._table = table
        self._host = host
        self._protector = protector
        self._needs = needs
        self._processes = processes
        self._endings = endings
        self._watch_guest = watch_guest
        self._bound = bound
        self._opened = opened
        self._look = look
        self._default_policy = default_policy
        self._seconds = seconds
        self._log = log
        self._refused: dict[str, tuple[int, int]] = {}

    # -- the first call

    def adopt(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call `adopt` {guest, xml} → {key, leases, by}; `key` is empty where nothing is left to do.

        Raises VlhookError; then the guest runs on, and has no lease that it did not have before.
        """
        guest, xml = _texts(arguments, "guest", "xml")
        deadline = time.monotonic() + self._seconds
        parsed = self._parse(guest, xml, deadline)
        with self._table.one_request(parsed["uuid"], guest, deadline):
            process = self._only_process(guest, parsed["uuid"])
            try:
                return self._adopt(guest, parsed, process, deadline)
            except VlhookError as error:
                self._complain(guest, parsed["uuid"], process, error)
                raise
            finally:
                process.close()

    def _parse(self, guest: str, xml: str, deadline: float) -> dict[str, Any]:
        parsed = self._needs.of(xml.encode("utf-8", "surrogateescape"), deadline)
        if parsed["name"] != guest:
            raise BadAdoption(why=f"the XML is that of guest {parsed['name']}")
        return parsed

    def _only_process(self, guest: str, uuid: str) -> Process:
        try:
            found = self._processes.guests().get(uuid, [])
            if len(found) == 1:
                pid, start = found[0]
                return open_process(pid, proc_dir=self._processes.proc_dir, start=start, uuid=uuid)
        except OSError as error:
            raise NotAdopted(guest=guest, why=f"the process table cannot be read: {error.strerror}") from error
        why = f"{len(found)} processes run with its UUID {uuid}" if found else f"no process runs with its UUID {uuid}"
        raise NotAdopted(guest=guest, why=why)

    def _adopt(self, guest: str, parsed: dict[str, Any], process: Process, deadline: float) -> dict[str, Any]:
        uuid = parsed["uuid"]
        wants = self._not_locked([want_of(lease) for lease in parsed["leases"]], guest, process.pid, deadline)
        protected = self._check_earlier(guest, self._table.of(uuid), wants)
        if protected:
            return _done("vlhook")
        plain = {want_of(lease).key for lease in parsed["leases"] if not is_extra(lease)}
        if not wants or (plain and not any(want.key in plain for want in wants)):
            return _done("libvirt's sanlock plugin" if parsed["leases"] else "")
        self._check_allowed(guest, parsed)
        why = self._opened.why_not(parsed["volumes"], process)
        if why:
            raise NotAdopted(guest=guest, why=why)
        life = Incarnation(
            uuid=uuid, guest=guest, domain_id=parsed["domain_id"] or 0, caller=NOBODY,
            sequence=self._table.next_sequence(), phase=ACQUIRING, born=process.start, wants=wants,
            images=list(parsed["writable_paths"]), devices=parsed["devices"],
            policy=parsed["on_lockfailure"] or self._default_policy,
            qemu=process.pid, qemu_start=process.start, since=int(time.time()), adopting=True,
        )  # fmt: skip
        self._table.put(life, ACQUIRING)
        try:
            self._take(life, process, deadline)
        except BaseException:
            self._endings.begin(life, False, "the adoption failed")
            raise
        threading.Timer(CONFIRM_SECONDS, self._expire, [life]).start()
        leases = [
            {"lease": o.want.name, "disk": o.want.source, "file": o.path, "kind": o.want.kind} for o in life.owned
        ]
        return {"key": life.key, "leases": leases, "by": ""}

    def _check_earlier(self, guest: str, lives: list[Incarnation], wants: list[Want]) -> bool:
        """Whether vlhook protects all of it already. Raises NotAdopted if what there is stands in the way."""
        if any(life.phase == ENDING or life.adopting for life in lives):
            why = "an earlier adoption or run of it is not over yet; try again in a moment"
            raise NotAdopted(guest=guest, why=why)
        held = {want.key for life in lives for want in life.wants}
        more = [want for want in wants if want.key not in held]
        if held and more:
            why = f"vlhook has its other leases; {name_of(more[0])} came later: vlhook-watch takes its lease"
            raise NotAdopted(guest=guest, why=why)
        return bool(held)

    def _not_locked(self, wants: list[Want], guest: str, pid: int, deadline: float) -> list[Want]:
        """Those that the sanlock daemon does not hold for this very QEMU."""
        try:
            return self._protector.view(deadline).missing(pid, wants, self._host.where.directory)
        except SanlockUnreachable:
            return wants
        except SanlockError as error:
            why = f"the sanlock daemon may protect it, and does not tell: {error}"
            raise NotAdopted(guest=guest, why=why) from error

    def _check_allowed(self, guest: str, parsed: dict[str, Any]) -> None:
        policy = parsed["on_lockfailure"]
        if policy in UNSUPPORTED_POLICIES:
            raise NotAdopted(guest=guest, why=f"its <on_lockfailure> is {policy}; vlhook knows poweroff and pause")
        why_not = self._host.why_not()
        if why_not:
            raise NotAdopted(guest=guest, why=why_not)

    def _take(self, life: Incarnation, process: Process, deadline: float) -> None:
        self._watch_guest(life)
        self._bound(life, process)
        engine = self._host.engine
        if engine is None:
            raise NotAdopted(guest=life.guest, why="the host left the lockspace")
        try:
            life.owned = engine.acquire(life.tenant, life.wants, deadline, lambda: False)
        except Refused as refused:
            why = messages.in_the_way(refused, self._host.where.directory)
            raise NotAdopted(guest=life.guest, why=why) from refused
        if process.gone():
            raise NotAdopted(guest=life.guest, why="its QEMU has ended meanwhile")
        self._table.put(life, GRANTED)

    # -- the second call

    def adopted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call `adopted` {key, xml} → {}: the guest as it is now. Raises VlhookError as `adopt` does."""
        key, xml = _texts(arguments, "key", "xml")
        life = next((life for life in self._table.all() if life.key == key and life.adopting), None)
        if life is None:
            raise BadAdoption(why="it was given up meanwhile")
        deadline = time.monotonic() + self._seconds
        with self._table.one_request(life.uuid, life.guest, deadline):
            process = self._processes.open(life)
            try:
                self._confirm(life, self._parse(life.guest, xml, deadline), process)
            except VlhookError as error:
                self._endings.begin(life, False, "the adoption failed")
                if process:
                    self._complain(life.guest, life.uuid, process, error)
                raise
            finally:
                if process:
                    process.close()
        self._look()
        return {}

    def _confirm(self, life: Incarnation, parsed: dict[str, Any], process: Optional[Process]) -> None:
        if process is None:
            raise NotAdopted(guest=life.guest, why="its QEMU has ended meanwhile")
        # An identity that cannot be told this time is no other disk.
        now = {want_of(lease) for lease in parsed["leases"] if not is_extra(lease)}
        held = {want for want in life.wants if want.kind in ("disk", "lease")}
        more = self._not_locked(list(now - held), life.guest, life.qemu, time.monotonic() + DAEMON_SECONDS)
        same = parsed["uuid"] == life.uuid and (parsed["domain_id"] or 0) == life.domain_id
        if not same or more or not held <= now:
            raise NotAdopted(guest=life.guest, why="its disks were changed meanwhile; try again")
        why_not = self._host.why_not()
        if why_not:
            raise NotAdopted(guest=life.guest, why=why_not)
        life.adopting = False
        try:
            self._table.put(life, RUNNING)
        except VlhookError:
            life.adopting = True
            raise
        for other in self._table.of(life.uuid):
            if other is not life and not other.wants:
                self._table.drop(other)  # what the plugin was to do for it, vlhook does now
        self._refused.pop(life.uuid, None)
        self._log.calm(f"adopt {life.uuid}")
        self._log.notice("adopted", guest=life.guest, uuid=life.uuid, pid=life.qemu, leases=len(life.owned))

    def _expire(self, life: Incarnation) -> None:
        self._endings.begin(life, False, "nobody confirmed the adoption", GRANTED)

    # -- the alarm

    def _complain(self, guest: str, uuid: str, process: Process, error: VlhookError) -> None:
        self._refused[uuid] = process.key
        self._log.alarm(f"adopt {uuid}", str(error))

    def tidy(self) -> None:
        """Alarms about guests that have ended are over."""
        for uuid, (pid, start) in list(self._refused.items()):
            if not self._processes.caller_alive(Caller(pid, start)):
                del self._refused[uuid]
                self._log.calm(f"adopt {uuid}")


def _done(by: str) -> dict[str, Any]:
    return {"key": "", "leases": [], "by": by}


def _texts(arguments: dict[str, Any], *names: str) -> list[str]:
    found = [arguments.get(name) for name in names]
    if not all(isinstance(text, str) for text in found):
        raise BadAdoption(why=f"it lacks one of {', '.join(names)}")
    return [str(text) for text in found]
