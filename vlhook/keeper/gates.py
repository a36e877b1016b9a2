# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's hook events as the keeper understands them: migrate, prepare, start, release, reconnect.

Two gates: prepare takes the leases, start lets the guest through only if that
very incarnation still holds them. Release is advice: it counts only for an
incarnation older than itself, and while that one's QEMU lives it gives nothing
back (safety rules, 1 and 2).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.engine import Owned, Refused, Want
from ..leases.errors import LeaseError
from . import messages
from .deferral import Deferrals
from .ending import Endings
from .host import Host
from .incoming import Tokens
from .log import Log
from .needs import Needs
from .protector import Protector, is_extra, want_of
from .qemu import Processes
from .readers import Reader
from .state import ACQUIRING, ENDING, GRANTED, PREPARED, RUNNING, STARTING, Caller, Incarnation
from .stopping import does
from .table import Table

ENDING_SECONDS = 2.0
RELEASE_SECONDS = 3.0
"""libvirt stands still for the guest until release ends: longer than this its end goes on by itself."""
LOOK_SECONDS = 5.0
NEVER = 1 << 63
UNSUPPORTED_POLICIES = ("ignore", "restart")
CLOSED = ("migrate", "prepare", "start", "started")
REFUSED = (*CLOSED, "release")


@dataclass(frozen=True)
class HookCall:
    """One call of the hook. `caller`: the libvirtd that made it; `born`: start of the hook's process.

    `deadline` is CLOCK_MONOTONIC; `gone()` tells that the hook hung up.
    """

    guest: str
    operation: str
    suboperation: str
    extra: str
    caller: Caller
    born: int
    xml: bytes
    deadline: float
    gone: Callable[[], bool]


@dataclass
class Verdict:
    """What the hook is to do. `granted` must be confirmed or given back (safety rules, 3)."""

    status: int = 0
    line: str = ""
    granted: Optional[Incarnation] = None
    out: bytes = b""
    notes: list[str] = field(default_factory=list)


OK = Verdict()


