# SPDX-License-Identifier: LGPL-2.1-or-later
"""An error is one line that an administrator can act on, whatever its fields hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlhook.errors import FIELD_LIMIT, VlhookError, printable


class Lost(VlhookError):
    msg = "disk {disk} is lost for {seconds:.1f} s: {why}"
    hint = "look for {disk}"
    code = "VLH-T001"


def test_the_line_says_what_why_and_what_to_do() -> None:
    error = Lost(disk="vda", seconds=2, why=OSError(5, "Input/output error"))
    assert str(error) == "disk vda is lost for 2.0 s: [Errno 5] Input/output error; look for vda"
    assert error.what_and_why() == "disk vda is lost for 2.0 s: [Errno 5] Input/output error"


def test_fields_are_not_templates() -> None:
    assert "{why} {0.__class__} %s" in str(Lost(disk="{why} {0.__class__} %s", seconds=0, why=""))


def test_a_field_may_have_any_usual_name() -> None:
    class Told(VlhookError):
        msg = "{reason} {what} {why} {text} {step}"

    names = ("reason", "what", "why", "text", "step")
    assert str(Told(**dict.fromkeys(names, "x"))) == "x x x x x"


@given(st.text())
def test_no_field_breaks_the_line(text: str) -> None:
    assert str(Lost(disk=text, seconds=0, why=ValueError(text))).isprintable()


@given(st.text(st.characters(blacklist_categories=("C", "Z"))))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == (text if len(text) <= FIELD_LIMIT else text[:FIELD_LIMIT] + "…")


def test_a_long_field_is_cut() -> None:
    assert len(printable("a" * 10_000_000)) == FIELD_LIMIT + 1
