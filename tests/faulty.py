# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory whose storage can be taken away at will: see `vlhook.drill.faults`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.needs import lacking
from vlhook.drill.fuse import CannotMount
from vlhook.drill.layer import Layer


@contextlib.contextmanager
def faulty(source: Path, mountpoint: Path) -> Iterator[Layer]:
    try:
        layer = Layer(source, mountpoint)
    except CannotMount as error:
        lacking(str(error))
    try:
        yield layer
    finally:
        layer.close()
