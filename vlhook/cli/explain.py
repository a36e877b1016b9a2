# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook explain`: a message in plain words, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import click

from ..errors import VlhookError
from .common import json_option, show
from .messages import Message, in_text, messages, of_code

SCHEMA = 1
MOST = 3


class NoSuchMessage(VlhookError):
    msg = "no message of vlhook is {what}"
    hint = "give a code as VLH-L243, or the words of a message; 'vlhook explain --all' lists every one"
    code = "VLH-C143"


@click.command()
@click.argument("what", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="List every code and its message.")
@json_option
def explain_command(what: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Say in plain words what a message means and what to do about it.

    WHAT is a code (VLH-L243), a number of sanlock (-- -243), or the words of a
    message as libvirt, the log or a command showed them; '-' reads them from
    standard input. Needs neither keeper nor network. Exit status: 0 it is
    known, 2 it is not.

    \b
    Examples:
      vlhook explain VLH-L262
      virsh start web1 2>&1 | vlhook explain -
    """
    if everything:
        found = messages()
    elif not what:
        raise click.UsageError("give a code or the words of a message, or --all")
    else:
        found = find(" ".join(what))
    report = {"schema": SCHEMA, "messages": [_as_dict(message) for message in found]}
    show(lambda: report, lambda _: _list(found) if everything else _lines(found), as_json, None)


def find(what: str) -> list[Message]:
    """What that code or text is. Raises NoSuchMessage."""
    text = click.get_text_stream("stdin").read() if what == "-" else what
    by_code = of_code(text.strip())
    found = [by_code] if by_code else in_text(text)[:MOST]
    if not found:
        raise NoSuchMessage(what=text.strip() or "empty")
    return found


def _as_dict(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in ("code", "text", "cause", "step")}


def _lines(found: list[Message]) -> Iterator[str]:
    for number, message in enumerate(found):
        if number:
            yield ""
        yield f"{message.code}  {message.text}".rstrip()
        yield from wrap(message.cause, 96, initial_indent="    ", subsequent_indent="    ")
        yield from wrap(f"What to do: {message.step}", 96, initial_indent="    ", subsequent_indent="    ")


def _list(found: list[Message]) -> Iterator[str]:
    for message in found:
        yield f"{message.code:<10} {message.text or message.cause}"
