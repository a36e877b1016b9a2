# SPDX-License-Identifier: LGPL-2.1-or-later
"""One message of the catalogue."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """`cause`: what it means; `step`: what to do; `text`: the message, where no error class has it."""

    cause: str
    step: str
    text: str = ""
