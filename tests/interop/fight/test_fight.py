# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts of vlhook and of sanlock fight over a few disks while they are killed, stopped and come back.

VLHOOK_FIGHT_SECONDS sets for how long (`make fight` runs five minutes and more); from 240 on, hosts also stay
away until they are dead for the others, which take what they held. VLHOOK_FIGHT_SEED sets the order of the blows.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.fight.contender import resource_of, want_of
from tests.interop.fight.parties import Daemon, Engine, Fight, Keeper, N, Party
from tests.interop.fight.section import Record, Version, as_history, faults, holdings, of_logs
from tests.leases.rig import Rig, RigHost, eventually
from tests.sanlock_daemon import direct_dump, direct_leader, short_directory
from vlhook.leases import directory
from vlhook.leases.directory import Ownership
from vlhook.leases.errors import Busy
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.replay import Holding as Logged
from vlhook.leases.replay import read_lines, replay
from vlhook.leases.sanlockerrors import SanlockBusy
from vlhook.simulate import history

pytestmark = [pytest.mark.sanlock, pytest.mark.slow, pytest.mark.xdist_group("fight"), pytest.mark.timeout(0)]
SECONDS = float(os.environ.get("VLHOOK_FIGHT_SECONDS", "60"))
SEED = int(os.environ.get("VLHOOK_FIGHT_SEED", "0")) or time.time_ns() % 1_000_000
PACE = float(os.environ.get("VLHOOK_FIGHT_PACE", "0.1"))
"""Seconds at most between two tries of one contender: leaves the machine to others."""
LONG = 240
DISKS = 4


def test_in_a_fight_with_kills_and_stops_on_both_sides_no_two_hold_one_disk(tmp_path: Path) -> None:
    leases, images = tmp_path / "leases", tmp_path / "images"
    leases.mkdir()
    images.mkdir()
    disks = [str(images / f"disk{number}") for number in range(DISKS)]
    for disk in disks:
        Path(disk).write_bytes(bytes(4096))
    rig = Rig(leases, io_timeout=N)
    for disk in disks:
        name = want_of(disk).name
        directory.create_lease(str(leases / name), FILE, LOCKSPACE_NAME.encode(), name.encode(), Ownership())
    with ExitStack() as stack:
        (watcher,) = rig.join(99)
        stack.callback(rig.stop)
        fight = Fight(tmp_path, disks, SECONDS, PACE, SEED)
        parties: list[Party] = [Engine(fight, "engine-1", 1), Engine(fight, "engine-2", 2)]
        parties[0].log_steps = True  # type: ignore[attr-defined]
        parties += [Keeper(fight, "keeper-3", 3), Keeper(fight, "keeper-4", 4)]
        daemons = [
            Daemon(fight, f"sanlock-{number}", number, stack.enter_context(short_directory())) for number in (11, 12)
        ]
        parties += daemons
        for party in parties:
            if SECONDS >= LONG:
                party.actions = with_absence(party)  # type: ignore[method-assign]
            stack.callback(party.dismiss)
            party.start()
        for party in parties:
            eventually(party.ready, f"{party.name} takes part")
        fight.begin()
        for party in parties:
            party.harass()
        for party in parties:
            party.join()
        fight.over.set()
        for party in parties:
            party.stop()
        report(fight, parties)
        assert faults(fight.record) == [], f"VLHOOK_FIGHT_SEED={SEED}"
        for kind in ("engine", "keeper", "sanlock"):
            assert any(held.who.startswith(kind) for held in holdings(fight.record.events())), kind
        assert_views_agree(rig, watcher, disks, daemons)
        assert_nobody_is_in_the_way(rig, watcher, disks, daemons[0])
    assert_logs_agree([tmp_path / "engine-1.steps", *(tmp_path / f"host{n}/steps" for n in (3, 4))])


def assert_logs_agree(logs: list[Path]) -> None:
    """With the generators, and with each other; of hosts that were restarted often, what is left of them."""
    logged: list[Logged] = []
    for log in logs:
        for part in (Path(f"{log}.1"), log):
            if part.exists():
                outcome = replay(read_lines(str(part)), str(part))
                assert outcome.disagreements == []
                logged += outcome.holdings
    print(f"{len(logged)} holdings in protocol logs")
    assert list(history.faults(as_history(of_logs(logged)))) == []


def with_absence(party: Party):  # type: ignore[no-untyped-def]
    usual = party.actions()
    return lambda: [*usual, party.absent]


