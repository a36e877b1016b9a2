# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client while lockspaces come and go, owners die, and daemons are killed, hang, and stop."""

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
from tests.sanlock_daemon import Refused, SanlockHost, direct_lockspace, direct_resource, resource, short_directory
from vlhook.leases.sanlockclient import Joined
from vlhook.leases.sanlockerrors import (
    SanlockBusy,
    SanlockHungUp,
    SanlockNoAnswer,
    SanlockUnreachable,
    SanlockUnusable,
)
from vlhook.leases.sanlockwire import LOCKSPACE_ADDING, RES_PERSISTENT, Config, Disk, Lockspace, Resource

# One worker runs them all, so that the daemon is started once.
pytestmark = [pytest.mark.sanlock, pytest.mark.xdist_group("sanlockclient_faults")]

OWN_SPACES = ("REMOVED", "USED", "FAILED", "OWNED")
numbers = count(1)


class Hosts(NamedTuple):
    """Host three is alone in OWN_SPACES; what holds leases there may be killed, so it is never this process."""

    three: SanlockHost
    directory: Path


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    needs.require_programs("sanlock", "setpriv")
    with short_directory() as directory, SanlockHost("three", directory / "3") as three:
        three.start()
        for space in OWN_SPACES:  # at once: each takes three seconds
            direct_lockspace(directory / space, space=space)
            three.client.add_lockspace(own_lockspace(directory, space), 1, wait=False)
        for space in OWN_SPACES:
            joined = three.client.inquire_lockspace(own_lockspace(directory, space), wait=True)
            assert joined is Joined.YES
        yield Hosts(three, directory)


def own_lockspace(directory: Path, space: str, host_id: int = 1) -> Lockspace:
    return Lockspace(space, host_id, Disk(str(directory / space)))


def own_lease(hosts: Hosts, space: str, flags: int = RES_PERSISTENT) -> Resource:
    name = f"r{next(numbers)}"
    return resource(direct_resource(hosts.directory / name, name, space), name, flags, space)


@pytest.fixture
def other(hosts: Hosts) -> Iterator[SanlockHost]:
    """A daemon for the test alone, in no lockspace."""
    with SanlockHost("other", hosts.directory / f"h{next(numbers)}") as host:
        yield host.start()


def test_a_join_can_go_on_while_we_do_not_wait(hosts: Hosts) -> None:
    client = hosts.three.client
    path = direct_lockspace(hosts.directory / "ls7", space="ASYNC")
    lockspace = Lockspace("ASYNC", 7, Disk(str(path)))
    client.add_lockspace(lockspace, 1, wait=False)
    assert client.inquire_lockspace(lockspace) is Joined.CHANGING
    assert replace(lockspace, flags=LOCKSPACE_ADDING) in client.get_lockspaces()
    with pytest.raises(SanlockNoAnswer):
        client.inquire_lockspace(lockspace, wait=True, deadline=time.monotonic() + 0.2)
    assert client.inquire_lockspace(lockspace, wait=True) is Joined.YES
    client.remove_lockspace(lockspace)
    assert client.inquire_lockspace(lockspace) is Joined.NO
    assert "ASYNC" not in {one.name for one in client.get_lockspaces()}


def test_a_removal_kills_who_holds_leases_unless_only_an_unused_one_is_to_go(hosts: Hosts) -> None:
    three, lockspace = hosts.three, own_lockspace(hosts.directory, "REMOVED")
    lease = own_lease(hosts, "REMOVED")
    holder, idle = three.holder(), three.holder()
    holder.acquire(lease)
    with pytest.raises(SanlockBusy) as caught:
        three.client.remove_lockspace(lockspace, only_unused=True)
    assert caught.value.result == -16
    three.client.remove_lockspace(lockspace)
    assert holder.wait_killed() == signal.SIGKILL
    with pytest.raises(Refused) as refused:
        idle.acquire(lease)
    assert refused.value.result == -28


def test_used_keeps_a_lockspace_until_unused(hosts: Hosts) -> None:
    three, lockspace = hosts.three, own_lockspace(hosts.directory, "USED")
    lease = own_lease(hosts, "USED")
    three.client.set_config("USED", Config.USED)
    three.client.remove_lockspace(lockspace, wait=False)
    three.log.wait("used external blocking lockspace removal")
    with pytest.raises(Refused) as refused:
        three.holder().acquire(lease)
    assert refused.value.result == -28
    assert "USED" in {one.name for one in three.client.get_lockspaces()}
    mark = three.log.mark
    three.client.set_config("USED", Config.UNUSED)
    three.log.wait("free lockspace", since=mark)
    assert "USED" not in {one.name for one in three.client.get_lockspaces()}


