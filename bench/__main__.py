# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m bench TABLE… [--rounds N] [--json DIR]`; without a table it says which there are."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

from .processes import compile_all
from .report import Table

TABLES = (
    "hook", "cycle", "starts", "leases", "storm", "cpu", "ios", "memory", "takeover", "restart", "cleanup", "views",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m bench", description="Measure vlhook beside its peers.")
    made.add_argument("tables", nargs="*", metavar="TABLE", help=f"all, or some of: {', '.join(TABLES)}")
    made.add_argument("--rounds", type=int, help="how many, instead of each table's own number")
    made.add_argument("--json", type=Path, metavar="DIR", help="leave each table there as TABLE.json, too")
    return made


def run(name: str, rounds: int | None) -> Table:
    module = importlib.import_module(f"bench.tables.{name}")
    used = rounds or module.ROUNDS
    table: Table = module.measure(used)
    table.command = f"python -m bench {name} --rounds {used}"
    return table


def main(words: list[str] | None = None) -> int:
    parsed = parser().parse_args(words)
    unknown = set(parsed.tables) - {*TABLES, "all"}
    if unknown or not parsed.tables:
        print(f"bench: no table {', '.join(unknown)}" if unknown else "bench: which table?", file=sys.stderr)
        parser().print_usage(sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("bench: needs root, for the daemons that it starts", file=sys.stderr)
        return 2
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compile_all()
    for name in TABLES if "all" in parsed.tables else parsed.tables:
        begun = time.monotonic()
        table = run(name, parsed.rounds)
        print(table.text())
        print(f"`{table.command}`, {time.monotonic() - begun:.0f} s\n", flush=True)
        if parsed.json:
            parsed.json.mkdir(parents=True, exist_ok=True)
            (parsed.json / f"{name}.json").write_text(json.dumps(table.as_json(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
