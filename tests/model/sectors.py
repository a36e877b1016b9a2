# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sectors of the model, what they contain, and what a read of them answers.

Slots are sectors: 0 the leader, h the own sector of host h, H+h its delta record. What a sector contains
is a small number (`contents`).
"""

from __future__ import annotations

from vlhook.leases.effects import LOCKSPACE, RESOURCE, HostView, Read, Write
from vlhook.leases.records import DELTA_MAGIC, PAXOS_MAGIC, Leader, pad_name

from .runs import NO_REQUEST, SECTOR, TINY, TINY_FLAG

POISON = b"\xee" * SECTOR
"""Stands where a ballot's read passes over sectors that are no host's: nothing may be concluded from them."""
SPACE, NAME = b"MODEL", b"lease"


class Sectors:
    """Of one setup with so many hosts."""

    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        self.contents: list[bytes] = []
        self._content_ids: dict[bytes, int] = {}

    def content(self, data: bytes) -> int:
        ident = self._content_ids.get(data)
        if ident is None:
            ident = self._content_ids[data] = len(self.contents)
            self.contents.append(data)
        return ident

    def first_leader(self) -> int:
        leader = Leader(
            PAXOS_MAGIC, 0x00060004, TINY_FLAG, SECTOR, self._hosts, TINY.max_hosts, 0, 0, 0,
            pad_name(SPACE), pad_name(NAME), 0, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        return self.content(leader.sealed().sector(TINY))

    def delta(self, host: int, generation: int, free: bool = False) -> int:
        record = Leader(
            DELTA_MAGIC, 0x00030004, TINY_FLAG, SECTOR, 0, 1, host, generation, 0,
            pad_name(SPACE), pad_name(b"host%d" % host), 0 if free else 500, 0, 0, 0, 10, 0, 0, 0,
        )  # fmt: skip
        return self.content(record.sealed().sector(TINY))

    def blank(self) -> int:
        return self.content(bytes(SECTOR))

    def slots(self, effect: Read | Write, with_leader: bool = False) -> tuple[int, ...]:
        hosts = self._hosts
        length = effect.length if isinstance(effect, Read) else len(effect.data)
        first = effect.offset // SECTOR
        if effect.area == LOCKSPACE:
            assert length == SECTOR
            return (hosts + first + 1,)
        assert effect.area == RESOURCE
        sectors = range(first, first + length // SECTOR)
        slots = tuple(s - 1 if s else 0 for s in sectors if s != 1 and s <= hosts + 1)
        return slots if with_leader or len(sectors) in (1, TINY.area // SECTOR) else slots[1:]

    def assemble(self, effect: object, got: tuple[int, ...], with_leader: bool) -> bytes:
        assert isinstance(effect, Read)
        if effect.length == SECTOR:
            return self.contents[got[0]]
        if with_leader:
            leader, *hosts = (self.contents[content] for content in got)
            return b"".join([leader, NO_REQUEST, *hosts])
        hosts = [self.contents[content] for content in got[-self._hosts :]]
        whole = len(got) > self._hosts
        leader, request = (self.contents[got[0]], NO_REQUEST) if whole else (POISON, POISON)
        return b"".join([leader, request, *hosts]).ljust(effect.length, b"\0")

    def view(self, key: tuple[str, bool, int]) -> HostView:
        """What renewals saw of a host: its record as it is; last changed just now, or too long ago."""
        _, dead, content = key
        record = Leader.decode(self.contents[content])
        live = -9000.0 if dead else 990.0
        return HostView(
            record.owner_id, record.owner_generation, record.timestamp, record.io_timeout,
            -9000.0, 990.0, live, True,
        )  # fmt: skip
