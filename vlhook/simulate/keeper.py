# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a keeper adds to the protocol: joining, renewing, guests' leases, a restart in the same generation.

The order of things is that of `leases/membership.py` and `leases/native.py`, which
do it with threads.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..leases import delta, paxos, release
from ..leases.area import Identity, Lease
from ..leases.delta import Membership
from ..leases.effects import LOCKSPACE, Sleep, Steps, read
from ..leases.errors import (
    Abandoned,
    Busy,
    Cleared,
    HostIdInUse,
    LeaseError,
    LockspaceLost,
    NameInUse,
    NotMember,
    StorageError,
)
from ..leases.geometry import FILE
from ..leases.release import Held
from . import history, moves
from .disk import SPACE, Violation
from .host import Entry, Host, Task
from .plan import MOVES

RETRY_SECONDS = 0.5
POLL_SECONDS = 1.0
HARMLESS = (Busy, Abandoned, StorageError, NotMember, Cleared)
"""How an acquire may end without the lease. Anything else means damage, and here nobody damages."""


def lease_of(name: str) -> Lease:
    return Lease(SPACE, name.encode(), name, "lockspace", FILE)


def begin(host: Host, last: Membership | None = None) -> None:
    """The keeper starts; `last`: in the generation that its predecessor had."""
    Task(host, "", life(host, last), partial(_life_ended, host)).step()


def go_on(host: Host) -> None:
    """The keeper has long been there, and has just renewed."""
    Task(host, "", life(host, None, joined=True), partial(_life_ended, host)).step()


def _life_ended(host: Host, _: object, error: LeaseError | None) -> None:
    raise Violation(f"host {host.id}: its keeper ended: {error!r} {error}")


def life(host: Host, last: Membership | None, joined: bool = False) -> Steps[None]:
    if joined or (last and (yield from _resume(host, last))):
        yield from _renewals(host, look=not joined)
    while True:
        trace, host.member = host.trace, None
        while _leftovers(host):
            yield Sleep(POLL_SECONDS)
        try:
            member = yield from delta.acquire(host.space, trace)
        except (StorageError, NameInUse, HostIdInUse, NotMember):
            yield Sleep(POLL_SECONDS)
            continue
        host.joined(member)
        host.running = True
        host.world.note(host, f"has joined as generation {host.identity.generation}")
        _start_again(host)
        yield from _renewals(host)


def _start_again(host: Host) -> None:
    """A machine that has booted starts the guests again that it had, or was starting."""
    for entry in host.autostart:
        host.world.push(host.rng.random(), partial(_try_again, host), entry)
    host.autostart = []


def _leftovers(host: Host) -> bool:
    """Does anything of the lost generation live on? What no guest and no operation needs is forgotten."""
    for entry in list(host.entries.values()):
        if not entry.guest and entry.task is None:
            del host.entries[entry.lease]
    return bool(host.entries or host.link.inflight)


def _resume(host: Host, last: Membership) -> Steps[bool]:
    """Go on in the old generation, and find out about each lease (format document, 10)."""
    member: Membership | None = None
    while member is None:
        try:
            member = yield from delta.resume(host.space, last.record)
        except StorageError:
            yield Sleep(RETRY_SECONDS)
        except LockspaceLost as error:
            host.lose(error.reason())
        if host.is_lost():
            return False
    host.member = member
    host.world.note(host, "its keeper goes on in its generation")
    for entry in list(host.entries.values()):
        _take_over(host, entry)
    host.running = True
    return True


def _renewals(host: Host, look: bool = True) -> Steps[None]:
    """Renew until the host's own lease is lost. `look`: at the others first, so that their silence counts."""
    good = True
    if look:
        try:
            area = yield from read(LOCKSPACE, 0, FILE.area)
            host.observe(area)
        except StorageError:
            pass
    while not host.is_lost():
        wait = host.last_ok - host.suspended + 2 * host.space.io_timeout - host.clock()
        yield Sleep(max(wait, 0.0) if good else RETRY_SECONDS)
        assert host.member
        try:
            done = yield from delta.renew(host.member, good)
        except StorageError:
            good = False
        except LeaseError as error:
            host.lose(error.reason())
        else:
            good = True
            host.observe(done.area)
            if not host.is_lost() and host.age() < host.limit:
                host.renewed(done.membership)
            else:
                host.lose("the answer to its renewal came too late")


# ---------------------------------------------------------------------- guests


