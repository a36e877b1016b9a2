# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `vlhook doctor` checks. Each check reads only, and returns findings; a hanging one is left behind."""

from __future__ import annotations

from .check import FAIL, GOOD, NOTE, WARN, Check, Finding, Host
from .guests import GUESTS
from .host import HOST
from .libvirt import LIBVIRT
from .sanlock import SANLOCK
from .storage import STORAGE

CHECKS: tuple[Check, ...] = (*HOST, *STORAGE, *SANLOCK, *LIBVIRT, *GUESTS)

__all__ = ["CHECKS", "FAIL", "GOOD", "NOTE", "WARN", "Check", "Finding", "Host"]
