# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes that only libvirt knows: named by vlhook-watch, believed while nothing changed, checked when QEMU runs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.keeper.host import KeeperHost, wait_for
from vlhook.keeper.client import call
from vlhook.keeper.volumemap import FRESH_SECONDS, VolumeMap
from vlhook.leases.names import lease_name
from vlhook.watch.pools import volumes

STATE = """<poolstate><pool type='{kind}'><name>{name}</name><uuid>4f8ef4b9-d471-4ccd-8cd4-41f667c11da4</uuid>
<capacity unit='bytes'>{size}</capacity><source><device path='{device}'/></source>
<target><path>/dev/disk/by-path</path></target></pool></poolstate>"""
XML = """<domain type='qemu' id='1'><name>{name}</name><uuid>{uuid}</uuid><devices>
<disk type='volume' device='disk'><source pool='san' volume='unit:0:0:1'{more}/><target dev='vda'/></disk>
</devices></domain>"""
PATH = "/dev/disk/by-path/ip-192.0.2.1:3260-iscsi-iqn.2024-01.example:t1-lun-1"
SAN = {"san": {"unit:0:0:1": PATH}}


def state(size: int = 0, device: str = "iqn.2024-01.example:t1", name: str = "san", kind: str = "iscsi") -> str:
    return STATE.format(size=size, device=device, name=name, kind=kind)


# ------------------------------------------------------------------------------------------ what is believed


@pytest.fixture
def told(tmp_path: Path) -> VolumeMap:
    (tmp_path / "san.xml").write_text(state())
    known = VolumeMap(tmp_path)
    known.tell({"pools": {**SAN, "gone": {"v": "/dev/v"}}})
    return known


def test_what_was_told_is_known_also_when_the_pools_sizes_have_changed(told: VolumeMap) -> None:
    assert told.of("san", state(size=4096).encode()) == SAN["san"]


@pytest.mark.parametrize("pool", ["gone", "other"])
def test_a_pool_that_was_not_active_has_no_volumes(told: VolumeMap, pool: str) -> None:
    assert told.of(pool, state().encode()) == {}


def test_a_pool_that_was_started_as_another_has_no_volumes(told: VolumeMap) -> None:
    assert told.of("san", state(device="iqn.2024-01.example:t2").encode()) == {}


def test_what_was_told_long_ago_does_not_count(told: VolumeMap, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic() + FRESH_SECONDS + 1
    monkeypatch.setattr("vlhook.keeper.volumemap.time.monotonic", lambda: later)
    assert told.of("san", state().encode()) == {}


# ------------------------------------------------------------------------------------------ what libvirt tells


def test_the_volumes_of_other_kinds_of_pools_are_named_as_libvirt_has_them() -> None:
    connection = libvirt.open("test:///default")
    for kind, name in (("disk", "d"), ("dir", "plain")):
        source = "<source><device path='/dev/sdz'/></source>" if kind == "disk" else ""
        xml = f"<pool type='{kind}'><name>{name}</name>{source}<target><path>/dev/{name}</path></target></pool>"
        pool = connection.storagePoolCreateXML(xml)
        pool.createXML("<volume><name>v1</name><capacity>1024</capacity></volume>")
    assert volumes(connection) == {"d": {"v1": "/dev/d/v1"}}
    connection.storagePoolLookupByName("d").destroy()
    assert volumes(connection) == {}


# ------------------------------------------------------------------------------------------ in the keeper


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeeperHost]:
    base = tmp_path_factory.mktemp("volumes")
    with KeeperHost(base / "h1", 1, base / "leases") as one:
        one.wait_joined()
        (one.libvirt_dir / "storage/san.xml").write_text(state())
        yield one


class Starting:
    def __init__(self, host: KeeperHost, name: str, more: str = "") -> None:
        self.host, self.name, self.uuid = host, name, str(uuid.uuid4())
        self.xml = XML.format(name=name, uuid=self.uuid, more=more)

    def hook(self, operation: str) -> str:
        run = self.host.hook([self.name, operation, "begin" if operation != "release" else "end", "-"], self.xml)
        return run.line if run.status else ""

    def start(self, *blockdevs: dict[str, Any]) -> None:
        for operation in ("prepare", "start"):
            assert self.hook(operation) == ""
        words = [word for node in blockdevs for word in ("-blockdev", json.dumps(node))]
        process = self.host.processes.start(self.uuid, self.name, extra_args=words)
        self.host.qemus[self.name] = process
        self.host._pid_file(self.name).write_text(str(process.pid))

    def end(self) -> None:
        self.host.end_qemu(self.name)
        wait_for("the end", lambda: self.uuid not in self.host.phases())


@pytest.mark.xdist_group("keeper-volumes")
def test_a_volume_that_nobody_named_refuses_the_start_and_a_named_one_has_the_lease_of_its_path(
    host: KeeperHost,
) -> None:
    guest = Starting(host, "named")
    assert "in a pool of type iscsi only libvirt knows a volume's path" in guest.hook("prepare")
    call(host.run_dir, "volumes", pools=SAN)
    assert "only libvirt knows" in Starting(host, "direct", " mode='direct'").hook("prepare")
    guest.start({"driver": "host_device", "filename": PATH, "node-name": "libvirt-1-storage"})
    wait_for("QEMU", lambda: host.phases()[guest.uuid] == "running")
    assert {lease for _, lease, _ in host.held()} == {lease_name(PATH.encode())}
    assert guest.host.qemus[guest.name].poll() is None
    guest.end()
