# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook-watch's connection: nothing that happens between its first look and its first event is missed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests import needs
from vlhook.keeper.log import Log


class Guests:
    """Whom the watch has looked at."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.both = threading.Event()

    def look(self, domain: Domain) -> None:
        self.seen.append(domain.uuid)
        if {"first", "second"} <= set(self.seen):
            self.both.set()

    def only(self, _uuids: list[str]) -> None:
        pass

    def volumes(self, _pools: dict[str, dict[str, str]]) -> None:
        pass


class Domain:
    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    def UUIDString(self) -> str:
        return self.uuid


class Connection:
    """A guest starts in the moment after the guests were listed for the first time."""

    def __init__(self, started: int) -> None:
        self._started = started
        self._callbacks: dict[int, Callable[..., None]] = {}
        self._listed = False

    def registerCloseCallback(self, _callback: Callable[..., None], _opaque: object) -> None:
        pass

    def setKeepAlive(self, _seconds: int, _count: int) -> None:
        pass

    def domainEventRegisterAny(self, _domain: None, event: int, callback: Callable[..., None], _opaque: object) -> int:
        self._callbacks[event] = callback
        return len(self._callbacks)

    def listAllDomains(self, _flags: int) -> list[Domain]:
        if self._listed:
            return [Domain("first"), Domain("second")]
        self._listed = True
        if self._lifecycle:
            self._lifecycle(self, Domain("second"), self._started, 0, None)
        return [Domain("first")]

    @property
    def _lifecycle(self) -> Callable[..., None] | None:
        return self._callbacks.get(0)

    def lookupByUUIDString(self, uuid: str) -> Domain:
        return Domain(uuid)

    def listAllStoragePools(self, _flags: int) -> list[Any]:
        return []

    def close(self) -> None:
        pass


def test_a_guest_that_starts_while_the_guests_are_listed_for_the_first_time_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its event: the next look at everybody is an hour away."""
    needs.require_module("libvirt")
    import libvirt

    from vlhook.watch.events import Watch

    assert libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE == 0
    guests, stop = Guests(), threading.Event()
    monkeypatch.setattr(libvirt, "open", lambda _uri: Connection(libvirt.VIR_DOMAIN_EVENT_STARTED))
    watch = Watch("test:///", 3600.0, guests, Log("test"))  # type: ignore[arg-type]
    worker = threading.Thread(target=watch.run, args=(stop,))
    worker.start()
    try:
        assert guests.both.wait(60), guests.seen
    finally:
        stop.set()
        worker.join()
