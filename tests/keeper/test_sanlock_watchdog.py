# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon with its watchdog: the real wdmd on a device that resets nothing."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faulty import faulty
from tests.keeper.hosts import Guest, Host, wait_for
from tests.keeper.watchdogs import FakeDevice, device, wdmd
from tests.sanlock_daemon import SanlockHost
from vlhook.cli.status import lines
from vlhook.drill.layer import Layer
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.sanlockspace import SpaceState, look

pytestmark = [pytest.mark.root, pytest.mark.sanlock]
KNOWN_TO_LIBVIRT = "6695eb01-f6a4-8304-79aa-97f2502e193f"
"""The one guest of libvirt's test driver, which takes a request to shut it down."""
READS_ON = "import os, time\nwhile True: os.close(os.open({path!r}, os.O_RDONLY)); time.sleep(0.05)"
"""Stuck in the kernel as soon as the storage hangs: an open that a file system has taken is not given up."""


@pytest.mark.xdist_group("sanlock-watchdog-1")
def test_the_daemons_watchdog_is_the_only_one_and_its_death_leaves_guests_the_grace(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases, io_timeout=2, engine="sanlock")
    host.libvirt_uri = "test:///default"
    host.settings("lockfailure_grace = 40\n")
    guest, unknown = (Guest(name, [tmp_path / name]) for name in ("g", "unknown"))
    guest.uuid = KNOWN_TO_LIBVIRT
    with device(host.dir / "watchdog") as fake, wdmd(host.dir / "wdmd", fake) as watchdog:
        assert host.sanlock
        daemon = SanlockHost("node1", host.sanlock.run_dir, options=("-w", "1"), inside=watchdog.inside)
        host.sanlock = daemon
        try:
            host.start_daemons().wait_joined()
            status = host.status()
            assert status["membership"]["sanlock"]["use_watchdog"] is True
            assert (status["fencing"]["watchdog"], status["fencing"]["armed"]) == ("sanlock", False)
            for one in (guest, unknown):
                assert host.start(one) == (0, "")
            host.wait_found()
            status = host.status()
            assert (status["fencing"]["watchdog"], status["fencing"]["armed"]) == ("sanlock", True)
            assert "sanlock's watchdog resets this host" in "\n".join(lines(status))
            assert "sanlock" in watchdog.dump()
            assert watchdog.clients() == [], "vlhookd is no client of wdmd"
            assert [event["event"] for event in fake.events].count("opened") == 1, "by wdmd"

            asked, not_known = (host.qemus[one.uuid] for one in (guest, unknown))
            daemon.kill9()
            wait_for("the request", lambda: f'stopped uuid={guest.uuid} how="libvirt was asked' in host.log_text())
            assert not_known.wait(30) == -15
            assert asked.poll() is None, "it has until 5 s before the end of the grace"
            alarms = " ".join(host.status()["alarms"])
            assert "its watchdog resets this host" in alarms
            assert not re.search(r"stopped guest=g .* signal=", host.log_text())
            # Nobody can take back what a dead client told wdmd.
            wait_for("wdmd to feed no more", lambda: fake.last() == "closed", 60)
            host.end_qemu(guest)
        finally:
            host.down()


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[Layer]:
    with faulty(tmp_path / "beneath", tmp_path / "leases") as mounted:
        yield mounted


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDevice]:
    with device(tmp_path / "watchdog") as made:
        yield made


@pytest.fixture
def host(tmp_path: Path, layer: Layer, fake: FakeDevice) -> Iterator[Host]:
    host = Host(tmp_path, 1, layer.mountpoint, io_timeout=2, engine="sanlock")
    host.settings("lockfailure_grace = 3\n")
    with wdmd(host.dir / "wdmd", fake) as watchdog:
        assert host.sanlock
        host.sanlock = SanlockHost("node1", host.sanlock.run_dir, options=("-w", "1"), inside=watchdog.inside)
        try:
            yield host.start_daemons().wait_joined()
        finally:
            layer.set("ok")
            host.down()


def space_of(host: Host) -> SpaceState:
    assert host.sanlock
    found = look(host.sanlock.client, LOCKSPACE_NAME).space
    assert found
    return found


@pytest.mark.slow
@pytest.mark.xdist_group("sanlock-watchdog-1")
def test_a_guest_that_cannot_be_ended_leaves_the_watchdog_unfed_until_it_is_gone(
    host: Host, layer: Layer, fake: FakeDevice, tmp_path: Path
) -> None:
    (layer.source / "disk").write_bytes(bytes(4096))
    guest = Guest("g", [tmp_path / "disk"])
    guest.program = READS_ON.format(path=str(layer.mountpoint / "disk"))
    assert host.start(guest) == (0, "")
    host.wait_found()
    qemu = host.qemus[guest.uuid]
    layer.set("hang")
    wait_for("wdmd to feed no more", lambda: fake.last() == "closed", 60)
    wait_for("SIGKILL", lambda: re.search(r"stopped guest=g .* signal=SIGKILL", host.log_text()), 60)
    wait_for("the daemon to give up", lambda: space_of(host).dead, 60)
    assert qemu.poll() is None, "it waits in the kernel"
    assert space_of(host).used
    assert fake.last() == "closed"
    layer.set("ok")
    qemu.wait(60)
    wait_for("wdmd to feed again", lambda: fake.last() != "closed", 60)
    host.wait_joined(90)


@pytest.mark.slow
@pytest.mark.xdist_group("sanlock-watchdog-2")
@pytest.mark.parametrize("fault", ["hang", "eio"])
def test_the_watchdog_is_fed_again_when_the_guests_were_ended_although_the_storage_stays_away(
    host: Host, layer: Layer, fake: FakeDevice, tmp_path: Path, fault: str
) -> None:
    guest = Guest("g", [tmp_path / "disk"])
    assert host.start(guest) == (0, "")
    host.wait_found()
    layer.set(fault)
    wait_for("wdmd to feed no more", lambda: fake.last() == "closed", 60)
    assert host.qemus[guest.uuid].wait(60) == -signal.SIGTERM
    wait_for("wdmd to feed again", lambda: fake.last() not in ("closed", "fired"), 60)
    layer.set("ok")
    host.wait_joined(90)
    assert host.start(guest) == (0, "")
