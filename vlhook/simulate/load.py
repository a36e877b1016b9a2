# SPDX-License-Identifier: LGPL-2.1-or-later
"""The load of a whole site on its storage: renewals, and the storm of starts after a power failure.

    python3 -m vlhook.simulate.load [--hosts N] [--guests N] … [--plot FILE.svg]

What a host asks of the storage is asked by the shipped code: joining and
renewing are the generators of `leases/delta.py` on a lockspace with all its
bytes; of taking a lease, `leases/paxos.py` is run once for each host on the
area of a lease that it held when the power failed, and each of its leases asks
for the same again. Storage is a server with a limit of operations and of bytes
a second, and one queue; several servers, each with a part of the leases, are
several lease directories. Seconds are those of the site, not of this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from typing import Any, Optional

from ..hook import DEADLINE_SECONDS
from ..leases import delta
from ..leases.delta import Membership, Space
from ..leases.directory import format_lockspace
from ..leases.effects import LOCKSPACE, Now, Read, Sleep, Steps, Write
from ..leases.geometry import FILE
from ..leases.owner import fail_seconds
from .site import CLOCK_AT_BOOT, SPACE, Server, Site, record_of, steady, steps_of_a_start

LOOK_UPS = 3
"""Small operations beside a lease's own, for NFS: look the file up, open it, close it."""


@dataclass
class Figures:
    """What a storm was like. Times in seconds since the power came back; `age`: of the oldest renewal that was good."""

    site: Site
    joined: float = 0.0
    runs: float = 0.0
    operations: int = 0
    bytes: int = 0
    peak_operations: int = 0
    peak_bytes: int = 0
    busy: float = 0.0
    slowest_start: float = 0.0
    slowest_renewal: float = 0.0
    age: float = 0.0
    late: int = 0
    """Starts whose leases took longer than the hook waits by default: they would be refused."""
    lost: int = 0
    """Hosts whose lease ran out, because the storage was too busy for their renewals."""

    def as_dict(self) -> dict[str, Any]:
        runs = self.runs if self.runs != float("inf") else None
        return {**asdict(self), "leases": self.site.leases, "runs": runs}


@dataclass
class _Machine:
    """One host in one lease directory."""

    number: int
    directory: int
    booted: float
    member: Optional[Membership] = None
    renewed: float = 0.0
    lost: bool = False


@dataclass
class _Host:
    number: int
    memberships: list[_Machine] = field(default_factory=list)
    to_start: int = 0
    starting: int = 0


