# SPDX-License-Identifier: LGPL-2.1-or-later
"""Growth curves of tables: `python -m bench.curves RESULTS --into DIR`.

Draws DIR/perf-TABLE.svg for each RESULTS/TABLE.json that has a curve. One picture a table, one panel a
curve, one line a party: medians, and quartiles as bars. The colours are told apart by everybody, and each
line has a mark of its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .measure import spread
from .report import UNITS

COLOURS = {"vlhook": "#0072b2", "vlhookd": "#0072b2", "all of vlhook": "#56b4e9"}
OTHERS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00")
MARKS = "osD^v"
AXES = {
    "starts": "disks", "leases": "leases", "storm": "guests", "memory": "leases", "restart": "leases",
    "cleanup": "files", "views": "files or hosts", "takeover": "io_timeout, s",
}  # fmt: skip
PANEL = (3.6, 3.0)
PER_LINE = 3


def draw(table: dict[str, Any], into: Path) -> Path | None:
    """None for a table without a curve of two points or more."""
    curves = _curves(table["rows"])
    if not curves:
        return None
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vlhook"
    from matplotlib import pyplot

    lines = -(-len(curves) // PER_LINE)
    across = min(PER_LINE, len(curves))
    figure, panels = pyplot.subplots(
        lines, across, figsize=(PANEL[0] * across, PANEL[1] * lines), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(curves) :]:
        panel.axis("off")
    for panel, (name, rows) in zip(panels.flat, curves.items()):
        _panel(panel, name, rows, AXES.get(table["table"], ""))
    panels.flat[0].legend(fontsize=8)
    path = into / f"perf-{table['table']}.svg"
    into.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["x"] is not None:
            found.setdefault(row["curve"], []).append(row)
    return {name: some for name, some in found.items() if len(some) > 1}


def _panel(panel: Any, name: str, rows: list[dict[str, Any]], axis: str) -> None:
    unit = rows[0]["unit"]
    parties = list(dict.fromkeys(party for row in rows for party in row["figures"] if party != row["base"]))
    others = iter(OTHERS)
    for party, mark in zip(parties, MARKS):
        points = [_point(row, party) for row in rows if party in row["figures"]]
        xs, middles, below, above = zip(*points)
        colour = COLOURS.get(party) or next(others)
        panel.errorbar(
            xs, middles, yerr=(below, above), label=party, color=colour, marker=mark,
            markersize=4, capsize=2, linewidth=1.2,
        )  # fmt: skip
    places = sorted({row["x"] for row in rows})
    if places[-1] >= 20 * max(1, places[0]):
        panel.set_xscale("log" if places[0] > 0 else "symlog")
        if all(_point(row, party)[1] > 0 for row in rows for party in row["figures"]):
            panel.set_yscale("log")
    panel.set_xticks(places)
    panel.set_xticklabels([f"{x:g}" for x in places], fontsize=8)
    panel.minorticks_off()
    panel.set_title(name, fontsize=9)
    panel.set_xlabel(axis, fontsize=8)
    panel.set_ylabel(unit, fontsize=8)
    panel.grid(True, linewidth=0.3)


def _point(row: dict[str, Any], party: str) -> tuple[float, float, float, float]:
    """x, median, and how far below and above it the quartiles are."""
    scale = UNITS[row["unit"]]
    found = spread(row["figures"][party])
    below, above = found.median - found.low, found.high - found.median
    return row["x"], row["medians"][party] * scale, below * scale, above * scale


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description="Draw the growth curves of tables.")
    parser.add_argument("results", type=Path, help="the directory given to --json")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    parsed = parser.parse_args()
    for path in sorted(parsed.results.glob("*.json")):
        drawn = draw(json.loads(path.read_text()), parsed.into)
        if drawn:
            print(f"{drawn}: the curves of {path}")


if __name__ == "__main__":
    main()
