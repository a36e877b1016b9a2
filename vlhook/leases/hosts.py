# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host knows of the others from its own renewal reads (format document, 6.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .effects import HostView, Maybe
from .geometry import Geometry
from .owner import dead_seconds, fail_seconds
from .records import DELTA_MAGIC, Leader

_OWNER_AT, _TIMESTAMP_AT = 32, 152
FREE, UNKNOWN, LIVE, FAIL, DEAD = "free", "unknown", "live", "fail", "dead"


@dataclass(frozen=True)
class Alarm:
    """A delta record went back in time: a late write, or damage."""

    host_id: int
    what: str


class HostTable:
    """One row for each host id that was ever used. All times are the observer's CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._rows: dict[int, HostView] = {}
        self._raw: dict[int, bytes] = {}
        self.last_check: float | None = None

    def observe(self, area: bytes, geo: Geometry, at: float) -> list[Alarm]:
        """Take in one read of the whole lockspace, finished at time `at`."""
        alarms = []
        view = memoryview(area)
        for host_id in self._used(view, geo):
            offset = geo.delta(host_id)
            raw = bytes(view[offset : offset + 200])
            if raw == self._raw.get(host_id):
                row = self._rows.get(host_id)
                if row:
                    self._rows[host_id] = replace(row, last_check=at)
                continue
            self._raw[host_id] = raw
            alarm = self._changed(host_id, Leader.decode(raw), at)
            if alarm:
                alarms.append(alarm)
        self.last_check = at
        return alarms

    def _used(self, view: memoryview, geo: Geometry) -> list[int]:
        """The host ids that are known, or whose record names an owner or a time by now; most are never used."""
        words = view[: geo.max_hosts * geo.sector].cast("Q")
        owners, times = (words[at :: geo.sector // 8].tolist() for at in (_OWNER_AT // 8, _TIMESTAMP_AT // 8))
        found = {i + 1 for i, pair in enumerate(zip(owners, times)) if pair != (0, 0)}
        return sorted(found.union(self._rows))

    def _changed(self, host_id: int, record: Leader, at: float) -> Alarm | None:
        row = self._rows.get(host_id)
        bad = record.magic != DELTA_MAGIC or record.checksum != record.computed_checksum()
        if bad and row:
            # It still counts as alive while its timestamp changes; its other fields are not believed.
            moved = record.timestamp != row.timestamp
            live = at if moved else row.last_live
            self._rows[host_id] = replace(row, last_check=at, last_live=live)
            return Alarm(host_id, "damaged record")
        if bad or (not record.owner_id and not record.timestamp):
            return Alarm(host_id, "damaged record") if bad else None
        if row is None:
            first = self.last_check is None
            self._rows[host_id] = HostView(
                record.owner_id, record.owner_generation, record.timestamp, record.io_timeout,
                at, at, at, not first, record.resource_name.rstrip(b"\0"),
            )  # fmt: skip
            return None
        seen = (row.owner_id, row.generation, row.timestamp)
        found = (record.owner_id, record.owner_generation, record.timestamp)
        moved = found != seen
        self._rows[host_id] = replace(
            row,
            owner_id=record.owner_id,
            generation=record.owner_generation,
            timestamp=record.timestamp,
            io_timeout=record.io_timeout,
            last_check=at,
            last_live=at if moved else row.last_live,
            ever_changed=row.ever_changed or moved,
            name=record.resource_name.rstrip(b"\0"),
        )
        back = record.owner_generation < row.generation or (
            record.owner_generation == row.generation and 0 < record.timestamp < row.timestamp
        )
        return Alarm(host_id, "record went back in time") if back else None

    def get(self, host_id: int) -> Maybe:
        return self._rows.get(host_id)

    def rows(self) -> dict[int, HostView]:
        return dict(self._rows)


def state(view: HostView, at: float) -> str:
    """FREE, UNKNOWN, LIVE, FAIL or DEAD, by the owner's own io_timeout."""
    if view.timestamp == 0:
        return FREE
    silent = at - view.last_live
    if silent > dead_seconds(view.io_timeout):
        return DEAD
    if silent > fail_seconds(view.io_timeout):
        return FAIL
    return LIVE if view.ever_changed else UNKNOWN
