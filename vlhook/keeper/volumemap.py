# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where volumes are in pools whose state does not tell it: vlhook-watch asks libvirt and tells (safety rules, 26).

    volumes {"pools": {POOL: {VOLUME: PATH}}}     all such pools that are active
        → {"schema": 1}

What was told counts for a minute, and only while the pool's state file is the one that
was there then: a pool that was stopped, and started as another, has other volumes.
It is not kept over a restart: such names may stand for other devices after the next boot.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any, Optional

from ..leases.digests import sha256_hex
from .follow import BadCall
from .readers import read_small

SCHEMA = 1
FRESH_SECONDS = 60.0
MAX_VOLUMES = 20000
_SIZES = re.compile(rb"<(capacity|allocation|available)\b[^>]*>[^<]*</\1>")


class VolumeMap:
    """`storage`: libvirt's directory with the state of active pools."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._told: dict[str, tuple[bytes, dict[str, str]]] = {}
        self._told_at = 0.0

    def tell(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The call `volumes`. Raises BadCall."""
        pools = arguments.get("pools")
        if not isinstance(pools, dict) or not all(_is_map(volumes) for volumes in pools.values()):
            raise BadCall(what="an object 'pools'")
        if sum(map(len, pools.values())) > MAX_VOLUMES:
            raise BadCall(what=f"at most {MAX_VOLUMES} volumes")
        told = {}
        for pool, volumes in pools.items():
            state = self._state(pool)
            if state is not None:
                told[pool] = (_digest(state), volumes)
        with self._lock:
            self._told, self._told_at = told, time.monotonic()
        return {"schema": SCHEMA}

    def of(self, pool: str, state: bytes) -> dict[str, str]:
        """Volume → path in the active pool with that state file; nothing where it is not known for certain."""
        with self._lock:
            digest, volumes = self._told.get(pool, (b"", {}))
            fresh = time.monotonic() - self._told_at <= FRESH_SECONDS
        return volumes if fresh and digest == _digest(state) else {}

    def _state(self, pool: str) -> Optional[bytes]:
        if not pool or "/" in pool or pool in (".", ".."):
            return None
        return read_small(self._storage / f"{pool}.xml")


def _digest(state: bytes) -> bytes:
    """The sizes in it are written anew at times."""
    return bytes.fromhex(sha256_hex(_SIZES.sub(b"", state)))


def _is_map(volumes: Any) -> bool:
    if not isinstance(volumes, dict):
        return False
    return all(isinstance(path, str) and path.startswith("/") for path in volumes.values())