def test_when_a_lockspace_fails_the_killpath_runs_and_who_releases_is_spared(hosts: Hosts) -> None:
    three, lockspace = hosts.three, own_lockspace(hosts.directory, "FAILED")
    lease = own_lease(hosts, "FAILED")
    said = hosts.directory / "said"
    os.mkfifo(said)
    reader = os.open(said, os.O_RDONLY | os.O_NONBLOCK)
    with three.holder() as holder:
        holder.restrict_sigkill()
        holder.killpath("/bin/sh", "-c", f"echo $0 $1 >{said}", "two words")
        holder.acquire(lease)
        mark = three.log.mark
        # Its own record damaged: the daemon gives the lockspace up at the next renewal.
        with open(lockspace.disk.path, "r+b") as file:
            file.write(bytes(512))
        assert select.select([reader], [], [], 60)[0]
        assert os.read(reader, 100).decode().split() == ["two", "words", str(holder.pid)]
        os.close(reader)
        with pytest.raises(Refused) as refused:
            holder.acquire(lease)
        assert refused.value.result == -16
        (space,) = [item for item in three.client.status() if item.name == "FAILED"]
        assert space.number("space_dead") == 1
        holder.release(lease)
        three.log.wait("free lockspace", since=mark)
        with pytest.raises(Refused) as refused:
            holder.acquire(lease)
        assert refused.value.result == -28


def test_an_owner_that_may_be_dead_is_waited_for_only_if_asked(hosts: Hosts, other: SanlockHost) -> None:
    lockspace = own_lockspace(hosts.directory, "OWNED", 4)
    other.client.add_lockspace(lockspace, 1)
    lease = own_lease(hosts, "OWNED", 0)
    other.holder().acquire(lease)
    other.kill9()
    with hosts.three.register() as registered:
        results = []
        while not results or results[-1] == -243:  # until host three misses the owner's renewals
            with pytest.raises(SanlockBusy) as caught:
                registered.acquire([lease])
            results.append(caught.value.result)
            assert len(results) < 30
            hosts.three.wait_renewals()
        assert results[-1] == -247
        assert "silent" in str(caught.value)
        with pytest.raises(SanlockNoAnswer):
            registered.acquire([lease], wait=True, deadline=time.monotonic() + 0.2)
        with pytest.raises(SanlockUnusable):
            registered.inquire()
        # The owner's daemon is back with a new generation: what the old one held is free.
        other.start()
        other.client.add_lockspace(lockspace, 1)
        assert registered.late_answer(time.monotonic() + 60) == 0
        assert [one.name for one in registered.inquire()] == [lease.name]
        registered.release([lease])


def test_a_daemon_that_hangs_is_no_answer_and_one_that_goes_on_is_usable_again(other: SanlockHost) -> None:
    with other.register() as registered:
        other.sigstop()
        with pytest.raises(SanlockNoAnswer):
            other.client.version(time.monotonic() + 0.2)
        with pytest.raises(SanlockNoAnswer):
            registered.inquire(time.monotonic() + 0.2)
        other.sigcont()
        assert other.client.version()
        assert registered.late_answer() == 0
        assert registered.inquire() == ()


def test_a_daemon_that_dies_is_seen_on_every_connection(other: SanlockHost) -> None:
    with other.register() as registered:
        poll = select.poll()
        poll.register(registered.fileno(), select.POLLIN | select.POLLRDHUP)
        assert not registered.hung_up()
        assert poll.poll(0) == []
        other.kill9()
        assert poll.poll(30000)
        assert registered.hung_up()
        with pytest.raises(SanlockHungUp):
            registered.inquire()
    with pytest.raises(SanlockUnreachable):
        other.client.version()


def test_a_daemon_can_be_stopped_in_order_and_started_again(hosts: Hosts, other: SanlockHost) -> None:
    direct_lockspace(hosts.directory / "STOPPED", space="STOPPED")
    other.client.add_lockspace(own_lockspace(hosts.directory, "STOPPED"), 1)
    holder = other.holder()
    holder.acquire(own_lease(hosts, "STOPPED"))
    other.stop()
    assert holder.wait_killed() == signal.SIGKILL
    other.start()
    assert other.client.get_lockspaces() == ()
