# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon's commands as methods that block, but never past a deadline (sanlock companion, 4).

`SanlockClient` opens a connection for each command. `SanlockClient.register`
gives a `Registered` connection (`sanlockregistered.py`), by which leases are
held. A `deadline` is a time of CLOCK_MONOTONIC in seconds; without one a command
has the client's `timeout`. Every command may raise

- SanlockUnreachable: nobody is there, nothing was sent;
- SanlockNoAnswer: the deadline came, and what was asked for may still happen;
- SanlockHungUp: the daemon closed the connection;
- WireError, CannotSend: what was received, or was to be sent, does not fit the protocol;
- SanlockResult, mostly a subclass of it: the daemon said no.
"""

from __future__ import annotations

import enum
import os
import time

from . import sanlockwire as wire
from .sanlockerrors import SanlockResult
from .sanlockregistered import Registered
from .sanlocksocket import Answer, Call, Channel
from .sanlockstate import (
    HeldLease,
    Host,
    StateItem,
    decode_hosts,
    decode_lockspaces,
    decode_status,
    held_leases,
)
from .sanlockwire import Command, Config, DaemonVersion, Lockspace, Resource

RUN_DIR = "/run/sanlock"
SOCKET_NAME = "sanlock.sock"
TIMEOUT = 10.0
"""Seconds for a command without a deadline of its own."""


class Joined(enum.Enum):
    """Whether this host has a lockspace, by the result of inquire lockspace."""

    YES = 0
    NO = -2
    CHANGING = -115


class StatusLevel(enum.IntEnum):
    """How much `status` tells; each level but ALL tells what the one before tells, and more."""

    ALL = 0
    DAEMON = 1
    CLIENTS = 2
    LOCKSPACES = 3


class Force(enum.IntEnum):
    """What the owner of a lease does on a request (format document, 7.8)."""

    KILL = 1
    GRACEFUL = 2


def default_socket() -> str:
    """The daemon's socket: in SANLOCK_RUN_DIR of the environment, else in /run/sanlock."""
    return os.path.join(os.environ.get("SANLOCK_RUN_DIR") or RUN_DIR, SOCKET_NAME)