def start(
    host: Host, lease: str, shared: bool, seconds: float, patience: float, tries: int = 0, wait: bool = False
) -> None:
    """A guest is to start, to run for `seconds`; it is given up after `patience`, and tried again."""
    if not host.running or host.stopped_until > host.world.now or host.why_not() or lease in host.entries:
        return
    entry = host.entries[lease] = Entry(lease, shared, seconds, patience, tries)
    entry.area = host.world.leases[lease]
    entry.guest_id = host.world.next_guest()
    host.world.record(host, entry, history.BEGIN)
    record = moves.record_of(entry) if host.world.plan.profile == MOVES else None
    # Hosts of both kinds, for each must get on with the other.
    brief = host.id % 2 == 1
    steps = paxos.acquire(lease_of(lease), host.identity, shared=shared, wait=wait, record=record, brief=brief)
    entry.task = Task(host, lease, steps, partial(_acquired, host, entry), entry.area)
    host.world.push(patience, entry.task.cancel, None)
    entry.task.step()


def _acquired(host: Host, entry: Entry, held: object, error: LeaseError | None) -> None:
    entry.task = None
    if error:
        refused(host, entry, error)
        return
    assert isinstance(held, Held)
    entry.held = held
    if host.why_not() or entry.area is not host.world.leases[entry.lease]:
        give_back(host, entry)
        return
    host.world.granted(host, entry)
    host.world.push(entry.seconds, partial(guest_ends, host), entry)


def refused(host: Host, entry: Entry, error: LeaseError) -> None:
    """An attempt ended without the lease."""
    if not isinstance(error, HARMLESS):
        raise Violation(f"host {host.id}, lease {entry.lease}: acquire ended with {_show(error)}")
    host.world.refused(host, entry, error)
    del host.entries[entry.lease]
    if entry.tries:
        host.world.push(host.link.lag * 8 * host.rng.random(), partial(_try_again, host), entry)


def _try_again(host: Host, entry: Entry) -> None:
    if not host.world.is_calm:
        start(host, entry.lease, entry.shared, entry.seconds, entry.patience, max(0, entry.tries - 1))


def guest_ends(host: Host, entry: Entry) -> None:
    """The guest has shut down; from now on its lease may be given back."""
    if host.entries.get(entry.lease) is not entry or not entry.guest:
        return
    host.world.released(host, entry)
    if entry.claimed:
        moves.end(host, entry)
    elif host.running and not host.lost and entry.task is None:
        give_back(host, entry)


def give_back(host: Host, entry: Entry) -> None:
    assert entry.held
    host.world.unclaimed(host, entry)
    steps = _release(lease_of(entry.lease), host.identity, entry.held)
    entry.task = Task(host, entry.lease, steps, partial(gone, host, entry), entry.area)
    entry.task.step()


def _release(lease: Lease, me: Identity, held: Held) -> Steps[None]:
    while True:
        try:
            yield from release.release(lease, me, held)
            return
        except StorageError:
            yield Sleep(POLL_SECONDS)


def gone(host: Host, entry: Entry, _: object, error: LeaseError | None) -> None:
    host.world.unclaimed(host, entry)
    if error and not isinstance(error, (NotMember, Cleared)):
        raise Violation(f"host {host.id}, lease {entry.lease}: release ended with {_show(error)}")
    if host.entries.get(entry.lease) is entry:
        host.world.forgotten(host, entry)
        del host.entries[entry.lease]


def _show(error: LeaseError) -> str:
    return f"{type(error).__name__}: {error}"


# ---------------------------------------------------------------------- after a restart


def _take_over(host: Host, entry: Entry) -> None:
    me, lease = host.identity, lease_of(entry.lease)
    if entry.claimed:
        moves.take_over(host, entry)
        return
    if (entry.guest or entry.left or entry.incoming) and entry.held:
        steps: Steps[Any] = _find(lease, me, entry.held.lver, entry.shared)
        entry.task = Task(host, entry.lease, steps, partial(_found, host, entry), entry.area)
    else:
        steps = release.settle(lease, me, FILE)
        entry.task = Task(host, entry.lease, steps, partial(gone, host, entry), entry.area)
    entry.task.step()


def _find(lease: Lease, me: Identity, lver: int, shared: bool) -> Steps[Any]:
    while True:
        try:
            return (yield from release.still_held(lease, me, FILE, lver, shared))
        except StorageError:
            yield Sleep(POLL_SECONDS)


def _found(host: Host, entry: Entry, held: object, error: LeaseError | None) -> None:
    entry.task = None
    if error:
        raise Violation(f"host {host.id}, lease {entry.lease}: looking for it ended with {_show(error)}")
    if held is None:
        host.world.note(host, f"does not find its lease {entry.lease} again")
        host.kill(entry)
        return
    assert isinstance(held, Held)
    entry.held = held
    if not (entry.guest or entry.left or entry.incoming):
        give_back(host, entry)
