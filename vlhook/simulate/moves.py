# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that move, leases that are removed as unused, and hosts whose end an administrator confirms.

The order of things is that of `leases/claiming.py`, `keeper/cleaning.py` and `keeper/fenceack.py`. What libvirt and
QEMU do is simulated: a guest's CPUs stop where it was and run where it is claimed at one instant, if both
hosts and the claim are well; the QEMU that is left behind ends a while later.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..leases import claims, cleanup, fence, release
from ..leases.area import Identity, Lease
from ..leases.claims import Claimed
from ..leases.effects import Sleep, Steps
from ..leases.errors import Abandoned, Cleared, FenceRefused, HostIdInUse, LeaseError, NotMember, StorageError
from ..leases.geometry import FILE
from ..leases.holder import CLEANING, INCOMING, RUNNING, HolderRecord
from ..leases.release import Held
from . import history, keeper, plan
from .disk import Violation
from .host import Entry, Host, Task, name_of

if TYPE_CHECKING:
    from .world import World

CLEANER = HolderRecord(0, 0, 0, 1, bytes(16), CLEANING, "", "")


def record_of(entry: Entry, state: int = RUNNING) -> HolderRecord:
    return HolderRecord(0, 0, 0, 1, entry.guest_id.to_bytes(16, "big"), state, "", "")


def do(world: World, host: Host, action: plan.Action) -> None:
    if action.what == plan.MOVE:
        begin(world, host, action.lease, action.seconds, action.patience)
    elif action.what == plan.CLEAN:
        clean(world, host, action.lease)
    else:
        confirm_off(world, host, action.count)


# ---------------------------------------------------------------------- a guest moves


def begin(world: World, host: Host, lease: str, seconds: float, patience: float) -> None:
    """The guest that has `lease` is to move to `host`; its memory takes `seconds`."""
    source = next((h for h in world.hosts if h.up and _runs(h.entries.get(lease))), None)
    if source is None or lease in host.entries or not host.running or host.why_not():
        return
    if host.stopped_until > world.now:
        return
    leaving = source.entries[lease]
    entry = host.entries[lease] = Entry(lease, False, leaving.seconds, patience, 0)
    entry.area, entry.guest_id, entry.incoming = leaving.area, leaving.guest_id, True
    world.record(host, entry, history.BEGIN)
    steps = claims.claim(keeper.lease_of(lease), host.identity, record_of(entry))
    entry.task = Task(host, lease, steps, partial(_claimed, host, entry, source, seconds), entry.area)
    world.push(patience, entry.task.cancel, None)
    entry.task.step()


def _runs(entry: Entry | None) -> bool:
    return entry is not None and entry.guest and not entry.shared and entry.held is not None


def _claimed(
    host: Host, entry: Entry, source: Host, seconds: float, claimed: object, error: LeaseError | None
) -> None:
    entry.task = None
    if error:
        keeper.refused(host, entry, error)
        return
    assert isinstance(claimed, Claimed)
    entry.claimed = claimed
    host.world.claimed(host, entry)
    look_after(host, entry)
    host.world.push(seconds, partial(_arrives, host, entry, source, source.epoch), None)


def look_after(host: Host, entry: Entry) -> None:
    entry.task = Task(host, entry.lease, _looks(host, entry), partial(_converted, host, entry), entry.area)
    entry.task.step()


def _looks(host: Host, entry: Entry) -> Steps[Held]:
    lease, me, marked = keeper.lease_of(entry.lease), host.identity, False
    assert entry.claimed
    geo = entry.claimed.geometry
    while True:
        runs = entry.guest
        try:
            if runs and not marked:
                yield from claims.mark_running(lease, me, record_of(entry), geo)
                marked = True
            held = yield from claims.try_convert(lease, me, record_of(entry, RUNNING if runs else INCOMING), geo)
        except StorageError:
            held = None
        if held:
            return held
        yield Sleep(claims.POLL_SECONDS)


def _converted(host: Host, entry: Entry, held: object, error: LeaseError | None) -> None:
    entry.task = None
    if host.entries.get(entry.lease) is not entry:
        return
    if isinstance(error, NotMember) or (error and host.why_not()):
        host.world.unclaimed(host, entry)
        if not entry.guest:
            del host.entries[entry.lease]
    elif isinstance(error, Abandoned):
        withdraw(host, entry)
    elif error:
        raise Violation(f"host {host.id}, lease {entry.lease}: its claim ended with {type(error).__name__}: {error}")
    else:
        assert isinstance(held, Held)
        converted(host, entry, held)


def converted(host: Host, entry: Entry, held: Held) -> None:
    entry.held, entry.claimed = held, None
    host.world.record(host, entry, history.CONVERTED)
    if entry.guest:
        host.world.unclaimed(host, entry)
    if not entry.guest and not entry.incoming:
        keeper.give_back(host, entry)


