# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper under a service manager: ready, watched, stopped, restarted, booted."""

from __future__ import annotations

import configparser
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import ROOT, Guest, Host, wait_for
from tests.supervisor import Supervisor
from vlhook.keeper.service import start_seconds

pytestmark = pytest.mark.xdist_group("service")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases, io_timeout=2)
    yield host
    host.down()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest("g", [tmp_path / "disk"])


def supervised(host: Host, tmp_path: Path, **environment: str) -> Supervisor:
    host.start_guard()
    variables = {**host.daemon_environment(), **environment}
    return Supervisor(tmp_path / "notify", host.keeper_command(), variables, host.log)


def running(host: Host, guest: Guest) -> subprocess.Popen[bytes]:
    assert host.start(guest) == (0, "")
    wait_for("QEMU to be found", lambda: host.phases().get(guest.name) == "running")
    return host.qemus[guest.uuid]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "packaging/systemd" / name)
    return parser


def test_ready_is_said_after_joining_and_time_for_that_is_asked_for(host: Host, tmp_path: Path) -> None:
    with supervised(host, tmp_path) as service:
        service.wait_for(f"EXTEND_TIMEOUT_USEC={(8 * 2 + 60 + 2 * 2 + 30) * 1_000_000}")
        assert not host.joined()
        assert "READY=1" not in service.said
        service.wait_for("READY=1")
        assert host.joined()
        service.wait_for(f"STATUS=host id 1, leases in {host.leases}, no watchdog")


def test_the_service_watchdog_is_fed_by_a_keeper_that_works_and_not_by_one_that_stands_still(
    host: Host, tmp_path: Path
) -> None:
    command = f'export WATCHDOG_PID=$$; exec {shlex.join(host.keeper_command())}'
    host.keeper_command = lambda: ["/bin/sh", "-c", command]  # type: ignore[method-assign]
    with supervised(host, tmp_path, WATCHDOG_USEC="1000000") as service:
        service.wait_for("READY=1")
        service.wait_for("WATCHDOG=1")
        os.kill(service.process.pid, signal.SIGSTOP)
        wait_for("silence", lambda: silent(service))


def silent(service: Supervisor) -> bool:
    """Nothing for a while that is long for the keeper: three of the intervals that the manager allows."""
    service.said.clear()
    return not wait_until(lambda: "WATCHDOG=1" in service.said, 3)


def wait_until(done: object, seconds: float) -> bool:
    try:
        wait_for("it", done, seconds)  # type: ignore[arg-type]
    except AssertionError:
        return False
    return True


def test_a_stop_is_refused_while_guests_hold_leases_and_obeyed_when_they_are_gone(
    host: Host, tmp_path: Path, guest: Guest
) -> None:
    with supervised(host, tmp_path) as service:
        service.wait_for("READY=1")
        qemu = running(host, guest)
        service.process.send_signal(signal.SIGTERM)
        wait_for("the reason", lambda: "stop-refused" in host.log_text())
        assert "guests hold leases (g)" in host.log_text()
        assert "SIGHUP" in host.log_text()
        assert host.held() == {(guest.disks[0], "exclusive")}
        assert qemu.poll() is None
        host.stop(guest)
        assert service.process.wait(60) == 0


def test_a_stop_without_guests_gives_the_host_id_back(host: Host) -> None:
    host.start_daemons().wait_joined()
    assert host.keeper
    host.keeper.terminate()
    assert host.keeper.wait(60) == 0
    assert not (host.run_dir / "membership").exists()


def test_an_inhibitor_against_sleep_is_held_while_guests_hold_leases(host: Host, tmp_path: Path, guest: Guest) -> None:
    tools, said = tmp_path / "tools", tmp_path / "said"
    tools.mkdir()
    stand_in = tools / "systemd-inhibit"
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {said}\nwhile [ "$1" != cat ]; do shift; done\nexec cat\n')
    stand_in.chmod(0o755)
    host.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    host.start_daemons().wait_joined()
    assert host.status()["fencing"]["sleep"] == "free"
    running(host, guest)
    wait_for("it to be held", lambda: said.exists() and "--what=sleep --mode=block" in said.read_text())
    assert host.status()["fencing"]["sleep"] == "held"
    host.stop(guest)
    host.wait_empty()
    wait_for("it to be given back", lambda: host.status()["fencing"]["sleep"] == "free")


@pytest.mark.root
@pytest.mark.slow
def test_after_a_reboot_nothing_is_held_and_the_host_joins_under_its_own_name(
    host: Host, tmp_path: Path, guest: Guest
) -> None:
    """A run directory that outlived the boot is told by the boot id."""
    host.start_daemons().wait_joined()
    running(host, guest)
    name = host.status()["host_name"]
    host.down()
    assert list((host.run_dir / "guests").iterdir())
    boot = tmp_path / "boot_id"
    boot.write_text("11111111-2222-3333-4444-555555555555\n")
    script = f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"'
    plain = host._command
    host._command = lambda *words: ["unshare", "-m", "sh", "-c", script, "sh", *plain(*words)]  # type: ignore[method-assign]
    host.start_daemons().wait_joined(90)
    assert (host.generation(), host.status()["host_name"]) == (2, name)
    assert host.phases() == {}
    assert list((host.run_dir / "guests").iterdir()) == []
    assert running(host, guest).poll() is None


def test_the_units_say_what_the_daemons_count_on() -> None:
    keeper, guard = unit("vlhookd.service"), unit("vlhook-guard.service")
    assert int(keeper["Service"]["TimeoutStartSec"]) >= start_seconds(10)
    for each in (keeper, guard):
        assert each["Unit"]["StartLimitIntervalSec"] == "0"
        assert each["Service"]["Restart"] == "always"
        assert each["Service"]["OOMScoreAdjust"] == "-1000"
        assert {"libvirtd.service", "virtqemud.service"} <= set(each["Unit"]["Before"].split())
    assert keeper["Service"]["RestartKillSignal"] == "SIGHUP"
    assert int(keeper["Service"]["FileDescriptorStoreMax"]) >= 2
    assert int(keeper["Service"]["WatchdogSec"]) < 80
