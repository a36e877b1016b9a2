# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook simulate`: figures, one run told, the same again, and a failure made small."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner, Result

from tests.faults import planted
from vlhook.cli.simulate import simulate_command


def simulate(*args: str) -> Result:
    return CliRunner().invoke(simulate_command, args)


def test_many_runs_end_with_their_figures() -> None:
    result = simulate("--runs", "30")
    assert result.exit_code == 0
    assert re.match(r"30 runs, .* leases granted, .* 0 failed", result.output)


def test_runs_go_on_for_the_time_that_was_asked_for() -> None:
    result = simulate("--minutes", "0.0001", "--jobs", "2")
    assert result.exit_code == 0
    assert re.match(r"[1-9]\d* runs, .* 0 failed", result.output)


@pytest.mark.parametrize("profile", ["contend", "accidents", "day"])
def test_one_run_is_told_step_by_step_and_is_the_same_again(profile: str) -> None:
    args = ("--profile", profile, "--seed", "5", "--hosts", "3", "--hours", "0.2")
    result = simulate(*args)
    assert result.exit_code == 0
    assert "3 hosts, io_timeout" in result.output
    assert "All is well" in result.output
    assert simulate(*args).output == result.output


def test_actions_of_a_run_can_be_left_out() -> None:
    result = simulate("--seed", "5", "--hosts", "2", "--only", "none")
    assert result.exit_code == 0
    assert "guest starts" not in result.output


def test_a_failure_is_made_small_and_repeated_by_the_printed_command() -> None:
    with planted("success on another host's commit"):
        result = simulate("--runs", "60", "--hosts", "3")
        assert result.exit_code == 1
        command = re.search(r"See it again: vlhook simulate (.*)", result.output)
        assert command
        again = simulate(*command[1].split())
        assert again.exit_code == 1
        assert "FAILED: " in again.output
    assert simulate(*command[1].split()).exit_code == 0


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--only", "1"), "--only needs --seed"),
        (("--seed", "1", "--only", "x"), "give numbers of actions"),
        (("--seed", "1", "--only", "999"), "the run has actions 0 to"),
        (("--hosts", "1"), "not in the range"),
        (("--runs", "1", "--minutes", "1"), "not both"),
    ],
)
def test_bad_options_are_refused_in_one_line(args: tuple[str, ...], says: str) -> None:
    result = simulate(*args)
    assert result.exit_code == 2
    assert says in result.output
