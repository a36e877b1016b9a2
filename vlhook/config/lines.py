# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of a configuration file: what vlhook reads of libvirt's syntax.

    name = value        # comment

One setting a line. A value is a number or a word as it stands, or any text of
one line in "double" or 'single' quotes; there are no escapes. Lists, several
settings on one line and texts of several lines are left to files that have a
use for them (`virconf.py`). Blanks are spaces and tabs, lines end with a
newline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

WORD = r"[A-Za-z0-9_.:+/-]+"
_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_LINE = re.compile(
    rf"""[ \t]* ({_NAME}) [ \t]*=[ \t]* (?: "([^"]*)" | '([^']*)' | ({WORD}) ) [ \t]* (?:\#.*)?""",
    re.VERBOSE | re.DOTALL,
)
_IGNORED = re.compile(r"[ \t]*(?:#.*)?", re.DOTALL)
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Line:
    """One setting: `value` is its text without quotes, `number` counts from 1."""

    number: int
    name: str
    value: str
    quoted: bool


@dataclass(frozen=True)
class BadLine:
    """A line that is no setting; `why` completes "line 7: …"."""

    number: int
    why: str


def read_lines(text: str) -> Iterator[Line | BadLine]:
    """Every setting of the file and every line that is none, in order."""
    for number, line in enumerate(text.split("\n"), 1):
        if _IGNORED.fullmatch(line):
            continue
        match = _LINE.fullmatch(line)
        if match:
            name, double, single, word = match.groups()
            value = word if word is not None else double if double is not None else single
            yield Line(number, name, value, word is None)
        else:
            yield BadLine(number, _why(line))


def shown(text: str, quote: str = "'") -> str:
    """`text` for a message: in quotes, cut to a sensible length, unprintable characters escaped."""
    cut = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return f"{quote}{safe}{quote}"


def _why(line: str) -> str:
    if line.startswith("\ufeff"):
        return "a byte order mark; save the file as plain UTF-8"
    if line.endswith("\r"):
        return "the line ends with a carriage return; save the file with Unix line ends (dos2unix)"
    name, equals, rest = line.strip(" \t").partition("=")
    name, rest = name.rstrip(" \t"), rest.strip(" \t")
    if not equals:
        return f"{shown(line)} is not of the form 'name = value'"
    if not re.fullmatch(_NAME, name):
        return f"{shown(name)} is no name of a setting"
    if not rest or rest.startswith("#"):
        return f"{name} has no value"
    if rest[0] == "[":
        return f"{name} is a list; it takes a single value"
    if rest[0] in "\"'" and rest[0] not in rest[1:]:
        return f"the quote of {shown(rest)} is not closed in this line"
    return f"{shown(rest)} is not one value: a number, a word, or a text in quotes"
