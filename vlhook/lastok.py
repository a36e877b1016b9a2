# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page that the keeper and the guard share: when the host's lease was last known to be good.

The keeper writes, the guard reads; no message passes between them, so the
guard learns the truth also from a keeper that hangs, is stopped or is dead.

The file is `last_ok` in the run directory (a tmpfs), 4096 bytes. It holds two
slots, at byte 0 and at byte 2048, which are written in turn. Each is (all
integers little endian):

======  =====  ==================================================================
offset  type   field
======  =====  ==================================================================
0       8 B    magic `VLHLASTO`
8       u32    version 1
12      u32    flags, 0
16      u64    sequence: one more with each write; the valid slot with more counts
24      u32    io_timeout N, seconds; 0: the keeper is no member of a lockspace
28      u32    host_id
32      u64    generation of that host id
40      u64    last_ok, CLOCK_MONOTONIC, ns: taken before the write of the renewal
48      u64    last_ok, CLOCK_BOOTTIME, ns: the same moment
56      u64    heartbeat of the keeper's loop, CLOCK_MONOTONIC, ns
64      u32    the keeper's pid
68      u32    the grace plus 1, seconds: the keeper kills guests that long after 8N; 0: not told
72      u64    the keeper's start time, clock ticks since boot (/proc/PID/stat)
80      16 B   boot id
96      u32    CRC-32 (zlib) over bytes 0..95
======  =====  ==================================================================

A slot that does not check out in full, or is of another boot, does not exist:
a write that was torn, or that stopped half-way, leaves the other slot to be
believed. That one is at most one heartbeat older.

The file is mapped, so that its page stays in memory (both processes lock
theirs); it is read and written with pread and pwrite on the descriptor,
because touching the mapping of a file that somebody truncated is a SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
import zlib
from typing import NamedTuple

FILE_NAME = "last_ok"
PAGE_SIZE = 4096
SLOT_OFFSETS = (0, 2048)
MAGIC = b"VLHLASTO"
VERSION = 1

# magic, version, flags, sequence, io_timeout, host_id, generation, last_ok (monotonic, boottime),
# heartbeat, keeper's pid, grace + 1, keeper's start, boot id; the checksum follows.
BODY = struct.Struct("<8sIIQIIQQQQIIQ16s")
CHECKSUM = struct.Struct("<I")
SLOT_SIZE = BODY.size + CHECKSUM.size

NANOSECONDS = 1_000_000_000
# sanlock keeps the low 8 bits of an io_timeout (format document, 3.1).
IO_TIMEOUT_MAX = 255


class Snapshot(NamedTuple):
    """One valid slot. Clock readings in ns, io_timeout in seconds, keeper_start in clock ticks.

    `grace` in seconds, -1: not told.
    """

    sequence: int
    io_timeout: int
    host_id: int
    generation: int
    last_ok_monotonic: int
    last_ok_boottime: int
    heartbeat: int
    keeper_pid: int
    keeper_start: int
    flags: int = 0
    grace: int = -1

    @property
    def member(self) -> bool:
        """Whether the keeper is in a lockspace; if not, only its identity and its heartbeat count."""
        return self.io_timeout > 0

    @property
    def limit(self) -> int:
        """Seconds after last_ok from which no lease may be used: 8N (format document, 5)."""
        return 8 * self.io_timeout

    def elapsed(self) -> float:
        """Seconds since last_ok by whichever clock is worse (safety rules, 8).

        A last_ok in the future cannot be ours: infinitely long ago.
        """
        monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - self.last_ok_monotonic
        boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.last_ok_boottime
        if monotonic < 0 or boottime < 0:
            return float("inf")
        return max(monotonic, boottime) / NANOSECONDS

    def heartbeat_age(self) -> float:
        """Seconds since the keeper's last heartbeat; infinite if it lies in the future."""
        age = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - self.heartbeat
        return age / NANOSECONDS if age >= 0 else float("inf")


NOTHING = Snapshot(0, 0, 0, 0, 0, 0, 0, 0, 0)


