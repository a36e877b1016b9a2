# SPDX-License-Identifier: LGPL-2.1-or-later
"""What commands that look at a host or a lease directory have in common: options, tables, repetition."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TextIO, TypeVar, Union

import click

from ..config import settings
from ..errors import VlhookError
from ..keeper.client import call
from .config import config_dir_option

ASK_SECONDS = 2.0
NARROWEST = 60
_LABEL = re.compile(r"[A-Za-z]+ {2,}")
COLOURS = {"good": "green", "warn": "yellow", "bad": "red", "dim": "bright_black"}
F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape."
)
watch_option = click.option(
    "--watch",
    is_flag=False,
    flag_value=2.0,
    default=None,
    type=click.FloatRange(0.1, 3600),
    metavar="[SECONDS]",
    help="Show it anew every SECONDS (2), until interrupted. With --json: one object a line.",
)
run_dir_option = click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=Path("/run/vlhook"),
    envvar="VLHOOK_RUN_DIR",
    show_default=True,
    help="Where the keeper's socket is.",
)
_dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="The lease directory.  [default: disk_lease_dir of qemu-sanlock.conf]",
)


def directory_options(command: F) -> F:
    """--dir, --config-dir and --run-dir; the command gets a `Place`, as its argument `place`."""

    def with_place(directory: Optional[Path], config_dir: Path, run_dir: Path, **rest: Any) -> Any:
        return command(place=Place(directory, config_dir, run_dir), **rest)

    with_place.__doc__, with_place.__name__ = command.__doc__, command.__name__
    with_place.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    wrapped: Any = _dir_option(config_dir_option(run_dir_option(with_place)))
    return wrapped  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Place:
    """Where to look: the lease directory, and the keeper of this host if it serves that very directory."""

    given: Optional[Path]
    config_dir: Path
    run_dir: Path

    @property
    def directory(self) -> str:
        return str(self.given) if self.given else settings.examine(self.config_dir)[0].disk_lease_dir

    def ask(self, name: str, **arguments: Any) -> Optional[dict[str, Any]]:
        """The keeper's answer; None if it does not answer, or serves another directory."""
        try:
            report = call(self.run_dir, name, ASK_SECONDS, **arguments)
        except VlhookError:
            return None
        return report if report.get("lease_directory") in (None, self.directory) else None


# ------------------------------------------------------------------------------------ repetition


def show(
    make: Callable[[], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Iterable[str]],
    as_json: bool,
    watch: Optional[float],
) -> dict[str, Any]:
    """Print what `make` returns as JSON or by `lines`; again and again with `watch`. Returns the last."""
    if watch is None:
        report = make()
        if as_json:
            click.echo(json.dumps(report, indent=1))
        else:
            for line in folded(lines(report), screen_width()):
                click.echo(line)
        return report
    return _repeat(make, lines, as_json, watch)


def _repeat(
    make: Callable[[], dict[str, Any]],
    lines: Callable[[dict[str, Any]], Iterable[str]],
    as_json: bool,
    watch: float,
) -> dict[str, Any]:
    report: dict[str, Any] = {}
    try:
        while True:
            report = make()
            if as_json:
                click.echo(json.dumps(report))
            else:
                text = "\n".join([time.strftime("%H:%M:%S"), *folded(lines(report), screen_width())])
                click.clear()
                click.echo(text)
            sys.stdout.flush()
            time.sleep(watch)
    except KeyboardInterrupt:
        return report


# ---------------------------------------------------------------------------------------- tables


class Cell:
    """A text with a meaning (good, warn, bad, dim), which has a colour on terminals."""

    def __init__(self, text: object, meaning: str = "") -> None:
        self.text = str(text)
        self.meaning = meaning


@dataclass(frozen=True)
class Column:
    """`cut`: what may be shortened where the line is too long: "" nothing, "end", or "start" (of paths)."""

    title: str
    cut: str = ""
    right: bool = False


Row = Sequence[Union[Cell, str, int]]


def screen_width(stream: Optional[TextIO] = None) -> Optional[int]:
    """Columns of the terminal; None where the output is no terminal, and nothing is cut."""
    shown = (stream or sys.stdout).isatty()
    return max(NARROWEST, shutil.get_terminal_size((100, 24)).columns) if shown else None


def folded(lines: Iterable[str], width: Optional[int]) -> Iterator[str]:
    """The lines, those of words that are longer than `width` folded at blanks; colours take no room."""
    for line in lines:
        shown = click.unstyle(line)
        # A command is to be copied as a whole.
        if width is None or len(shown) <= width or shown.lstrip().startswith("-> "):
            yield line
            continue
        label = _LABEL.match(shown)
        indent = " " * (label.end() if label else len(shown) - len(shown.lstrip()) + 4)
        current, *words = line.split(" ")
        for word in words:
            if current.strip() and len(click.unstyle(current)) + 1 + len(click.unstyle(word)) > width:
                yield current.rstrip()
                current = indent + word
            else:
                current = f"{current} {word}"
        yield current


def table(columns: Sequence[Column], rows: Sequence[Row], width: Optional[int] = None) -> Iterator[str]:
    """Lines: a head, then the rows, in columns that are as wide as they must be, cut to `width`."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    widths = [max([len(column.title), *(len(row[i].text) for row in cells)]) for i, column in enumerate(columns)]
    _shrink(columns, widths, width)
    yield _line(columns, widths, [Cell(column.title, "dim") for column in columns])
    for row in cells:
        yield _line(columns, widths, row)


def _shrink(columns: Sequence[Column], widths: list[int], width: Optional[int]) -> None:
    """Take from the widest column that may be cut, until the line fits or every one is at 12."""
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        wide = [i for i, column in enumerate(columns) if column.cut and widths[i] > 12]
        if not wide:
            return
        widths[max(wide, key=lambda i: widths[i])] -= 1


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> str:
    parts = []
    for column, size, cell in zip(columns, widths, row):
        text = cut(cell.text, size, column.cut)
        last = cell is row[-1]
        text = text.rjust(size) if column.right else text if last else text.ljust(size)
        parts.append(coloured(text, cell.meaning))
    return "  ".join(parts).rstrip()


def coloured(text: str, meaning: str) -> str:
    """`text` in the colour of `meaning`; click leaves colours out where the output is no terminal.

    NO_COLOR in the environment leaves them out everywhere (no-color.org).
    """
    return click.style(text, fg=COLOURS[meaning]) if meaning and not os.environ.get("NO_COLOR") else text


def cut(text: str, size: int, where: str) -> str:
    if len(text) <= size:
        return text
    return "…" + text[len(text) - size + 1 :] if where == "start" else text[: size - 1] + "…"


def ago(seconds: Optional[float]) -> str:
    """A span of time for people: 4 s, 12 min, 5 h, 3 days."""
    if seconds is None:
        return "-"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, seconds) / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def node(name: str) -> str:
    """What people call a host: vlhook's and sanlock's names are a UUID, a dot and the node's name."""
    return name.partition(".")[2] or name