class Storm:
    """Every host boots, joins every lease directory, and starts all its guests."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.figures = Figures(site)
        self.servers = [Server(site) for _ in range(site.directories)]
        self._now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._left = site.hosts * site.guests
        lockspace = bytearray(format_lockspace(FILE, SPACE, site.io_timeout))
        for number in range(1, site.hosts + 1):
            at = FILE.delta(number)
            lockspace[at : at + FILE.sector] = record_of(number, site).sector(FILE)
        self._lockspaces = [bytearray(lockspace) for _ in self.servers]
        self._asked: dict[int, list[int]] = {}

    def run(self) -> Figures:
        for number in range(1, self.site.hosts + 1):
            host = _Host(number, to_start=self.site.guests)
            boot = self.site.boot * number / self.site.hosts
            host.memberships = [_Machine(number, i, boot) for i in range(self.site.directories)]
            for machine in host.memberships:
                space = Space(SPACE, "lockspace", number, b"host-%d" % number, self.site.io_timeout)
                self._at(boot, partial(self._step, machine, delta.acquire(space), partial(self._joined, host, machine)))
        while self._queue and self._left and self._now < self.site.longest:
            self._now, _, act = heappop(self._queue)
            act()
        if self._left:
            self.figures.runs = float("inf")
        return self._summed()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._queue, (when, self._serial, act))

    def _step(
        self, machine: _Machine, steps: Steps[Any], done: Callable[[Any], None], answer: object = None
    ) -> None:
        server, area = self.servers[machine.directory], self._lockspaces[machine.directory]
        while True:
            try:
                effect = steps.send(answer)
            except StopIteration as stop:
                done(stop.value)
                return
            answer = None
            if isinstance(effect, Now):
                answer = CLOCK_AT_BOOT + self._now - machine.booted
            elif isinstance(effect, Sleep):
                self._at(self._now + effect.seconds, partial(self._step, machine, steps, done))
                return
            elif isinstance(effect, Read):
                assert effect.area == LOCKSPACE
                at = server.io(self._now, effect.length)
                self._at(at, partial(self._read, machine, steps, done, area, effect))
                return
            elif isinstance(effect, Write):
                at = server.io(self._now, len(effect.data))
                area[effect.offset : effect.offset + len(effect.data)] = effect.data
                self._at(at, partial(self._step, machine, steps, done))
                return

    def _read(
        self, machine: _Machine, steps: Steps[Any], done: Callable[[Any], None], area: bytearray, effect: Read
    ) -> None:
        self._step(machine, steps, done, bytes(area[effect.offset : effect.offset + effect.length]))

    def _joined(self, host: _Host, machine: _Machine, member: Membership) -> None:
        machine.member, machine.renewed = member, self._now
        self._next_renewal(machine, self._now)
        if all(one.member for one in host.memberships):
            self.figures.joined = max(self.figures.joined, self._now)
            for _ in range(self.site.at_once):
                self._start_next(host)

    # -- renewals

    def _next_renewal(self, machine: _Machine, begun: float) -> None:
        when = max(self._now, begun + 2 * self.site.io_timeout)
        self._at(when, partial(self._renew, machine))

    def _renew(self, machine: _Machine) -> None:
        assert machine.member
        self._step(machine, delta.renew(machine.member, True), partial(self._renewed, machine, self._now))

    def _renewed(self, machine: _Machine, begun: float, done: delta.Renewed) -> None:
        figures = self.figures
        age = self._now - machine.renewed
        figures.age = max(figures.age, age)
        figures.slowest_renewal = max(figures.slowest_renewal, self._now - begun)
        if age >= fail_seconds(self.site.io_timeout) and not machine.lost:
            machine.lost = True
            figures.lost += 1
        machine.member, machine.renewed = done.membership, begun
        self._next_renewal(machine, begun)

    # -- guests

    def _start_next(self, host: _Host) -> None:
        if not host.to_start:
            return
        host.to_start -= 1
        asked = self._asked.get(host.number)
        if asked is None:
            asked = self._asked[host.number] = steps_of_a_start(host.number)
        guest = _Start(self._now, self.site.disks)
        for disk in range(self.site.disks):
            # Leases are spread by their names, which are hashes.
            server = self.servers[(host.number * 7919 + host.to_start * 31 + disk) % len(self.servers)]
            self._take(host, guest, server, iter(asked), LOOK_UPS)

    def _take(self, host: _Host, guest: _Start, server: Server, asked: Iterator[int], more: int = 0) -> None:
        size = next(asked, -1)
        if size >= 0:
            at = server.io(self._now, size, 1 + more)
            self._at(at, partial(self._take, host, guest, server, asked))
            return
        guest.left -= 1
        if not guest.left:
            took = self._now - guest.begun
            self.figures.slowest_start = max(self.figures.slowest_start, took)
            self.figures.late += took > DEADLINE_SECONDS
            self._at(self._now + self.site.start, partial(self._runs, host))

    def _runs(self, host: _Host) -> None:
        self._left -= 1
        self.figures.runs = self._now
        self._start_next(host)

    def _summed(self) -> Figures:
        figures = self.figures
        seconds: dict[int, list[int]] = {}
        for server in self.servers:
            for second, (operations, size) in server.seconds.items():
                tally = seconds.setdefault(second, [0, 0])
                tally[0] += operations
                tally[1] += size
        figures.operations = sum(tally[0] for tally in seconds.values())
        figures.bytes = sum(tally[1] for tally in seconds.values())
        figures.peak_operations = max(tally[0] for tally in seconds.values())
        figures.peak_bytes = max(tally[1] for tally in seconds.values())
        figures.busy = max(server.busy for server in self.servers) / self._now
        return figures


@dataclass
class _Start:
    begun: float
    left: int


# ------------------------------------------------------------------------------- the command


COLUMNS = ("hosts", "leases", "directories", "at once", "joined", "all run", "slowest start", "GB read", "peak GB/s",
           "peak op/s", "slowest renewal", "oldest", "late", "lost")  # fmt: skip


def row(figures: Figures) -> tuple[str, ...]:
    site = figures.site
    return (
        str(site.hosts), str(site.leases), str(site.directories), str(site.at_once), f"{figures.joined:.0f} s",
        f"{figures.runs:.0f} s", f"{figures.slowest_start:.1f} s", f"{figures.bytes / 1e9:.0f}",
        f"{figures.peak_bytes / 1e9:.2f}", str(figures.peak_operations), f"{figures.slowest_renewal:.1f} s",
        f"{figures.age:.0f} s", str(figures.late), str(figures.lost),
    )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m vlhook.simulate.load", description=(__doc__ or "").split("\n")[0])
    for name, default in asdict(Site()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), nargs="+", default=[default], metavar="N",
            help="several: a row for each [%(default)s]",
        )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one object a row")
    return parser


def sites(options: dict[str, list[Any]]) -> Iterator[Site]:
    """Each combination of what was given."""
    combined = [Site()]
    for name, values in options.items():
        combined = [replace(site, **{name: value}) for site in combined for value in values]
    yield from combined


def main(argv: Sequence[str] | None = None) -> int:
    options = vars(_parser().parse_args(argv))
    as_json = options.pop("json")
    rows = []
    for site in sites(options):
        rest, figures = steady(site), Storm(site).run()
        if as_json:
            sys.stdout.write(json.dumps({**figures.as_dict(), "steady": asdict(rest)}) + "\n")
            sys.stdout.flush()
            continue
        rows.append((*row(figures), f"{rest.bytes / 1e6:.0f} MB/s, {rest.share:.0%}"))
    if rows:
        sys.stdout.writelines(f"{line}\n" for line in table((*COLUMNS, "at rest"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
