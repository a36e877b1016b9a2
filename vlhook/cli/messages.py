# SPDX-License-Identifier: LGPL-2.1-or-later
"""All messages: the catalogue together with the texts where they are raised.

`python3 -m vlhook.cli.messages` writes docs/messages.md; a test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Optional, Union

import vlhook

from ..catalogue import CATALOGUE, SECTIONS
from ..errors import VlhookError
from ..leases.errors import LeaseError

ErrorClass = Union[type[VlhookError], type[LeaseError]]
_FIELD = re.compile(r"\{[^{}]*\}")
_SANLOCK = re.compile(r"VLH-L([0-9]{3})S|-([0-9]{1,3})")
_FEWEST_LETTERS = 8
"""Of a template that is to be recognised in a text; '{reason}' alone fits everything."""


@dataclass(frozen=True)
class Message:
    """`text`: with … for what varies, "" where only the fields tell; `pattern` finds it in a line."""

    code: str
    text: str
    cause: str
    step: str
    pattern: Optional[re.Pattern[str]] = None
    letters: int = 0


def classes() -> list[ErrorClass]:
    """Every error class of vlhook that has a code of its own."""
    for module in walk_packages(vlhook.__path__, "vlhook."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    bases: tuple[ErrorClass, ...] = (VlhookError, LeaseError)
    found = {one: None for base in bases for one in _below(base)}
    return [one for one in found if "code" in vars(one) and one.__module__.startswith("vlhook.")]


def _below(base: ErrorClass) -> Iterator[ErrorClass]:
    yield base
    for one in base.__subclasses__():
        yield from _below(one)


def messages() -> list[Message]:
    """Every message of the catalogue, in its order."""
    texts = {one.code: one.msg for one in reversed(classes())}
    return [_message(code, entry.text or texts.get(code, "")) for code, entry in CATALOGUE.items()]


def _message(code: str, template: str) -> Message:
    entry = CATALOGUE[code]
    literals = _FIELD.split(template)
    letters = sum(len(part.strip()) for part in literals)
    pattern = None
    if letters >= _FEWEST_LETTERS:
        pattern = re.compile(".*?".join(re.escape(part.strip(" ")) for part in literals), re.IGNORECASE)
    shown = " ".join(_FIELD.sub("…", template).split())
    return Message(code, shown if letters else "", entry.cause, entry.step, pattern, letters)


def of_code(code: str) -> Optional[Message]:
    """By code, in any case; also sanlock's numbers, as VLH-L243S or -243."""
    wanted = code.upper()
    for message in messages():
        if message.code == wanted:
            return message
    number = _SANLOCK.fullmatch(wanted)
    return _of_sanlock(int(number[1] or number[2])) if number else None


def _of_sanlock(number: int) -> Message:
    from ..leases.sanlockerrors import refusal

    error = refusal("", -number)
    meaning = f"sanlock answered {-number}: {vars(error)['meaning']}."
    step = (error.hint or CATALOGUE["VLH-L201S"].step).rstrip(".") + "."
    return Message(f"VLH-L{number:03d}S", "", meaning, step[0].upper() + step[1:])


def in_text(text: str) -> list[Message]:
    """The messages whose words are in `text`, the one with the most first; those with few beside it are chance."""
    line = " ".join(text.split())
    found = [message for message in messages() if message.pattern and message.pattern.search(line)]
    most = max((message.letters for message in found), default=0)
    return sorted((one for one in found if 2 * one.letters >= most), key=lambda message: -message.letters)


# ------------------------------------------------------------------------------------ the document


def document() -> str:
    """docs/messages.md."""
    known = {message.code: message for message in messages()}
    parts = [
        "<!-- SPDX-License-Identifier: LGPL-2.1-or-later. Made from vlhook/catalogue by "
        "python3 -m vlhook.cli.messages: change it there. -->\n",
        "# Messages\n",
        "Every message of vlhook has a code that never changes. `vlhook explain CODE` prints what stands here, and "
        "`vlhook explain 'the words of a message'` finds the code. `…` stands for what varies.\n",
    ]
    for title, section in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_paragraph(known[code]) for code in section]
    return "\n".join(parts)


def _paragraph(message: Message) -> str:
    text = f"> {_quoted(message.text)}\n\n" if message.text else ""
    return f"### {message.code}\n\n{text}{_quoted(message.cause)}\n\n**What to do:** {_quoted(message.step)}\n"


def _quoted(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("_", "\\_")


def main(root: Path) -> None:
    (root / "docs/messages.md").write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
