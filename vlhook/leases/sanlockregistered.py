# SPDX-License-Identifier: LGPL-2.1-or-later
"""A registered connection to the sanlock daemon: it holds leases (sanlock companion, 4 and 5).

The daemon ties the leases to the connection, and signals the process that made
it. When the connection closes, because it was closed, or the process ended,
leases taken with RES_PERSISTENT become orphans, which go on excluding everybody;
all others are released at once.

Three traps of the daemon (seen with 3.8.5) shape the methods. A release of many
leases crashes it, and an acquire of more than 8 is refused: both are cut into
batches. An acquire that fails midway releases what the same call had got,
*including orphans that it had just adopted*, so orphans are adopted one by one.
And "acquire this orphan" acquires afresh where there is no orphan, so `adopt`
looks first.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from . import sanlockwire as wire
from .sanlockerrors import (
    CannotSend,
    SanlockError,
    SanlockNoAnswer,
    SanlockNotOrphan,
    SanlockResult,
    shown,
)
from .sanlocksocket import Answer, Call, Channel, left
from .sanlockstate import Inquired, parse_inquiry
from .sanlockwire import BATCH, SELF, Command, Options, Resource

Orphans = Callable[[float], Collection[Resource]]


class Registered:
    """Made by SanlockClient.register. Its methods take turns when several threads call them.

    After SanlockNoAnswer only `late_answer` and `close` are of use until the
    answer has come; whether the call had its effect is what the answer says.
    """

    def __init__(self, path: str, timeout: float, orphans: Orphans, deadline: float) -> None:
        """Connect and register. The process that does so is the one that the daemon signals."""
        self.pid = os.getpid()
        self._path = path
        self._timeout = timeout
        self._orphans = orphans
        self._turn = threading.Lock()
        self._channel = Channel(path, deadline)
        try:
            # Registering is not answered, so that it worked is seen from the first command that is.
            self._channel.tell(Call(Command.REGISTER), deadline)
            self.inquire(deadline)
        except BaseException:
            self._channel.close()
            raise

    def __enter__(self) -> Registered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """To be watched: between commands it turns readable, or POLLRDHUP, only when the daemon is gone."""
        return self._channel.fileno()

    def hung_up(self) -> bool:
        """Whether the daemon has closed the connection; does not wait."""
        return self._channel.hung_up()

    def close(self) -> None:
        """Give up the connection: releases what is held, or makes orphans of it, see above."""
        self._channel.close()

    def late_answer(self, deadline: float | None = None) -> int | None:
        """Wait for the answer to a command that met its deadline.

        Returns its result, negative ones too, or None if nothing is outstanding.
        """
        at = self._at(deadline)
        with self._my_turn(Call(Command.INQUIRE), at):
            return self._channel.late_answer(at)

    # --------------------------------------------------------------------- leases

    def acquire(self, resources: Sequence[Resource], *, wait: bool = False, deadline: float | None = None) -> None:
        """Acquire all or none, 8 at a time; each with RES_* flags and a disk.

        Without `wait` an owner that may be dead gives SanlockBusy (-247) at once.
        With it one of the daemon's few threads waits for the owner's death, up
        to 8N+60 s, and blocks others. On an error what earlier batches took is
        released again; the error's `kept` has what may be held all the same.
        Once the daemon has begun to signal this connection because a lockspace
        failed, every acquire on it gives SanlockBusy (-16), not -28.
        """
        at = self._at(deadline)
        flags = 0 if wait else wire.ACQUIRE_NOWAIT
        calls = [(batch, self._acquire(batch, flags)) for batch in _batches(resources)]
        taken: tuple[Resource, ...] = ()
        for batch, call in calls:
            try:
                self._ask(call, at)
            except SanlockError as error:
                error.batch = batch
                error.kept = self._give_back(taken, at) if isinstance(error, SanlockResult) else taken + batch
                raise
            taken += batch

    def adopt(self, resources: Sequence[Resource], *, deadline: float | None = None) -> None:
        """Take over orphans, without I/O and with their version; RES_PERSISTENT is set for each.

        Stops at the first that fails: it is the error's `batch`, those adopted
        before stay adopted and are its `kept`. Raises SanlockNotOrphan for what
        the daemon does not list as an orphan, before anything is adopted.
        """
        at = self._at(deadline)
        known = {(orphan.space, orphan.name) for orphan in self._orphans(at)}
        for resource in resources:
            if (resource.space, resource.name) not in known:
                raise SanlockNotOrphan(lease=shown(resource.name), batch=(resource,))
        adopted: tuple[Resource, ...] = ()
        for resource in resources:
            lasting = replace(resource, flags=resource.flags | wire.RES_PERSISTENT)
            try:
                self._ask(self._acquire((lasting,), wire.ACQUIRE_ORPHAN | wire.ACQUIRE_NOWAIT), at)
            except SanlockError as error:
                error.batch = (resource,)
                error.kept = adopted
                raise
            adopted += (resource,)

    def release(self, resources: Sequence[Resource], *, deadline: float | None = None) -> None:
        """Release leases of this connection, 8 at a time; returns when that is on the disk.

        A batch that the daemon refuses does not keep later ones from being
        released. Then the first refusal is raised; its `kept` has all refused batches.
        """
        at = self._at(deadline)
        first: SanlockResult | None = None
        refused: tuple[Resource, ...] = ()
        batches = tuple(_batches(resources))
        for number, batch in enumerate(batches):
            body = b"".join(resource.encode(with_disks=False) for resource in batch)
            call = Call(Command.RELEASE, 0, len(batch), SELF, body, _names(batch))
            try:
                self._ask(call, at)
            except SanlockResult as error:
                refused += batch
                if first is None:
                    error.batch = batch
                    first = error
            except SanlockError as error:
                error.batch = batch
                error.kept = refused + tuple(one for later in batches[number:] for one in later)
                raise
        if first is not None:
            first.kept = refused
            raise first

    def release_orphan(self, resource: Resource, *, deadline: float | None = None) -> bool:
        """Release an orphan of this host; False: there is none of that name.

        The daemon only takes note of it: the disk follows a moment later, and
        until it does an acquire of the lease gives SanlockBusy (-11).
        """
        body = resource.encode(with_disks=False)
        call = Call(Command.RELEASE, wire.RELEASE_ORPHAN, 1, SELF, body, resource.name)
        return self._ask(call, self._at(deadline)).result > 0

    def convert(self, resource: Resource, *, shared: bool, deadline: float | None = None) -> None:
        """Make an exclusive lease of this connection shared, or a shared one exclusive (-11: others too)."""
        flags = resource.flags | wire.RES_SHARED if shared else resource.flags & ~wire.RES_SHARED
        body = replace(resource, flags=flags).encode(with_disks=False)
        call = Call(Command.CONVERT, wire.ACQUIRE_NOWAIT, 0, SELF, body, resource.name)
        self._ask(call, self._at(deadline))

    def inquire(self, deadline: float | None = None) -> tuple[Inquired, ...]:
        """The leases of this connection, as far as the daemon can say it (see sanlockstate.py)."""
        answer = self._ask(Call(Command.INQUIRE, data2=SELF), self._at(deadline))
        return parse_inquiry(answer.body, answer.data2)

    # ---------------------------------------------------- what the daemon does to us

    def restrict(self, signals: int, deadline: float | None = None) -> None:
        """Forbid the daemon RESTRICT_SIGKILL or RESTRICT_SIGTERM towards this process."""
        if not signals or signals & ~(wire.RESTRICT_SIGKILL | wire.RESTRICT_SIGTERM):
            raise CannotSend(what="the restriction", value=signals, why="it names no signal")
        self._ask(Call(Command.RESTRICT, signals, 0, SELF), self._at(deadline))

    def killpath(
        self, path: str, args: Sequence[str], *, append_pid: bool = False, deadline: float | None = None
    ) -> None:
        """The program that the daemon runs, once, when a lockspace of this connection has failed.

        Path and arguments have at most 127 bytes each. That the program can be
        run the daemon does not check.
        """
        flags = wire.KILLPATH_PID if append_pid else 0
        call = Call(Command.KILLPATH, flags, 0, SELF, wire.killpath(path, args), path)
        self._ask(call, self._at(deadline))

    # ------------------------------------------------------------------------- inside

    def _acquire(self, batch: Sequence[Resource], flags: int) -> Call:
        for resource in batch:
            if not resource.disks:
                raise CannotSend(what="the lease", value=resource.name, why="it has no file")
        body = b"".join(resource.encode() for resource in batch) + Options().encode()
        return Call(Command.ACQUIRE, flags, len(batch), SELF, body, _names(batch))

    def _give_back(self, taken: tuple[Resource, ...], deadline: float) -> tuple[Resource, ...]:
        """Release what earlier batches took; returns what that did not work for."""
        try:
            self.release(taken, deadline=deadline)
        except SanlockError as error:
            return error.kept
        return ()

    def _ask(self, call: Call, deadline: float) -> Answer:
        with self._my_turn(call, deadline):
            return self._channel.ask(call, deadline)

    @contextmanager
    def _my_turn(self, call: Call, deadline: float) -> Iterator[None]:
        if not self._turn.acquire(timeout=left(deadline)):
            why = "another command is still being answered on this connection"
            subject = shown(call.subject)
            raise SanlockNoAnswer(path=self._path, command=call.command.words, subject=subject, why=why)
        try:
            yield
        finally:
            self._turn.release()

    def _at(self, deadline: float | None) -> float:
        return time.monotonic() + self._timeout if deadline is None else deadline


def _batches(resources: Sequence[Resource]) -> Iterator[tuple[Resource, ...]]:
    for start in range(0, len(resources), BATCH):
        yield tuple(resources[start : start + BATCH])


def _names(batch: Sequence[Resource]) -> str:
    return ", ".join(resource.name for resource in batch)
