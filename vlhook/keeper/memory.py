# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the C library keeps memory: for a process with many threads that rarely do anything.

Left alone, glibc gives each thread a heap of its own, and once a 1 MiB area of
a lease was freed it takes the next ones from those heaps, where they leave
holes that are never given back: 40 MB after the start of some hundred guests.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
KEPT_BYTES = 256 << 10
"""What may stay at the top of the heap; larger blocks are mapped, and unmapped when they are freed."""


def bound() -> None:
    """One heap, and large blocks outside of it. Before the first thread; does nothing without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
