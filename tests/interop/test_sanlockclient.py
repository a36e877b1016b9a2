# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client against real sanlock daemons: each command, and each oddity that the client is built around."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import needs
from tests.sanlock_daemon import (
    SPACE,
    Refused,
    SanlockHost,
    direct_dump,
    direct_leader,
    direct_lockspace,
    direct_resource,
    make_area,
    resource,
    short_directory,
)
from vlhook.leases.sanlockclient import Force, Joined, StatusLevel
from vlhook.leases.sanlockerrors import (
    SanlockBusy,
    SanlockError,
    SanlockHeldHere,
    SanlockNotFound,
    SanlockNotHeld,
    SanlockNotJoined,
    SanlockNotOrphan,
    SanlockOrphaned,
    SanlockResult,
    WireError,
)
from vlhook.leases.sanlockregistered import Registered
from vlhook.leases.sanlockstate import HostState, StateType
from vlhook.leases.sanlockwire import (
    RES_LVER,
    RES_PERSISTENT,
    RES_SHARED,
    Config,
    Disk,
    Lockspace,
    Resource,
)

# One worker runs them all, so that each daemon is started once.
pytestmark = [pytest.mark.sanlock, pytest.mark.xdist_group("sanlockclient")]


class Hosts(NamedTuple):
    """Two hosts, host ids 1 and 2, in one lockspace."""

    one: SanlockHost
    two: SanlockHost
    lockspace: Path
    directory: Path


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    needs.require_programs("sanlock", "setpriv")
    with short_directory() as directory:
        path = direct_lockspace(directory / "ls")
        with SanlockHost("one", directory / "1") as one, SanlockHost("two", directory / "2") as two:
            joining = Lockspace(SPACE, 2, Disk(str(path)))
            two.start().client.add_lockspace(joining, 1, wait=False)
            one.start().add_lockspace(path, 1)
            assert two.client.inquire_lockspace(joining, wait=True) is Joined.YES
            yield Hosts(one, two, path, directory)


numbers = count(1)


@pytest.fixture
def new(hosts: Hosts) -> NewLease:
    return NewLease(hosts.directory)


class NewLease:
    """new() is a lease of its own, formatted by sanlock itself."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, flags: int = RES_PERSISTENT) -> Resource:
        name = f"r{next(numbers)}"
        return resource(direct_resource(self._directory / name, name), name, flags)


@pytest.fixture
def mine(hosts: Hosts) -> Iterator[Registered]:
    """A registered connection of this process to host one; its leases must be released by the test."""
    with hosts.one.register() as registered:
        yield registered


@pytest.fixture
def theirs(hosts: Hosts) -> Iterator[Registered]:
    """The same to host two."""
    with hosts.two.register() as registered:
        yield registered


def path_of(lease: Resource) -> Path:
    return Path(lease.disks[0].path)


def leader(lease: Resource) -> dict[str, str]:
    return direct_leader(path_of(lease), lease.name)


def held_on_disk(lease: Resource) -> bool:
    return leader(lease)["timestamp"] != "0"


def state_of(host: SanlockHost, lease: Resource) -> str | None:
    """held, orphan, ... or None, by the daemon's own account."""
    return next((one.state for one in host.client.leases() if one.resource.name == lease.name), None)


def wait_state(host: SanlockHost, lease: Resource, state: str | None) -> None:
    deadline = time.monotonic() + 30
    while state_of(host, lease) != state:
        assert time.monotonic() < deadline, f"{lease} is {state_of(host, lease)}, not {state}"
        select.select([], [], [], 0.01)


def make_orphans(host: SanlockHost, *leases: Resource) -> None:
    """Leave `leases` behind as a keeper does that crashes."""
    holder = host.holder()
    holder.acquire(*leases)
    holder.kill()
    for lease in leases:
        wait_state(host, lease, "orphan")


# ----------------------------------------------------------------- daemon, lockspaces


def test_the_version_is_the_one_that_sanlock_itself_prints(hosts: Hosts) -> None:
    version = hosts.one.client.version()
    assert str(version) in hosts.one.cli("status", "-D")
    assert version.protocol >> 16 == 0


