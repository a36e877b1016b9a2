# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every message of vlhook by its code: what it means, what to do. Imports nothing of ours.

A message's own text stands where it is raised, as `msg` of its error class; an
entry whose text has no such class carries it itself, with `{}` for what varies.
`vlhook explain` and docs/messages.md are made from both; a test keeps them
complete.
"""

from __future__ import annotations

from .commands import COMMANDS
from .entry import Entry
from .keeper import KEEPER
from .leases import LEASES
from .refusals import REFUSALS

SECTIONS: dict[str, dict[str, Entry]] = {
    "Refused starts, and alarms": REFUSALS,
    "Leases and the lockspace": LEASES,
    "Keeper, guard and guests": KEEPER,
    "Commands and settings": COMMANDS,
}
CATALOGUE: dict[str, Entry] = {code: entry for part in SECTIONS.values() for code, entry in part.items()}

__all__ = ["CATALOGUE", "SECTIONS", "Entry"]