def _arrives(host: Host, entry: Entry, source: Host, epoch: int, _: object) -> None:
    """The memory is there: the guest goes on here, if all is well; else it stays, or has ended, there."""
    if host.entries.get(entry.lease) is not entry or not entry.incoming or not host.up:
        return
    left = source.entries.get(entry.lease)
    well = source.up and _runs(left) and left is not None and left.guest_id == entry.guest_id
    if not well or host.why_not() or host.stopped_until > host.world.now or host.rng.random() < 0.2:
        give_up(host, entry)
        return
    assert left
    host.world.released(source, left)
    left.left = True
    source.world.push(host.rng.random() * 20 * source.link.lag, partial(leaves, source), left)
    entry.incoming = False
    host.world.granted(host, entry)
    if entry.held:
        host.world.unclaimed(host, entry)
    host.world.push(entry.seconds, partial(keeper.guest_ends, host), entry)


def leaves(host: Host, entry: Entry) -> None:
    """The QEMU that was left behind has ended."""
    if host.entries.get(entry.lease) is not entry or not entry.left:
        return
    entry.left = False
    if host.running and not host.lost and entry.task is None:
        keeper.give_back(host, entry)


def give_up(host: Host, entry: Entry) -> None:
    """The guest does not come."""
    entry.incoming = False
    end(host, entry)


def end(host: Host, entry: Entry) -> None:
    """What was claimed for a guest that is not here, or not any more, is withdrawn or given back."""
    if entry.task:
        entry.task.cancel()
    elif host.running and not host.lost and entry.held:
        keeper.give_back(host, entry)


def withdraw(host: Host, entry: Entry) -> None:
    entry.claimed = None
    host.world.unclaimed(host, entry)
    steps = release.settle(keeper.lease_of(entry.lease), host.identity, FILE)
    entry.task = Task(host, entry.lease, steps, partial(keeper.gone, host, entry), entry.area)
    entry.task.step()


def take_over(host: Host, entry: Entry) -> None:
    """After a restart of the keeper: what became of the claim?"""
    lease, me = keeper.lease_of(entry.lease), host.identity
    entry.task = Task(host, entry.lease, _find(lease, me), partial(_found, host, entry), entry.area)
    entry.task.step()


def _find(lease: Lease, me: Identity) -> Steps[object]:
    while True:
        try:
            return (yield from claims.still_claimed(lease, me, FILE))
        except StorageError:
            yield Sleep(keeper.POLL_SECONDS)


def _found(host: Host, entry: Entry, found: object, error: LeaseError | None) -> None:
    entry.task = None
    if isinstance(error, Abandoned):
        withdraw(host, entry)
        return
    if error:
        raise Violation(f"host {host.id}, lease {entry.lease}: its claim is not found: {type(error).__name__}: {error}")
    if isinstance(found, Held):
        converted(host, entry, found)
    else:
        assert isinstance(found, Claimed)
        entry.claimed = found
        look_after(host, entry)
    if not entry.guest and not entry.incoming and host.entries.get(entry.lease) is entry and entry.claimed:
        end(host, entry)


# ---------------------------------------------------------------------- clean-up and fence-ack


def clean(world: World, host: Host, lease: str) -> None:
    """The lease is removed, if nobody uses it. One host at a time cleans a directory."""
    busy = any(e.cleans for h in world.hosts for e in h.entries.values()) or world.now < world.cleaned_until
    if busy or lease in host.entries or not host.running or host.why_not() or host.stopped_until > world.now:
        return
    entry = host.entries[lease] = Entry(lease, False, 0.0, 0.0, 0)
    entry.cleans = True
    steps = cleanup.clean(keeper.lease_of(lease), host.identity, CLEANER)
    entry.task = Task(host, lease, steps, partial(_cleaned, host, entry), entry.area)
    entry.task.step()


def _cleaned(host: Host, entry: Entry, _: object, error: LeaseError | None) -> None:
    entry.task = None
    if error and not isinstance(error, (*keeper.HARMLESS, Cleared, cleanup.NotRemoved)):
        raise Violation(f"host {host.id}, lease {entry.lease}: clean-up ended with {type(error).__name__}: {error}")
    if host.entries.get(entry.lease) is entry:
        del host.entries[entry.lease]


def confirm_off(world: World, host: Host, target: int) -> None:
    """An administrator says that host `target` is off, which is true, or else it lives and renews."""
    off = world.hosts[target - 1]
    if host is off or not host.running or host.why_not() or host.stopped_until > world.now:
        return
    if off.up and (off.why_not() or off.stopped_until > world.now or off.link.dark_until > world.now):
        return
    world.note(host, f"is told that host {target} is off")
    space = replace(host.space)
    Task(host, "", fence.end_membership(space, target, name_of(target)), partial(_confirmed, host, target)).step()


def _confirmed(host: Host, target: int, _: object, error: LeaseError | None) -> None:
    if error and not isinstance(error, (FenceRefused, HostIdInUse, NotMember, StorageError)):
        raise Violation(f"host {host.id}: ending host {target} ended with {type(error).__name__}: {error}")
    host.world.note(host, f"has {'not ' if error else ''}ended host {target}" + (f": {error}" if error else ""))
