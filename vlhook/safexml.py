# SPDX-License-Identifier: LGPL-2.1-or-later
"""XML from outside → a tree, within bounds: nothing is fetched, expanded or believed to be small."""

from __future__ import annotations

from typing import Any, cast

from lxml import etree

from .errors import DomainError

MAX_BYTES = 16 << 20
# Some ten elements make a disk: 200,000 marks are thousands of disks, and a tree of 50 MB at most.
MAX_MARKS = 200_000
# The parser compares each attribute of a tag with all others of it: 50,000 in one tag take seconds.
MAX_ATTRIBUTES = 5_000


class BadXml(DomainError):
    """Fields: `what` (which document), `why`."""

    msg = "{what}: {why}"
    hint = "nothing was read from it; look at the document with 'xmllint --noout'"
    code = "VLH-D101"


def parse(data: bytes, what: str) -> etree._Element:
    """The root element of the document `data`; `what` names it in errors.

    Comments and processing instructions are left out. Raises BadXml, and nothing else.
    """
    _check_size(data, what)
    _refuse_doctype(data, what)
    try:
        root = etree.fromstring(data, etree.XMLParser(**_options()))
        has_doctype = root.getroottree().docinfo.internalDTD is not None
    except Exception as error:  # lxml also raises ValueError, LookupError, TypeError and AssertionError
        raise BadXml(what=what, why=f"not well-formed XML: {getattr(error, 'msg', None) or error}") from None
    if has_doctype:
        raise _doctype(what)
    return root


def _options() -> dict[str, Any]:
    return {
        "resolve_entities": False,
        "no_network": True,
        "huge_tree": False,
        "load_dtd": False,
        "dtd_validation": False,
        "attribute_defaults": False,
        "recover": False,
        "remove_comments": True,
        "remove_pis": True,
    }


def _check_size(data: bytes, what: str) -> None:
    if not data.strip(b" \t\r\n\0"):
        raise BadXml(what=what, why="empty document")
    if len(data) > MAX_BYTES:
        raise BadXml(what=what, why=f"{len(data)} bytes are more than the {MAX_BYTES} that are read")
    if data.count(b"<") > MAX_MARKS:
        raise BadXml(what=what, why=f"more than {MAX_MARKS // 2} elements")
    # An attribute's value cannot hold '<', so no tag reaches beyond the next one.
    if data.count(b"=") > MAX_ATTRIBUTES:
        for tag in data.split(b"<"):
            if tag.count(b"=") > MAX_ATTRIBUTES:
                raise BadXml(what=what, why=f"more than {MAX_ATTRIBUTES} attributes in one element")


class _Seen(Exception):
    """The prolog is over: stops the parser."""


class _Prolog:
    """A parser target that looks no further than the first element."""

    def __init__(self) -> None:
        self.doctype_seen = False

    def doctype(self, *_ignored: object) -> None:
        self.doctype_seen = True
        raise _Seen

    def start(self, *_ignored: object) -> None:
        raise _Seen

    def close(self) -> None:
        pass


def _refuse_doctype(data: bytes, what: str) -> None:
    """Before any entity is declared: libvirt writes no document type, so there is no good use for one."""
    prolog = _Prolog()
    try:
        etree.fromstring(data, etree.XMLParser(target=cast(Any, prolog), **_options()))
    except Exception:  # _Seen, or a fault that the real parse reports better
        pass
    if prolog.doctype_seen:
        raise _doctype(what)


def _doctype(what: str) -> BadXml:
    return BadXml(what=what, why="it declares a document type (DOCTYPE), which libvirt never does")
