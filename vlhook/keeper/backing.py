# SPDX-License-Identifier: LGPL-2.1-or-later
"""Leases on what lies below a guest's disks: shared on backing images, as on the disk on external data.

The prober reads the head of an image as root, the reader, which may do
nothing, makes sense of it: a guest can write what it likes into its own disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Optional

from ..leases.names import LOCKSPACE_NAME, lease_name
from .log import Log

BACKING, DATA = "backing", "data"
MAX_DEPTH = 64
_PROTOCOL = re.compile(r"[A-Za-z0-9+.-]+:")

# The head of an image by its path, as a dict of `qcow2.Header`; None with the reason where it cannot be told.
Heads = Callable[[str], tuple[Optional[dict[str, Any]], str]]


def leases_below(guest: dict[str, Any], header: Heads, log: Log) -> list[dict[str, Any]]:
    """The further leases of a guest (`domain.Guest` in a dict) by the chains of its disks."""
    own = {lease["source"]: lease for lease in guest["leases"]}
    found: dict[str, dict[str, Any]] = {}
    for chain in guest["chains"]:
        layers = chain["layers"]
        top = own.get(layers[0]["path"])
        if top is None:
            continue  # it has no lease itself: read-only, for example
        for path, kind, shared in _follow(layers, chain["complete"], top["shared"], header, guest["name"], log):
            if path not in own and (path not in found or not shared):
                found[path] = _lease(path, kind, shared, top["targets"])
    return list(found.values())


def _follow(
    layers: list[dict[str, str]], complete: bool, top_shared: bool, header: Heads, guest: str, log: Log
) -> list[tuple[str, str, bool]]:
    found = [(layer["path"], BACKING, True) for layer in layers[1:]]
    path, form, depth = layers[-1]["path"], layers[-1]["format"], len(layers)
    while form == "qcow2" and depth < MAX_DEPTH:
        head, why = header(path)
        if head is None:
            log.warning("chain", guest=guest, image=path, why=f"what lies below it cannot be told: {why}")
            break
        if head["data_file"]:
            data = _resolve(head["data_file"], path)
            if data:
                found.append((data, DATA, depth > 1 or top_shared))
        if complete or not head["backing"]:
            break
        below = _resolve(head["backing"], path)
        if below is None:
            break  # on the network
        found.append((below, BACKING, True))
        path, form, depth = below, head["format"] or "", depth + 1
        if not form:
            log.notice("chain", guest=guest, image=path, why="its format is not declared, so nothing below it is known")
    return found


def _resolve(name: str, parent: str) -> Optional[str]:
    """The path of `name` as QEMU finds it from `parent`; None if it is no path."""
    if name.startswith("file:"):
        name = name[len("file:") :]
    elif not name.startswith("/") and _PROTOCOL.match(name):
        return None
    path = os.path.join(os.path.dirname(parent), name)
    return os.path.normpath(path) if "/../" in path or "/./" in path else path


def _lease(path: str, kind: str, shared: bool, targets: list[str]) -> dict[str, Any]:
    return {
        "name": lease_name(path.encode("utf-8", "surrogateescape")),
        "lockspace": LOCKSPACE_NAME,
        "path": None,
        "offset": 0,
        "shared": shared,
        "source": path,
        "targets": targets,
        "kind": kind,
    }
