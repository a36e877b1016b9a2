# SPDX-License-Identifier: LGPL-2.1-or-later
"""Incoming guests at the keeper: what is admitted, what is killed, where CPUs may run (safety rules, 16 to 21)."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.keeper.host import HookRun, KeeperHost, wait_for
from tests.keeper.hosts import engines
from vlhook.keeper.client import call

pytestmark = pytest.mark.xdist_group("keeper-moves")
XML = """<domain type='qemu' id='1'><name>{name}</name><uuid>{uuid}</uuid>{more}<devices>
<disk type='file' device='disk'><source file='/srv/{name}.img'/><target dev='vda'/></disk></devices></domain>"""


@pytest.fixture(scope="module", params=engines("keeper-moves"))
def hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KeeperHost]]:
    base = tmp_path_factory.mktemp("moves")
    leases = base / "leases"
    engine = request.param
    with KeeperHost(base / "h1", 1, leases, 2, engine) as one, KeeperHost(base / "h2", 2, leases, 2, engine) as two:
        for host in (one, two):
            host.wait_joined()
        yield [one, two]


class Moving:
    """A guest that runs on host 1 and is about to come to host 2."""

    def __init__(self, hosts: list[KeeperHost], name: str) -> None:
        self.one, self.two = hosts
        self.name, self.uuid = name, str(uuid.uuid4())
        for operation in ("prepare", "start"):
            assert self.hook(self.one, operation).status == 0
        self.one.start_qemu(self.name, self.uuid)
        wait_for("QEMU", lambda: self.one.phases().get(self.uuid) == "running")

    def xml(self, token: str = "") -> str:
        mark = f"<metadata><v:incoming xmlns:v='urn:vlhook:incoming' token='{token}'/></metadata>" if token else ""
        return XML.format(name=self.name, uuid=self.uuid, more=mark)

    def hook(self, host: KeeperHost, operation: str, token: str = "", when: str = "begin") -> HookRun:
        return host.hook([self.name, operation, when, "-"], self.xml(token))

    def token(self) -> str:
        found = re.search(r'token="(\w+)"', self.hook(self.two, "migrate").printed)
        assert found
        return found[1]

    def come(self, incoming: bool = True) -> str:
        token = self.token()
        for operation in ("prepare", "start"):
            run = self.hook(self.two, operation, token)
            assert run.status == 0, run.line
        self.two.start_qemu(self.name, self.uuid, incoming)
        return token

    def modes(self, host: KeeperHost) -> set[str]:
        return {mode for held, _, mode in host.held() if held == self.uuid}

    def libvirt_says(self, host: KeeperHost, state: str, reason: str) -> None:
        """As libvirt writes its state file: a new one, renamed."""
        path = host.libvirt_dir / "qemu" / f"{self.name}.xml"
        new, pid = path.with_suffix(".new"), host.qemus[self.name].pid
        new.write_text(f"<!--\nWARNING\n-->\n\n<domstatus state='{state}' reason='{reason}' pid='{pid}'>\n")
        new.rename(path)

    def cpus_run(self, host: KeeperHost) -> dict[str, Any]:
        return call(host.run_dir, "cpus_run", uuid=self.uuid)

    def end(self) -> None:
        for host in (self.one, self.two):
            if self.name in host.qemus and host.qemus[self.name].poll() is None:
                wait_for("QEMU", lambda host=host: host.phases()[self.uuid] == "running")
            host.end_qemu(self.name)
            wait_for("the end", lambda host=host: self.uuid not in host.phases())


@pytest.fixture
def moving(hosts: list[KeeperHost], request: pytest.FixtureRequest) -> Iterator[Moving]:
    guest = Moving(hosts, re.sub(r"\W", "", request.node.name)[-40:])
    yield guest
    guest.end()


def test_what_comes_in_is_claimed_and_becomes_its_own_when_the_source_is_gone(moving: Moving) -> None:
    moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    assert (moving.modes(moving.one), moving.modes(moving.two)) == ({"exclusive"}, {"claimed"})
    moving.one.end_qemu(moving.name)
    wait_for("the conversion", lambda: moving.modes(moving.two) == {"exclusive"})
    assert moving.modes(moving.one) == set()


def test_a_prepare_without_the_token_is_an_ordinary_start(moving: Moving) -> None:
    moving.token()
    for token in ("", "0" * 32):
        run = moving.hook(moving.two, "prepare", token)
        assert run.status == 1
        assert "is in use by guest" in run.line


def test_a_token_admits_once(moving: Moving) -> None:
    token = moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.two.end_qemu(moving.name)
    wait_for("the end", lambda: moving.uuid not in moving.two.phases())
    assert moving.hook(moving.two, "prepare", token).status == 1


def test_a_token_of_a_libvirtd_that_was_restarted_admits_nobody(moving: Moving) -> None:
    token = moving.token()
    moving.two.kill_libvirtd()
    assert moving.hook(moving.two, "prepare", token).status == 1


def test_a_token_of_a_keeper_that_was_restarted_admits_nobody(moving: Moving) -> None:
    token = moving.token()
    moving.two.kill_keeper()
    moving.two.start_keeper()
    moving.two.wait_joined()
    assert moving.hook(moving.two, "prepare", token).status == 1


def test_a_qemu_that_does_not_wait_for_its_source_is_killed_and_the_claim_withdrawn(moving: Moving) -> None:
    moving.come(incoming=False)
    wait_for("the kill", lambda: moving.two.qemus[moving.name].poll() is not None)
    wait_for("the withdrawal", lambda: moving.uuid not in moving.two.phases())
    assert "not-incoming" in moving.two.log()
    assert moving.modes(moving.one) == {"exclusive"}


def test_a_source_that_runs_beside_its_claimer_is_ended_at_once(moving: Moving) -> None:
    moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    assert moving.cpus_run(moving.one) == {"schema": 1, "state": "running", "where": ""}
    assert moving.cpus_run(moving.two)["state"] == "running"
    answer = moving.cpus_run(moving.one)
    assert answer["state"] == "ended"
    assert answer["where"].startswith("host 2")
    wait_for("the end", lambda: moving.one.qemus[moving.name].poll() is not None)
    assert any("was resumed here although it runs on host 2" in alarm for alarm in moving.one.status()["alarms"])
    wait_for("the conversion", lambda: moving.modes(moving.two) == {"exclusive"})
    assert moving.cpus_run(moving.two)["state"] == "running"


def test_a_guest_that_nobody_knows_is_unknown(moving: Moving) -> None:
    assert call(moving.two.run_dir, "cpus_run", uuid=moving.uuid)["state"] == "unknown"


def test_a_source_found_again_by_libvirtd_is_told_for_as_long_as_it_is_claimed(moving: Moving) -> None:
    moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.one.kill_libvirtd()
    assert moving.hook(moving.one, "reconnect").status == 0

    def alarms() -> str:
        return " ".join(moving.one.status()["alarms"])

    wait_for("the alarm", lambda: f"end it here: virsh destroy {moving.name}" in alarms())
    # One that dies before its keeper has found it is no end that it could see.
    wait_for("its QEMU to be found", lambda: moving.two.phases().get(moving.uuid) == "running")
    moving.two.end_qemu(moving.name)
    wait_for("its end", lambda: moving.name not in alarms())
    assert moving.modes(moving.one) == {"exclusive"}


def test_a_destination_whose_keeper_is_restarted_keeps_its_claim(moving: Moving) -> None:
    moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.two.kill_keeper()
    moving.two.start_keeper()
    moving.two.wait_joined()
    assert moving.modes(moving.two) == {"claimed"}
    moving.one.end_qemu(moving.name)
    wait_for("the conversion", lambda: moving.modes(moving.two) == {"exclusive"})


def test_a_source_that_libvirts_state_file_shows_resumed_is_ended_and_nobody_had_to_tell(moving: Moving) -> None:
    moving.libvirt_says(moving.one, "paused", "starting up")
    time.sleep(0.5)  # it is looked at, as at every start
    moving.libvirt_says(moving.one, "running", "booted")
    moving.come()
    moving.libvirt_says(moving.two, "paused", "migration")
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.libvirt_says(moving.one, "paused", "migration")
    moving.libvirt_says(moving.two, "running", "migrated")
    left = f"guest {moving.name} was left behind by its migration and runs on host 2"
    wait_for("the alarm", lambda: left in " ".join(moving.one.status()["alarms"]))
    assert moving.one.qemus[moving.name].poll() is None
    moving.libvirt_says(moving.one, "running", "unpaused")
    wait_for("the end", lambda: moving.one.qemus[moving.name].poll() is not None)
    wait_for("the conversion", lambda: moving.modes(moving.two) == {"exclusive"})


def test_a_source_that_was_resumed_before_the_guest_ran_elsewhere_is_ended_when_it_does(moving: Moving) -> None:
    """The network breaks, the source gives up and goes on, and then the destination lets the guest run."""
    moving.libvirt_says(moving.one, "running", "booted")
    moving.come()
    moving.libvirt_says(moving.two, "paused", "migration")
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.libvirt_says(moving.one, "paused", "migration")
    moving.libvirt_says(moving.one, "running", "migration canceled")
    assert moving.cpus_run(moving.one)["state"] == "running"
    moving.libvirt_says(moving.two, "running", "migrated")
    wait_for("the end", lambda: moving.one.qemus[moving.name].poll() is not None)
    wait_for("the conversion", lambda: moving.modes(moving.two) == {"exclusive"})


def test_a_source_that_goes_on_after_a_failed_migration_is_left_alone(moving: Moving) -> None:
    moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.libvirt_says(moving.one, "paused", "migration")
    moving.libvirt_says(moving.two, "paused", "migration")
    moving.two.end_qemu(moving.name)
    wait_for("the withdrawal", lambda: moving.uuid not in moving.two.phases())
    moving.libvirt_says(moving.one, "running", "migration canceled")
    assert moving.cpus_run(moving.one)["state"] == "running"
    assert moving.one.qemus[moving.name].poll() is None
    assert moving.modes(moving.one) == {"exclusive"}
    assert not [alarm for alarm in moving.one.status()["alarms"] if moving.name in alarm]


def test_a_source_whose_memory_is_still_being_sent_is_not_to_be_ended(moving: Moving) -> None:
    """Post-copy: the guest runs on the destination and cannot do without its source."""
    moving.come()
    wait_for("QEMU", lambda: moving.two.phases()[moving.uuid] == "running")
    moving.libvirt_says(moving.one, "paused", "post-copy")
    moving.libvirt_says(moving.two, "running", "post-copy")

    def alarms() -> str:
        return " ".join(moving.one.status()["alarms"])

    moving.one.kill_libvirtd()
    assert moving.hook(moving.one, "reconnect").status == 0
    wait_for("the alarm", lambda: f"guest {moving.name} runs on host 2" in alarms())
    assert "do not end it here" in alarms()
    assert "virsh destroy" not in alarms()