def test_the_status_tells_of_daemon_connections_lockspaces_and_leases(
    hosts: Hosts, mine: Registered, new: NewLease
) -> None:
    lease = new()
    mine.acquire([lease])
    items = hosts.one.client.status()
    by_type = {kind: [item for item in items if item.type is kind] for kind in StateType}
    assert by_type[StateType.DAEMON][0].words["our_host_name"] == "one"
    assert by_type[StateType.DAEMON][0].words["use_watchdog"] == "0"
    assert os.getpid() in {item.pid for item in by_type[StateType.CLIENT]}
    (space,) = by_type[StateType.LOCKSPACE]
    assert space.lockspace == Lockspace(SPACE, 1, Disk(str(hosts.lockspace)), space.lockspace.flags)
    assert (space.number("host_generation"), space.number("space_dead")) == (1, 0)
    assert space.number("renewal_last_success")
    (held,) = [one for one in hosts.one.client.leases() if one.resource.name == lease.name]
    assert (held.state, held.pid, held.lver, held.shared) == ("held", os.getpid(), 1, False)
    assert held.resource.disks == lease.disks
    mine.release([lease])


@pytest.mark.parametrize("level", StatusLevel)
def test_each_level_of_the_status_tells_what_it_should(hosts: Hosts, level: StatusLevel) -> None:
    kinds = {item.type for item in hosts.one.client.status(level)}
    expected = {StateType.DAEMON}
    if level in (StatusLevel.ALL, StatusLevel.CLIENTS, StatusLevel.LOCKSPACES):
        expected.add(StateType.CLIENT)
    if level in (StatusLevel.ALL, StatusLevel.LOCKSPACES):
        expected.add(StateType.LOCKSPACE)
    assert kinds - {StateType.RESOURCE} == expected


def test_the_lockspaces_of_a_host_are_those_it_joined(hosts: Hosts) -> None:
    (lockspace,) = hosts.two.client.get_lockspaces()
    assert (lockspace.name, lockspace.host_id, lockspace.disk.path) == (SPACE, 2, str(hosts.lockspace))


def test_the_hosts_are_seen_alive_with_generation_and_io_timeout(hosts: Hosts) -> None:
    for _ in range(5):
        hosts.one.wait_renewals()  # LIVE is who was seen to renew
        seen = hosts.one.client.get_hosts(SPACE)
        if [host.state for host in seen] == [HostState.LIVE, HostState.LIVE]:
            break
    assert [host.state for host in seen] == [HostState.LIVE, HostState.LIVE]
    assert [(host.host_id, host.generation, host.io_timeout) for host in seen] == [(1, 1, 1), (2, 1, 1)]
    (two,) = hosts.one.client.get_hosts(SPACE, 2)
    assert two.host_id == 2


def test_a_lockspace_is_joined_only_with_its_very_host_id_and_file(hosts: Hosts) -> None:
    path = str(hosts.lockspace)
    client = hosts.one.client
    assert client.inquire_lockspace(Lockspace(SPACE, 1, Disk(path))) is Joined.YES
    assert client.inquire_lockspace(Lockspace(SPACE, 2, Disk(path))) is Joined.NO
    assert client.inquire_lockspace(Lockspace(SPACE, 1, Disk(path + "x"))) is Joined.NO


def test_joining_twice_says_so(hosts: Hosts) -> None:
    lockspace = Lockspace(SPACE, 1, Disk(str(hosts.lockspace)))
    with pytest.raises(SanlockResult, match="joined already") as caught:
        hosts.one.client.add_lockspace(lockspace, 1)
    assert caught.value.result == -17
    with pytest.raises(SanlockResult, match="another host id"):
        hosts.one.client.add_lockspace(replace(lockspace, host_id=3), 1)


def test_what_is_not_there_cannot_be_joined(hosts: Hosts) -> None:
    with pytest.raises(SanlockNotFound):
        hosts.one.client.add_lockspace(Lockspace("X", 1, Disk("/nowhere/at/all")), 1)


