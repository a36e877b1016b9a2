# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table: rows of figures by party, printed as Markdown and kept as JSON."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .measure import Spread, added, quotients

SCHEMA = 1
FULL_SIZE = "2000 hosts (512-byte sectors, areas of 1 MiB)"
"""The lease geometry of libvirt's plugin, and of vlhook."""
UNITS = {"ms": 1e3, "s": 1.0, "MB": 1e-6, "KB": 1e-3, "KiB": 1 / 1024, "ticks": 1.0, "": 1.0}


@dataclass
class Row:
    """`figures`: party → rounds, in seconds or bytes. The ratio is ours / peer; without a peer there is none.

    `target`: the greatest ratio, or where `absolute` the greatest figure of ours in the unit shown.
    `base`: the party whose median is taken off all others, where what is added to something is asked for.
    `x`: where on the growth curve `curve`.
    """

    what: str
    figures: dict[str, list[float]]
    unit: str = "ms"
    ours: str = "vlhook"
    peer: str = ""
    target: float | None = None
    base: str = ""
    absolute: bool = False
    x: float | None = None
    curve: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    """party → what stands in its place where it has no figures."""

    def ratio(self) -> Spread | None:
        if self.peer not in self.figures or self.ours not in self.figures:
            return None
        ours, peer = self.figures[self.ours], self.figures[self.peer]
        return added(ours, peer, self.figures[self.base]) if self.base else quotients(ours, peer)

    def median(self, party: str) -> float:
        """What the table shows: for the base itself its own figure, else what is added to it."""
        value = statistics.median(self.figures[party])
        return value - statistics.median(self.figures[self.base]) if self.base not in ("", party) else value

    def shown_ratio(self) -> str:
        ratio = self.ratio()
        return f"{short(ratio.median)} ({short(ratio.low)}–{short(ratio.high)})" if ratio else ""

    def shown_target(self) -> str:
        if self.target is None:
            return ""
        return f"≤ {self.target:g} {self.unit if self.absolute else ''}".rstrip()

    def met(self) -> bool | None:
        """Whether the target is met; None without one, or without figures."""
        if self.target is None or self.ours not in self.figures:
            return None
        if self.absolute:
            return self.median(self.ours) * UNITS[self.unit] <= self.target
        ratio = self.ratio()
        return None if ratio is None else ratio.median <= self.target


@dataclass
class Table:
    name: str
    title: str
    geometry: str = FULL_SIZE
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    rounds: int = 0
    """How many; 0: it differs by row."""
    command: str = ""

    def parties(self) -> list[str]:
        found: dict[str, None] = {}
        for row in self.rows:
            found.update(dict.fromkeys([*row.figures, *row.notes]))
        return list(found)

    def as_json(self) -> dict[str, Any]:
        rows = []
        for row in self.rows:
            one = asdict(row)
            ratio = row.ratio()
            one["ratio"] = asdict(ratio) if ratio else None
            one["medians"] = {party: row.median(party) for party in row.figures}
            one["met"] = row.met()
            rows.append(one)
        return {
            "schema": SCHEMA, "table": self.name, "title": self.title, "geometry": self.geometry, "rounds": self.rounds,
            "command": self.command, "machine": machine(), "rows": rows, "remarks": self.remarks,
        }  # fmt: skip

    def text(self) -> str:
        parties = self.parties()
        head = ["", *parties, "ratio (quartiles)", "target", "met"]
        body = [_cells(row, parties) for row in self.rows]
        lines = [f"### {self.name}: {self.title}", "", *aligned([head, *body])]
        lines += ["", f"Medians of {self.rounds} rounds." if self.rounds else "Medians."]
        if self.geometry:
            lines[-1] += f" Leases: {self.geometry}, on every side."
        return "\n".join([*lines, *self.remarks, ""])


def _cells(row: Row, parties: Sequence[str]) -> list[str]:
    cells = [row.what]
    for party in parties:
        if party in row.figures:
            cells.append(shown(row.median(party), row.unit))
        else:
            cells.append(row.notes.get(party, ""))
    met = {None: "", True: "yes", False: "no"}[row.met()]
    return [*cells, row.shown_ratio(), row.shown_target(), met]


def shown(value: float, unit: str) -> str:
    return f"{short(value * UNITS[unit])} {unit}".rstrip()


def short(value: float) -> str:
    """Three digits that mean something."""
    size = abs(value)
    if size == 0:
        return "0"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:.{digits}f}"


def aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def machine() -> dict[str, Any]:
    """Where and when it was measured."""
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
