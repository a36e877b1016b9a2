# SPDX-License-Identifier: LGPL-2.1-or-later
"""The call `clean`: removes leases that nobody uses, on behalf of `vlhook cleanup`.

Only the keeper can: it has the host id under which the leases are taken, and
knows what this host's guests hold. One host at a time cleans a directory: it
holds the lease `vlhook-cleanup` in the file `.vlhook-cleanup`. What is being
removed is noted in the run directory before it is touched, so that a keeper
that died in the middle gives it back when it is started again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import VlhookError
from ..leases.blockio import waiting
from ..leases.directory import create_lease, sync_directory
from ..leases.engine import Refused, Tenant, Want
from ..leases.errors import Busy, HeldByOther, LeaseError
from ..leases.geometry import FILE
from ..leases.names import LOCKSPACE_NAME
from ..leases.native import NativeEngine
from ..leases.overview import LEASE_NAME
from ..leases.parallel import each
from ..leases.records import show_name
from .host import Host
from .log import Log

SCHEMA = 1
MOST = 256
THREADS = 16
LEASE, LEASE_FILE = "vlhook-cleanup", ".vlhook-cleanup"
BEGIN_SECONDS = 10.0
ANSWER_SECONDS = 30.0
TENANT = Tenant("clean-up-lease", "(clean-up)", "")
REMOVED, GONE, KEPT, FAILED = "removed", "gone", "kept", "failed"


class CleanedElsewhere(VlhookError):
    msg = "the lease directory is being cleaned up at this moment{by}"
    hint = "one clean-up at a time is enough; try again later"
    code = "VLH-K851"


class NotALease(VlhookError):
    msg = "{name} is no lease of a disk that could be cleaned up"
    hint = "give names of 32 hex digits, {most} at most"
    code = "VLH-K852"


class CannotClean(VlhookError):
    msg = "nothing can be cleaned up: {why}"
    hint = "see 'vlhook status'"
    code = "VLH-K853"


class ForOtherHosts(VlhookError):
    msg = "this host removes no leases: the sanlock daemon takes its leases"
    hint = "run the clean-up on a host with the native engine, which spares what is in use here"
    code = "VLH-K854"


class Cleaning:
    def __init__(self, host: Host, run_dir: Path, log: Log) -> None:
        self._host = host
        self._note = run_dir / "cleaning"
        self._log = log
        self._one = threading.Lock()

    def clean(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer to call `clean`: of each of `names` whether it was removed, and if not why.

        Raises CleanedElsewhere, ForOtherHosts, NotALease, CannotClean.
        """
        names = arguments.get("names")
        if not isinstance(names, list) or len(names) > MOST:
            raise NotALease(name="the list", most=MOST)
        for name in names:
            if not isinstance(name, str) or not LEASE_NAME.fullmatch(name):
                raise NotALease(name=name, most=MOST)
        if not self._one.acquire(blocking=False):
            raise CleanedElsewhere(by=" by this host")
        try:
            results = self._clean(self._engine(), names)
        finally:
            self._one.release()
        return {"schema": SCHEMA, "lease_directory": self._host.where.directory, "results": results}

    def _engine(self) -> NativeEngine:
        engine, why = self._host.engine, self._host.why_not()
        if why or engine is None:
            raise CannotClean(why=why or "this host has not joined the lockspace")
        if not isinstance(engine, NativeEngine):
            raise ForOtherHosts
        return engine

    def _clean(self, engine: NativeEngine, names: list[str]) -> list[dict[str, Any]]:
        self._begin(engine)
        try:
            self._remember(names)
            done = dict(each(names, lambda name: self._one_lease(engine, name), ANSWER_SECONDS, THREADS))
            self._sync()
            if len(done) == len(names):
                self._note.unlink(missing_ok=True)
        except OSError as error:
            raise CannotClean(why=f"{self._note}: {error.strerror}") from error
        finally:
            engine.release(TENANT, time.monotonic() + BEGIN_SECONDS)
        late = (FAILED, "the storage does not answer")
        return [{"name": n, "outcome": done.get(n, late)[0], "why": done.get(n, late)[1]} for n in names]

    def _begin(self, engine: NativeEngine) -> None:
        """Take the clean-up lease of the directory."""
        path = os.path.join(self._host.where.directory, LEASE_FILE)
        want = Want(LEASE, LOCKSPACE_NAME, False, "the clean-up of unused leases", path)
        try:
            if not os.path.lexists(path):
                create_lease(path, FILE, LOCKSPACE_NAME.encode(), LEASE.encode(), self._host.where.owner)
            engine.acquire(TENANT, [want], time.monotonic() + BEGIN_SECONDS, lambda: False)
        except Refused as refused:
            error = refused.failures[0][1]
            if not isinstance(error, Busy):
                raise CannotClean(why=str(error)) from error
            by = f" by host {_host(error)}" if isinstance(error, HeldByOther) else ""
            raise CleanedElsewhere(by=by) from error
        except LeaseError as error:
            raise CannotClean(why=str(error)) from error

    def _one_lease(self, engine: NativeEngine, name: str) -> tuple[str, str]:
        try:
            removed = engine.clean(_want(name))
        except Busy as error:
            return KEPT, str(error)
        except LeaseError as error:
            self._log.warning("not-removed", lease=name, why=error)
            return FAILED, str(error)
        except Exception as error:  # a fault of ours must not end the others
            self._log.error("fault", lease=name, error=repr(error))
            return FAILED, repr(error)
        if removed:
            self._log.info("removed", lease=name)
        return (REMOVED, "") if removed else (GONE, "")

    def _sync(self) -> None:
        """Once for all: a name that a crash of the file server brings back is that of a cleared lease."""
        directory = self._host.where.directory
        try:
            with waiting("fsync", directory):
                sync_directory(directory)
        except OSError as error:
            raise CannotClean(why=f"{directory}: {error.strerror}") from error

    def _remember(self, names: list[str]) -> None:
        new = self._note.with_suffix(".new")
        new.write_text(json.dumps(names))
        new.rename(self._note)

    def resume(self) -> None:
        """Give back what a former keeper was removing when it died. After all that guests hold was restored."""
        try:
            names = [name for name in json.loads(self._note.read_text()) if LEASE_NAME.fullmatch(name)]
        except (OSError, ValueError, TypeError):
            return
        engine = self._host.engine
        if isinstance(engine, NativeEngine):
            path = os.path.join(self._host.where.directory, LEASE_FILE)
            wants = [_want(name) for name in names]
            engine.settle(TENANT, [*wants, Want(LEASE, LOCKSPACE_NAME, False, "", path)])
        self._note.unlink(missing_ok=True)


def _want(name: str) -> Want:
    return Want(name, LOCKSPACE_NAME, False, "")


def _host(error: HeldByOther) -> str:
    holder = vars(error)["holder"]
    name = show_name(holder.name)
    return f"{holder.host_id} ({name.partition('.')[2] or name})"
