# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the XML says of the images below a disk's own (safety rules, 28).

Only formats that the XML declares count. Where it says nothing of what lies
below, as it does unless somebody wrote it there, the header of the lowest
image that it names tells (`qcow2.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from lxml import etree

PATHS = {"file": "file", "block": "dev"}


@dataclass(frozen=True)
class Layer:
    """An image of this host and its declared format, "" if the XML declares none."""

    path: str
    format: str


@dataclass(frozen=True)
class Chain:
    """`layers` from the top down, at least one. `complete`: nothing lies below the last one."""

    layers: tuple[Layer, ...]
    complete: bool


def chain_of(disk: etree._Element) -> Optional[Chain]:
    """The chain of a <disk>; None if its own image is not a path of this host."""
    driver = disk.find("driver")
    top = _layer(disk, driver.get("type", "") if driver is not None else "")
    if top is None:
        return None
    layers, element = [top], disk.find("backingStore")
    while element is not None:
        if not len(element):
            return Chain(tuple(layers), complete=True)
        form = element.find("format")
        layer = _layer(element, form.get("type", "") if form is not None else "")
        if layer is None:
            return Chain(tuple(layers), complete=True)  # a network image: not followed
        layers.append(layer)
        element = element.find("backingStore")
    return Chain(tuple(layers), complete=False)


def _layer(element: etree._Element, form: str) -> Optional[Layer]:
    source = element.find("source")
    name = PATHS.get(element.get("type", ""))
    path = source.get(name, "") if source is not None and name else ""
    return Layer(path, form) if path.startswith("/") else None
