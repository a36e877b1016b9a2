# SPDX-License-Identifier: LGPL-2.1-or-later
"""A site of many hosts, its storage, and what the shipped code asks of it, for `load.py`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..leases import delta, paxos
from ..leases.area import Identity, Lease
from ..leases.delta import Membership, Space
from ..leases.directory import format_lockspace, format_resource
from ..leases.effects import Member, Now, Random, Read, Seen, Steps, Write
from ..leases.geometry import FILE
from ..leases.records import Leader, pad_name

SPACE, NAME = b"SITE", b"lease"
CLOCK_AT_BOOT = 30.0


@dataclass(frozen=True)
class Site:
    """`at_once`: guests that a host starts at the same time. `start`: seconds that a start takes beside its leases.

    `boot`: seconds within which the hosts are up again, spread evenly. `longest`: seconds after which what does not
    run yet counts as never. Of each of `directories` servers:
    `operations` and `bandwidth` (bytes) a second, `latency` in seconds.
    """

    hosts: int = 2000
    guests: int = 50
    disks: int = 2
    directories: int = 1
    io_timeout: int = 10
    at_once: int = 1
    start: float = 1.0
    boot: float = 120.0
    operations: int = 50_000
    bandwidth: int = 1_100_000_000
    latency: float = 0.0005
    longest: float = 7200.0

    @property
    def leases(self) -> int:
        return self.hosts * self.guests * self.disks


@dataclass(frozen=True)
class Steady:
    """A second of the site at rest: nothing but renewals."""

    operations: float
    bytes: float
    share: float
    """Of each server's bandwidth."""


class Server:
    """One queue; an I/O waits for all that came before it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._free_at = 0.0
        self.busy = 0.0
        self.seconds: dict[int, list[int]] = {}

    def io(self, now: float, size: int, operations: int = 1) -> float:
        """The time at which an I/O that is asked for now is answered."""
        takes = operations / self._site.operations + size / self._site.bandwidth
        self._free_at = max(now, self._free_at) + takes
        self.busy += takes
        tally = self.seconds.setdefault(int(self._free_at), [0, 0])
        tally[0] += operations
        tally[1] += size
        return self._free_at + self._site.latency


def steps_of_a_start(host_id: int, held: bool = True) -> list[int]:
    """Bytes of each I/O of taking a lease: one the host held when the power failed, or a free one."""
    area = bytearray(format_resource(FILE, SPACE, NAME))
    lease = Lease(SPACE, NAME, "lease", "lockspace", FILE)
    if held:
        _run(paxos.acquire(lease, Identity(host_id, 1)), area)
    return _run(paxos.acquire(lease, Identity(host_id, 2)), area)


def _run(steps: Steps[Any], area: bytearray) -> list[int]:
    asked: list[int] = []
    answer: object = None
    while True:
        try:
            effect = steps.send(answer)
        except StopIteration:
            return asked
        answer = None
        if isinstance(effect, Read):
            asked.append(effect.length)
            answer = bytes(area[effect.offset : effect.offset + effect.length])
        elif isinstance(effect, Write):
            asked.append(len(effect.data))
            area[effect.offset : effect.offset + len(effect.data)] = effect.data
        elif isinstance(effect, Now):
            answer = CLOCK_AT_BOOT
        elif isinstance(effect, Random):
            answer = 0.5
        else:
            assert isinstance(effect, (Member, Seen))


def steady(site: Site) -> Steady:
    """What all hosts' renewals ask for, each host being a member of every lease directory."""
    member = Membership(Space(SPACE, "lockspace", 1, b"h", site.io_timeout), FILE, record_of(1, site))
    area = bytearray(format_lockspace(FILE, SPACE, site.io_timeout))
    area[:FILE.sector] = member.record.sector(FILE)
    asked = _run(delta.renew(member, True), area)
    renewals = site.hosts * site.directories / (2.0 * site.io_timeout)
    a_second = renewals * sum(asked)
    return Steady(renewals * len(asked), a_second, a_second / site.directories / site.bandwidth)


def record_of(host_id: int, site: Site) -> Leader:
    """The record of a host that was alive when the power failed."""
    blank = Leader.decode(format_lockspace(FILE, SPACE, site.io_timeout)[:FILE.sector])
    name = pad_name(b"host-%d" % host_id)
    return replace(blank, owner_id=host_id, owner_generation=1, resource_name=name, timestamp=1000).sealed()