def test_commands_for_a_lockspace_that_is_not_joined_say_so(hosts: Hosts) -> None:
    client = hosts.one.client
    for command in (
        lambda: client.get_hosts("OTHER"),
        lambda: client.set_config("OTHER", Config.USED),
        lambda: client.remove_lockspace(Lockspace("OTHER", 1, Disk("/x"))),
    ):
        with pytest.raises(SanlockNotJoined, match="OTHER: the lockspace is not joined"):
            command()


def test_a_lockspace_that_is_formatted_here_is_as_sanlock_formats_it(hosts: Hosts) -> None:
    ours, theirs = make_area(hosts.directory / "ours"), direct_lockspace(hosts.directory / "theirs", 3, "X")
    hosts.one.client.write_lockspace(Lockspace("X", 0, Disk(str(ours))), 3)
    assert ours.read_bytes() == theirs.read_bytes()
    found, io_timeout = hosts.one.client.read_lockspace(Lockspace("X", 5, Disk(str(ours))))
    assert (found.name, found.host_id, io_timeout) == ("X", 5, 3)
    with pytest.raises(SanlockResult) as caught:
        hosts.one.client.read_lockspace(Lockspace("Y", 5, Disk(str(ours))))
    assert caught.value.result == -226


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (Config.USED, "external_used", 1),
        (Config.UNUSED, "external_used", 0),
        (Config.USED_BY_ORPHANS, "used_by_orphans", 1),
        (Config.UNUSED_BY_ORPHANS, "used_by_orphans", 0),
    ],
)
def test_used_and_used_by_orphans_are_set_and_cleared(hosts: Hosts, config: Config, key: str, value: int) -> None:
    hosts.two.client.set_config(SPACE, config)
    (space,) = [item for item in hosts.two.client.status() if item.type is StateType.LOCKSPACE]
    assert space.number(key) == value


# -------------------------------------------------------------- what is in lease files


def test_a_lease_that_is_formatted_here_is_as_sanlock_formats_it(hosts: Hosts, new: NewLease) -> None:
    lease = new(0)
    reference = path_of(lease).read_bytes()
    path_of(lease).write_bytes(bytes(len(reference)))
    hosts.one.client.write_resource(lease)
    assert path_of(lease).read_bytes() == reference


def test_a_lease_is_formatted_for_as_many_hosts_as_asked_and_cleared(
    hosts: Hosts, mine: Registered, new: NewLease
) -> None:
    lease = new(0)
    hosts.one.client.write_resource(lease, num_hosts=8)
    assert leader(lease)["num_hosts"] == "8"
    hosts.one.client.write_resource(lease, clear=True)
    with pytest.raises(SanlockResult, match="no lease in the file") as caught:
        mine.acquire([lease])
    assert caught.value.result == -223


def test_a_lease_is_read_by_its_file_with_or_without_its_name(hosts: Hosts, new: NewLease) -> None:
    lease = new(0)
    anonymous = Resource("", "", lease.disks)
    assert hosts.one.client.read_resource(anonymous).name == lease.name
    assert hosts.one.client.read_resource(lease).space == SPACE
    with pytest.raises(SanlockResult) as caught:
        hosts.one.client.read_resource(replace(lease, name="other"))
    assert caught.value.result == -227
    with pytest.raises(SanlockNotFound):
        hosts.one.client.read_resource(replace(lease, disks=(Disk("/nowhere"),)))


def test_the_owners_on_disk_are_none_one_or_those_that_share(hosts: Hosts, new: NewLease) -> None:
    exclusive, shared = new(), new(RES_SHARED)
    with hosts.one.holder() as first, hosts.two.holder() as second:
        assert hosts.one.client.read_owners(exclusive)[1] == ()
        first.acquire(exclusive, shared)
        second.acquire(shared)
        _, (owner,) = hosts.two.client.read_owners(exclusive)
        assert (owner.host_id, owner.generation) == (1, 1)
        _, owners = hosts.two.client.read_owners(replace(shared, flags=0))
        assert {(one.host_id, one.generation) for one in owners} == {(1, 1), (2, 1)}
        first.release(exclusive)


