# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook calibrate`: measures without a trace, and proposes what follows from the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vlhook.cli import cli
from vlhook.cli.calibrate import proposal


def test_it_measures_under_load_and_leaves_nothing_behind(tmp_path: Path) -> None:
    words = ["calibrate", "--seconds", "0.5", "--load", "2", "--dir", str(tmp_path), "--config-dir", str(tmp_path)]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code in (0, 1)
    report = json.loads(result.output)
    assert report["schema"] == 1
    assert 0 < report["median"] <= report["percentile_99"] <= report["worst"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("worst", "kind", "proposed"),
    [(0.005, "gfs2", 10), (0.8, "gfs2", 16), (0.005, "nfs4", 15), (1.5, "nfs4", 30), (30.0, "gfs2", 120)],
)
def test_the_proposal_follows_the_slowest_renewal_and_the_servers_restart(
    worst: float, kind: str, proposed: int
) -> None:
    report = proposal([0.001, worst], kind, 10, "/leases")
    assert report["proposed"] == proposed
    assert report["guests_stopped_after"] == 8 * proposed
    assert report["disks_free_after"] == 8 * proposed + 60
    assert report["reasons"]


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["calibrate", "--dir", str(tmp_path / "no"), "--seconds", "0.5"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert "[VLH-C155]" in result.output
