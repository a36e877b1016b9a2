# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every recorded scenario: after it each host holds what its running guests need, no more.

A disk that was plugged in while the guest ran gets no lease yet: needed is what its prepare named.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.keeper.host import KeeperHost
from tests.keeper.hosts import engines
from tests.keeper.replay import Replay, owned_on_disk
from tests.keeper.trace import load, names


@pytest.fixture(scope="module", params=engines("keeper-traces"))
def two_hosts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[KeeperHost]]:
    """They go through many scenarios; each ends with nothing held."""
    base = tmp_path_factory.mktemp("traces")
    leases, engine, n = base / "leases", request.param, 1 if request.param == "native" else 2
    with KeeperHost(base / "h1", 1, leases, n, engine) as one, KeeperHost(base / "h2", 2, leases, n, engine) as two:
        for host in (one, two):
            host.wait_joined()
        yield [one, two]


def play(name: str, hosts: list[KeeperHost], late: bool) -> None:
    replay = Replay(load(name), hosts, late)
    try:
        replay.run()
        if not replay.refusals:  # otherwise the recording went another way
            assert replay.running() == replay.trace.running_at_the_end()
        replay.check()
    finally:
        replay.end_all()


SLOW = ("06-power-failure", "08-blocking-", "08-worker-")


def scenarios(chosen: list[str]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name.startswith(SLOW) else []) for name in chosen]


@pytest.mark.parametrize("name", scenarios(names()))
def test_the_leases_held_after_a_recorded_scenario_are_right(name: str, two_hosts: list[KeeperHost]) -> None:
    play(name, two_hosts, late=False)


@pytest.mark.parametrize("name", scenarios([name for name in names() if load(name).has_spans()]))
def test_they_are_right_when_a_slow_hook_asks_only_at_its_end(name: str, two_hosts: list[KeeperHost]) -> None:
    play(name, two_hosts, late=True)


def test_the_next_libvirtd_can_start_a_guest_whose_prepare_outlived_its_libvirtd(
    two_hosts: list[KeeperHost],
) -> None:
    trace = load("06-kill-in-prepare")
    replay = Replay(trace, two_hosts, late=True)
    replay.run()
    xml = next(record["xml"] for record in trace.records if record.get("xml"))
    done = two_hosts[0].hook(["a", "prepare", "begin", "-"], xml)
    assert (done.status, done.line) == (0, "")
    replay.end_all()


def test_a_late_release_between_prepare_and_start_of_the_next_run_changes_nothing(two_hosts: list[KeeperHost]) -> None:
    trace = load("06-late-release")
    prepares = [r for r in trace.records if r["kind"] == "hook" and r["args"][1] == "prepare"]
    late = next(r for r in trace.records if r.get("phase") == "end")
    trace.records.remove(late)
    trace.records.insert(trace.records.index(prepares[1]) + 1, late)
    replay = Replay(trace, two_hosts, late=True)
    replay.run()
    assert replay.sides["h1"].expected()
    replay.check()
    replay.end_all()


@pytest.mark.sanlock
@pytest.mark.parametrize("name", ["04-save-restore-other-host", "08-concurrent-starts", "10-shareable"])
def test_sanlock_reads_the_same_owners_from_the_disk(name: str, two_hosts: list[KeeperHost]) -> None:
    replay = Replay(load(name), two_hosts)
    replay.run()
    replay.check()
    ours = owned_on_disk(two_hosts)
    assert ours
    assert {(host, lease, mode) for lease in leases_of(two_hosts) for host, mode in dumped(two_hosts, lease)} == ours
    replay.end_all()
    assert not [dumped(two_hosts, lease) for lease in leases_of(two_hosts) if dumped(two_hosts, lease)]


def leases_of(hosts: list[KeeperHost]) -> list[str]:
    return [path.name for path in hosts[0].leases.iterdir() if not path.name.startswith("__")]


def dumped(hosts: list[KeeperHost], lease: str) -> set[tuple[int, str]]:
    """(host id, mode) of the owners in sanlock's dump; those of an earlier generation are gone."""
    present = {(host.number, host.status()["membership"]["generation"]) for host in hosts}
    command = ["/usr/sbin/sanlock", "direct", "dump", str(hosts[0].leases / lease)]
    _, leader, *sectors = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    timestamp, own, generation = leader.split()[3:6]
    owners = {(int(own), "exclusive")} if int(timestamp) and (int(own), int(generation)) in present else set()
    for words in (line.split() for line in sectors):
        if words[-1:] == ["SH"] and (int(words[0]), int(words[1])) in present:
            owners.add((int(words[0]), "shared"))
    return owners