def report(fight: Fight, parties: list[Party]) -> None:
    """For people; `pytest -rP` or -s shows it."""
    history = holdings(fight.record.events())
    counts = Counter("-".join(held.who.split("-")[:2]) for held in history)
    print(f"seed {SEED}, {SECONDS:.0f} s: {len(history)} holdings, {sum(h.shared for h in history)} of them shared")
    for party in parties:
        blows = ", ".join(f"{name} {count}" for name, count in sorted(party.done.items()))
        print(f"  {party.name}: {counts[party.name]} holdings; {blows}")


def assert_views_agree(rig: Rig, watcher: RigHost, disks: list[str], daemons: list[Daemon]) -> None:
    """vlhook and sanlock say the same of every host and every lease, and nobody holds anything."""
    for daemon in daemons:
        views: dict[str, object] = {}

        def same(daemon: Daemon = daemon, views: dict[str, object] = views) -> bool:
            try:
                theirs = {h.host_id: h.generation for h in hosts_of(daemon) if h.timestamp}
            except SanlockBusy:
                return False
            ours = {i: view.generation for i, view in watcher.lease.table.rows().items() if view.timestamp}
            views.update(theirs=theirs, ours=ours)
            return theirs == ours and {3, 4, 11, 12, 99} <= set(ours)

        try:
            eventually(same, "")
        except AssertionError:
            raise AssertionError(f"{daemon.name} and vlhook do not agree on the hosts: {views}") from None
    for disk in disks:
        want = want_of(disk)
        told, leader = direct_leader(rig.path(want), want.name, LOCKSPACE_NAME), rig.leader(want)
        for field in ("owner_id", "owner_generation", "lver", "timestamp", "write_id", "write_generation"):
            assert int(told[field]) == getattr(leader, field), (disk, field)
        assert leader == leader.sealed(), disk
        owner = rig.owner(want)
        if owner:
            host_id, generation = owner
            assert watcher.lease.table.rows()[host_id].generation > generation, direct_dump(rig.path(want))


def hosts_of(daemon: Daemon):  # type: ignore[no-untyped-def]
    return daemon.host.client.get_hosts(LOCKSPACE_NAME)


def assert_nobody_is_in_the_way(rig: Rig, watcher: RigHost, disks: list[str], daemon: Daemon) -> None:
    """Each lease is to be had by either side at once, and then not by the other."""
    with daemon.host.register() as registered:
        for disk in disks:
            want = want_of(disk)
            theirs = resource_of(str(rig.folder), want)
            watcher.start("last", want)
            with pytest.raises(SanlockBusy):
                registered.acquire([theirs])
            watcher.stop("last")
            registered.acquire([theirs])
            assert isinstance(watcher.why("last", want), Busy)
            registered.release([theirs])


# ------------------------------------------------------------------------------------------- the judges themselves


def test_the_judges_see_an_overlap(tmp_path: Path) -> None:
    from tests.interop.fight.section import section

    disk = str(tmp_path / "disk")
    Path(disk).touch()
    record = Record(tmp_path / "record")
    with section(record, "one", [(disk, True)]), section(record, "two", [(disk, True)]):
        pass
    assert faults(record) == []
    with section(record, "one", [(disk, False)]):
        pass
    with section(record, "two", [(disk, False)]):
        pass
    assert faults(record) == []
    with section(record, "one", [(disk, True)]), section(record, "two", [(disk, False)]):
        pass
    by_the_kernel, by_the_history = faults(record)
    assert "overlap" in by_the_kernel
    assert "two holders" in by_the_history


def test_the_judges_see_a_version_that_was_granted_twice(tmp_path: Path) -> None:
    from tests.interop.fight.section import section

    disk = str(tmp_path / "disk")
    Path(disk).touch()
    record = Record(tmp_path / "record")
    for host, lver in ((1, 7), (2, 8), (1, 8)):
        with section(record, f"on {host}", [(disk, False)], Version(host, 1, lver)):
            pass
    (fault,) = faults(record)
    assert "granted twice" in fault


def test_guests_of_one_host_may_share_what_it_has_one_after_another(tmp_path: Path) -> None:
    from tests.interop.fight.section import section

    disk = str(tmp_path / "disk")
    Path(disk).touch()
    record, version = Record(tmp_path / "record"), Version(1, 1, 7)
    for who in ("one", "two", "one"):
        with section(record, who, [(disk, True)], version):
            pass
    assert faults(record) == []
