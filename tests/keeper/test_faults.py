# SPDX-License-Identifier: LGPL-2.1-or-later
"""A fault of the keeper's own, wherever it is: what was asked is refused, and no grant stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import ROOT, Guest, Host, wait_for

pytestmark = pytest.mark.xdist_group("faults")

# Python imports it at every start: in the daemons of this host these methods end with a fault, after their work.
PLANT = """
import importlib

def plant(place):
    module, owner, name = place.rsplit(".", 2)
    owner = getattr(importlib.import_module(module), owner)
    real = getattr(owner, name)
    def faulty(*args, **words):
        real(*args, **words)
        raise RuntimeError("planted")
    setattr(owner, name, faulty)

for place in {places!r}:
    plant(place)
"""
GATES = "vlhook.keeper.gates.Gates"
RESTORE = "vlhook.leases.native.NativeEngine.restore"


def with_faults(host: Host, *places: str) -> None:
    """For the next start of its keeper."""
    folder = host.dir / "planted"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(PLANT.format(places=places))
    host.environment["PYTHONPATH"] = f"{folder}:{ROOT}" if places else str(ROOT)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "leases").mkdir()
    made = Host(tmp_path, 1, tmp_path / "leases")
    yield made
    made.down()


def ask(host: Host, guest: Guest, operation: str) -> tuple[int, bytes, str]:
    done = host.hook(guest.name, operation, "begin", "-", xml=guest.xml(3))
    return done.returncode, done.stdout, done.stderr.decode()


def test_what_meets_a_fault_is_refused_and_a_grant_that_met_one_is_given_back(host: Host, tmp_path: Path) -> None:
    with_faults(host, f"{GATES}._migrate", f"{GATES}._started", f"{GATES}.confirm")
    host.start_daemons().wait_joined()
    (host.run_dir / "defers").touch()
    guest = Guest("g", [tmp_path / "a"])
    for operation in ("migrate", "started"):
        status, printed, line = ask(host, guest, operation)
        assert (status, printed) == (1, b""), operation
        assert "a fault in the keeper" in line
    status, _, line = ask(host, guest, "prepare")
    assert status == 1
    assert "guest g is not started" in line
    assert "granted guest=g" in host.log_text(), "the fault came after the confirmation"
    host.wait_empty(60)
    assert host.held() == set()
    assert ask(host, guest, "start")[0] == 1


def test_a_fault_in_the_second_gate_refuses_the_start(host: Host, tmp_path: Path) -> None:
    with_faults(host, f"{GATES}._start")
    host.start_daemons().wait_joined()
    guest = Guest("g", [tmp_path / "a"])
    assert ask(host, guest, "prepare")[0] == 0
    status, _, line = ask(host, guest, "start")
    assert status == 1
    assert "a fault in the keeper" in line
    host.after_end(guest)
    host.wait_empty(60)


def test_a_fault_while_a_former_keepers_guests_are_taken_over_lets_nobody_start_and_loses_no_lease(
    host: Host, tmp_path: Path
) -> None:
    host.start_daemons().wait_joined()
    guest = Guest("g", [tmp_path / "a"])
    assert host.start(guest) == (0, "")
    host.wait_found()
    host.kill_keeper()
    with_faults(host, RESTORE)
    host.start_keeper()
    wait_for("the alarm", lambda: any("planted" in alarm for alarm in host.status().get("alarms", [])), 60)
    status, _, line = ask(host, Guest("other", [tmp_path / "b"]), "prepare")
    assert status == 1
    assert "not started" in line
    assert host.held() == {(str(tmp_path / "a"), "exclusive")}
    host.kill_keeper()
    with_faults(host)
    host.start_keeper()
    host.wait_joined(60)
    wait_for("the guest", lambda: host.phases() == {"g": "running"}, 60)
    assert host.qemus[guest.uuid].poll() is None
