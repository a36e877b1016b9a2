# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the keeper asks of the guard. Framed as `vlhook.keeper.wire` says, answered `ok` or `error` REASON.

=========================  ==========================================================================
request                    meaning
=========================  ==========================================================================
`watch` UUID NAME          from now on this guest is ended at the limit. Refused when the limit has
                           passed or no renewal was ever heard, and for a guest that is being ended
`bind` UUID PID START      this process is the guest's QEMU; a pidfd of it may come along
`forget` UUID              the guest is over: refused while a process of it lives, or may live
`disown` UUID              the guest runs, but got no lease (a refused adoption): not to be ended.
                           Refused for a guest that is being ended
`list`                     answer: one field, a line a guest: UUID `watched`|`ending` PIDS NAME
`complete`                 every guest that has leases is on the list (after it was damaged, see `table`)
`ping`                     answer: `complete` or `incomplete`; the number of guests
=========================  ==========================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from ..errors import VlhookError
from ..processes import Process, ProcessError, Scan, open_process, sign_of_life, ticks_now
from .ending import Endings
from .limit import Limit
from .scan import Finder, Found
from .server import Request
from .table import Guest, Table
from .work import NOTICE, Job, Jobs, Log

NAME_MAX = 1024
NO_THREAD = "too many requests wait for processes that are stuck in the kernel"


class Refused(VlhookError):
    msg = "{why}"
    code = "VLH-G001"


