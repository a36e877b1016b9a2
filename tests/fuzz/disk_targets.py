# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is read from the lease directory, which any host of the network can write.

An input of these is small and says how a hostile area of 1 MiB looks: a byte of flags, a head sector, then for each
further sector its number and its bytes. With flag 1 the checksums are made right, so that what lies behind them
is reached; an attacker can do that as well.
"""

from __future__ import annotations

import json
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.fuzz.fuzzer import MIB, Target, untraced
from tests.leases.images import image, names
from vlhook.cli.dump import _lines as shown
from vlhook.keeper.messages import refusal
from vlhook.leases import delta, directory, hostids, paxos, release
from vlhook.leases.area import Identity, Lease
from vlhook.leases.crc32c import crc32c
from vlhook.leases.delta import Space
from vlhook.leases.effects import LOCKSPACE, RESOURCE, Member, Now, Random, Read, Seen, Sleep, Steps, Write
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import AreaTooShort, LeaseError
from vlhook.leases.geometry import FILE, geometry
from vlhook.leases.holder import HolderRecord, decode_holder
from vlhook.leases.hosts import HostTable
from vlhook.leases.inspect import inspect, with_lockspace
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.records import HOLDER_AT, Dblock, Leader, ModeBlock, bitmap_hosts, host_sector, pad_name
from vlhook.leases.release import Held

SPACE, NAME = LOCKSPACE_NAME.encode(), b"289c8a34e2061dec2f707f71b24ad50a"
LEASE = Lease(SPACE, NAME, "/leases/x", "/leases/space", FILE)
ME = Identity(3, 5)
MOST_STEPS = 8000
"""A host with io_timeout 255 is watched, second by second, for 2100 s before its id is taken."""
SECTOR = 512


def unfold(data: bytes, fresh: bytes) -> bytearray:
    """The area that an input describes; what it does not say is as in `fresh`."""
    area = bytearray(fresh)
    sums = bool(data[:1] and data[0] & 1)
    head, rest = data[1 : 1 + SECTOR], data[1 + SECTOR :]
    area[: len(head)] = head
    if sums:
        area[168:172] = struct.pack("<I", crc32c(area[:168]))
    for at in range(0, len(rest), SECTOR + 2):
        part = rest[at : at + SECTOR + 2]
        if len(part) < 10:
            break
        number, sector = int.from_bytes(part[:2], "little") % 2048, bytearray(part[2:].ljust(SECTOR, b"\0"))
        if sums:
            small = sector[:4] == b"\x10\x20\x21\x12"
            end, where = (168, 168) if small else (48, 48)
            sector[where : where + 4] = struct.pack("<I", crc32c(sector[:end]))
        area[number * SECTOR : (number + 1) * SECTOR] = sector
    return area


def fold(area: bytes) -> bytes:
    """An input that unfolds to such an area, with its checksums made right."""
    parts = [b"\1", area[:SECTOR]]
    for number in range(1, 2048):
        sector = area[number * SECTOR : (number + 1) * SECTOR]
        if any(sector) and len(parts) < 12:
            parts += [number.to_bytes(2, "little"), sector]
    return b"".join(parts)


FRESH_LEASE = directory.format_resource(FILE, SPACE, NAME)
FRESH_SPACE = directory.format_lockspace(FILE, SPACE, 1)
FEW = geometry(4096, MIB)
FEW_SPACE = directory.format_lockspace(FEW, SPACE, 1)
"""Of 250 hosts: reading one of 2000 under trace takes too long."""
LEASES = [fold(image(name).ljust(MIB, b"\0")[:MIB].replace(b"RES1", NAME[:4])) for name in names("resource")[:16]]
SPACES = [fold(image(name)[:MIB]) for name in names("lockspace")[:6]]


def few_space(**changes: object) -> bytes:
    area = bytearray(FEW_SPACE)
    for host_id in (1, 7):
        record = replace(Leader.decode(FEW_SPACE), owner_id=host_id, resource_name=pad_name(b"h"), **changes)
        area[FEW.delta(host_id) : FEW.delta(host_id) + 200] = record.sealed().encode()
    return fold(bytes(area))


FEW_SPACES = [few_space(owner_generation=1, timestamp=9), few_space(owner_generation=2), few_space(timestamp=9)]


def owned_area(block: Dblock, mode: ModeBlock, holder: bytes, **changes: object) -> bytes:
    leader = replace(Leader.decode(FRESH_LEASE), **changes).sealed()
    area = bytearray(FRESH_LEASE)
    area[:SECTOR] = leader.sector(FILE)
    area[FILE.dblock(1) : FILE.dblock(1) + SECTOR] = host_sector(FILE, block, mode, holder)
    return fold(bytes(area))


RECORD = HolderRecord(1, 1, 4, 1_700_000_000, bytes(16), 1, "web", "/images/web.img").encode()
OWNED = [
    owned_area(Dblock(1, 1, 1, 1, 1000, 4), ModeBlock(), RECORD, lver=4, owner_id=1, owner_generation=1, timestamp=9),
    owned_area(Dblock(1, 1, 1, 1, 1000, 4, 1), ModeBlock(1, 1), RECORD, lver=4, owner_id=1, owner_generation=1),
    owned_area(Dblock(1, 1, 3, 5, 1000, 5), ModeBlock(), b"", lver=4, owner_id=3, owner_generation=5, timestamp=9),
]


def split(data: bytes) -> tuple[bytes, bytes]:
    """One input for two areas."""
    at = int.from_bytes(data[:2], "little")
    return data[2 : 2 + at], data[2 + at :]


def joined(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(2, "little") + first + second


class Loops(AssertionError):
    pass


def drive(steps: Steps[object], areas: dict[str, bytearray], table: HostTable) -> object:
    """As the keeper would, on these areas; and nothing is written where this host must not write."""
    now, answer, error = 1000.0, None, None
    for _ in range(MOST_STEPS):
        try:
            effect = steps.throw(error) if error else steps.send(answer)
        except StopIteration as stop:
            return stop.value
        answer, error = None, None
        if isinstance(effect, Read):
            area = areas[effect.area]
            if effect.offset + effect.length > 8 * MIB:
                raise AssertionError(f"it reads {effect}")
            answer = bytes(area[effect.offset : effect.offset + effect.length])
            if len(answer) < effect.length:
                error = AreaTooShort(where=effect.area, size=len(area), needed=effect.offset + effect.length)
        elif isinstance(effect, Write):
            _may_write(effect)
            areas[effect.area][effect.offset : effect.offset + len(effect.data)] = effect.data
        elif isinstance(effect, Sleep):
            now += effect.seconds
        elif isinstance(effect, Now):
            answer = now
        elif isinstance(effect, Random):
            answer = 0.5
        elif isinstance(effect, Seen):
            answer = table.get(effect.host_id)
        else:
            assert isinstance(effect, Member)
    raise Loops("it does not come to an end")


def _may_write(effect: Write) -> None:
    if effect.area == LOCKSPACE:
        own = effect.offset == (ME.host_id - 1) * len(effect.data)
    else:
        own = effect.offset % len(effect.data) == 0 and effect.offset // len(effect.data) in (0, ME.host_id + 1)
    if not own and any(effect.data):
        raise AssertionError(f"it writes to byte {effect.offset} of the {effect.area}")


def take(data: bytes) -> None:
    first, second = split(data)
    lease, space = unfold(first, FRESH_LEASE), unfold(second, FRESH_SPACE)
    table = HostTable()
    for at in (900.0, 995.0):
        untraced(lambda at=at: table.observe(bytes(space), FILE, at))  # type: ignore[misc]
    flags = data[2] if len(data) > 2 else 0
    areas = {RESOURCE: lease, LOCKSPACE: space}
    try:
        held = drive(paxos.acquire(LEASE, ME, shared=bool(flags & 2)), areas, table)
        assert isinstance(held, Held)
        drive(release.release(LEASE, ME, held), areas, table)
    except LeaseError as error:
        line = refusal("web", Refused([(Want(NAME.decode(), LOCKSPACE_NAME, False, "/images/web.img"), error)]), "/d")
        if "\n" in line:
            raise AssertionError(f"more than one line: {line!r}") from None
        raise


def clean_up(data: bytes) -> None:
    areas = {RESOURCE: unfold(data, FRESH_LEASE), LOCKSPACE: bytearray(FRESH_SPACE)}
    drive(release.still_held(LEASE, ME, FILE, 5, False), areas, HostTable())
    drive(release.settle(LEASE, ME, FILE), areas, HostTable())


def join(data: bytes) -> None:
    space = unfold(data, FRESH_SPACE)
    member = drive(delta.acquire(Space(SPACE, "/leases/space", ME.host_id, b"me", 1)), {LOCKSPACE: space}, HostTable())
    assert isinstance(member, delta.Membership)
    drive(delta.renew(member, True), {LOCKSPACE: space}, HostTable())


def look(data: bytes) -> None:
    first, second = split(data)
    table, space = HostTable(), bytes(unfold(second, FEW_SPACE))
    untraced(lambda: table.observe(FEW_SPACE, FEW, 1.0))
    table.observe(space, FEW, 2.0)
    for host_id in table.rows():
        bitmap_hosts(space[FEW.delta(host_id) :][:SECTOR])
    report = inspect(bytes(unfold(first, FRESH_LEASE)))
    report = with_lockspace(report, inspect(space))
    json.dumps(report.as_dict(), default=repr)
    for one in (report, inspect(space)):
        list(shown(one, Path("x"), True))


def holder(data: bytes) -> None:
    record = bytearray(data.ljust(SECTOR - HOLDER_AT, b"\0"))
    record[64:68] = struct.pack("<I", crc32c(record[:64] + record[68:]))
    found = decode_holder(bytes(record))
    if found:
        found.uuid_text()
        found.encode()


def note(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, ".vlhook-host-3").write_bytes(data)
        found = hostids.look(folder)
        machine = hostids.Machine("mark", "node", "boot")
        found.taken_by_other(3, machine, "me")
        found.choose(machine, "me", 3)
        str(hostids.noted_for_other(folder, 3, machine))


NOTE = b'{"host_id": 3, "machine": {"mark": "m", "node": "n", "boot_id": "b"}, "since": 1700000000}'
TARGETS = [
    Target("lease", take, [joined(one, SPACES[i % len(SPACES)]) for i, one in enumerate(OWNED + LEASES)],
           memory=24 * MIB, lines=200_000),
    Target("clean-up", clean_up, OWNED + LEASES, memory=24 * MIB, lines=200_000),
    Target("join", join, SPACES, memory=24 * MIB, lines=800_000),
    Target("views", look, [joined(OWNED[i % 3], one) for i, one in enumerate(FEW_SPACES)]
           + [joined(one, FEW_SPACES[0]) for one in LEASES], memory=32 * MIB, lines=400_000),
    Target("holder record", holder, [RECORD]),
    Target("host id note", note, [NOTE], words=[b'"since": 1e400', b"99999999999999999999", b"NaN", b"[", b"{}", b"-"]),
]  # fmt: skip
