# SPDX-License-Identifier: LGPL-2.1-or-later
"""Puts the keeper together and takes it through its life: start, serve, stop."""

from __future__ import annotations

import os
import threading
from typing import Any, Optional

from .. import processes as proc
from ..config.settings import Settings
from ..errors import VlhookError
from ..lastok import FILE_NAME, Page
from ..leases.delta import OwnTrace
from ..leases.driver import log_steps
from ..leases.errors import LeaseError
from ..leases.steplog import StepLog
from ..notify import notify
from ..processes import Process
from .accounts import ownership
from .adopt import Adoptions
from .checking import Checking
from .cleaning import Cleaning
from .deferral import Deferrals
from .ending import Endings
from .expiry import Expiry
from .fenceack import FenceAck
from .fencing import Fencing
from .follow import Follow
from .gates import Gates
from .guarding import Guarding
from .host import Host, Where
from .identity import as_noted, host_identity, this_machine
from .incoming import Tokens
from .log import Log
from .metrics import Measured, Metrics
from .missed import MissedReleases
from .moves import Moves
from .needs import Needs
from .opened import Opened
from .options import Options, check, take_lock
from .protection import Protection
from .protector import Protector
from .qemu import Processes
from .readers import Reader
from .runstates import RunStates
from .server import Server
from .service import Signals, starts
from .state import Incarnation, Member, StateStore
from .status import Status
from .table import Table
from .takeover import TakeOver
from .used import Used
from .volumemap import VolumeMap
from .watcher import Watcher


def run(options: Options) -> int:
    """Serve until SIGTERM or SIGHUP (`service`). Raises VlhookError when the keeper cannot start."""
    signals = Signals()
    settings = check(options)
    options.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    starts(settings)
    lock = take_lock(options.run_dir / "keeper.lock")
    try:
        return Keeper(options, settings).serve(signals)
    finally:
        os.close(lock)


