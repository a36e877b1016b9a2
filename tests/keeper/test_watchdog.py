# SPDX-License-Identifier: LGPL-2.1-or-later
"""The watchdog: the real wdmd, and a device that resets nothing, under real keepers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.keeper.hosts import ROOT, Guest, Host, wait_for
from tests.keeper.watchdogs import FakeDevice, RealWdmd, device, wdmd
from tests.supervisor import Supervisor

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("watchdog")]
N = 2


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases, io_timeout=N)
    yield host
    host.down()


@pytest.fixture
def watch(host: Host) -> Iterator[FakeDevice]:
    with device(host.dir / "watchdog") as fake:
        yield fake


@pytest.fixture
def daemon(host: Host, watch: FakeDevice) -> Iterator[RealWdmd]:
    with wdmd(host.dir / "wdmd", watch) as running:
        yield running


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest("g", [tmp_path / "disk"])


def fencing(host: Host) -> dict[str, Any]:
    return dict(host.status()["fencing"])


def text_status(host: Host) -> str:
    command = [sys.executable, "-m", "vlhook.cli", "status", "--run-dir", str(host.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout


def end(host: Host, guest: Guest) -> None:
    host.stop(guest)
    host.wait_empty()


def test_wdmd_is_told_the_last_renewal_while_guests_hold_leases_and_only_then(
    host: Host, daemon: RealWdmd, watch: FakeDevice, guest: Guest
) -> None:
    host.start_daemons().wait_joined()
    assert daemon.clients() == []
    assert "watchdog by wdmd, armed when guests hold leases" in text_status(host)
    assert host.start(guest) == (0, "")
    (client,) = daemon.clients()
    assert client["ref"] == 1
    assert client["expire"] == client["renewal"] + 8 * N
    assert client["renewal"] <= time.monotonic()
    (first,) = daemon.clients()
    wait_for("the next renewal", lambda: daemon.clients()[0]["renewal"] > first["renewal"])
    assert "watchdog by wdmd armed" in text_status(host)
    end(host, guest)
    wait_for("wdmd to be free of us", lambda: daemon.clients() == [])
    assert watch.last() == "opened", "wdmd goes on feeding, for its other clients"


def test_without_wdmd_the_device_itself_is_armed_with_50_seconds(host: Host, watch: FakeDevice, guest: Guest) -> None:
    host.start_daemons().wait_joined()
    assert watch.events == [], "nothing is armed without guests"
    assert host.start(guest) == (0, "")
    assert [e["event"] for e in watch.events[:2]] == ["opened", "timeout"]
    assert watch.events[1]["seconds"] == 50
    wait_for("feeds", lambda: watch.feeds() >= 2)
    assert fencing(host)["watchdog"] == "device"
    end(host, guest)
    wait_for("the device to be disarmed", lambda: watch.last() == "disarmed")


def test_a_killed_keeper_leaves_the_device_armed_and_the_next_goes_on(
    host: Host, watch: FakeDevice, guest: Guest
) -> None:
    host.start_daemons().wait_joined()
    assert host.start(guest) == (0, "")
    host.kill_keeper()
    wait_for("the end", lambda: watch.last() == "closed")
    host.start_keeper()
    host.wait_joined()
    wait_for("it to be armed again", lambda: watch.last() == "timeout")
    end(host, guest)
    wait_for("the device to be disarmed", lambda: watch.last() == "disarmed")


def test_required_refuses_guests_while_there_is_none(host: Host, tmp_path: Path, guest: Guest) -> None:
    host.settings('watchdog = "required"\n')
    host.start_daemons().wait_joined()
    status, line = host.start(guest)
    assert status == 1
    assert "no watchdog can be armed" in line
    assert str(host.dir / "watchdog") in line
    assert "no guest gets leases" in text_status(host)
    assert host.start(Guest("no-leases", [])) == (0, "")
    with device(host.dir / "watchdog") as fake:
        assert host.start(guest) == (0, "")
        assert fake.last() == "timeout"
        host.stop(guest)
        wait_for("the device to be disarmed", lambda: fake.last() == "disarmed")


def test_automatic_starts_guests_without_one_and_says_so(host: Host, guest: Guest) -> None:
    host.start_daemons().wait_joined()
    assert host.start(guest) == (0, "")
    assert "no watchdog: nothing resets this host" in text_status(host)
    with device(host.dir / "watchdog") as fake:
        wait_for("one that came later to be used", lambda: fake.last() == "timeout")
        end(host, guest)
        wait_for("the device to be disarmed", lambda: fake.last() == "disarmed")


def test_off_uses_none(host: Host, daemon: RealWdmd, guest: Guest) -> None:
    host.settings("watchdog = off\n")
    host.start_daemons().wait_joined()
    assert host.start(guest) == (0, "")
    assert daemon.clients() == []
    assert "(watchdog = off)" in text_status(host)


@pytest.mark.parametrize("setting", ["required", "automatic"])
def test_wdmd_is_not_used_with_an_io_timeout_of_1(
    host: Host, daemon: RealWdmd, guest: Guest, setting: str
) -> None:
    """Its expiry would never be far enough ahead: wdmd would reset a healthy host (daemon document, 3.1)."""
    host.config.write_text(host.config.read_text().replace(f"io_timeout = {N}", "io_timeout = 1"))
    host.settings(f"watchdog = {setting}\n")
    host.start_daemons().wait_joined()
    status, line = host.start(guest)
    assert status == (setting == "required")
    assert ("it needs 2 or more" in line) == (setting == "required")
    assert daemon.clients() == []
    assert fencing(host)["watchdog"] == "none"
    assert "2 or more" in fencing(host)["why"]


def test_a_wdmd_that_dies_is_an_alarm(host: Host, daemon: RealWdmd, guest: Guest) -> None:
    host.start_daemons().wait_joined()
    assert host.start(guest) == (0, "")
    daemon.process.send_signal(signal.SIGKILL)
    wait_for("the alarm", lambda: any("wdmd went away" in alarm for alarm in host.status()["alarms"]))
    assert fencing(host)["armed"] is False


def test_the_connection_to_wdmd_outlives_keepers(host: Host, daemon: RealWdmd, guest: Guest, tmp_path: Path) -> None:
    """A service manager's descriptor store: wdmd sees one client that never went away."""
    host.start_guard()
    with Supervisor(tmp_path / "notify", host.keeper_command(), host.daemon_environment(), host.log) as service:
        service.wait_for("READY=1")
        assert host.start(guest) == (0, "")
        wait_for("QEMU to be found", lambda: host.phases() == {"g": "running"})
        assert service.stored() == ["vlhook-wdmd"]
        assert fencing(host)["stored"] is True
        (before,) = daemon.clients()
        for _ in range(2):
            service.restart(signal.SIGKILL)
            service.wait_for("READY=1")
        wait_for("a renewal of the new keeper", lambda: daemon.clients()[0]["renewal"] > before["renewal"])
        (after,) = daemon.clients()
        assert (after["fd"], after["dead"], after["pid"]) == (before["fd"], 0, before["pid"])
        assert host.held() == {(guest.disks[0], "exclusive")}
        end(host, guest)
        wait_for("wdmd to be free of us", lambda: daemon.clients() == [])
        assert service.stored() == []


