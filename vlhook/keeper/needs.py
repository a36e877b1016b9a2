# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest needs: the leases that its XML names, and one more on each disk whose identity is certain.

Two names of one disk (a symbolic link, //, by-path against mapper, a bind
mount) are two leases to every host that knows names alone. The second lease
makes them one (safety rules, 27). It is never taken instead of the first,
which is the one that other kinds of hosts know.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.names import lease_name
from .backing import DATA, leases_below
from .children import Child, ChildFailed
from .log import Log
from .readers import Reader
from .wire import pack

IDENTITY = "identity"
PROBE_SECONDS = 3.0


class Needs:
    """`options` for the reader; `host`: this host's own name; `identities`, `chains`: whether to take those leases."""

    def __init__(
        self, reader: Reader, options: dict[str, Any], host: str, log: Log, *, identities: bool, chains: bool
    ) -> None:
        self._reader = reader
        self._options = options
        self._host = host
        self._identities = identities
        self._chains = chains
        self._log = log
        self._prober = Child("vlhook.keeper.prober")
        self._lock = threading.Lock()
        self._number = 0

    def of(self, xml: bytes, deadline: float) -> dict[str, Any]:
        """The guest as `domain.Guest` in a dict, with second leases. Raises XmlRefused and ReaderFailed.

        `devices`: path → st_dev of its images, as far as they can be looked at.
        """
        guest = self._reader.parse(xml, self._options, deadline)
        if self._chains:
            below = leases_below(guest, lambda path: self._head(path, deadline), self._log)
            guest["leases"] = [*guest["leases"], *below]
            guest["writable_paths"] = [*guest["writable_paths"], *(b["source"] for b in below if b["kind"] == DATA)]
        first = {lease["source"]: lease for lease in guest["leases"] if _is_path_of_this_host(lease)}
        found = self._identify(list(first), deadline, guest["name"]) if first else {}
        guest["devices"] = {path: device for path, (_, device) in found.items() if device is not None}
        if self._identities:
            identities = {path: identity for path, (identity, _) in found.items()}
            guest["leases"] = [*guest["leases"], *_second(first, identities)]
        return guest

    def stop(self) -> None:
        if self._lock.acquire(timeout=PROBE_SECONDS):
            self._prober.end()
            self._lock.release()

    def _identify(self, paths: list[str], deadline: float, guest: str) -> dict[str, Any]:
        """Nothing where the storage does not answer: an identity that is not certain has no lease."""
        until = min(deadline, time.monotonic() + PROBE_SECONDS)
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            return {}
        try:
            _, data = self._ask(b"identify", [self._host.encode(), json.dumps(paths).encode()], until)
            return dict(json.loads(data))
        except (ChildFailed, ValueError) as error:
            self._prober.end()
            self._log.warning("no-identity", guest=guest, why=f"the images could not be looked at: {error}")
            return {}
        finally:
            self._lock.release()

    def _head(self, path: str, deadline: float) -> tuple[Optional[dict[str, Any]], str]:
        """The header of a qcow2 image, or None and why not."""
        until = min(deadline, time.monotonic() + PROBE_SECONDS)
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            return None, "the prober is busy"
        try:
            verb, data = self._ask(b"head", [path.encode("utf-8", "surrogateescape")], until)
        except ChildFailed as error:
            self._prober.end()
            return None, str(error)
        finally:
            self._lock.release()
        if verb != b"ok":
            return None, data.decode("utf-8", "replace")
        try:
            return self._reader.header(data, deadline), ""
        except VlhookError as error:
            return None, str(error)

    def _ask(self, verb: bytes, fields: list[bytes], until: float) -> tuple[bytes, bytes]:
        self._number += 1
        number = str(self._number).encode()
        said, answer = self._prober.ask(pack(verb, [number, *fields]), until)
        if len(answer) != 2 or answer[0] != number:
            raise ChildFailed("it answered another request")
        return said, answer[1]


def _second(first: dict[str, dict[str, Any]], identities: dict[str, Optional[str]]) -> list[dict[str, Any]]:
    second: dict[str, dict[str, Any]] = {}
    for path, identity in identities.items():
        if identity is None or path not in first:
            continue
        name = lease_name(f"vlhook-id:{identity}".encode("utf-8", "surrogateescape"))
        lease = {**first[path], "name": name, "kind": IDENTITY}
        if name in second and not second[name]["shared"]:
            continue  # the guest itself has the disk twice: exclusive wins
        second[name] = lease
    return list(second.values())


def _is_path_of_this_host(lease: dict[str, Any]) -> bool:
    return bool(lease["kind"] != "lease" and lease["source"].startswith("/"))