class Keeper:
    def __init__(self, options: Options, settings: Settings) -> None:
        self.options = options
        self.log = Log("vlhookd")
        if options.protocol_log:
            limit = options.protocol_log_mib << 20
            log_steps(StepLog(options.protocol_log, limit, lambda why: self.log.alarm("protocol-log", why)))
        self.boot_id = proc.boot_id()
        self.store = StateStore(options.run_dir, options.state_dir, self.boot_id)
        self.store.prepare()
        self.page = Page.create(str(options.run_dir / FILE_NAME))
        self.table = Table(self.store)
        self.processes = Processes(options.proc_dir, options.libvirt_run_dir)
        self.host = Host(self._where(settings), self.store, self.page, self.boot_id, self.log)
        self.fencing = Fencing(settings, options.watchdogs, options.libvirt_uri, self.host, self.table, self.log)
        self.used = Used(self.host, self.table, self.processes, self.log)
        self.host.nobody_runs = self.used.nobody_runs
        self.guarding = Guarding(options.run_dir, self.table, self._before_leases, self.log)
        self.endings = Endings(
            self.table, self.host.releasing, self.guarding.forget, self.log, self.fencing.guest_dropped,
            lambda life: self.processes.sign_of_life(life.uuid, life.born, life.tpm_states), self.fencing.syncer,
            lambda: self.host.taking_over,
        )  # fmt: skip
        self.watcher = Watcher(self.table, self.processes, self.endings, self._bound, self.log)
        self.volume_map = VolumeMap(options.libvirt_run_dir / "storage")
        self.reader = Reader(options.libvirt_run_dir / "storage", self.volume_map.of)
        self.expiry = Expiry(
            host=self.host, page=self.page, table=self.table, watcher=self.watcher,
            processes=self.processes, endings=self.endings, log=self.log, rejoin=self._rejoin,
            beat=self.fencing.watchdog.beat, budget=self.fencing.budget, grace=self.fencing.grace,
            ask=self.fencing.libvirt.ask,
        )  # fmt: skip
        xml_options = {
            "auto_disk_leases": settings.auto_disk_leases,
            "require_lease_for_disks": settings.require_lease_for_disks,
            "nvram_leases": settings.nvram_leases,
            "tpm_leases": settings.tpm_leases,
        }
        self.needs = Needs(
            self.reader, xml_options, self.host.where.host_name, self.log,
            identities=settings.identity_leases, chains=settings.chain_leases,
        )  # fmt: skip
        self.run_states = RunStates(options.libvirt_run_dir, self.table, self.log)
        self.moves = Moves(
            table=self.table, host=self.host, processes=self.processes, process_of=self.watcher.process_of,
            run_state=self.run_states.of,
            end=lambda lives: self.expiry.end_all(lives, self._stop), log=self.log,
        )  # fmt: skip
        self.opened = Opened(self.processes, self.log)
        self.run_states.on_resumed, self.run_states.on_paused = self.moves.resumed, self.moves.paused
        self.host.claim_foreign = settings.claim_foreign
        self.protector = Protector(
            config_dir=options.config_dir, run_dir=options.run_dir, proc_dir=options.proc_dir,
            settings=settings, directory=lambda: self.host.where.directory, log=self.log,
        )  # fmt: skip
        self.host.stand_aside, self.host.make_way = self.protector.aside, self.protector.make_way
        self.host.on_aside = self._settled
        self.deferrals = Deferrals(
            protector=self.protector, table=self.table, host=self.host, processes=self.processes,
            run_dir=options.run_dir, libvirt_run_dir=options.libvirt_run_dir,
            rejoin=lambda: self._rejoin(None), log=self.log,
        )  # fmt: skip
        self.gates = Gates(
            table=self.table, host=self.host, protector=self.protector, deferrals=self.deferrals,
            reader=self.reader, needs=self.needs, processes=self.processes, endings=self.endings,
            watch_guest=self.guarding.watch, look=self.watcher.wake, options=xml_options,
            default_policy=settings.on_lockfailure, tokens=Tokens(options.config_dir / "qemu"),
            left_behind=self.moves.look_after, log=self.log,
        )  # fmt: skip
        self.watcher.missed = MissedReleases(self.store.released, self.processes, self.gates.release, self.log).look
        adoptions = Adoptions(
            table=self.table, host=self.host, protector=self.protector, needs=self.needs,
            processes=self.processes, endings=self.endings, watch_guest=self.guarding.watch, bound=self.guarding.bound,
            opened=self.opened, look=self.watcher.wake, default_policy=settings.on_lockfailure,
            seconds=settings.hook_deadline, log=self.log,
        )  # fmt: skip
        self.deferrals.tidy = adoptions.tidy
        follow = Follow(
            table=self.table, host=self.host, needs=self.needs, watch_guest=self.guarding.watch,
            rebind=self.guarding.bind_again, deferrals=self.deferrals, log=self.log,
        )  # fmt: skip
        protection = Protection(self.protector, self.table, self.processes, self.host)
        status = Status(self.host, self.table, self.log, self._fencing, protection)
        checking = Checking(self.table, self.host, self.needs, self.protector, self.processes)
        metrics = Metrics()
        self.host.on_renewal = metrics.renewed
        self.cleaning = Cleaning(self.host, options.run_dir, self.log)
        self.take_over = TakeOver(
            host=self.host, store=self.store, table=self.table, processes=self.processes, endings=self.endings,
            expiry=self.expiry, resume_cleaning=self.cleaning.resume, look_after=self.moves.look_after_all,
            log=self.log,
        )  # fmt: skip
        calls = {
            "status": status.report, "hosts": status.hosts, "clean": self.cleaning.clean,
            "fence-ack": FenceAck(self.host, options.state_dir, self.log).call,
            "adopt": adoptions.adopt, "adopted": adoptions.adopted,
            "follow": follow.follow, "attach": follow.attach, "running": follow.running,
            "metrics": metrics.report, "cpus_run": self.moves.cpus_run,
            "volumes": self.volume_map.tell, "check": checking.check, "check-leave": checking.check_leave,
        }  # fmt: skip
        self.server = Server(
            options.run_dir / "vlhookd.sock",
            Measured(self.gates, metrics),
            self.processes,
            calls,
            settings.hook_deadline,
            self.log,
        )
        (options.run_dir / "hook-deadline").write_text(f"{settings.hook_deadline}\n")
        self._stop = threading.Event()
        self._guard_minded = False

    def _where(self, settings: Settings) -> Where:
        machine = this_machine()
        identity = host_identity(self.options.state_dir, machine)
        if identity.renamed_from:
            self.log.warning("new-name", name=identity.name, was=identity.renamed_from, why="this is a clone")
        return Where(
            directory=str(settings.disk_lease_dir),
            host_id=settings.host_id,
            host_name=identity.name,
            io_timeout=settings.io_timeout,
            owner=ownership(settings),
            machine=as_noted(machine),
            engine=settings.engine,
        )

    def _before_leases(self, life: Incarnation) -> None:
        self.fencing.guard_guest(life)
        self.used.hold()

    def _bound(self, life: Incarnation, process: Process) -> None:
        self.moves.check_incoming(life, process)
        self.opened.check(life, process)
        self.guarding.bound(life, process)

    # -- life

    def serve(self, signals: Signals) -> int:
        self._stop = stop = signals.stop
        signals.on_killpath = self.host.look_now
        self.used.lost = lambda life: self.expiry.end_all([life], stop)
        self.fencing.begin(self._former_member(), stop)
        self.take_over.load()
        self.reader.start()
        self.server.start()
        self.watcher.start()
        threading.Thread(target=self._enter, name="join", daemon=True).start()
        threading.Thread(target=self.used.run, args=(stop,), name="used", daemon=True).start()
        threading.Thread(target=self.run_states.run, args=(stop,), name="run-states", daemon=True).start()
        threading.Thread(target=self.deferrals.run, args=(stop,), name="deferrals", daemon=True).start()
        self.expiry.run(stop, lambda: self.fencing.service.turn(signals))
        notify("STOPPING=1")
        self._shut_down()
        return 0

    def _former_member(self) -> Optional[Member]:
        """For the watchdog alone; damage is told, and acted on, where the host enters."""
        try:
            return self.store.load_member()
        except VlhookError:
            return None

    def _enter(self) -> None:
        try:
            trace = self.take_over.run(self._stop)
            self.fencing.taken_over()
            self.used.taken_over = True
            if self.host.lease is None and not self._join(trace):
                return
        except Exception as error:  # also a fault of ours: nobody else would tell of it
            self.host.why = str(error) or repr(error)
            self.log.alarm("start", self.host.why)
            notify(f"STATUS={self.host.why}")
            return
        self._settled()

    def _settled(self) -> None:
        """The host has joined the lockspace, or leaves it to the sanlock daemon: guests may come."""
        if not self._guard_minded:
            self._guard_minded = True
            threading.Thread(target=self.guarding.mind, args=(self._stop,), name="guard", daemon=True).start()
        self.watcher.wake()
        where = self.host.where
        state = f"host id {where.host_id}, leases in {where.directory}{self.fencing.shortcoming()}"
        notify("READY=1", f"STATUS={self.host.aside or state}")

    def _join(self, trace: Optional[OwnTrace]) -> bool:
        return self.host.join(trace, self._stop)

    def _rejoin(self, trace: Optional[OwnTrace]) -> bool:
        threading.Thread(target=self._join, args=(trace,), name="join", daemon=True).start()
        return True

    def _shut_down(self) -> None:
        self.server.stop()
        self.fencing.stop()
        self.watcher.stop()
        self.reader.stop()
        self.needs.stop()
        try:
            if not self.host.leave(lambda: not self.table.all(), self.table.changed):
                self.log.notice("stops", why="what is held stays held; it is resumed at the next start")
                self.host.abandon()
        except (LeaseError, VlhookError) as error:
            self.log.error("leave", error=error)

    # -- the guard

    def _fencing(self) -> dict[str, Any]:
        return {"guard": self.guarding.state(), **self.fencing.state()}