def test_a_request_is_written_for_the_next_version_and_the_owner_hears_of_it(hosts: Hosts, new: NewLease) -> None:
    lease = new()
    with hosts.one.holder() as holder:
        holder.acquire(lease)
        hosts.two.client.request(lease, Force.GRACEFUL)
        request = path_of(lease).read_bytes()[512:536]
        assert int.from_bytes(request[8:16], "little") == 2
        assert int.from_bytes(request[16:20], "little") == Force.GRACEFUL
        with pytest.raises(SanlockResult) as caught:
            hosts.two.client.request(replace(lease, lver=1))
        assert caught.value.result == -272
        assert holder.wait_killed() == signal.SIGTERM
    wait_state(hosts.one, lease, "orphan")
    with hosts.one.register() as registered:
        assert registered.release_orphan(lease)


# ------------------------------------------------------------------ acquire and release


def test_forty_leases_on_one_connection(hosts: Hosts, mine: Registered, theirs: Registered, new: NewLease) -> None:
    leases = [new() for _ in range(40)]
    mine.acquire(leases)
    assert [one.name for one in mine.inquire()] == [lease.name for lease in leases]
    assert all(one.lver == 1 for one in mine.inquire())
    with pytest.raises(SanlockBusy):
        theirs.acquire([leases[39]])
    mine.release(leases)
    assert mine.inquire() == ()
    assert hosts.one.client.version()  # which a release of 30 in one call would have ended
    theirs.acquire([leases[39]])
    theirs.release([leases[39]])


def test_a_batch_that_is_refused_leaves_nothing_held(
    hosts: Hosts, mine: Registered, theirs: Registered, new: NewLease
) -> None:
    leases = [new() for _ in range(12)]
    theirs.acquire([leases[10]])
    with pytest.raises(SanlockBusy) as caught:
        mine.acquire(leases)
    assert caught.value.result == -243
    assert leases[10] in caught.value.batch
    assert caught.value.kept == ()
    assert mine.inquire() == ()
    assert not any(held_on_disk(lease) for lease in leases[:10])
    theirs.release([leases[10]])


def test_another_connection_of_the_host_is_told_that_the_host_holds_it(
    hosts: Hosts, mine: Registered, new: NewLease
) -> None:
    lease = new()
    mine.acquire([lease])
    with hosts.one.register() as other:
        with pytest.raises(SanlockHeldHere) as caught:
            other.acquire([lease])
        assert caught.value.result == -17
    mine.release([lease])


def test_another_host_is_told_that_a_live_host_holds_it(hosts: Hosts, theirs: Registered, new: NewLease) -> None:
    lease = new(0)
    holder = hosts.one.holder(library=True)  # sanlock's own binding holds it
    needs.require_module("sanlock")
    holder.acquire(lease)
    with pytest.raises(SanlockBusy, match="a live host holds the lease") as caught:
        theirs.acquire([lease])
    assert caught.value.result == -243
    holder.release(lease)
    theirs.acquire([lease])
    theirs.release([lease])


def test_sanlocks_own_binding_is_refused_what_we_hold(hosts: Hosts, mine: Registered, new: NewLease) -> None:
    needs.require_module("sanlock")
    lease = new()
    mine.acquire([lease])
    with pytest.raises(Refused) as caught:
        hosts.two.holder(library=True).acquire(lease)
    assert caught.value.result == -243
    mine.release([lease])


def test_exclusive_is_refused_while_hosts_share_and_shared_while_one_owns(
    mine: Registered, theirs: Registered, new: NewLease
) -> None:
    shared = new(RES_SHARED)
    exclusive = replace(shared, flags=0)
    mine.acquire([shared])
    theirs.acquire([shared])
    assert [one.shared for one in mine.inquire()] == [True]
    theirs.release([shared])
    with pytest.raises(SanlockBusy, match="hold the lease shared") as caught:
        theirs.acquire([exclusive])
    assert caught.value.result == -11
    mine.release([shared])
    theirs.acquire([exclusive])
    with pytest.raises(SanlockBusy):
        mine.acquire([shared])
    theirs.release([exclusive])


