# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests on the move: what becomes of claims, and that a guest's CPUs run on one host only (safety rules, 16, 20, 21).

No hook tells where the CPUs of a migrating guest run. libvirt's state file does
(runstates.py), a fraction of a second later; and who learns of it sooner, by
libvirt's events, makes one call over the keeper's socket:

    cpus_run {"uuid": UUID}     the CPUs of this guest run on this host from now on
        → {"schema": 1, "state": "running" | "ended" | "unknown", "where": TEXT}

It is right at every start and resume of CPUs, on either side of a migration.
On the host that the guest comes to, its claims say from then on that it runs
there. On the host that it comes from, a guest that runs elsewhere by those
claims is ended at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import VlhookError
from ..leases.engine import Engine, Owned, Tenant
from ..leases.errors import LeaseError
from ..leases.holder import RUNNING as RUNS
from ..leases.owner import Holder
from ..leases.records import show_name
from ..processes import Process
from .follow import BadCall
from .host import Host
from .log import Log
from .qemu import Processes
from .runstates import POST_COPY, RunState
from .state import ENDING, RUNNING, Incarnation
from .stopping import kill_now
from .table import Table

SCHEMA = 1
SECONDS = 8.0
LOOK_SECONDS = 1.0
LOOKS = 2
RETRY_SECONDS = 1.0
STATE_SECONDS = 60.0
SWITCH_SECONDS = 10.0
"""A source that is paused for longer than this, while the guest runs elsewhere, was left behind."""