class Requests:
    def __init__(
        self, table: Table, limit: Limit, endings: Endings, finder: Finder,
        jobs: Jobs, log: Log, proc_dir: str,
    ) -> None:
        self._table = table
        self._limit = limit
        self._endings = endings
        self._finder = finder
        self._jobs = jobs
        self._log = log
        self._proc_dir = proc_dir
        self.stopping = False

    def handle(self, request: Request) -> None:
        """Answer a request, now or when a thread has found out. Raises nothing."""
        handlers: dict[bytes, tuple[int, Callable[..., None]]] = {
            b"watch": (2, self._watch),
            b"bind": (3, self._bind),
            b"forget": (1, self._forget),
            b"disown": (1, self._disown),
            b"list": (0, self._list),
            b"complete": (0, self._say_complete),
            b"ping": (0, self._ping),
        }
        count, handler = handlers.get(request.verb, (-1, self._ping))
        if count != len(request.fields):
            request.error("not a request that this guard knows")
            return
        try:
            handler(request, *request.fields)
        except (VlhookError, OSError) as error:
            request.error(str(error))
        except Exception as error:
            request.error(f"internal error: {type(error).__name__}: {error}")

    def _watch(self, request: Request, uuid_field: bytes, name_field: bytes) -> None:
        uuid, name = _uuid(uuid_field), _name(name_field)
        if self.stopping:
            raise Refused(why="the guard is being stopped")
        self._limit.read()
        self._endings.judge()
        guest = self._table.guests.get(uuid)
        if guest is not None:
            if guest.limit_at:
                raise Refused(why=f"guest {name} is being ended because its leases ran out")
            guest.name = name
            request.ok()
            return
        overdue, member = self._limit.overdue(), self._limit.member
        if not self._limit.heard or member is None or overdue is None:
            raise Refused(why="the keeper has not told yet when the host's lease was renewed")
        if overdue >= 0:
            raise Refused(why=f"the host's lease ran out {overdue:.0f} s ago")
        # With an incomplete list this may be a guest that runs since long before.
        since = ticks_now() if self._table.complete else 0
        self._table.guests[uuid] = Guest(uuid, name, since, member.host_id, member.generation)
        try:
            self._table.save(member)
        except OSError:
            del self._table.guests[uuid]
            raise
        self._log(NOTICE, "watched", guest=name, uuid=uuid)
        request.ok()

    def _bind(self, request: Request, uuid_field: bytes, pid_field: bytes, start_field: bytes) -> None:
        uuid, pid, start = _uuid(uuid_field), _number(pid_field), _number(start_field)
        if uuid not in self._table.guests:
            raise Refused(why=f"guest {uuid} is not watched")
        pidfd = request.take_descriptor()

        def work(job: Job) -> Callable[[], None]:
            process, why = _open(pid, start, uuid, pidfd, self._proc_dir)
            return lambda: self._bound(request, uuid, process, why)

        if self._jobs.start(work) is None:
            raise Refused(why=NO_THREAD)

    def _bound(self, request: Request, uuid: str, process: Process | None, why: str) -> None:
        guest = self._table.guests.get(uuid)
        if process is None:
            request.error(why)
        elif guest is None:
            process.close()
            request.error(f"guest {uuid} is not watched")
        else:
            if guest.add(process):
                self._save()
                self._log(NOTICE, "bound", guest=guest.name, uuid=uuid, pid=process.pid)
            request.ok()

    def _forget(self, request: Request, uuid_field: bytes) -> None:
        uuid = _uuid(uuid_field)
        if uuid not in self._table.guests:
            request.ok()
            return
        done = functools.partial(self._forget_if, request, uuid)
        if self._finder.start(frozenset([uuid]), self._table.known_pids(), done) is None:
            raise Refused(why=NO_THREAD)

    def _forget_if(self, request: Request, uuid: str, found: Found) -> None:
        guest = self._table.guests.get(uuid)
        for _, process in found.processes:
            if guest is None:
                process.close()
            elif guest.add(process):
                self._table.changed = True
        if guest is None:
            request.ok()
            return
        guest.drop_gone()
        # What is held by pidfd was not looked at, and is known to be somebody's.
        known = {key for other in self._table.guests.values() for key in other.targets}
        unknown = [entry for entry in found.unknown if entry[:2] not in known]
        why = found.failure or sign_of_life(uuid, Scan({}, unknown), since=max(0, guest.since - 1))
        if guest.targets:
            why = f"guest {guest.name} still has process {guest.pids()}"
        if why:
            request.error(why)
            return
        del self._table.guests[uuid]
        self._save()
        self._log(NOTICE, "forgotten", guest=guest.name, uuid=uuid)
        request.ok()

    def _disown(self, request: Request, uuid_field: bytes) -> None:
        uuid = _uuid(uuid_field)
        guest = self._table.guests.get(uuid)
        if guest is not None:
            if guest.limit_at:
                raise Refused(why=f"guest {guest.name} is being ended because its leases ran out")
            for target in guest.targets.values():
                target.process.close()
            del self._table.guests[uuid]
            self._save()
            self._log(NOTICE, "disowned", guest=guest.name, uuid=uuid)
        request.ok()

    def _save(self) -> None:
        """Before the answer, if it can be; what fails here is reported and tried again by the loop."""
        self._table.changed = True
        try:
            self._table.save(self._limit.member)
        except OSError:
            pass

    def _list(self, request: Request) -> None:
        lines = [
            f"{guest.uuid} {'ending' if guest.limit_at else 'watched'} {guest.pids()} {guest.name}\n"
            for guest in self._table.guests.values()
        ]
        request.ok("".join(lines).encode())

    def _say_complete(self, request: Request) -> None:
        if not self._table.complete:
            self._table.complete = True
            self._save()
            self._log(NOTICE, "list-complete", guests=len(self._table.guests))
        request.ok()

    def _ping(self, request: Request) -> None:
        word = b"complete" if self._table.complete else b"incomplete"
        request.ok(word, str(len(self._table.guests)).encode())


def _open(
    pid: int, start: int, uuid: str, pidfd: int | None, proc_dir: str
) -> tuple[Process | None, str]:
    try:
        return open_process(pid, proc_dir=proc_dir, start=start, uuid=uuid, pidfd=pidfd), ""
    except (ProcessError, OSError) as error:
        return None, str(error)
    except Exception as error:  # A thread that dies would leave the keeper without an answer.
        return None, f"internal error: {type(error).__name__}: {error}"


def _uuid(field: bytes) -> str:
    text = field.decode("ascii", "replace").lower()
    groups = text.split("-")
    if [len(group) for group in groups] != [8, 4, 4, 4, 12] or set("".join(groups)) - set("0123456789abcdef"):
        raise Refused(why="that is not a UUID")
    return text


def _name(field: bytes) -> str:
    # For people only; nothing is found by it.
    return "".join(c if c.isprintable() else "?" for c in field.decode("utf-8", "replace")[:NAME_MAX])


def _number(field: bytes) -> int:
    if not field.isdigit() or len(field) > 18:
        raise Refused(why="pid and start time are decimal numbers")
    return int(field)
