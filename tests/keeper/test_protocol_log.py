# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhookd --protocol-log: what real keepers did, killed and stopped ones too, is what the generators do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.keeper.hosts import Guest, Host
from vlhook.cli import cli
from vlhook.leases.replay import Outcome, read_lines, replay

pytestmark = pytest.mark.xdist_group("protocol-log")


def logs(host: Host) -> list[Path]:
    return sorted(host.dir.glob("steps*"))


def outcome(path: Path) -> Outcome:
    found = replay(read_lines(str(path)), str(path))
    assert found.disagreements == []
    return found


def test_two_keepers_one_of_them_killed_leave_logs_that_agree(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    one, two = (Host(tmp_path, number, leases, io_timeout=2) for number in (1, 2))
    disk = str(tmp_path / "disk.img")
    try:
        for host in (one, two):
            host.keeper_options = ["--protocol-log", host.dir / "steps"]
            host.start_daemons()
        for host in (one, two):
            host.wait_joined()
        guest, rival = Guest("web", [disk]), Guest("db", [disk])
        assert one.start(guest) == (0, "")
        assert two.start(rival)[0] == 1
        one.kill_keeper()
        assert two.start(rival)[0] == 1
        one.start_keeper()
        one.wait_joined()
        one.stop(guest)
        one.wait_empty()
        assert two.start(rival) == (0, "")
    finally:
        one.down()
        two.down()
    assert [path.name for path in logs(one)] == ["steps", "steps.1"], "one file for each keeper"
    before, after, other = outcome(one.dir / "steps.1"), outcome(one.dir / "steps"), outcome(two.dir / "steps")
    (held,), (its,) = before.holdings, other.holdings
    assert (held.host_id, held.until) == (1, None)
    assert (its.host_id, its.lver) == (2, held.lver + 1)
    assert after.operations
    ran = CliRunner().invoke(cli, ["replay", str(one.dir / "steps")])
    assert ran.exit_code == 0, ran.output
    assert f"host 1 generation 1: {held.name} exclusive, version {held.lver}" in ran.output


def test_without_the_option_there_is_no_log(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases).start_daemons()
    try:
        host.wait_joined()
    finally:
        host.down()
    assert logs(host) == []


def test_a_log_that_cannot_be_made_stops_the_keeper_with_one_line(tmp_path: Path) -> None:
    host = Host(tmp_path, 1, tmp_path)
    host.keeper_options = ["--protocol-log", tmp_path / "no such directory/steps"]
    host.start_keeper()
    assert host.keeper
    assert host.keeper.wait(60) == 1
    assert host.log_text().count("\n") == 1
    assert "No such file or directory" in host.log_text()