class Page:
    """The mapped page. One process writes it (one keeper a host), from any of its threads."""

    def __init__(self, path: str, descriptor: int, boot: bytes, *, writable: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._boot = boot
        self._buffer = bytearray(PAGE_SIZE)
        # A heartbeat must not carry on what a renewal in another thread has just replaced.
        self._lock = threading.Lock()
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._pin = mmap.mmap(descriptor, PAGE_SIZE, mmap.MAP_SHARED, access)
        self._keeper = (os.getpid(), _own_start()) if writable else (0, 0)
        self._latest = self.load() or NOTHING

    @classmethod
    def create(cls, path: str) -> Page:
        """Open the page for writing, make it if absent. What it says is kept and carried on.

        Raises OSError.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # All of it now: a write to a page that a full tmpfs cannot supply would fail later.
            os.posix_fallocate(descriptor, 0, PAGE_SIZE)
            return cls(path, descriptor, boot_id(), writable=True)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, path: str) -> Page:
        """Open the page for reading. Raises OSError, ValueError if the file is too short."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return cls(path, descriptor, boot_id(), writable=False)
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        self._pin.close()
        os.close(self._descriptor)

    def replaced(self) -> bool:
        """Whether the path names another file by now, or none: then this page tells nothing new."""
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return True
        here = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def load(self) -> Snapshot | None:
        """The newest slot that checks out, or None. Raises nothing."""
        newest = None
        with self._lock:
            try:
                length = os.preadv(self._descriptor, (self._buffer,), 0)
            except OSError:
                return None
            for offset in SLOT_OFFSETS:
                snapshot = self._decode(offset) if offset + SLOT_SIZE <= length else None
                if snapshot is not None and (newest is None or snapshot.sequence > newest.sequence):
                    newest = snapshot
        return newest

    def store(
        self, *, io_timeout: int, host_id: int, generation: int,
        last_ok_monotonic: int, last_ok_boottime: int, flags: int = 0, grace: int = -1,
    ) -> None:
        """Publish a renewal that is known to have reached the disk; counts as a heartbeat.

        `last_ok_*` in ns, both of the moment before the write (format document, 6.2). Raises
        ValueError for an io_timeout outside 1..255, OSError if the page cannot be written.
        """
        if not 0 < io_timeout <= IO_TIMEOUT_MAX:
            raise ValueError(f"io_timeout {io_timeout} is not within 1..{IO_TIMEOUT_MAX}")
        with self._lock:
            self._publish(self._latest._replace(
                io_timeout=io_timeout, host_id=host_id, generation=generation,
                last_ok_monotonic=last_ok_monotonic, last_ok_boottime=last_ok_boottime, flags=flags,
                grace=grace,
            ))

    def heartbeat(self) -> None:
        """Say that the keeper's loop runs; everything else stays as it is. Raises OSError.

        Writes the whole slot anew, so a damaged page is good again with the next heartbeat.
        """
        with self._lock:
            self._publish(self._latest)

    def write(self, snapshot: Snapshot) -> None:
        """Write exactly this snapshot, but with the next sequence number. Raises OSError."""
        with self._lock:
            self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        snapshot = snapshot._replace(sequence=self._latest.sequence + 1)
        offset = SLOT_OFFSETS[snapshot.sequence % len(SLOT_OFFSETS)]
        os.pwrite(self._descriptor, _encode(snapshot, self._boot), offset)
        self._latest = snapshot

    def _publish(self, snapshot: Snapshot) -> None:
        pid, start = self._keeper
        self._write(snapshot._replace(
            heartbeat=time.clock_gettime_ns(time.CLOCK_MONOTONIC), keeper_pid=pid, keeper_start=start,
        ))

    def _decode(self, offset: int) -> Snapshot | None:
        # A copy first: checksum and fields must be of the same bytes.
        raw = bytes(self._buffer[offset : offset + SLOT_SIZE])
        if CHECKSUM.unpack_from(raw, BODY.size)[0] != zlib.crc32(raw[: BODY.size]):
            return None
        (magic, version, flags, sequence, io_timeout, host_id, generation, monotonic, boottime,
         heartbeat, pid, grace, start, boot) = BODY.unpack_from(raw)
        if magic != MAGIC or version != VERSION or boot != self._boot or io_timeout > IO_TIMEOUT_MAX:
            return None
        return Snapshot(sequence, io_timeout, host_id, generation, monotonic, boottime,
                        heartbeat, pid, start, flags, grace - 1)


def boot_id() -> bytes:
    """The kernel's id of this boot, 16 bytes. Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


def _own_start() -> int:
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _encode(snapshot: Snapshot, boot: bytes) -> bytes:
    body = BODY.pack(
        MAGIC, VERSION, snapshot.flags, snapshot.sequence, snapshot.io_timeout, snapshot.host_id,
        snapshot.generation, snapshot.last_ok_monotonic, snapshot.last_ok_boottime, snapshot.heartbeat,
        snapshot.keeper_pid, snapshot.grace + 1, snapshot.keeper_start, boot,
    )
    return body + CHECKSUM.pack(zlib.crc32(body))