class SanlockClient:
    """May be used by any number of threads: it holds no connection and nothing that changes."""

    def __init__(self, socket_path: str | None = None, timeout: float = TIMEOUT) -> None:
        self.socket_path = socket_path or default_socket()
        self.timeout = timeout

    def register(self, deadline: float | None = None) -> Registered:
        """A connection that can hold leases. The daemon signals the process that calls this."""
        return Registered(self.socket_path, self.timeout, self._orphans, self._at(deadline))

    # ------------------------------------------------------------------------- daemon

    def version(self, deadline: float | None = None) -> DaemonVersion:
        return DaemonVersion.decode(self._ask(Call(Command.VERSION), deadline).header)

    def status(self, level: StatusLevel = StatusLevel.ALL, deadline: float | None = None) -> tuple[StateItem, ...]:
        """The daemon's own account of itself, its connections, lockspaces and leases."""
        call = Call(Command.STATUS, data=level)
        at = self._at(deadline)
        with Channel(self.socket_path, at) as channel:
            first = channel.ask(call, at)
            return decode_status(first.body + channel.rest(call, at))

    def leases(self, deadline: float | None = None) -> tuple[HeldLease, ...]:
        """Every lease that this daemon has, with its holder's pid, from the status."""
        return tuple(held_leases(self.status(StatusLevel.ALL, deadline)))

    # --------------------------------------------------------------------- lockspaces

    def add_lockspace(
        self, lockspace: Lockspace, io_timeout: int = 0, *, wait: bool = True, deadline: float | None = None
    ) -> None:
        """Join `lockspace`, with N = `io_timeout` seconds (0: the daemon's 10).

        Takes 2N and more seconds, and up to 8N+60 where another host had the id.
        Without `wait` it goes on in the daemon and `inquire_lockspace` tells.
        Raises SanlockResult -17: joined already; -262: another host has the id.
        """
        flags = 0 if wait else wire.ADD_ASYNC
        self._lockspace_call(Command.ADD_LOCKSPACE, lockspace, deadline, flags, io_timeout)

    def remove_lockspace(
        self,
        lockspace: Lockspace,
        *,
        wait: bool = True,
        only_unused: bool = False,
        deadline: float | None = None,
    ) -> None:
        """Leave `lockspace`. The daemon kills every process that holds leases in it, at once.

        `only_unused` refuses instead (SanlockBusy, -16), also when there are
        orphans or USED is set.
        """
        flags = (0 if wait else wire.REMOVE_ASYNC) | (wire.REMOVE_IF_UNUSED if only_unused else 0)
        self._lockspace_call(Command.REMOVE_LOCKSPACE, lockspace, deadline, flags)

    def inquire_lockspace(self, lockspace: Lockspace, *, wait: bool = False, deadline: float | None = None) -> Joined:
        """Whether this very lockspace, with its host id and file, is joined; `wait`: until that is settled.

        May still say YES for a moment after removal was asked for.
        """
        flags = wire.INQUIRE_WAIT if wait else 0
        try:
            self._lockspace_call(Command.INQUIRE_LOCKSPACE, lockspace, deadline, flags)
        except SanlockResult as error:
            if error.result in (Joined.NO.value, Joined.CHANGING.value):
                return Joined(error.result)
            raise
        return Joined.YES

    def get_lockspaces(self, deadline: float | None = None) -> tuple[Lockspace, ...]:
        """All lockspaces of this host; `flags` LOCKSPACE_ADDING, LOCKSPACE_REMOVING."""
        answer = self._ask(Call(Command.GET_LOCKSPACES), deadline)
        return decode_lockspaces(answer.body, answer.data2)

    def get_hosts(self, space: str, host_id: int = 0, *, deadline: float | None = None) -> tuple[Host, ...]:
        """The hosts of a lockspace of ours, or one of them; SanlockBusy (-11) before the first renewal."""
        answer = self._lockspace_call(Command.GET_HOSTS, Lockspace(space, host_id), deadline)
        return decode_hosts(answer.body, answer.data2)

    def set_config(self, space: str, config: Config, *, deadline: float | None = None) -> None:
        """Set or clear USED or USED_BY_ORPHANS; raises SanlockNotJoined."""
        self._lockspace_call(Command.SET_CONFIG, Lockspace(space), deadline, data=config)

    def read_lockspace(self, lockspace: Lockspace, *, deadline: float | None = None) -> tuple[Lockspace, int]:
        """What the record of `lockspace.host_id` says: the lockspace and its io_timeout in seconds."""
        answer = self._lockspace_call(Command.READ_LOCKSPACE, lockspace, deadline)
        return Lockspace.decode(answer.body), answer.data2

    def write_lockspace(self, lockspace: Lockspace, io_timeout: int = 0, *, deadline: float | None = None) -> None:
        """Format a lockspace in an existing file of full size. Whatever was there is gone."""
        self._lockspace_call(Command.WRITE_LOCKSPACE, lockspace, deadline, data2=io_timeout)

    # ------------------------------------------------------------------------- leases

    def read_resource(self, resource: Resource, *, deadline: float | None = None) -> Resource:
        """The lease in the file of `resource`; its names, if not empty, must be those."""
        answer = self._resource_call(Command.READ_RESOURCE, resource, deadline)
        return Resource.decode(answer.body, with_disks=False)

    def read_owners(self, resource: Resource, *, deadline: float | None = None) -> tuple[Resource, tuple[Host, ...]]:
        """Who holds the lease in the file of `resource`, by the disk: none, one, or several that share it."""
        answer = self._resource_call(Command.READ_OWNERS, resource, deadline)
        found = Resource.decode(answer.body, with_disks=False)
        return found, decode_hosts(answer.body[wire.RESOURCE_SIZE :], answer.data2)

    def write_resource(
        self, resource: Resource, num_hosts: int = 0, *, clear: bool = False, deadline: float | None = None
    ) -> None:
        """Format a lease in an existing file of full size, for `num_hosts` hosts (0: as many as fit)."""
        flags = wire.WRITE_CLEAR if clear else 0
        self._resource_call(Command.WRITE_RESOURCE, resource, deadline, flags, num_hosts)

    def request(self, resource: Resource, force: Force = Force.GRACEFUL, *, deadline: float | None = None) -> None:
        """Ask the lease's owner to give way; with lver 0 for the version after the present one."""
        flags = 0 if resource.lver else wire.REQUEST_NEXT
        self._resource_call(Command.REQUEST, resource, deadline, flags, force)

    # ------------------------------------------------------------------------- inside

    def _orphans(self, deadline: float) -> tuple[Resource, ...]:
        return tuple(lease.resource for lease in self.leases(deadline) if lease.orphan)

    def _lockspace_call(
        self,
        command: Command,
        lockspace: Lockspace,
        deadline: float | None,
        flags: int = 0,
        data: int = 0,
        data2: int = 0,
    ) -> Answer:
        return self._ask(Call(command, flags, data, data2, lockspace.encode(), lockspace.name), deadline)

    def _resource_call(
        self, command: Command, resource: Resource, deadline: float | None, flags: int = 0, data: int = 0
    ) -> Answer:
        return self._ask(Call(command, flags, data, 0, resource.encode(), resource.name), deadline)

    def _ask(self, call: Call, deadline: float | None) -> Answer:
        at = self._at(deadline)
        with Channel(self.socket_path, at) as channel:
            return channel.ask(call, at)

    def _at(self, deadline: float | None) -> float:
        return time.monotonic() + self.timeout if deadline is None else deadline
