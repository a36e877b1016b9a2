# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of two runs for docs/performance.md: `python -m bench.document RUN1 RUN2 docs/performance.md`.

Each table takes the place of what stands between <!-- TABLE --> and <!-- end --> in the document. A cell
with figures shows those of the first run and, after a stroke, those of the second.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from .report import FULL_SIZE, Row, Table, aligned, shown

PLACE = re.compile(r"(<!-- ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(path: Path) -> Table:
    data: dict[str, Any] = json.loads(path.read_text())
    known = Row.__dataclass_fields__
    rows = [Row(**{key: value for key, value in row.items() if key in known}) for row in data["rows"]]
    table = Table(data["table"], data["title"], data["geometry"], rows, data["remarks"], data["rounds"])
    table.command = data["command"]
    return table


def both(first: Table, second: Table) -> str:
    parties = first.parties()
    later = {row.what: row for row in second.rows}
    head = ["", *parties, "ratio, first run", "second run", "target", "met"]
    body = [_cells(row, later[row.what], parties) for row in first.rows]
    lines = [*aligned([head, *body]), "", f"`{first.command}`; ratios with quartiles."]
    if first.geometry == FULL_SIZE:
        lines[-1] += f" Leases on every side: {FULL_SIZE}."
    return "\n".join([*lines, *first.remarks, ""])


def once(table: Table) -> str:
    _, _, *lines = table.text().rstrip().splitlines()
    return "\n".join([*lines, f"One run: `{table.command}`.", ""])


def _cells(row: Row, later: Row, parties: list[str]) -> list[str]:
    cells = [row.what]
    for party in parties:
        if party in row.figures:
            one = shown(row.median(party), row.unit).removesuffix(f" {row.unit}")
            cells.append(f"{one} / {shown(later.median(party), row.unit)}")
        else:
            cells.append(row.notes.get(party, ""))
    mets = {row.met(), later.met()}
    met = "" if None in mets else "yes" if mets == {True} else "no" if mets == {False} else "in one run"
    return [*cells, row.shown_ratio(), later.shown_ratio(), row.shown_target(), met]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.document", description="Fill in the tables of two runs.")
    parser.add_argument("first", type=Path, help="what --json was given in the first run")
    parser.add_argument("second", type=Path)
    parser.add_argument("document", type=Path)
    parsed = parser.parse_args()

    def filled(place: re.Match[str]) -> str:
        paths = [run / f"{place[2]}.json" for run in (parsed.first, parsed.second)]
        tables = [load(path) for path in paths if path.exists()]
        if not tables:
            print(f"bench: nobody has run table {place[2]}", file=sys.stderr)
            return place[0]
        return f"{place[1]}{both(*tables) if len(tables) > 1 else once(tables[0])}{place[3]}"

    parsed.document.write_text(PLACE.sub(filled, parsed.document.read_text()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
