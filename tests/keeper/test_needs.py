# SPDX-License-Identifier: LGPL-2.1-or-later
"""One disk under two names is one disk; NVRAM and TPM state are protected like disks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import Guest, Host, engines, hosts
from vlhook.keeper import messages
from vlhook.keeper.log import Log
from vlhook.keeper.needs import Needs
from vlhook.keeper.readers import Reader
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import HeldByOther
from vlhook.leases.holder import RUNNING, HolderRecord
from vlhook.leases.owner import Holder

pytestmark = pytest.mark.xdist_group("needs")
NEVER = 1e12


@pytest.fixture(scope="module", params=engines("needs"))
def module_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosts(tmp_path_factory.mktemp("needs"), 1, io_timeout=2, engine=request.param) as (made,):
        yield made


@pytest.fixture
def host(module_host: Host) -> Iterator[Host]:
    yield module_host
    module_host.wait_found()
    for uuid in list(module_host.qemus):
        qemu = module_host.qemus.pop(uuid)
        qemu.kill()
        qemu.wait()
    module_host.wait_empty()


def kinds(host: Host) -> list[str]:
    return sorted(lease["kind"] for guest in host.status()["guests"] for lease in guest["leases"])


def test_a_disk_under_another_name_is_refused_and_the_message_says_so(host: Host, tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    image.touch()
    link.symlink_to(image)
    assert host.start(Guest("one", [image])) == (0, "")
    assert kinds(host) == ["disk", "identity"]
    status, line = host.start(Guest("two", [link]))
    assert status == 1
    assert f"disk {link}, under another name, is in use by guest one" in line
    status, line = host.start(Guest("three", [image]))
    assert status == 1
    assert "under another name" not in line
    assert "more" not in line, "one disk, one reason"
    status, _ = host.start(Guest("four", [f"{tmp_path}//image"]))
    assert status == 1


def test_a_disk_under_another_name_on_another_host_is_told_by_both_names() -> None:
    record = HolderRecord(3, 1, 1, 0, bytes(16), RUNNING, "db", "/mnt/a")
    holder = Holder(3, 1, b"uuid.kvm3", 10, True, 0.0, 0.0, record)
    want = Want("0" * 32, "__LIBVIRT__DISKS__", False, "/mnt/b", kind="identity")
    error = HeldByOther(holder=holder, name=want.name, where="/l")
    line = messages.refusal("web", Refused([(want, error)]), "/leases")
    assert "disk /mnt/b, under another name, is in use by guest db" in line
    assert ", as its disk /mnt/a, on host 3 (kvm3)" in line


def test_two_names_of_one_disk_in_one_guest_are_one_second_lease(host: Host, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.link(image, tmp_path / "other")
    assert host.start(Guest("one", [image], [tmp_path / "other"])) == (0, "")
    assert kinds(host) == ["disk", "disk", "identity"]
    modes = {lease["mode"] for g in host.status()["guests"] for lease in g["leases"] if lease["kind"] == "identity"}
    assert modes == {"exclusive"}


def test_shared_disks_are_shared_under_every_name(host: Host, tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    image.touch()
    link.symlink_to(image)
    assert host.start(Guest("one", [], [image])) == (0, "")
    assert host.start(Guest("two", [], [link])) == (0, "")
    status, line = host.start(Guest("three", [link]))
    assert status == 1
    assert "guest two" in line


def test_a_disk_that_does_not_exist_has_its_first_lease_only(host: Host, tmp_path: Path) -> None:
    assert host.start(Guest("one", [tmp_path / "absent"])) == (0, "")
    assert kinds(host) == ["disk"]


def test_nvram_and_tpm_state_have_leases(host: Host, tmp_path: Path) -> None:
    nvram = tmp_path / "VARS.fd"
    more = f"<os><nvram>{nvram}</nvram></os>"
    guest = Guest("one", [], more=more)
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>"
    xml = guest.xml(3).replace("</devices>", tpm)
    for operation in ("prepare", "start"):
        done = host.hook(guest.name, operation, "begin", "-", xml=xml)
        assert (done.returncode, done.stderr) == (0, b"")
    host.run_qemu(guest)
    assert kinds(host) == ["nvram", "tpm"]
    assert (f"/var/lib/libvirt/swtpm/{guest.uuid}", "exclusive") in host.held()
    status, line = host.start(Guest("two", [], more=more))
    assert status == 1
    assert str(nvram) in line


@pytest.mark.parametrize("where", ["/var/lib/libvirt/qemu/nvram/g_VARS.fd", ""])
def test_nvram_in_the_hosts_own_directory_has_none(host: Host, where: str) -> None:
    assert host.start(Guest("one", [], more=f"<os><nvram>{where}</nvram></os>")) == (0, "")
    assert kinds(host) == []


def test_images_that_hang_cost_the_second_lease_and_not_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prober is stopped, as if the storage had stopped it."""
    monkeypatch.setattr("vlhook.keeper.needs.PROBE_SECONDS", 30.0)
    reader = Reader(tmp_path)
    needs = Needs(reader, {}, "host", Log("test"), identities=True, chains=False)
    image = tmp_path / "image"
    image.touch()
    guest = Guest("one", [image])
    assert [lease["kind"] for lease in needs.of(guest.xml(1).encode(), NEVER)["leases"]] == ["disk", "identity"]
    prober = needs._prober._process
    assert prober
    prober.send_signal(19)
    monkeypatch.setattr("vlhook.keeper.needs.PROBE_SECONDS", 0.3)
    assert [lease["kind"] for lease in needs.of(guest.xml(1).encode(), NEVER)["leases"]] == ["disk"]
    assert prober.poll() is not None, "it was ended"
    monkeypatch.setattr("vlhook.keeper.needs.PROBE_SECONDS", 30.0)
    assert [lease["kind"] for lease in needs.of(guest.xml(1).encode(), NEVER)["leases"]] == ["disk", "identity"]
    needs.stop()
    reader.stop()
