# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that runs vlhook and one that runs the sanlock daemon, on one lease directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import Guest, Host, hosts, wait_for
from tests.sanlock_daemon import Refused, SanlockHost, direct_resource, short_directory
from tests.sanlock_daemon import resource as any_resource
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.sanlockwire import Resource

pytestmark = [pytest.mark.sanlock, pytest.mark.xdist_group("keeper-and-sanlock")]
HELD, AGAIN = (-243, -247), -11
"""Held; or held by an owner that the daemon has not seen alive in its last two looks."""


def resource(path: Path, name: str, flags: int = 0) -> Resource:
    return any_resource(path, name, flags, space=LOCKSPACE_NAME)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, SanlockHost, Path]]:
    """The lockspace is made by vlhook; both have joined it."""
    base = tmp_path_factory.mktemp("mixed")
    with (
        short_directory() as run_dir,
        hosts(base, 1, io_timeout=2) as (host,),
        SanlockHost("reference", run_dir).start() as daemon,
    ):
        daemon.add_lockspace(base / "leases" / LOCKSPACE_NAME, 2, space=LOCKSPACE_NAME)
        daemon.wait_renewals(2)
        yield host, daemon, base / "leases"


def test_sanlock_is_kept_out_of_a_lease_that_a_guest_of_vlhook_holds(
    mixed: tuple[Host, SanlockHost, Path], tmp_path: Path
) -> None:
    host, daemon, leases = mixed
    disk = str(tmp_path / "ours")
    guest, name = Guest("ours", [disk]), lease_name(disk.encode())
    assert host.start(guest) == (0, "")
    with daemon.holder() as other:
        with pytest.raises(Refused) as refused:
            other.acquire(resource(leases / name, name))
        assert refused.value.result in HELD
        host.stop(guest)
        host.wait_empty()
        other.acquire(resource(leases / name, name))
        other.release(resource(leases / name, name))
    assert host.start(guest) == (0, "")
    host.stop(guest)
    host.wait_empty()


def test_a_guest_is_kept_out_of_a_lease_that_sanlock_holds(
    mixed: tuple[Host, SanlockHost, Path], tmp_path: Path
) -> None:
    host, daemon, leases = mixed
    disk = str(tmp_path / "theirs")
    guest, name = Guest("theirs", [disk]), lease_name(disk.encode())
    direct_resource(leases / name, name, space=LOCKSPACE_NAME)
    with daemon.holder() as other:
        other.acquire(resource(leases / name, name))
        status, line = host.start(guest)
        assert status == 1
        assert "host 2" in line
        assert "reference" in line
        host.wait_empty()
        other.release(resource(leases / name, name))
    wait_for("the lease that sanlock gave up", lambda: host.start(guest) == (0, ""))
    host.stop(guest)
    host.wait_empty()


def test_shared_leases_of_both_kinds_meet_and_keep_exclusive_ones_out(
    mixed: tuple[Host, SanlockHost, Path], tmp_path: Path
) -> None:
    host, daemon, leases = mixed
    disk = str(tmp_path / "shared")
    name = lease_name(disk.encode())
    sharer, alone = Guest("sharer", [], [disk]), Guest("alone", [disk])
    assert host.start(sharer) == (0, "")
    with daemon.holder() as other:
        with pytest.raises(Refused) as refused:
            other.acquire(resource(leases / name, name))
        assert refused.value.result == AGAIN
        other.acquire(resource(leases / name, name, flags=4))
        host.stop(sharer)
        host.wait_empty()
        status, line = host.start(alone)
        assert status == 1
        assert "shared" in line
    wait_for("the shared lease that sanlock gave up", lambda: host.start(alone) == (0, ""))
    host.stop(alone)
    host.wait_empty()


def test_the_native_engine_does_not_join_beside_a_daemon_that_has_the_lockspace(
    mixed: tuple[Host, SanlockHost, Path], tmp_path: Path
) -> None:
    _, daemon, leases = mixed
    beside = Host(tmp_path, 3, leases)
    beside.environment = {"SANLOCK_RUN_DIR": str(daemon.run_dir)}
    beside.start_daemons()
    try:
        alarms = wait_for("the reason", lambda: beside.status().get("alarms"))
        assert "sanlock daemon of this host" in alarms[0]
        assert beside.status()["membership"]["state"] == "out"
    finally:
        beside.down()
