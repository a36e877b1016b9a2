# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage goes away: warnings first, then the guests of that directory, gracefully, then by force."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faulty import faulty
from tests.keeper.hosts import Guest, Host, wait_for
from vlhook.drill.layer import Layer
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.sanlockspace import look

pytestmark = [pytest.mark.root, pytest.mark.slow]
N = 2


@pytest.fixture
def layer(tmp_path: Path) -> Iterator[Layer]:
    with faulty(tmp_path / "beneath", tmp_path / "leases") as mounted:
        yield mounted


@pytest.fixture
def engine() -> str:
    return "native"


@pytest.fixture
def host(tmp_path: Path, layer: Layer, engine: str) -> Iterator[Host]:
    host = Host(tmp_path, 1, layer.mountpoint, io_timeout=N, engine=engine)
    yield host
    layer.set("ok")
    host.down()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "disk").write_bytes(bytes(4096))
    return Guest("g", [tmp_path / "disk"])


def began(host: Host, guest: Guest, stubborn: bool = False) -> subprocess.Popen[bytes]:
    assert host.start(guest, stubborn=stubborn) == (0, "")
    wait_for("QEMU to be found", lambda: host.phases().get(guest.name) == "running")
    return host.qemus[guest.uuid]


def logged(host: Host, pattern: str) -> re.Match[str] | None:
    return re.search(pattern, host.log_text())


def given_up(host: Host) -> bool:
    """Whether the sanlock daemon, if there is one, has given up the lockspace."""
    if host.sanlock is None:
        return True
    space = look(host.sanlock.client, LOCKSPACE_NAME).space
    return space is None or space.dead


@pytest.mark.xdist_group("lease-failure-1")
def test_storage_that_returns_before_the_limit_changes_nothing_but_warnings(
    host: Host, layer: Layer, guest: Guest
) -> None:
    host.start_daemons().wait_joined()
    qemu, generation = began(host, guest), host.generation()
    layer.set("hang")
    half = wait_for("the warning at half of the limit", lambda: logged(host, r"no renewal for (\d+) s of 16 \((.*)\)"))
    assert 8 <= int(half[1]) < 12
    assert "usual answer" in half[2]
    wait_for("the warning that names guests", lambda: logged(host, r"a \w+ unanswered for \d+ s; stopped in \d s: g"))
    layer.set("ok")
    wait_for("the warning to end", lambda: not host.status()["alarms"])
    assert qemu.poll() is None
    assert host.generation() == generation
    assert host.held() == {(guest.disks[0], "exclusive")}
    assert "signal=" not in host.log_text()


@pytest.mark.parametrize("fault", ["hang", "eio", "readonly"])
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("native", marks=pytest.mark.xdist_group("lease-failure-1")),
        pytest.param("sanlock", marks=[pytest.mark.sanlock, pytest.mark.xdist_group("lease-failure-4")]),
    ],
)
def test_only_guests_with_leases_there_are_stopped_and_the_host_comes_back(
    host: Host, layer: Layer, guest: Guest, fault: str
) -> None:
    host.start_daemons().wait_joined()
    bystander = Guest("bystander", [])
    qemu, other = began(host, guest), began(host, bystander)
    layer.set(fault)
    assert qemu.wait(60) == -signal.SIGTERM
    wait_for("the word of its end", lambda: logged(host, r"stopped guest=g .* signal=SIGTERM"))
    assert other.poll() is None
    wait_for("its image to be flushed", lambda: "g" not in host.phases())
    # The daemon counts whole seconds: storage that returned before it gives up would leave the generation as it is.
    wait_for("the daemon to give up, too", lambda: given_up(host), 60)
    layer.set("ok")
    wait_for("a new generation", lambda: host.joined() and host.generation() == 2, 60)
    assert other.poll() is None
    assert host.start(guest) == (0, "")


@pytest.mark.xdist_group("lease-failure-2")
def test_a_guest_that_ignores_sigterm_is_killed_at_the_end_of_the_grace_by_the_keeper(
    host: Host, layer: Layer, guest: Guest
) -> None:
    host.settings("lockfailure_grace = 3\n")
    host.start_daemons().wait_joined()
    qemu = began(host, guest, stubborn=True)
    layer.set("hang")
    assert qemu.wait(60) == -signal.SIGKILL
    wait_for("its line in the log", lambda: logged(host, r"vlhookd: stopped guest=g .* signal=SIGKILL"))
    assert not logged(host, r"vlhook-guard: signalled .* signal=SIGKILL"), "the guard comes last"


@pytest.mark.xdist_group("lease-failure-2")
def test_pause_becomes_poweroff_and_that_is_said_before_and_then(host: Host, layer: Layer, tmp_path: Path) -> None:
    host.settings("on_lockfailure = pause\nlockfailure_grace = 5\n")
    host.start_daemons().wait_joined()
    by_setting = Guest("by-setting", [tmp_path / "a"])
    by_xml = Guest("by-xml", [tmp_path / "b"], more="<on_lockfailure>poweroff</on_lockfailure>")
    qemu = began(host, by_setting)
    began(host, by_xml)
    policies = {guest["name"]: guest["on_lockfailure"] for guest in host.status()["guests"]}
    assert policies["by-setting"]["asked"] == "pause"
    assert policies["by-setting"]["does"] == "poweroff"
    assert policies["by-setting"]["why"]
    assert policies["by-xml"] == {"asked": "poweroff", "does": "poweroff", "why": ""}
    layer.set("eio")
    assert qemu.wait(60) == -signal.SIGTERM
    said = re.findall(r"policy guest=(\S+) asked=pause does=poweroff", host.log_text())
    assert said == ["by-setting", "by-setting"]


@pytest.mark.xdist_group("lease-failure-3")
def test_libvirt_is_asked_first_and_what_it_took_gets_the_grace(host: Host, layer: Layer, guest: Guest) -> None:
    """libvirt's test driver has one guest of this UUID, which takes the request; the other it does not know."""
    host.libvirt_uri = "test:///default"
    host.settings("lockfailure_grace = 12\n")
    guest.uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
    unknown = Guest("unknown", [guest.disks[0] + "2"])
    host.start_daemons().wait_joined()
    asked, not_known = began(host, guest), began(host, unknown)
    layer.set("hang")
    assert not_known.wait(60) == -signal.SIGTERM
    wait_for("the answer", lambda: logged(host, rf'stopped uuid={guest.uuid} how="libvirt was asked'))
    assert logged(host, rf"libvirt-not-asked uuid={unknown.uuid}")
    assert not logged(host, r"stopped guest=g .* signal=SIGTERM"), "it has until 5 s before the end of the grace"
    assert asked.wait(60) == -signal.SIGTERM


@pytest.mark.xdist_group("lease-failure-3")
def test_a_log_that_nobody_reads_holds_nothing_up(host: Host, layer: Layer, guest: Guest) -> None:
    reading, writing = os.pipe()
    host.start_guard()
    with open(host.log, "wb"):
        pass
    command, environment = host.keeper_command(), host.daemon_environment()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"." * 65536)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    host.keeper = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=writing, cwd="/")
    os.close(writing)
    host.wait_joined()
    qemu = began(host, guest)
    renewed = host.status()["membership"]
    wait_for("renewals", lambda: host.status()["membership"]["last_ok_age"] < renewed["last_ok_age"])
    layer.set("hang")
    assert qemu.wait(60) == -signal.SIGTERM
    assert not logged(host, r"vlhook-guard: signalled"), "it was the keeper"
    os.close(reading)