class Moves:
    """`end` stops guests for good; `process_of` is the QEMU that is watched for an incarnation."""

    def __init__(
        self,
        *,
        table: Table,
        host: Host,
        processes: Processes,
        process_of: Callable[[Incarnation], Process | None],
        run_state: Callable[[Incarnation], RunState | None],
        end: Callable[[list[Incarnation]], None],
        log: Log,
    ) -> None:
        self._table = table
        self._host = host
        self._processes = processes
        self._process_of = process_of
        self._run_state = run_state
        self._end = end
        self._log = log
        self._lock = threading.Lock()
        self._left: set[str] = set()
        host.on_converted, host.on_claim_lost = self.converted, self.lost

    # -- what the engine tells of claims

    def converted(self, tenant: Tenant, owned: Owned) -> None:
        """The source is gone, the lease is ours: remember it. A state that does not know finds it out."""
        try:
            with self._table.one_request(tenant.uuid, tenant.guest, time.monotonic() + STATE_SECONDS):
                for life in self._lives(tenant.uuid):
                    if life.key == tenant.key:
                        life.owned = [owned if o.want.key == owned.want.key else o for o in life.owned]
                        self._table.save(life)
        except VlhookError as error:
            self._log.warning("converted", guest=tenant.guest, uuid=tenant.uuid, error=error)
        which = {"lease": owned.want.name}
        self._log.info(
            "converted", more=which, guest=tenant.guest, uuid=tenant.uuid, disk=owned.want.source, lver=owned.lver
        )

    def lost(self, tenant: Tenant, error: LeaseError) -> None:
        self._log.error("claim-lost", guest=tenant.guest, uuid=tenant.uuid, error=error)
        lives = [life for life in self._lives(tenant.uuid) if life.key == tenant.key]
        threading.Thread(target=self._end, args=(lives,), name="claim-lost", daemon=True).start()

    # -- a QEMU that has appeared

    def check_incoming(self, life: Incarnation, process: Process) -> None:
        """What came in under a claim waits for its source: a QEMU that would run by itself is killed."""
        if not life.incoming or self._processes.waits_for_source(process):
            return
        kill_now(process, self._log)
        self._log.error(
            "not-incoming", guest=life.guest, uuid=life.uuid, pid=process.pid,
            why="it was admitted as an incoming migration, and its QEMU was started without -incoming: killed",
        )  # fmt: skip

    # -- where the CPUs run

    def cpus_run(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The call of that name; see above. Raises BadCall, and VlhookError if it cannot be found out."""
        uuid = arguments.get("uuid")
        if not isinstance(uuid, str):
            raise BadCall(what="a text 'uuid'")
        lives = [life for life in self._lives(uuid.lower()) if life.phase == RUNNING]
        if not lives:
            return {"schema": SCHEMA, "state": "unknown", "where": ""}
        life, engine, deadline = lives[-1], self._host.engine, time.monotonic() + SECONDS
        if engine is None:
            return {"schema": SCHEMA, "state": "unknown", "where": ""}
        if only_claimed(life, engine):
            marked = engine.mark_running(life.tenant, deadline)
            return {"schema": SCHEMA, "state": "running" if marked else "unknown", "where": ""}
        others = self._elsewhere(life)
        running = [holder for holder in others if _runs(holder)]
        if running:
            return {"schema": SCHEMA, "state": "ended", "where": self._end_here(life, running[0])}
        if others:
            self._look_after(life, SWITCH_SECONDS)  # it may yet begin to run there
        return {"schema": SCHEMA, "state": "running", "where": ""}

    def _end_here(self, life: Incarnation, other: Holder) -> str:
        where = _host(other)
        process = self._process_of(life)
        if process:
            kill_now(process, self._log)
        text = f"guest {life.guest} was resumed here although it runs on {where}: it was ended here at once"
        self._log.error("two-runs", guest=life.guest, uuid=life.uuid, what=text)
        self._log.alarm(f"two-runs {life.uuid}", f"{text}; check its disks there")
        return where

    def _elsewhere(self, life: Incarnation) -> list[Holder]:
        engine = self._host.engine
        if engine is None:
            return []
        try:
            return engine.elsewhere(life.tenant, time.monotonic() + SECONDS)
        except LeaseError as error:
            raise NotKnown(guest=life.guest, why=str(error)) from error

    def resumed(self, life: Incarnation) -> None:
        """By libvirt's state file the guest's CPUs have begun to run here."""
        threading.Thread(target=self._resumed, args=(life,), name="resumed", daemon=True).start()

    def _resumed(self, life: Incarnation) -> None:
        while self._is_alive(life):
            try:
                self.cpus_run({"uuid": life.uuid})
            except VlhookError as error:
                self._log.error("resumed", guest=life.guest, uuid=life.uuid, error=error)
                time.sleep(RETRY_SECONDS)
                continue
            return

    # -- the source that was left behind

    def look_after_all(self, lives: list[Incarnation]) -> None:
        """As `look_after` for each; one after another, for they are many and nobody waits for it."""

        def look() -> None:
            for life in lives:
                try:
                    if self._table.alive(life) and not self._elsewhere(life):
                        continue
                except VlhookError:
                    pass
                self.look_after(life)

        threading.Thread(target=look, name="left-behind", daemon=True).start()

    def look_after(self, life: Incarnation) -> None:
        """libvirtd, or this keeper, was restarted: it may have been in the middle of a migration."""
        self._look_after(life, 0.0)

    def paused(self, life: Incarnation) -> None:
        """The guest does not run here; a migration that ended well would have ended it."""
        self._look_after(life, SWITCH_SECONDS)

    def _look_after(self, life: Incarnation, patience: float) -> None:
        engine = self._host.engine
        if engine is None or not life.owned or only_claimed(life, engine):
            return
        with self._lock:
            if life.key in self._left:
                return
            self._left.add(life.key)
        threading.Thread(target=self._watch_left, args=(life, patience), name="left-behind", daemon=True).start()

    def _watch_left(self, life: Incarnation, patience: float) -> None:
        """For as long as another host claims what this guest holds.

        An alarm; with `patience` only if it runs there, and for as many seconds: a migration
        that goes well is over by then, and one of a paused guest takes its time. A guest that
        at two looks runs there and, by libvirt's word, here as well is ended here.
        """
        key = f"left-behind {life.key}"
        since, both = time.monotonic(), 0
        while self._is_alive(life):
            try:
                others = self._elsewhere(life)
            except VlhookError:
                others = None
            here = self._run_state(life)
            running = [holder for holder in others or [] if _runs(holder)]
            both = both + 1 if running and here and here.runs else 0
            if both >= LOOKS:
                self._end_here(life, running[0])
            elif others and not both:
                if not patience or (running and time.monotonic() - since >= patience):
                    self._log.alarm(key, _left_behind(life, others[0], here))
            elif others is not None and not others:
                break
            time.sleep(LOOK_SECONDS)
        self._log.calm(key)
        with self._lock:
            self._left.discard(life.key)

    def _is_alive(self, life: Incarnation) -> bool:
        return self._table.alive(life) and life.phase != ENDING

    def _lives(self, uuid: str) -> list[Incarnation]:
        return [life for life in self._table.of(uuid) if life.phase != ENDING]


def only_claimed(life: Incarnation, engine: Engine) -> bool:
    """Whether the guest's former host owns its leases, for all that is known here.

    With the sanlock engine they are this host's long before the daemon has them, and the life hears of it.
    """
    claimed = any(owned.claim for owned in life.owned)
    return claimed and not engine.owns(life.tenant, [owned.want for owned in life.owned])


def _runs(holder: Holder) -> bool:
    return bool(holder.record and holder.record.state == RUNS)


def _host(holder: Holder) -> str:
    name = show_name(holder.name).partition(".")[2] or show_name(holder.name)
    return f"host {holder.host_id} ({name})"


def _left_behind(life: Incarnation, other: Holder, here: RunState | None) -> str:
    name, where = life.guest, _host(other)
    if here and here.reason in POST_COPY:
        return (
            f"guest {name} runs on {where}, and its memory is still here (post-copy): do not end it here; if the"
            f" migration was broken off, go on with it: virsh migrate --postcopy-resume {name} and its destination"
        )
    if _runs(other):
        return f"guest {name} was left behind by its migration and runs on {where}; end this one: virsh destroy {name}"
    return (
        f"guest {name} is on its way to {where}; if that does not go on, see there: virsh domstate {name}; "
        f"if it runs there, end it here: virsh destroy {name}"
    )


class NotKnown(VlhookError):
    msg = "whether guest {guest} runs on another host cannot be found out: {why}"
    hint = "check the storage under the lease directory"
    code = "VLH-K109"
