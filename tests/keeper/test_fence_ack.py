# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook fence-ack` with real keepers: a dead host's disk before its time, on somebody's word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.keeper.hosts import ROOT, Guest, Host, engines, hosts, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fence-ack")]


def fence_ack(host: Host, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlhook.cli", "fence-ack", "--run-dir", str(host.run_dir), *arguments]
    return subprocess.run(command, input=typed, capture_output=True, text=True, check=False, cwd=ROOT)


def audit(host: Host) -> list[dict[str, object]]:
    path = host.dir / "state/fence-ack.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("engine", engines("fence-ack"))
def test_only_a_silent_host_that_is_named_rightly_is_ended_and_it_is_written_down(tmp_path: Path, engine: str) -> None:
    with hosts(tmp_path, 2, io_timeout=2, engine=engine) as (one, two):
        guest = Guest("g", [tmp_path / "disk"])
        assert one.start(guest) == (0, "")
        name = one.status()["host_name"]
        wait_for("host 2 to see host 1 alive", lambda: "which is alive" in two.start(guest)[1])

        living = fence_ack(two, "1", "--name", name, "--how", "not at all")
        assert living.returncode == 2
        assert "it is alive" in living.stderr
        assert one.joined()
        assert one.held()

        one.crash()
        wrong = fence_ack(two, "1", typed="somebody-else\npulled the plug\n")
        assert wrong.returncode == 2
        assert "is not used by a host somebody-else" in wrong.stderr
        assert fence_ack(two, "2", "--name", two.status()["host_name"], "--how", "x").returncode == 2
        assert fence_ack(two, "7", "--name", "x", "--how", "x").returncode == 2
        assert two.start(guest)[0] == 1

        done = fence_ack(two, "1", typed=f"{name}\npulled the plug\n")
        assert done.returncode == 0, done.stderr
        assert two.start(guest) == (0, "")
        begun, ended = audit(two)[-2:]
        assert (begun["event"], ended["event"]) == ("begun", "done")
        assert (ended["name"], ended["how"], ended["host_id"]) == (name, "pulled the plug", 1)
        assert [line["event"] for line in audit(two)[:2]] == ["begun", "refused"]
