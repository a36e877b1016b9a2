# SPDX-License-Identifier: LGPL-2.1-or-later
"""The token that tells an incoming guest from any other start (safety rules, 16).

At `migrate begin` the hook may change the XML of the guest that is about to
come: a token is put into <metadata>, which libvirt hands on, as it is, to the
prepare and start that follow. It stays in the guest's live XML afterwards and
goes with it from host to host, worth nothing; each migration replaces it.
"""

from __future__ import annotations

from typing import Optional

from lxml import etree

from . import safexml

NAMESPACE = "urn:vlhook:incoming"
_TAG = f"{{{NAMESPACE}}}incoming"
MAX_TOKEN = 64


def token_of(root: etree._Element) -> Optional[str]:
    """The token in a domain's <metadata>; None if there is none, or not exactly one."""
    found = root.findall(f"metadata/{_TAG}")
    token = found[0].get("token", "") if len(found) == 1 else ""
    return token if 0 < len(token) <= MAX_TOKEN and token.isascii() and token.isalnum() else None


def stamped(xml: bytes, token: str) -> bytes:
    """The domain XML with this token, and no other. Raises BadXml."""
    root = safexml.parse(xml, "the domain XML")
    holder = root.find("metadata")
    if holder is None:
        holder = etree.SubElement(root, "metadata")
    for old in holder.findall(_TAG):
        holder.remove(old)
    etree.SubElement(holder, _TAG, {"token": token}, {"vlhook": NAMESPACE})
    return etree.tostring(root, encoding="UTF-8")