def test_a_lease_is_converted_both_ways_and_stays_persistent(hosts: Hosts, theirs: Registered, new: NewLease) -> None:
    lease = new()
    shared = replace(lease, flags=lease.flags | RES_SHARED)
    mine = hosts.one.register()
    mine.acquire([lease])
    mine.convert(lease, shared=True)
    assert [one.shared for one in mine.inquire()] == [True]
    theirs.acquire([shared])
    with pytest.raises(SanlockBusy) as caught:
        mine.convert(lease, shared=False)
    assert caught.value.result == -11
    theirs.release([shared])
    mine.convert(lease, shared=False)
    assert [one.shared for one in mine.inquire()] == [False]
    with pytest.raises(SanlockBusy):
        theirs.acquire([shared])
    mine.close()
    wait_state(hosts.one, lease, "orphan")
    with hosts.one.register() as registered:
        assert registered.release_orphan(lease)


def test_only_what_is_held_can_be_converted_or_released(mine: Registered, new: NewLease) -> None:
    held, other = new(), new()
    mine.acquire([held])
    with pytest.raises(SanlockNotHeld):
        mine.convert(other, shared=True)
    with pytest.raises(SanlockNotHeld, match="does not hold") as caught:
        mine.release([other, held])
    assert caught.value.result == -1
    assert mine.inquire() == ()  # the other one was released


def test_a_version_that_went_by_is_refused_where_it_was_a_condition(mine: Registered, new: NewLease) -> None:
    lease = new(RES_LVER)
    mine.acquire([lease])  # 0 is no condition
    mine.release([lease])
    with pytest.raises(SanlockResult) as caught:
        mine.acquire([replace(lease, lver=7)])
    assert caught.value.result == -240
    mine.acquire([replace(lease, lver=1)])
    mine.release([lease])


def test_a_lockspace_that_is_not_joined_is_never_no_space_left(mine: Registered, new: NewLease) -> None:
    with pytest.raises(SanlockNotJoined, match="not joined on this host or has failed") as caught:
        mine.acquire([replace(new(), space="OTHER")])
    assert caught.value.result == -28


@pytest.mark.parametrize(
    ("content", "result"), [(b"", -90), (bytes(1 << 20), -223), (None, -2)], ids=["short", "zeros", "absent"]
)
def test_what_is_no_lease_file_is_refused_with_what_it_lacks(
    hosts: Hosts, mine: Registered, content: bytes | None, result: int
) -> None:
    path = hosts.directory / f"bad{-result}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SanlockResult) as caught:
        mine.acquire([resource(path, "bad")])
    assert caught.value.result == result


# ------------------------------------------------------------------- names and paths


@pytest.mark.parametrize(
    ("name", "file"),
    [("plain1", "co:lon"), ("plain2", "ünï"), ("N" * 47, "x1")],
    ids=["colon", "utf-8", "47 bytes"],
)
def test_inquire_tells_names_and_paths_as_they_are(hosts: Hosts, mine: Registered, name: str, file: str) -> None:
    path = make_area(hosts.directory / file)
    lease = resource(path, name)
    hosts.one.client.write_resource(lease)
    mine.acquire([lease])
    (held,) = mine.inquire()
    assert (held.name, held.path) == (name, str(path))
    mine.release([lease])


@pytest.mark.parametrize(
    ("name", "file"),
    [("plain3", "sp ace"), ("na me", "x2"), ("na:me", "x3"), ("plain4", "end\\"), ("N" * 48, "x4")],
    ids=["path with space", "name with space", "name with colon", "path ending in backslash", "48 bytes"],
)
def test_where_inquire_cannot_tell_the_status_still_does(hosts: Hosts, mine: Registered, name: str, file: str) -> None:
    path = make_area(hosts.directory / file)
    lease = resource(path, name)
    hosts.one.client.write_resource(lease)
    mine.acquire([lease])
    try:
        told = [(one.name, one.path) for one in mine.inquire()]
    except (WireError, SanlockResult):
        told = []
    assert told in ([], [(name, str(path))]), "told something that is not so"
    (held,) = [one for one in hosts.one.client.leases() if one.resource.name == name]
    assert held.resource.disks == (Disk(str(path)),)
    mine.release([lease])
    assert state_of(hosts.one, lease) is None