class Gates:
    def __init__(
        self,
        *,
        table: Table,
        host: Host,
        protector: Protector,
        deferrals: Deferrals,
        reader: Reader,
        needs: Needs,
        processes: Processes,
        endings: Endings,
        watch_guest: Callable[[Incarnation], None],
        look: Callable[[], None],
        options: dict[str, Any],
        default_policy: str,
        tokens: Tokens,
        left_behind: Callable[[Incarnation], None],
        log: Log,
    ) -> None:
        self._table = table
        self._host = host
        self._protector = protector
        self._deferrals = deferrals
        self._reader = reader
        self._needs = needs
        self._processes = processes
        self._endings = endings
        self._watch_guest = watch_guest
        self._look = look
        self._options = options
        self._default_policy = default_policy
        self._tokens = tokens
        self._left_behind = left_behind
        self._log = log

    def handle(self, call: HookCall) -> Verdict:
        """The verdict on one hook call. Fails closed at migrate, prepare and start; never raises VlhookError.

        A release that failed is refused, too: then the hook leaves a note of it.
        """
        acts = {
            ("migrate", "begin"): self._migrate,
            ("prepare", "begin"): self._prepare,
            ("start", "begin"): self._start,
            ("started", "begin"): self._started,
            ("release", "end"): self.release,
            ("reconnect", "begin"): self._reconnect,
        }
        act = acts.get((call.operation, call.suboperation))
        if act is None:
            return OK
        try:
            return act(call)
        except (VlhookError, LeaseError) as error:
            closed = call.operation in CLOSED
            self._log.error(call.operation, guest=call.guest, error=error)
            line = messages.plain(call.guest, str(error), call.operation) if closed else messages.one_line(str(error))
            return Verdict(status=int(call.operation in REFUSED), line=line)

    # -- before the first gate

    def _migrate(self, call: HookCall) -> Verdict:
        """A guest is about to come in: libvirt gets its XML with a token, by which its prepare is known.

        No token where nothing is held elsewhere: the guest moves while it is off, or is not
        protected where it runs; then its prepare, if there is one, is an ordinary start.
        """
        guest = self._parse(call)
        own, _ = self._protector.divide(call.caller, guest["leases"], call.deadline)
        if not own:
            return OK
        why_not, engine = self._host.why_not(), self._host.engine
        if why_not or engine is None:
            return self._refuse(call, why_not or "the host left the lockspace")
        wants = [want for want in own if not want.shared]
        if not engine.held_elsewhere(wants, time.monotonic() + LOOK_SECONDS):
            return OK
        token = self._tokens.make(guest["uuid"], call.caller)
        return Verdict(out=self._reader.stamp(call.xml, token, call.deadline))

    # -- the first gate

    def _prepare(self, call: HookCall) -> Verdict:
        guest = self._named(call, self._needs.of(call.xml, call.deadline))
        uuid = guest["uuid"]
        policy = guest["on_lockfailure"]
        if policy in UNSUPPORTED_POLICIES:
            why = f"<on_lockfailure>{policy}</on_lockfailure> would let it run on without its leases"
            return self._refuse(call, f"{why}; use poweroff or pause")
        with self._table.one_request(uuid, call.guest, call.deadline):
            self._clear_the_way(call, uuid)
            own, deferred = self._protector.divide(call.caller, guest["leases"], call.deadline)
            why_not = self._host.why_not()
            if why_not and own:
                return self._refuse(call, self._protector.nobody(own, deferred, why_not))
            if call.gone():
                return self._refuse(call, "libvirt gave the start up")
            incoming = self._tokens.take(guest["token"], call.guest, uuid, call.caller)
            own = [replace(want, claim=incoming and not want.shared) for want in own]
            return self._acquire(call, guest, own, deferred, incoming)

    def _parse(self, call: HookCall) -> dict[str, Any]:
        return self._named(call, self._reader.parse(call.xml, self._options, call.deadline))

    def _named(self, call: HookCall, guest: dict[str, Any]) -> dict[str, Any]:
        if guest["name"] != call.guest:
            raise OtherGuest(argument=call.guest, xml=guest["name"])
        return guest

    def _clear_the_way(self, call: HookCall, uuid: str) -> None:
        """No earlier incarnation of the guest may be left that could still write."""
        lives = self._table.of(uuid)
        sign = self._sign_of_life(uuid, lives, call)
        if sign:
            raise StillRunning(sign=sign)
        for life in lives:
            if life.phase == ENDING:
                continue
            if life.caller != call.caller and self._processes.caller_alive(life.caller):
                raise OtherLibvirtd(pid=life.caller.pid)
            if life.caller == call.caller:
                # One libvirtd runs one job at a time for a guest: its earlier start is over.
                self._endings.begin(life, life.phase in (STARTING, RUNNING), "a new start of the guest")
        if not self._table.wait_gone(lives, call.deadline):
            raise StillEnding(why=self._endings.why(lives) or "the leases are being given back")

    def _sign_of_life(self, uuid: str, lives: list[Incarnation], call: HookCall) -> Optional[str]:
        """As `Processes.sign_of_life`; a QEMU that is just ending gets a moment.

        A process that does not tell what it is can only count against an
        incarnation that it is younger than.
        """
        since = min((life.born for life in lives), default=NEVER)
        until = min(call.deadline, time.monotonic() + ENDING_SECONDS)
        while True:
            sign = self._processes.sign_of_life(uuid, since)
            if not sign or time.monotonic() >= until:
                return sign
            time.sleep(0.05)

    def _acquire(
        self, call: HookCall, guest: dict[str, Any], own: list[Want], deferred: list[Want], incoming: bool
    ) -> Verdict:
        life = Incarnation(
            uuid=guest["uuid"],
            guest=call.guest,
            domain_id=guest["domain_id"] or 0,
            caller=call.caller,
            sequence=self._table.next_sequence(),
            phase=ACQUIRING,
            born=call.born,
            wants=own,
            deferred=deferred,
            images=list(guest["writable_paths"]),
            devices=guest["devices"],
            policy=guest["on_lockfailure"] or self._default_policy,
            since=int(time.time()),
            incoming=incoming,
            volumes=list(guest["volumes"]),
        )
        self._table.put(life, ACQUIRING)
        try:
            self._deferrals.expect(life)
            if life.wants:
                self._watch_guest(life)
                life.owned = self._take(life, call)
            self._table.put(life, GRANTED)
        except Refused as refused:
            self._endings.begin(life, False, "refused")
            line = messages.refusal(call.guest, refused, self._host.where.directory)
            fields = messages.journal_fields(refused)
            self._log.warning("refused", more=fields, guest=call.guest, uuid=life.uuid, why=line)
            return Verdict(status=1, line=line)
        except BaseException:
            self._endings.begin(life, False, "the start failed")
            raise
        notes = [f"{len(life.owned)} leases"]
        return Verdict(granted=life, notes=notes)

    def _take(self, life: Incarnation, call: HookCall) -> list[Owned]:
        engine = self._host.engine
        if engine is None:
            raise NotJoined(why=self._host.why_not() or "the host left the lockspace")
        return engine.acquire(life.tenant, life.wants, call.deadline, call.gone)

    def confirm(self, life: Incarnation) -> None:
        """The hook has the verdict: the grant is final. Raises StateUnwritable."""
        self._table.put(life, PREPARED)
        engine = self._host.engine
        if life.incoming and engine:
            engine.convert(life.tenant)
        which = {"lease": [one.want.name for one in life.owned], "lver": [one.lver for one in life.owned]}
        self._log.info(
            "granted", more=which, guest=life.guest, uuid=life.uuid, leases=len(life.owned), incoming=life.incoming
        )
        what, why = does(life.policy)
        if why:
            self._log.warning("policy", guest=life.guest, asked=life.policy, does=what, why=why)

    def unconfirmed(self, life: Incarnation) -> None:
        """The hook did not take the verdict: nobody will start this guest."""
        self._endings.begin(life, False, "the hook did not confirm the grant")

    # -- the second gate

    def _start(self, call: HookCall) -> Verdict:
        guest = self._parse(call)
        with self._table.one_request(guest["uuid"], call.guest, call.deadline):
            life = self._prepared(call, guest)
            if life is None:
                return self._refuse(call, "it holds no leases from a prepare of this start; start it again")
            wanted = {want_of(lease).key for lease in guest["leases"] if not (life.deferred and is_extra(lease))}
            if not wanted <= {want.key for want in life.wants + life.deferred}:
                return self._refuse(call, "its disks were changed between prepare and start; start it again")
            why_not = self._host.why_not() if life.wants else None
            engine = self._host.engine
            if why_not:
                return self._refuse(call, why_not)
            if life.wants and not (engine and engine.holds(life.tenant, life.wants)):
                return self._refuse(
                    call, "its leases were lost since prepare; see 'vlhook status', then start it again"
                )
            self._table.put(life, STARTING)
        self._look()
        return OK

    def _prepared(self, call: HookCall, guest: dict[str, Any]) -> Optional[Incarnation]:
        for life in self._table.of(guest["uuid"]):
            same = life.caller == call.caller and life.domain_id == (guest["domain_id"] or 0)
            if same and life.phase == PREPARED:
                return life
        return None

    # -- afterwards

    def _started(self, call: HookCall) -> Verdict:
        """The hook asks only on hosts where libvirt's plugin takes leases (safety rules, 22)."""
        self._deferrals.started(call.guest, call.caller, call.deadline)
        return OK

    def release(self, call: HookCall) -> Verdict:
        """libvirt says that the guest has ended. Raises VlhookError and LeaseError."""
        guest = self._reader.parse(call.xml, {**self._options, "identity_only": True}, call.deadline)
        uuid = guest["uuid"]
        with self._table.one_request(uuid, call.guest, call.deadline):
            lives = self._table.of(uuid)
            ended = [life for life in lives if self._ends(life, call)]
            self._table.wait_gone(ended, min(call.deadline, time.monotonic() + RELEASE_SECONDS))
        return OK

    def _ends(self, life: Incarnation, call: HookCall) -> bool:
        """Is this release about `life`, and is its QEMU gone? Then end it."""
        if life.phase == ENDING:
            return True
        if call.born < life.born:
            self._log.notice("late-release", guest=life.guest, uuid=life.uuid)
            return False
        if life.caller != call.caller and self._processes.caller_alive(life.caller):
            return False
        if self._processes.sign_of_life(life.uuid, life.born):
            life.released = life.phase == STARTING  # the watcher looks again
            self._table.save(life)
            return False
        if life.caller != call.caller and life.phase == STARTING:
            return False  # its libvirtd died: left to the watcher, which looks again after a while
        self._endings.begin(life, life.phase in (STARTING, RUNNING), "released by libvirt")
        return True

    def _reconnect(self, call: HookCall) -> Verdict:
        """libvirt found the guest again after its own restart. A refusal would kill the guest."""
        guest = self._reader.parse(call.xml, {**self._options, "identity_only": True}, call.deadline)
        with self._table.one_request(guest["uuid"], call.guest, call.deadline):
            lives = [life for life in self._table.of(guest["uuid"]) if life.phase != ENDING]
            for life in lives:
                life.caller = call.caller
                self._table.save(life)
                self._left_behind(life)
            if not lives:
                self._log.warning("no-lease", guest=call.guest, uuid=guest["uuid"], why="runs without leases")
        return OK

    def _refuse(self, call: HookCall, why: str) -> Verdict:
        line = messages.plain(call.guest, why, call.operation)
        self._log.warning("refused", guest=call.guest, why=line)
        return Verdict(status=1, line=line)


class OtherGuest(VlhookError):
    msg = "libvirt named the guest {argument}, but its XML is that of {xml}"
    hint = "check the hook scripts of this host"
    code = "VLH-K102"


class StillRunning(VlhookError):
    msg = "a QEMU process of this guest still lives on this host: {sign}"
    hint = "end that process; if libvirt does not know it, it is left from an earlier start"
    code = "VLH-K103"


class OtherLibvirtd(VlhookError):
    msg = "another libvirtd (pid {pid}) is starting this guest on this host"
    hint = "see which of the two should run"
    code = "VLH-K104"


class StillEnding(VlhookError):
    msg = "its last run has not ended yet: {why}"
    hint = "check the storage; start the guest again in a moment"
    code = "VLH-K105"


class NotJoined(VlhookError):
    msg = "{why}"
    hint = "see 'vlhook status'"
    code = "VLH-K203"
