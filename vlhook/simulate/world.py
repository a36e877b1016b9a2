# SPDX-License-Identifier: LGPL-2.1-or-later
"""The event loop, what happens to hosts, and what must hold after every step.

Safety is checked where it could break: when a guest is granted a lease (nobody
else may hold it, unless both share it) and when a leader is written (no version
gets a second owner). In a calm phase all comes to rest, and then every lease must
be had by a living host: at once if it is free, within DEAD of its stated time if
its owner is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

from ..leases.delta import Membership
from ..leases.errors import LeaseError
from ..leases.geometry import FILE
from ..leases.hosts import HostTable
from ..leases.owner import CLOCK_SLACK, dead_seconds
from ..leases.records import Leader, pad_name
from . import history, keeper, moves, plan
from .disk import Area, Violation
from .history import Event
from .host import Entry, Host, name_of, rows_of
from .plan import Action, Plan

AT_ONCE = 20.0
"""Seconds of calm in which a free lease must be had."""
LONGEST = 600.0
"""Seconds that an I/O issued before the calm phase may still take."""
TOO_MANY = 400_000
"""Effects between two calm phases of a short run after which hosts count as chasing each other for ever."""


@lru_cache(maxsize=64)
def _fresh(hosts: int, lease: bytes, io_timeout: int, whole: bool) -> Area:
    return Area(hosts, lease, io_timeout, whole)


@lru_cache(maxsize=64)
def _standing(hosts: int, io_timeout: int) -> tuple[list[bytes], list[Leader], list[HostTable]]:
    """A lockspace that all hosts have joined: its sectors, their records, and what each saw of the others."""
    area = Area(hosts, b"", io_timeout, False)
    records = []
    for number in range(1, hosts + 1):
        fields = {**vars(Leader.decode(area.sectors[number - 1])), "owner_id": number, "owner_generation": 1}
        fields.update(resource_name=pad_name(name_of(number)), timestamp=1000 * number)
        records.append(Leader(**fields).sealed())
        area.write(number - 1, records[-1].sector(FILE))
    tables = []
    for number in range(1, hosts + 1):
        tables.append(HostTable())
        tables[-1].observe(b"".join(area.sectors), rows_of(area), 1000.0 * number)
    return area.sectors, records, tables


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


class World:
    """One run. `events` is its history; `lines`, if wanted, its story."""

    def __init__(self, what: Plan, whole_areas: bool = True, tell: bool = False) -> None:
        self.plan, self.io_timeout = what, what.io_timeout
        self.now = 0.0
        self.effects = self.alarms = self.grants = self.refusals = 0
        self.events: list[Event] = []
        self.lines: list[str] | None = [] if tell else None
        self._queue: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._serial = 0
        self.is_calm = False
        self._holders: dict[str, dict[int, Entry]] = {name: {} for name in what.leases}
        self._claims: dict[str, dict[int, Entry]] = {name: {} for name in what.leases}
        self._guests = 0
        self.cleaned_until = 0.0
        self._whole = whole_areas
        self.lockspace = _fresh(what.hosts, b"", what.io_timeout, whole_areas).copy()
        self.leases = {
            name: _fresh(what.hosts, name.encode(), what.io_timeout, whole_areas).copy() for name in what.leases
        }
        self.hosts = [self._host(number) for number in range(1, what.hosts + 1)]
        self._begin()

    def _host(self, number: int) -> Host:
        host = Host(self, number, self.plan.seed * 1000 + number, 1.0, 1000.0 * number)
        host.rate = 1 + plan.DRIFT * (2 * host.rng.random() - 1)
        return host

    def _begin(self) -> None:
        if self.plan.cold:
            for host in self.hosts:
                keeper.begin(host)
            return
        self.lockspace.sectors, records, tables = _standing(self.plan.hosts, self.io_timeout)
        self.lockspace.sectors = list(self.lockspace.sectors)
        for host in self.hosts:
            host.table.__dict__.update({k: _copied(v) for k, v in vars(tables[host.id - 1]).items()})
            host.joined(Membership(host.space, FILE, records[host.id - 1]))
            host.running = True
            keeper.go_on(host)

    # ------------------------------------------------------------------ events

    def push(self, wait: float, call: Callable[[Any], None], about: Any) -> None:
        self._serial += 1
        heappush(self._queue, (self.now + wait, self._serial, call, about))

    def run_until(self, at: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= at:
            self.now, _, call, about = heappop(queue)
            call(about)
        self.now = at

    def _run_while(self, going_on: Callable[[], bool], limit: float, what: str) -> None:
        """Raises Violation if it still goes on after `limit` seconds."""
        until, queue = self.now + limit, self._queue
        effects = self.effects + TOO_MANY
        while going_on():
            if not queue or queue[0][0] > until or self.effects > effects:
                raise Violation(f"{what} did not happen within {limit:.0f} s of calm")
            self.now, _, call, about = heappop(queue)
            call(about)

    def run(self) -> None:
        """Raises Violation."""
        shift = 0.0
        for _, action in self.plan.chosen():
            self.run_until(max(self.now, action.at + shift))
            if action.what == plan.CALM:
                self.calm()
                shift = self.now - action.at
            else:
                self._do(action)

    def _do(self, action: Action) -> None:
        host = self.hosts[action.host - 1]
        what = action.what
        if what == plan.START:
            keeper.start(host, action.lease, action.shared, action.seconds, action.patience, action.count)
        elif what == plan.BOOT:
            self.boot(host)
        elif what in plan.BY_PEOPLE:
            moves.do(self, host, action)
        elif what == plan.WEAK:
            link = host.link
            link.lag, link.fail, link.repeat = action.lag, action.fail, action.repeat
            link.tear, link.late = action.tear, action.late
        elif not host.up:
            return
        elif what == plan.CRASH:
            self.crash(host, "crashes")
        elif what == plan.STOP:
            host.stop(action.seconds)
        elif what == plan.TRAP:
            host.trap = action.seconds
        elif what == plan.DOOM:
            host.doom, host.doomed_for = action.count, action.seconds
        elif what == plan.SUSPEND:
            host.suspend(action.seconds)
        elif what == plan.DARK:
            host.link.dark_until = self.now + action.seconds
            self.note(host, f"its storage disappears for {action.seconds:.1f} s")
        else:
            self.restart(host)

    # ------------------------------------------------------------------ accidents

    def crash(self, host: Host, why: str) -> None:
        self.note(host, why)
        host.up = host.running = False
        host.epoch += 1
        host.stopped_until = host.trap = 0.0
        host.doom = 0
        for entry in list(host.entries.values()):
            was_up = entry.guest
            self._claims[entry.lease].pop(host.id, None)
            if was_up:
                self.lost(host, entry)
            if entry.cleans:
                self.cleaned_until = self.now + dead_seconds(self.io_timeout) + 10
            elif was_up or (entry.held is None and not entry.incoming and not entry.claimed):
                host.autostart.append(entry)
        host.entries.clear()
        host.link.crash()
        host.forget()

    def boot(self, host: Host) -> None:
        if host.up:
            return
        host.up = True
        host.base = 5 - host.rate * self.now
        host.suspended = 0.0
        self.note(host, "boots")
        keeper.begin(host)

    def restart(self, host: Host) -> None:
        """The keeper is killed; the next starts when the storage has answered what the old one had asked."""
        if host.stopped_until > self.now or not host.running:
            return
        last = host.member
        host.running = False
        host.epoch += 1
        host.trap = 0.0
        self.note(host, "its keeper is killed")
        for entry in host.entries.values():
            entry.task = None
        self._start_again((host, host.epoch, last))

    def _start_again(self, what: tuple[Host, int, Membership | None]) -> None:
        host, epoch, last = what
        if host.epoch != epoch:
            return
        if host.link.inflight or host.stopped_until > self.now:
            self.push(0.05, self._start_again, what)
            return
        if last is None or host.lost:
            for entry in list(host.entries.values()):
                if not entry.guest:
                    del host.entries[entry.lease]
        keeper.begin(host, last if last and not host.lost else None)

    # ------------------------------------------------------------------ holdings

    def granted(self, host: Host, entry: Entry) -> None:
        others = self._holders[entry.lease]
        entry.guest = True
        self.grants += 1
        self.record(host, entry, history.ACQUIRED)
        for number, other in others.items():
            if not (other.shared and entry.shared):
                raise Violation(f"lease {entry.lease} is held by hosts {number} and {host.id} at once")
        for number, claim in self._claims[entry.lease].items():
            if claim is not entry and not self.hosts[number - 1].why_not():
                raise Violation(f"host {host.id} has got lease {entry.lease} although host {number} claims it")
        others[host.id] = entry

    def released(self, host: Host, entry: Entry) -> None:
        self._drop(host, entry, history.RELEASE)

    def lost(self, host: Host, entry: Entry) -> None:
        """The guest ended because it had to; its lease is not given back but runs out."""
        self._drop(host, entry, history.LOST)
        self.unclaimed(host, entry)
        if entry.claimed and entry.task:
            entry.task.cancel()
        host.entries.pop(entry.lease, None)

    def _drop(self, host: Host, entry: Entry, what: str) -> None:
        entry.guest = False
        self._holders[entry.lease].pop(host.id, None)
        self.record(host, entry, what)

    def claimed(self, host: Host, entry: Entry) -> None:
        """No other host than the source gets the lease while this stands."""
        self._claims[entry.lease][host.id] = entry
        self.note(host, f"has claimed {entry.lease}")

    def unclaimed(self, host: Host, entry: Entry) -> None:
        if self._claims[entry.lease].get(host.id) is entry:
            del self._claims[entry.lease][host.id]

    def removed(self, host: Host, lease: str, area: Area) -> bool:
        """The file is unlinked; who comes now makes a new one. False: the name is another file's."""
        if self.leases[lease] is not area:
            return False
        if self._holders[lease]:
            raise Violation(f"host {host.id} has removed lease {lease}, which host {min(self._holders[lease])} holds")
        self.leases[lease] = _fresh(self.plan.hosts, lease.encode(), self.io_timeout, self._whole).copy()
        self.note(host, f"has removed {lease}")
        return True

    def next_guest(self) -> int:
        self._guests += 1
        return self._guests

    def refused(self, host: Host, entry: Entry, error: LeaseError) -> None:
        self.refusals += 1
        self.record(host, entry, history.REFUSED)
        if self.lines is not None:
            self.note(host, f"was refused {entry.lease}: {error.reason()}")

    def forgotten(self, host: Host, entry: Entry) -> None:
        if entry.held:
            self.record(host, entry, history.RELEASED)

    def record(self, host: Host, entry: Entry, what: str) -> None:
        mode = history.SHARED if entry.shared else history.EXCLUSIVE
        generation = host.member.identity.generation if host.member else 0
        # Versions begin anew with a new file.
        lver = entry.held.lver if entry.held and not self.plan.cleans() else 0
        event = Event(self.now, host.id, generation, entry.lease, what, mode, lver)
        self.events.append(event)
        if self.lines is not None:
            self.lines.append(str(event))

    def note(self, host: Host, text: str) -> None:
        if self.lines is not None:
            self.lines.append(f"{self.now:.3f} s: host {host.id} {text}")

    # ------------------------------------------------------------------ calm

    def calm(self) -> None:
        """Nothing goes wrong any more, and what has begun is over; then each lease must be had."""
        self.is_calm = True
        self.run_until(max([self.now, *(max(h.stopped_until, h.link.dark_until) for h in self.hosts if h.up)]))
        for host in self.hosts:
            host.link.clean(0.01)
            host.trap, host.doom = 0.0, 0
            for entry in list(host.entries.values()):
                if entry.guest:
                    keeper.guest_ends(host, entry)
                elif entry.left:
                    moves.leaves(host, entry)
                elif entry.incoming and entry.claimed:
                    moves.give_up(host, entry)
        begun = [(h.link, io) for h in self.hosts for io in h.link.inflight]
        self._run_while(lambda: any(io in link.inflight for link, io in begun), LONGEST, "the answer to an I/O")
        limit = 2.0 * (dead_seconds(self.io_timeout) + CLOCK_SLACK) + 10 * self.io_timeout
        up: list[Host] = []
        while not up:
            if not any(h.up for h in self.hosts):
                self.boot(self.hosts[0])
            self._run_while(lambda: any(h.up and not h.at_rest() for h in self.hosts), limit, "coming to rest")
            up = [h for h in self.hosts if h.up]
        for name in self.plan.leases:
            self._probe(up[self._serial % len(up)], name)
        self.is_calm = False

    def _probe(self, host: Host, name: str) -> None:
        leader = Leader.decode(self.leases[name].sectors[0])
        owner = self.hosts[leader.owner_id - 1] if leader.owner_id else None
        dead = owner is not None and not owner.up and not leader.free
        sharing = any(not h.up for h in self.hosts)
        limit = AT_ONCE
        if dead or sharing:
            limit += dead_seconds(self.io_timeout) + CLOCK_SLACK + 2 * self.io_timeout
        until = self.now + limit
        grants = self.grants
        while self.grants == grants:
            left = until - self.now
            if left <= 0:
                raise Violation(f"host {host.id} cannot take lease {name} although nobody holds it")
            keeper.start(host, name, False, 0.0, left, wait=True)
            self._run_while(lambda: bool(host.entries), limit + AT_ONCE, f"an answer for lease {name}")
            if self.grants == grants:
                self.run_until(self.now + 1.0)
