# SPDX-License-Identifier: LGPL-2.1-or-later
"""Shared leases on backing images, with chains made by qemu-img and real keepers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.keeper.hosts import Guest, Host, engines

pytestmark = pytest.mark.xdist_group("backing")


@pytest.fixture(scope="module", params=engines("backing"))
def module_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Host]]:
    needs.require_programs("qemu-img")
    base = tmp_path_factory.mktemp("backing")
    leases = base / "leases"
    leases.mkdir()
    made = [Host(base, number, leases, io_timeout=2, engine=request.param) for number in (1, 2)]
    try:
        for host in made:
            host.settings("chain_leases = yes\nidentity_leases = no\n")
            host.start_daemons()
        for host in made:
            host.wait_joined()
        yield made
    finally:
        for host in made:
            host.down()


@pytest.fixture
def pair(module_pair: list[Host]) -> Iterator[list[Host]]:
    yield module_pair
    for host in module_pair:
        host.wait_found()
        for uuid in list(host.qemus):
            qemu = host.qemus.pop(uuid)
            qemu.kill()
            qemu.wait()
        host.wait_empty()


def image(path: Path, below: str = "", form: str = "qcow2", kind: str = "qcow2") -> Path:
    more = ["-u", "-b", below, "-F", form] if below else []
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *more, path, "1M"], check=True)
    return path


def overlay(name: str, path: Path, backing: str = "", form: str = "qcow2") -> Guest:
    guest = Guest(name, [path])
    plain = guest.xml
    disk = f"<driver name='qemu' type='{form}'/><source file='{path}'/>{backing}"

    def xml(number: int) -> str:
        return plain(number).replace(f"<source file='{path}'/>", disk)

    guest.xml = xml  # type: ignore[method-assign]
    return guest


def test_overlays_share_their_base_and_nobody_writes_it_meanwhile(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    base = image(tmp_path / "base", kind="raw")
    middle = image(tmp_path / "middle", "base", "raw")
    tops = [image(tmp_path / f"top{n}", "middle") for n in range(2)]
    assert one.start(overlay("a", tops[0])) == (0, "")
    assert one.held() == {(str(tops[0]), "exclusive"), (str(middle), "shared"), (str(base), "shared")}
    assert two.start(overlay("b", tops[1])) == (0, "")
    status, line = two.start(Guest("writer", [base]))
    assert status == 1
    assert f"disk {base} is in use by" in line


def test_a_base_that_is_written_cannot_be_built_upon(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    base = image(tmp_path / "base", kind="raw")
    assert one.start(Guest("writer", [base])) == (0, "")
    status, line = two.start(overlay("a", image(tmp_path / "top", str(base), "raw")))
    assert status == 1
    assert "guest writer" in line


def test_what_a_guest_writes_into_a_raw_disk_is_never_followed(pair: list[Host], tmp_path: Path) -> None:
    (one, _), disk = pair, image(tmp_path / "disk", "/images/of-somebody-else")
    assert one.start(overlay("a", disk, form="raw")) == (0, "")
    assert one.held() == {(str(disk), "exclusive")}


def test_the_chain_in_the_xml_counts_as_it_stands(pair: list[Host], tmp_path: Path) -> None:
    (one, _), top = pair, image(tmp_path / "top", "other", "raw")
    source = f"<source file='{tmp_path}/named'/>"
    below = f"<backingStore type='file'><format type='raw'/>{source}<backingStore/></backingStore>"
    assert one.start(overlay("a", top, below)) == (0, "")
    assert one.held() == {(str(top), "exclusive"), (f"{tmp_path}/named", "shared")}


def test_external_data_is_written_by_its_guest_alone(pair: list[Host], tmp_path: Path) -> None:
    one, two = pair
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data", tmp_path / "top", "1M"],
        check=True,
    )
    assert one.start(overlay("a", tmp_path / "top")) == (0, "")
    assert one.held() == {(f"{tmp_path}/top", "exclusive"), (f"{tmp_path}/data", "exclusive")}
    assert two.start(Guest("b", [tmp_path / "data"]))[0] == 1


def test_a_chain_that_cannot_be_read_is_said_and_does_not_hold_up_the_start(pair: list[Host], tmp_path: Path) -> None:
    (one, _), top = pair, image(tmp_path / "top", "gone")
    assert one.start(overlay("a", top)) == (0, "")
    assert one.held() == {(str(top), "exclusive"), (str(tmp_path / "gone"), "shared")}
    assert "what lies below it cannot be told: No such file" in one.log_text()