def test_a_keeper_that_finds_no_guests_disarms_what_its_predecessor_armed(
    host: Host, daemon: RealWdmd, guest: Guest, tmp_path: Path
) -> None:
    host.start_guard()
    with Supervisor(tmp_path / "notify", host.keeper_command(), host.daemon_environment(), host.log) as service:
        service.wait_for("READY=1")
        assert host.start(guest) == (0, "")
        wait_for("QEMU to be found", lambda: host.phases() == {"g": "running"})
        os.kill(service.process.pid, signal.SIGSTOP)
        host.end_qemu(guest)
        service.restart(signal.SIGKILL)
        service.wait_for("READY=1")
        wait_for("wdmd to be free of us", lambda: daemon.clients() == [])


def test_the_device_is_given_to_the_next_keeper(host: Host, watch: FakeDevice, guest: Guest, tmp_path: Path) -> None:
    host.start_guard()
    with Supervisor(tmp_path / "notify", host.keeper_command(), host.daemon_environment(), host.log) as service:
        service.wait_for("READY=1")
        assert host.start(guest) == (0, "")
        wait_for("QEMU to be found", lambda: host.phases() == {"g": "running"})
        service.restart(signal.SIGKILL)
        service.wait_for("READY=1")
        fed = watch.feeds()
        wait_for("the new keeper to feed it", lambda: watch.feeds() > fed)
        assert [e["event"] for e in watch.events if e["event"] != "fed"] == ["opened", "timeout"], "never closed"
        end(host, guest)
        wait_for("the device to be disarmed", lambda: watch.last() == "disarmed")
