# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far the host is from its limit, as far as the guard can know."""

from __future__ import annotations

import time

from ..lastok import Page, Snapshot
from ..processes import alive
from .work import ERROR, NOTICE, Log

# A keeper whose last heartbeat is older does not act any more.
STALE_SECONDS = 3.0
# How long a guard that has just started waits for a first valid page before it judges without one.
SETTLE_SECONDS = 3.0
# What 8N is taken for when nothing tells N: the smallest it can be.
UNKNOWN_LIMIT = 8.0
# "Infinitely long ago" as a number to calculate with.
LONG_AGO = 1e6


class Limit:
    """The last valid page counts, also when the page becomes unreadable or goes away.

    `member` is the last renewal heard of, `beat` the last sign of the keeper. A guard that was
    restarted and never sees a valid page goes by the renewal that stands in its own list; with
    none there, by its own start.
    """

    def __init__(self, page_path: str, log: Log) -> None:
        self.member: Snapshot | None = None
        self.beat: Snapshot | None = None
        self.heard = False
        self._path = page_path
        self._log = log
        self._born = time.monotonic()
        self._page: Page | None = None
        self._silent = False

    def resume(self, member: Snapshot) -> None:
        """What an earlier guard last knew."""
        self.member = member if member.member else None

    def read(self) -> None:
        """Look at the page again."""
        if self._page is None or self._page.replaced():
            self._open()
        snapshot = self._page.load() if self._page else None
        if snapshot is None:
            if not self._silent and self.member:
                self._log(ERROR, "page-unreadable", path=self._path, why="what was last known counts")
                self._silent = True
            return
        if self._silent:
            self._log(NOTICE, "page-readable", path=self._path)
            self._silent = False
        self.beat = snapshot
        # A renewal in the future is none.
        if snapshot.member and snapshot.elapsed() != float("inf"):
            self.member = snapshot
            self.heard = True

    def overdue(self) -> float | None:
        """Seconds past the limit, negative before it; None while it is too early to judge."""
        since_born = time.monotonic() - self._born
        if not self.heard and since_born < SETTLE_SECONDS:
            return None
        if self.member is None:
            return since_born - UNKNOWN_LIMIT
        return min(self.member.elapsed() - self.member.limit, LONG_AGO)

    def expired(self) -> bool:
        overdue = self.overdue()
        return overdue is not None and overdue >= 0

    def keeper_acts(self) -> bool:
        """Whether the keeper can be trusted to act first: it lives and its loop runs."""
        beat = self.beat
        return beat is not None and not self.keeper_is_stale() and alive(beat.keeper_pid, beat.keeper_start)

    def keeper_is_stale(self) -> bool:
        return self.beat is not None and self.beat.heartbeat_age() > STALE_SECONDS

    def _open(self) -> None:
        try:
            page = Page.open(self._path)
        except (OSError, ValueError):
            return
        # The keeper may still write to a page that lost its name: kept until the new one speaks.
        if self._page is not None:
            if page.load() is None:
                page.close()
                return
            self._page.close()
        self._page = page
