# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guard holds so that a machine that is short of memory does not keep it from acting.

Everything it has is locked, the OOM killer leaves it alone, and it has more than it needs: small
objects come from arenas that Python keeps as long as one object in each lives, larger ones from a heap
that the C library does not give back. Threads that must be had are there from the start (`work`).
"""

from __future__ import annotations

import ctypes
import errno

from .work import WARNING, Log

LOCK_EVERYTHING = 1 | 2  # MCL_CURRENT | MCL_FUTURE
# mallopt(3)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
MIB = 1 << 20
SMALL_BYTES, LARGE_BYTES = 4 * MIB, 2 * MIB
OBJECT_BYTES = 256
# An arena has 256 KiB, or 1 MiB from Python 3.10 on.
KEEP_EVERY = 128 * 1024 // OBJECT_BYTES


def one_heap() -> None:
    """For all threads, and never given back: before the first thread, for each would begin its own."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # the GNU C library's
    if mallopt is None:
        return
    for option, value in (
        (M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 16 * MIB), (M_TRIM_THRESHOLD, 256 * MIB), (M_TOP_PAD, LARGE_BYTES),
    ):  # fmt: skip
        mallopt(option, value)


def hold(log: Log) -> list[bytes]:
    """Take all of it; say what cannot be had. What is returned must be kept."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(LOCK_EVERYTHING) != 0:
        log(WARNING, "memory-not-locked", why=errno.errorcode.get(ctypes.get_errno(), "?"))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError as error:
        log(WARNING, "oom-not-excluded", why=error.strerror)
    bytes(LARGE_BYTES)
    pins = [bytes(OBJECT_BYTES) for _ in range(SMALL_BYTES // OBJECT_BYTES)]
    return pins[::KEEP_EVERY]
