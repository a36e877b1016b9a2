# SPDX-License-Identifier: LGPL-2.1-or-later
"""One running guest: its live XML goes to the keeper, and a disk that is refused is dealt with.

A guest uses a refused disk already: libvirt tells of it afterwards. So the disk
is taken away from the guest at once; a guest that does not let go of it, or
whose disk cannot be detached, is paused, before both guests have written much.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Optional

import libvirt
from lxml import etree

from ..keeper.client import call
from ..keeper.log import Log
from ..safexml import parse

DETACH, PAUSE, ALARM = "detach", "pause", "alarm"
SECONDS = 20.0
"""Longer than the keeper takes at the most."""
DETACH_SECONDS = 1.0
POLL_SECONDS = 0.05
GOOD = ("protected", "nothing to protect")


class Guests:
    """`policy`: detach, pause or alarm, for disks that are in use without their lease."""

    def __init__(self, run_dir: Path, policy: str, log: Log) -> None:
        self._run_dir = run_dir
        self._policy = policy
        self._log = log
        self._good: dict[str, bytes] = {}
        self._told_volumes = False

    def look(self, domain: Any) -> None:
        """Let the guest's leases follow its disks. Raises libvirt.libvirtError and VlhookError."""
        uuid, asked = domain.UUIDString(), time.monotonic()
        xml = domain.XMLDesc(0)
        digest = sha256(xml.encode("utf-8", "surrogateescape")).digest()
        if self._good.get(uuid) == digest:
            return
        answer = call(self._run_dir, "follow", SECONDS, xml=xml, asked=asked)
        for word in ("taken", "released"):
            if answer[word]:
                self._log.notice(word, guest=domain.name(), disks=", ".join(answer[word]))
        if answer["state"] in GOOD:
            self._good[uuid] = digest
        else:
            self._good.pop(uuid, None)
        for disk in answer["refused"]:
            self._deal_with(domain, xml, disk)

    def cpus_run(self, uuid: str) -> None:
        """The guest's CPUs have begun to run here. Raises VlhookError."""
        answer = call(self._run_dir, "cpus_run", uuid=uuid)
        if answer["state"] == "ended":
            self._log.error("two-runs", uuid=uuid, why=f"it runs on {answer['where']}, and was ended here")

    def only(self, uuids: list[str]) -> None:
        """These are all that run."""
        for uuid in set(self._good) - set(uuids):
            del self._good[uuid]
        call(self._run_dir, "running", uuids=uuids)

    def volumes(self, pools: dict[str, dict[str, str]]) -> None:
        """Where the volumes of these pools are. Raises VlhookError."""
        if pools or self._told_volumes:
            call(self._run_dir, "volumes", pools=pools)
        self._told_volumes = bool(pools)

    def keeper_was_away(self) -> None:
        """Whatever it said before, it is asked again about everybody."""
        self._good.clear()

    # -- a disk without its lease

    def _deal_with(self, domain: Any, xml: str, disk: dict[str, Any]) -> None:
        self._log.error("disk-refused", guest=domain.name(), disk=disk["source"], why=disk["why"], policy=self._policy)
        if not disk["targets"]:
            return
        if self._policy == DETACH and all(self._detached(domain, xml, target) for target in disk["targets"]):
            self._log.error("detached", guest=domain.name(), disk=disk["source"])
            return
        if self._policy == ALARM or not _runs(domain):
            return
        domain.suspend()
        step = f"stop the other guest, or detach the disk, then: virsh resume {domain.name()}"
        self._log.error("paused", guest=domain.name(), disk=disk["source"], what_next=step)

    def _detached(self, domain: Any, xml: str, target: str) -> bool:
        element = disk_element(xml, target)
        if element is None:
            return True
        try:
            domain.detachDeviceFlags(element, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            self._log.error("not-detached", guest=domain.name(), target=target, why=error)
            return False
        if within(DETACH_SECONDS, lambda: disk_element(domain.XMLDesc(0), target) is None):
            return True
        why = f"the guest did not let go of it within {DETACH_SECONDS:g} s"
        self._log.error("not-detached", guest=domain.name(), target=target, why=why)
        return False


def disk_element(xml: str, target: str) -> Optional[str]:
    """The <disk> element with that target as text; None if the guest has none. Raises BadXml."""
    root = parse(xml.encode("utf-8", "surrogateescape"), "the domain XML")
    for element in root.findall("devices/disk"):
        place = element.find("target")
        if place is not None and place.get("dev") == target:
            return etree.tostring(element, encoding="unicode", with_tail=False)
    return None


def within(seconds: float, done: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _runs(domain: Any) -> bool:
    return bool(domain.state()[0] in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED))


