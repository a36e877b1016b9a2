# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that takes and gives back leases until its standard input ends, or it is killed.

    python -m tests.interop.fight.contender JSON

One with `engine` is a host of its own: vlhook's native engine, in some threads. One with `sanlock` is a process on a
host whose sanlock daemon has that socket. Exit status: 0 told to stop, LOST the host lost its lease or its daemon,
FAULT something else went wrong, which is in the record.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.interop.fight.section import Record, Version, section
from tests.leases.rig import Rig, RigHost, by, tenant
from vlhook.leases.driver import log_steps
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import Busy, LeaseError, NotMember
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.sanlockclient import SanlockClient
from vlhook.leases.sanlockerrors import SanlockBusy, SanlockError
from vlhook.leases.sanlockregistered import Registered
from vlhook.leases.sanlockwire import RES_SHARED, Disk, Resource
from vlhook.leases.steplog import MIB, StepLog

LOST, FAULT = 3, 4
GLANCE, LONG = 0.03, 1.5
"""Seconds: most holdings are short; some are so long that their holder is killed or stopped while it holds."""


def want_of(disk: str, shared: bool = False) -> Want:
    return Want(lease_name(disk.encode()), LOCKSPACE_NAME, shared, disk)


def resource_of(leases: str, want: Want) -> Resource:
    path = os.path.join(leases, want.name)
    return Resource(want.space, want.name, (Disk(path),), RES_SHARED if want.shared else 0)


class Loop:
    """Draws a lease and a mode, takes it, holds it for a while, gives it back."""

    def __init__(self, words: dict[str, Any], who: str, stop: threading.Event) -> None:
        self.record = Record(Path(words["record"]))
        self.disks: list[str] = words["disks"]
        self.pace = float(words["pace"])
        self.who = who
        self.stop = stop
        self.chance = random.Random(f"{words['seed']} {who} {time.monotonic_ns()}")

    def run(self) -> int:
        while not self.stop.is_set():
            time.sleep(self.chance.random() * self.pace)
            want = want_of(self.chance.choice(self.disks), self.chance.random() < 0.25)
            version = self.take(want)
            if not version:
                continue
            with section(self.record, self.who, [(want.source, want.shared)], version):
                self.stop.wait(self.chance.random() * (LONG if self.chance.random() < 0.03 else GLANCE))
            self.give(want)
        return 0

    def take(self, want: Want) -> Version | None:
        raise NotImplementedError

    def give(self, want: Want) -> None:
        raise NotImplementedError


class EngineLoop(Loop):
    """One thread of a host. Raises NotMember when the host's lease is over."""

    host: RigHost

    def take(self, want: Want) -> Version | None:
        try:
            (owned,) = self.host.engine.acquire(tenant(self.who), [want], by(), lambda: False)
            return Version(*self.host.me, owned.lver)
        except Refused as refused:
            for _, error in refused.failures:
                if not isinstance(error, Busy):
                    raise error from None
            return None

    def give(self, want: Want) -> None:
        assert self.host.engine.release(tenant(self.who), by(120))
        self.host.lease.check()


class SanlockLoop(Loop):
    registered: Registered
    leases: str
    host_id: int

    def take(self, want: Want) -> Version | None:
        try:
            self.registered.acquire([resource_of(self.leases, want)], deadline=by(120))
        except SanlockBusy:
            return None
        (held,) = self.registered.inquire(deadline=by(120))
        return Version(self.host_id, 0, held.lver or 0)

    def give(self, want: Want) -> None:
        self.registered.release([resource_of(self.leases, want)], deadline=by(120))


def leave(status: int) -> None:
    """At once: a thread that waits for the storage must not keep a host alive that is lost."""
    os._exit(status)


def run(loop: Loop) -> None:
    try:
        loop.run()
    except NotMember:
        leave(LOST)
    except SanlockError:
        leave(LOST)  # the daemon is gone, or kills this process in a moment
    except BaseException as error:
        loop.record.put("error", who=loop.who, error=repr(error), text=str(error))
        leave(FAULT)


def be_an_engine(words: dict[str, Any], stop: threading.Event) -> None:
    if words.get("steps"):
        log_steps(StepLog(words["steps"], 512 * MIB))
    rig = Rig(Path(words["leases"]), io_timeout=words["io_timeout"])
    try:
        (host,) = rig.join(words["host_id"])
    except LeaseError as error:
        sys.stderr.write(f"host {words['host_id']}: {error}\n")
        leave(LOST)
    threads = []
    for number in range(words["threads"]):
        loop = EngineLoop(words, f"{words['who']}-{number}", stop)
        loop.host = host
        threads.append(threading.Thread(target=run, args=(loop,)))
    ready(host.me[1])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        host.lease.leave()
    except LeaseError:
        leave(LOST)


def be_a_sanlock_client(words: dict[str, Any], stop: threading.Event) -> None:
    loop = SanlockLoop(words, words["who"], stop)
    loop.registered = SanlockClient(words["socket"], timeout=120).register()
    loop.leases, loop.host_id = words["leases"], words["host_id"]
    ready(0)
    run(loop)


def ready(generation: int) -> None:
    print(json.dumps({"generation": generation}), flush=True)


def main() -> None:
    words = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: leave(LOST))
    stop = threading.Event()

    def until_told() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=until_told, daemon=True).start()
    (be_an_engine if words["kind"] == "engine" else be_a_sanlock_client)(words, stop)
    leave(0)


if __name__ == "__main__":
    main()
