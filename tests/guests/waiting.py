# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(what: str, done: Callable[[], Any], seconds: float = 60, every: float = 0.1) -> Any:
    """The first true answer of `done`; fails the test after `seconds`, a limit for a busy machine."""
    until = time.monotonic() + seconds
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)
