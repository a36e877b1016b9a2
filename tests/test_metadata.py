# SPDX-License-Identifier: LGPL-2.1-or-later
"""The token of an incoming migration in a domain's <metadata>."""

from __future__ import annotations

import pytest

from vlhook import safexml
from vlhook.domain import parse_guest
from vlhook.errors import VlhookError
from vlhook.metadata import stamped, token_of

XML = b"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a&amp;b</name>
<uuid>e4fc25a6-e112-5280-beea-07b6c036da24</uuid>%s<devices/>
<qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>"""
OTHER = b"<metadata><m:mark xmlns:m='urn:example' token='T1'/></metadata>"
A, B = "a" * 32, "b" * 32


def found(xml: bytes) -> str | None:
    return token_of(safexml.parse(xml, "test"))


@pytest.mark.parametrize("metadata", [b"", OTHER, b"<metadata/>"])
def test_a_token_is_found_again_and_everything_else_is_as_it_was(metadata: bytes) -> None:
    xml = XML % metadata
    assert found(xml) is None
    marked = stamped(xml, A)
    assert found(marked) == A
    assert parse_guest(marked).token == A
    root = safexml.parse(marked, "test")
    assert root.findtext("name") == "a&b"
    assert root.find("{http://libvirt.org/schemas/domain/qemu/1.0}commandline") is not None
    assert (root.find("metadata/{urn:example}mark") is not None) == (metadata == OTHER)


def test_a_token_replaces_the_one_of_the_last_migration() -> None:
    again = stamped(stamped(XML % OTHER, A), B)
    assert found(again) == B
    assert A.encode() not in again


@pytest.mark.parametrize("token", ["", "x" * 65, "a b", "é", "../x"])
def test_what_cannot_be_a_token_is_none(token: str) -> None:
    assert found(stamped(XML % b"", token)) is None


def test_two_tokens_are_none() -> None:
    one = b'<v:incoming xmlns:v="urn:vlhook:incoming" token="a"/>'
    assert found(XML % (b"<metadata>" + one + one + b"</metadata>")) is None


def test_xml_that_is_refused_elsewhere_is_refused_here() -> None:
    with pytest.raises(VlhookError):
        stamped(b"<!DOCTYPE a><a/>", A)
