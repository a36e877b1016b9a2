# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pictures of docs/scale.md: `python -m bench.scale FIGURES.json … --into docs/pictures`.

FIGURES.json: what `python3 -m vlhook.simulate.load --json` printed, a line a storm.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MARKS = "osD^"


def draw(rows: list[dict[str, Any]], into: Path) -> Path:
    """`scale.svg` in that directory: time until everything runs, and the load at rest, over hosts."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vlhook"
    from matplotlib import pyplot

    figure, (storm, rest) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for number, directories in enumerate(sorted({row["site"]["directories"] for row in rows})):
        line = [r for r in rows if r["site"]["directories"] == directories and r["site"]["at_once"] == 1]
        line.sort(key=lambda row: row["site"]["hosts"])
        hosts = [row["site"]["hosts"] for row in line]
        look = {"marker": MARKS[number % 4], "color": COLOURS[number % 4], "label": str(directories)}
        storm.plot(hosts, [row["runs"] for row in line], **look)
        rest.plot(hosts, [row["steady"]["bytes"] / directories / 1e6 for row in line], **look)
    storm.set(xlabel="hosts", ylabel="s until all guests run", ylim=(0, None))
    rest.set(xlabel="hosts", ylabel="MB/s at rest, each server", ylim=(0, None))
    storm.legend(title="lease directories", fontsize=8)
    for panel in (storm, rest):
        panel.grid(alpha=0.3)
    into.mkdir(parents=True, exist_ok=True)
    path = into / "scale.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("figures", nargs="+", type=Path, metavar="FIGURES.json")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    lines = [line for path in options.figures for line in path.read_text("utf-8").splitlines()]
    draw([json.loads(line) for line in lines], options.into)


if __name__ == "__main__":
    main()