# ----------------------------------------------------------------------------- orphans


def test_a_holder_that_dies_gives_its_leases_back_unless_they_are_persistent(
    hosts: Hosts, theirs: Registered, new: NewLease
) -> None:
    fleeting, lasting = new(0), new()
    holder = hosts.one.holder()
    holder.acquire(fleeting, lasting)
    holder.kill()
    wait_state(hosts.one, fleeting, None)
    wait_state(hosts.one, lasting, "orphan")
    theirs.acquire([fleeting])
    theirs.release([fleeting])
    with pytest.raises(SanlockBusy) as caught:
        theirs.acquire([lasting])
    assert caught.value.result == -243
    with hosts.one.register() as registered:
        assert registered.release_orphan(lasting)


def test_orphans_are_adopted_with_their_version_and_survive_the_next_crash_too(
    hosts: Hosts, theirs: Registered, new: NewLease
) -> None:
    leases = [new() for _ in range(10)]
    make_orphans(hosts.one, *leases)
    before = [direct_dump(path_of(lease)) for lease in leases]
    with hosts.one.holder() as second:
        with pytest.raises(Refused) as caught:
            second.acquire(leases[0])
        assert caught.value.result == -117
        second.adopt(*[replace(lease, flags=0) for lease in leases])
        assert state_of(hosts.one, leases[0]) == "held"
        assert [direct_dump(path_of(lease)) for lease in leases] == before
    for lease in leases:
        wait_state(hosts.one, lease, "orphan")
    with hosts.one.register() as third:
        third.adopt(leases)
        with pytest.raises(SanlockBusy):
            theirs.acquire([leases[9]])
        third.release(leases)
    theirs.acquire(leases)
    theirs.release(leases)


def test_a_plain_acquire_of_an_orphan_is_refused_as_such(hosts: Hosts, mine: Registered, new: NewLease) -> None:
    lease = new()
    make_orphans(hosts.one, lease)
    with pytest.raises(SanlockOrphaned):
        mine.acquire([lease])
    assert mine.release_orphan(lease)


def test_what_is_no_orphan_is_not_acquired_afresh(mine: Registered, new: NewLease) -> None:
    lease = new()
    with pytest.raises(SanlockNotOrphan):
        mine.adopt([lease])
    assert mine.inquire() == ()
    assert not held_on_disk(lease)


def test_an_adoption_that_fails_midway_releases_no_orphan(
    hosts: Hosts, mine: Registered, theirs: Registered, new: NewLease
) -> None:
    first, second, third = new(), new(), new()
    make_orphans(hosts.one, first, second, third)
    unfit = replace(second, flags=second.flags | RES_SHARED)  # it was exclusive
    with pytest.raises(SanlockOrphaned) as caught:
        mine.adopt([first, unfit, third])
    assert caught.value.batch == (unfit,)
    assert caught.value.kept == (first,)
    for lease in (first, second, third):
        with pytest.raises(SanlockBusy):
            theirs.acquire([lease])
    mine.release([first])
    assert mine.release_orphan(second)
    assert mine.release_orphan(third)


def test_releasing_an_orphan_frees_it_for_others_soon_and_says_whether_there_was_one(
    hosts: Hosts, mine: Registered, theirs: Registered, new: NewLease
) -> None:
    lease = new()
    assert not mine.release_orphan(lease)
    make_orphans(hosts.one, lease)
    assert mine.release_orphan(lease)
    wait_state(hosts.one, lease, None)
    assert not mine.release_orphan(lease)
    theirs.acquire([lease])
    theirs.release([lease])


def test_every_error_is_one_line_without_control_characters(mine: Registered) -> None:
    with pytest.raises(SanlockError) as caught:
        mine.acquire([resource(Path("/no\nwhere"), "evil\nname\x1b[31m")])
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
