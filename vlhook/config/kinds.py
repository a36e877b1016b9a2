# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a setting's value may be, and how it is read and written.

`parse` takes the text of the value without its quotes and raises ValueError if
it is not allowed; `allowed` says what is, for messages and the manual. `text`:
libvirt wants the value in quotes, numbers and flags without.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Optional, Union

_NUMBER = re.compile(r"0*([0-9]{1,9})")


@dataclass(frozen=True)
class Number:
    """A whole number. `zero`: the number that 0 stands for, where 0 is outside the range."""

    low: int
    high: int
    zero: Optional[int] = None
    unit: str = ""
    text: ClassVar[bool] = False

    @property
    def allowed(self) -> str:
        unit = f" ({self.unit})" if self.unit else ""
        zero = f", or 0 for the default {self.zero}" if self.zero is not None else ""
        return f"a whole number from {self.low} to {self.high}{unit}{zero}"

    def parse(self, text: str) -> int:
        match = _NUMBER.fullmatch(text)
        number = int(match[1]) if match else -1
        if number == 0 and self.zero is not None:
            return self.zero
        if not self.low <= number <= self.high:
            raise ValueError(text)
        return number

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True)
class Flag:
    """1 or 0; with `words` also yes and no."""

    words: bool = False
    text: ClassVar[bool] = False

    @property
    def allowed(self) -> str:
        return "yes or no, 1 or 0" if self.words else "1 or 0"

    def parse(self, text: str) -> bool:
        yes, no = (("1", "yes"), ("0", "no")) if self.words else (("1",), ("0",))
        if text not in yes + no:
            raise ValueError(text)
        return text in yes

    def show(self, value: object) -> str:
        return "1" if value else "0"


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]
    text: ClassVar[bool] = True

    @property
    def allowed(self) -> str:
        return ", ".join(self.words[:-1]) + f" or {self.words[-1]}"

    def parse(self, text: str) -> str:
        if text not in self.words:
            raise ValueError(text)
        return text

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True)
class Account:
    """The name or number of a user or group; a number after + is never taken for a name."""

    text: ClassVar[bool] = True
    allowed: ClassVar[str] = "the name of an account, or its number"

    def parse(self, text: str) -> str:
        if not text or not text.isprintable() or re.search(r"\s", text):
            raise ValueError(text)
        return text

    def show(self, value: object) -> str:
        return str(value)


@dataclass(frozen=True)
class Directory:
    """An absolute path, so long at most that libvirt's plugin can name the files in it."""

    longest: int = 960
    text: ClassVar[bool] = True

    @property
    def allowed(self) -> str:
        return f"an absolute path of at most {self.longest} bytes"

    def parse(self, text: str) -> str:
        if not text.startswith("/") or len(text.encode()) > self.longest or not text.isprintable():
            raise ValueError(text)
        return text.rstrip("/") or "/"

    def show(self, value: object) -> str:
        return str(value)


Kind = Union[Number, Flag, Choice, Account, Directory]
