# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lease directories full of leases and hosts, made in a moment: sparse files, byte for byte as used ones are."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

from vlhook.leases.directory import format_lockspace, format_resource
from vlhook.leases.geometry import FILE
from vlhook.leases.holder import RUNNING, HolderRecord
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.records import NO_MODE, Dblock, Leader, host_sector, pad_name

SPACE = LOCKSPACE_NAME.encode()
SINCE = 1_700_000_000


def free_leases(directory: Path, count: int) -> None:
    """Leases that were formatted and are held by nobody."""
    for number in range(count):
        name = lease_name(f"/images/unused-{number}".encode())
        _write(directory / name, {0: format_resource(FILE, SPACE, name.encode())[:1024]})


def held_leases(directory: Path, count: int, hosts: int) -> None:
    """Leases held by guests of `hosts` hosts in turn, each of generation 1, with holder records."""
    for number in range(count):
        disk = f"/images/disk-{number}"
        name, host_id = lease_name(disk.encode()), number % hosts + 1
        fresh = format_resource(FILE, SPACE, name.encode())[:1024]
        leader = replace(
            Leader.decode(fresh), owner_id=host_id, owner_generation=1, lver=1, timestamp=100,
            write_id=host_id, write_generation=1, write_timestamp=100,
        ).sealed()  # fmt: skip
        block = Dblock(mbal=host_id, bal=host_id, inp=host_id, inp2=1, inp3=100, lver=1)
        guest = uuid.uuid5(uuid.NAMESPACE_DNS, str(number // 4))
        record = HolderRecord(host_id, 1, 1, SINCE, guest.bytes, RUNNING, f"guest{number // 4}", disk)
        parts = {0: leader.sector(FILE) + fresh[512:], FILE.dblock(host_id): _sector(block, record)}
        _write(directory / name, parts)


def _sector(block: Dblock, record: HolderRecord) -> bytes:
    return host_sector(FILE, block, NO_MODE, record.encode())


def lockspace(directory: Path, hosts: int, io_timeout: int = 10) -> None:
    """A lockspace that so many hosts have joined."""
    area = bytearray(format_lockspace(FILE, SPACE, io_timeout))
    for host_id in range(1, hosts + 1):
        at = FILE.delta(host_id)
        record = replace(
            Leader.decode(bytes(area[at : at + 512])), owner_id=host_id, owner_generation=1, timestamp=100,
            resource_name=pad_name(b"kvm%d.example.org" % host_id), io_timeout_raw=io_timeout,
        ).sealed()  # fmt: skip
        area[at : at + 512] = record.sector(FILE)
    (directory / LOCKSPACE_NAME).write_bytes(area)


def _write(path: Path, parts: dict[int, bytes]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.ftruncate(fd, FILE.area)
        for offset, data in parts.items():
            os.pwrite(fd, data, offset)
    finally:
        os.close(fd)
