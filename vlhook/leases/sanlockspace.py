# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the sanlock daemon says of itself and of the one lockspace that vlhook uses, in one look.

`renewal_last_success` is the time of CLOCK_MONOTONIC, whole seconds, that stands
in the host's record on disk: taken before the write, so it is last_ok. After
`space_dead` the lockspace only waits for the end of those who hold leases in it,
also when the storage has returned (sanlock companion, 2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .delta import Space
from .errors import LeaseError
from .sanlockclient import SanlockClient, StatusLevel
from .sanlockerrors import WireError
from .sanlockstate import StateItem, StateType
from .sanlockwire import Lockspace

MIN_IO_TIMEOUT = 2
"""With the daemon's watchdog: one second less and a healthy lockspace is not fed (sanlock companion, 3.1)."""


@dataclass(frozen=True)
class SpaceState:
    """The lockspace as the daemon has it. `last_ok` 0: not renewed yet. Times in seconds.

    `state`: spaces (joined), add (joining) or rem (leaving). `dead`: it has failed.
    `used`: it does not end, whatever becomes of the holders.
    """

    lockspace: Lockspace
    state: str
    generation: int
    io_timeout: int
    last_ok: int
    dead: bool
    killing: bool
    used: bool

    @property
    def good(self) -> bool:
        return self.state == "spaces" and not self.dead and not self.killing and self.generation > 0

    def trouble(self) -> str:
        """What is wrong with it, for people; empty for nothing."""
        if self.dead or self.killing:
            return "sanlock has given the lockspace up: it was not renewed in time, or its record was damaged"
        return {"spaces": "", "add": "it is just being joined"}.get(self.state, "it is being removed from sanlock")


@dataclass(frozen=True)
class DaemonState:
    """`use_watchdog`: the daemon has its watchdog daemon reset the host when a lockspace with guests fails.

    `grace`: seconds between the failure of a lockspace and SIGKILL. `space`: ours, None if it has not got it.
    """

    version: str
    host_name: str
    use_watchdog: bool
    grace: int
    space: SpaceState | None


def look(client: SanlockClient, space: str, deadline: float | None = None) -> DaemonState:
    """Ask the daemon. Raises what `sanlockclient.py` lists."""
    items = client.status(StatusLevel.LOCKSPACES, deadline)
    daemon = next((item for item in items if item.type is StateType.DAEMON), None)
    if daemon is None:
        raise WireError(what="status", why="it does not tell of the daemon itself")
    return DaemonState(
        version=daemon.words.get("version_str", "?"),
        host_name=daemon.words.get("our_host_name", ""),
        use_watchdog=daemon.number("use_watchdog") == 1,
        grace=daemon.number("kill_grace_seconds") or 0,
        space=_space(items, space),
    )


def _space(items: Iterable[StateItem], name: str) -> SpaceState | None:
    for item in items:
        if item.type is not StateType.LOCKSPACE or item.lockspace is None or item.lockspace.name != name:
            continue
        numbers = {
            key: item.number(key)
            for key in (
                "host_generation", "io_timeout", "renewal_last_success", "space_dead", "killing_pids", "external_used",
            )
        }  # fmt: skip
        missing = [key for key, value in numbers.items() if value is None]
        if missing or "list" not in item.words:
            raise WireError(what="status item", why=f"lockspace {name} has no {', '.join(missing) or 'list'}")
        return SpaceState(
            lockspace=item.lockspace,
            state=item.words["list"],
            generation=numbers["host_generation"] or 0,
            io_timeout=numbers["io_timeout"] or 0,
            last_ok=numbers["renewal_last_success"] or 0,
            dead=bool(numbers["space_dead"]),
            killing=bool(numbers["killing_pids"]),
            used=bool(numbers["external_used"]),
        )
    return None


def check_able(space: Space, state: DaemonState) -> None:
    """Can this daemon be our engine? Raises SanlockSpaceElsewhere, SanlockTooShort."""
    found = state.space
    if found:
        has = _shown(found.lockspace.host_id, found.io_timeout, found.lockspace.disk.path)
        wanted = _shown(space.host_id, space.io_timeout, space.where)
        if has != wanted:
            raise SanlockSpaceElsewhere(space=found.lockspace.name, found=has, wanted=wanted)
    io_timeout = found.io_timeout if found else space.io_timeout
    if state.use_watchdog and io_timeout < MIN_IO_TIMEOUT:
        raise SanlockTooShort(io_timeout=io_timeout)


def _shown(host_id: int, io_timeout: int, path: str) -> str:
    return f"host id {host_id} and io_timeout {io_timeout} in {path}"


class SanlockSpaceElsewhere(LeaseError):
    """The daemon has the lockspace with another host id, in another file, or with another io_timeout."""

    msg = "the sanlock daemon has joined lockspace {space} with {found}; the settings say {wanted}"
    hint = "settings of this host were changed: when no guest runs here, restart sanlock, then vlhookd"
    code = "VLH-L311"


class SanlockSpaceEnding(LeaseError):
    """A lockspace that failed, or is being removed, has not ended yet."""

    msg = "lockspace {space} cannot be joined anew yet: {why}"
    hint = "it ends when nobody holds leases in it any more; see 'sanlock client status'"
    code = "VLH-L312"


class SanlockDaemonGone(LeaseError):
    """The daemon that renewed this host's id is dead. `watchdog`: its watchdog resets this host."""

    msg = "the sanlock daemon has ended{what_next}"
    hint = "see 'journalctl -u sanlock'; no guest gets leases until it runs again"
    code = "VLH-L313"


class SanlockSpaceLost(LeaseError):
    """The daemon has given the lockspace up, or somebody took it away."""

    msg = "lost: lockspace {space}: {why}"
    hint = "see the log of sanlock"
    code = "VLH-L314"


class SanlockTooShort(LeaseError):
    """With its watchdog a healthy lockspace of N = 1 would be reset."""

    msg = "io_timeout is {io_timeout}, and the sanlock daemon of this host uses a watchdog, which needs 2 or more"
    hint = "set io_timeout in qemu-sanlock.conf, the same on all hosts"
    code = "VLH-L315"
