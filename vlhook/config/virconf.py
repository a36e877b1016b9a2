# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's whole configuration syntax, to find one setting in a file that is libvirt's own.

A name, `=` and a value: a number, a text in "double" or 'single' quotes on one
line or in triple double quotes on several, or a list of values in brackets,
which may go over several lines and end with a comma. Settings are separated by
line ends or semicolons; a comment goes from # to the end of the line. A
carriage return ends a line too. There are no escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"[ \t\r\n]*")
_SKIPPED = re.compile(r"(?:[ \t\r\n]+|#[^\r\n]*)*")
_END = re.compile(r"[ \t]*(?:#[^\r\n]*)?(?:[\r\n;]|$)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[+-]?[0-9]+")
_TEXT = re.compile(r'"""(.*?)"""' r"|'([^'\r\n]*)'" r'|"([^"\r\n]*)"', re.DOTALL)
_DEEPEST = 20

Value = Union[str, int, list[object]]


@dataclass(frozen=True)
class Item:
    """One setting; a number is the text of its digits as an int, or 0 if it is absurdly long."""

    line: int
    name: str
    value: Value


class VirConfError(ValueError):
    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


def settings_of(text: str) -> Iterator[Item]:
    """Every setting of the file in order. Raises VirConfError where libvirt would refuse the file."""
    at = _skip(_SKIPPED, text, 0)
    while at < len(text):
        start = at
        name = _NAME.match(text, at)
        if not name:
            raise _error(text, at, "the name of a setting is expected")
        at = _skip(_BLANK, text, name.end())
        if text[at : at + 1] != "=":
            raise _error(text, at, f"{name[0]} is not followed by '='")
        value, at = _value(text, _skip(_BLANK, text, at + 1), 0)
        yield Item(_line(text, start), name[0], value)
        end = _END.match(text, at)
        if not end:
            raise _error(text, at, f"something follows the value of {name[0]}")
        at = _skip(_SKIPPED, text, end.end())


def _value(text: str, at: int, depth: int) -> tuple[Value, int]:
    quoted = _TEXT.match(text, at)
    if quoted:
        return next(group for group in quoted.groups() if group is not None), quoted.end()
    number = _NUMBER.match(text, at)
    if number:
        return int(number[0]) if len(number[0]) < 20 else 0, number.end()
    if text[at : at + 1] == "[" and depth < _DEEPEST:
        return _list(text, at + 1, depth + 1)
    raise _error(text, at, "a number, a text in quotes or a list is expected")


def _list(text: str, at: int, depth: int) -> tuple[Value, int]:
    found: list[object] = []
    at = _skip(_SPACE, text, at)
    while text[at : at + 1] != "]":
        value, at = _value(text, at, depth)
        found.append(value)
        at = _skip(_SPACE, text, at)
        if text[at : at + 1] == ",":
            at = _skip(_SPACE, text, at + 1)
        elif text[at : at + 1] != "]":
            raise _error(text, at, "the list is not closed by ']'")
    return found, at + 1


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _error(text: str, at: int, why: str) -> VirConfError:
    return VirConfError(_line(text, at), why)
