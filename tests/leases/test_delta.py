# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's own lease: acquire, renew, release (format document, 6), step by step on a disk in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.leases.disk import LOCKSPACE_WHERE, SPACE, Host, Task, World
from tests.leases.images import image
from vlhook.leases import delta
from vlhook.leases.delta import Membership, OwnTrace, Space
from vlhook.leases.effects import LOCKSPACE, Now, Read, Sleep, Write
from vlhook.leases.errors import (
    AreaTooShort,
    BadLeaderChecksum,
    BadMagic,
    BadSpaceName,
    BadVersion,
    HostIdInUse,
    HostIdTooLarge,
    LeaseError,
    LockspaceLost,
    NameInUse,
    NotMember,
    RecordError,
    StorageError,
    UnsupportedFlags,
)
from vlhook.leases.geometry import FILE, MIB, geometry
from vlhook.leases.records import Leader, pad_name


def joining(world: World, host_id: int, name: bytes = b"", io_timeout: int = 0, **more: Any) -> Task[Membership]:
    """A join that is about to begin; `world.host` is only there to have somebody who performs it."""
    space = Space(SPACE, LOCKSPACE_WHERE, host_id, name or b"host-%d" % host_id, io_timeout or world.io_timeout)
    record = replace(Leader.decode(bytes(200)), owner_id=host_id)
    return Task(Host(world, Membership(space, world.geo, record)), delta.acquire(space, **more))


def shape(task: Task[Any]) -> list[tuple[Any, ...]]:
    """Reads, writes and sleeps in their order."""
    found: list[tuple[Any, ...]] = []
    for effect in task.effects:
        if isinstance(effect, Read):
            found.append(("read", effect.offset, effect.length))
        elif isinstance(effect, Write):
            found.append(("write", effect.offset, len(effect.data)))
        elif isinstance(effect, Sleep):
            found.append(("sleep", effect.seconds))
    return found


# ------------------------------------------------------------------------------------------- joining


def test_an_id_that_was_never_used_is_taken_after_the_short_delay() -> None:
    world = World(io_timeout=2)
    task = joining(world, 7)
    member = task.run()
    assert shape(task) == [
        ("read", 0, 4096),
        ("read", 3072, 512),
        ("write", 3072, 512),
        ("sleep", 4),
        ("read", 3072, 512),
        ("write", 3072, 512),
    ]
    assert (member.identity.host_id, member.identity.generation) == (7, 1)
    assert member.record == world.delta(7)
    assert world.writes() == [(LOCKSPACE, 3072), (LOCKSPACE, 3072)], "nobody else's record may be touched"


def test_a_joined_record_is_the_same_to_the_byte_as_sanlocks() -> None:
    """Host 1 of the image with three living hosts: generation 1, io_timeout 1, renewed at 1577."""
    world = World(now=1575)
    joining(world, 1, b"host-a").run()
    assert bytes(world.areas[LOCKSPACE][:512]) == image("lockspace_hosts_1_2_7_alive")[:512]


def test_the_generation_rises_with_every_join_also_across_release() -> None:
    world = World()
    generations = []
    for _ in range(3):
        member = joining(world, 7).run()
        generations.append(member.identity.generation)
        host = Host(world, member)
        host.leave()
    assert generations == [1, 2, 3]
    assert (world.delta(7).owner_generation, world.delta(7).free) == (3, True)


def test_the_short_delay_uses_the_io_timeout_found_on_disk() -> None:
    """Trap 4: a lockspace made with the default makes the first user of an id wait 20 s."""
    world = World(io_timeout=10)
    task = joining(world, 7, io_timeout=1)
    task.run()
    assert ("sleep", 20) in shape(task)


def test_the_membership_is_good_also_where_the_short_delay_is_longer_than_the_own_limit() -> None:
    """8N is 8 s for N=1, but the wait of a lockspace made with N=10 is 20: renewed at once, as sanlock does."""
    world = World(io_timeout=10)
    begun = world.now
    member = joining(world, 7, io_timeout=1).run()
    assert world.now == begun + 20
    assert member.last_ok == world.now
    assert member.record == world.delta(7)


def test_a_join_that_stood_still_until_others_may_have_taken_the_id_is_given_up() -> None:
    world = World(io_timeout=10)
    task = joining(world, 7, io_timeout=1)
    task.until(Sleep)
    task.step()
    task.until(Now)
    world.now += 48  # 68 s since the write: 8N+60
    assert "while it was taken" in str(task.raises(NotMember))
    assert len(world.writes()) == 1


def test_an_io_timeout_of_zero_on_disk_counts_as_ten() -> None:
    world = World()
    world.write_delta(replace(world.delta(7), io_timeout_raw=0), 7)
    task = joining(world, 7)
    task.run()
    assert ("sleep", 20) in shape(task)


def test_the_first_second_after_boot_does_not_look_like_free() -> None:
    world = World(now=0.2)
    task = joining(world, 7)
    task.until(Sleep)
    assert world.delta(7).timestamp == 1


def test_another_hosts_record_must_stand_still_for_8n_and_60_seconds() -> None:
    world = World(io_timeout=2)
    world.host(7).die()
    begun = world.now
    task = joining(world, 7, b"somebody-else")
    task.until(Write)
    assert world.now - begun == 8 * 2 + 60 + 1, "one second of slack, because on disk are whole seconds"
    member = task.run()
    assert member.identity.generation == 2
    assert world.delta(7).resource_name == pad_name(b"somebody-else")


def test_the_wait_is_by_the_io_timeout_of_the_owner() -> None:
    """Row 19."""
    world = World(io_timeout=20)
    world.host(7).die()
    begun = world.now
    task = joining(world, 7, b"somebody-else", io_timeout=1)
    task.until(Write)
    assert world.now - begun == 8 * 20 + 60 + 1


@pytest.mark.parametrize("after", [1, 40, 76])
def test_an_id_in_use_by_a_living_host_is_refused_before_the_first_write(after: int) -> None:
    world = World(io_timeout=2)
    other = world.host(7)
    other.die()
    task = joining(world, 7, b"somebody-else")
    task.until(Sleep, count=after)
    written = len(world.writes())
    world.write_delta(replace(other.member.record, timestamp=int(world.now) + 5))
    error = task.raises(HostIdInUse)
    assert str(error).startswith(f"host id 7 of {LOCKSPACE_WHERE} is in use by host host-7")
    assert "host_id N" in str(error), "the refusal says what to do"
    assert len(world.writes()) == written == 0


def test_an_id_that_becomes_free_during_the_wait_is_taken_at_once() -> None:
    world = World()
    other = world.host(7)
    task = joining(world, 7, b"somebody-else")
    task.until(Sleep)
    other.leave()
    begun = world.now
    task.until(Write)
    assert world.now - begun == 1
    assert task.run().identity.generation == 2


def test_our_own_name_is_watched_for_as_long_as_a_living_owner_may_be_silent() -> None:
    """Row 33: two hosts with one name would take the id from each other without any wait."""
    world = World(io_timeout=2)
    world.host(7).die()
    begun = world.now
    task = joining(world, 7)
    task.until(Write)
    assert world.now - begun == 8 * 2 + 1
    assert task.run().identity.generation == 2


def test_a_clone_that_lives_under_our_name_is_refused_before_the_first_write() -> None:
    """Row 33."""
    world = World(io_timeout=2)
    world.host(7)
    task = joining(world, 7)
    error = task.raises(NameInUse)
    assert "clone" in str(error)
    assert "under this host's own name host-7" in str(error)
    assert not any(io.op == "write" for io in task.log)


def test_time_since_our_own_last_write_in_this_boot_counts_as_watched() -> None:
    world = World(io_timeout=2)
    old = world.host(7)
    old.die()
    world.now += 30
    task = joining(world, 7, trace=OwnTrace(old.member.record, old.member.last_ok))
    begun = world.now
    task.until(Write)
    assert world.now == begun


def test_a_trace_of_another_record_counts_for_nothing() -> None:
    world = World(io_timeout=2)
    old = world.host(7)
    old.die()
    world.now += 30
    other = replace(old.member.record, timestamp=old.member.record.timestamp - 4).sealed()
    task = joining(world, 7, trace=OwnTrace(other, other.timestamp))
    begun = world.now
    task.until(Write)
    assert world.now - begun == 17


@pytest.mark.parametrize("first", ["a", "b"])
def test_of_two_that_claim_an_id_at_once_the_later_wins_and_the_earlier_knows(first: str) -> None:
    """-262 for the earlier (format document, 6.1)."""
    world = World(io_timeout=2)
    a, b = joining(world, 7, b"host-a"), joining(world, 7, b"host-b")
    a.until(Write)
    b.until(Write)
    early, late = (a, b) if first == "a" else (b, a)
    early.step()
    world.now += 3
    late.step()
    error = early.raises(HostIdInUse)
    assert error.result == -262
    assert late.run().identity.generation == 1
    name = b"host-b" if first == "a" else b"host-a"
    assert world.delta(7).resource_name == pad_name(name)


def test_a_process_that_stood_still_before_its_claim_reads_again() -> None:
    """What would happen else: the other has long checked its claim and runs guests under the same generation."""
    world = World(io_timeout=2)
    slow = joining(world, 7, b"slow")
    slow.until(Now, count=2)  # the read is done, the time of the claim is asked for
    quick = Host(world, joining(world, 7, b"quick").run())
    world.hosts[7] = quick
    world.now += 2
    error = slow.raises(HostIdInUse)
    assert "in use by host quick" in str(error)
    assert world.delta(7).resource_name == pad_name(b"quick")
    assert not any(io.op == "write" for io in slow.log)


def test_a_short_stop_before_the_claim_is_within_the_others_wait() -> None:
    """Anything below M: whoever claimed meanwhile reads again 2M after its write and sees ours."""
    world = World(io_timeout=2)
    slow = joining(world, 7, b"slow")
    slow.until(Now, count=2)
    quick = joining(world, 7, b"quick")
    quick.until(Sleep)
    world.now += 1.5
    slow.until(Sleep)
    quick.raises(HostIdInUse)
    assert slow.run().identity.generation == 1


@pytest.mark.parametrize("at", range(5))
def test_a_storage_error_ends_the_join_and_another_try_succeeds(at: int) -> None:
    """Row 12: bounded tries; what a broken off join left is our own name, which is watched and taken."""
    world = World()
    task = joining(world, 7)
    ios = 0
    while True:
        if isinstance(task.next, (Read, Write)):
            if ios == at:
                break
            ios += 1
        task.step()
    task.fail()
    with pytest.raises(StorageError):
        _ = task.result
    assert joining(world, 7).run().identity.generation in (1, 2)


# ----------------------------------------------------------------------------- records that do not check out


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"magic": 0}, BadMagic, "no lockspace record here: magic 0x00000000"),
        ({"version": 0x00020001}, BadVersion, "version 0x00020001"),
        ({"version": 0x00060000}, BadVersion, "version 0x00060000"),
        ({"flags": 0x10 | 0x100}, UnsupportedFlags, "flags 0x100"),
        ({"space_name": pad_name(b"OTHER")}, BadSpaceName, "belongs to lockspace OTHER"),
    ],
)
@pytest.mark.parametrize("whose", [1, 7])
def test_a_record_that_is_not_ours_to_understand_stops_the_join(
    changes: dict[str, Any], error: type[LeaseError], text: str, whose: int
) -> None:
    """`whose` 1: the lockspace as a whole, judged by its first record; 7: the record of our own id."""
    world = World()
    world.write_delta(replace(world.delta(whose), **changes), whose)
    caught = joining(world, 7).raises(error)
    assert text in str(caught)
    assert f"{LOCKSPACE_WHERE}, host id {whose}" in str(caught)
    assert world.writes() == []


@pytest.mark.parametrize("whose", [1, 7])
def test_a_damaged_record_stops_the_join(whose: int) -> None:
    world = World()
    world.areas[LOCKSPACE][FILE.delta(whose) + 40] ^= 1
    joining(world, 7).raises(BadLeaderChecksum)
    assert world.writes() == []


def test_an_all_zero_lockspace_is_no_lockspace() -> None:
    world = World()
    world.areas[LOCKSPACE] = bytearray(MIB)
    assert joining(world, 7).raises(BadMagic).result == -223


def test_a_lockspace_file_that_is_too_short_is_named() -> None:
    world = World()
    del world.areas[LOCKSPACE][3072:]
    with pytest.raises(AreaTooShort):
        joining(world, 7).run()


def test_a_host_id_that_the_lockspace_has_no_place_for_is_refused() -> None:
    world = World(geo=geometry(4096, MIB))
    error = joining(world, 251).raises(HostIdTooLarge)
    assert error.result == -231
    assert "up to 250" in str(error)


def test_a_lockspace_with_4_kib_sectors_is_joined() -> None:
    world = World(geo=geometry(4096, 8 * MIB))
    task = joining(world, 2000)
    assert task.run().geometry == world.geo
    assert ("write", 1999 * 4096, 4096) in shape(task)


def test_a_generation_at_the_end_of_all_numbers_is_damage() -> None:
    world = World()
    world.write_delta(replace(world.delta(7), owner_generation=(1 << 64) - 1), 7)
    assert "generation" in str(joining(world, 7).raises(RecordError))


@pytest.mark.parametrize("version", [0x00030001, 0x00030009, 0x00050000])
def test_the_version_that_is_found_is_kept(version: int) -> None:
    world = World()
    for host_id in (1, 7):
        world.write_delta(replace(world.delta(host_id), version=version), host_id)
    member = joining(world, 7).run()
    assert member.record.version == version
    Host(world, member).renew()
    assert world.delta(7).version == version


# --------------------------------------------------------------------------------------------- renewing


def renewing(host: Host, previous_ok: bool = True) -> Task[delta.Renewed]:
    return host.task(delta.renew(host.member, previous_ok))


def test_a_renewal_reads_the_whole_lockspace_and_writes_its_own_sector() -> None:
    world = World()
    host = world.host(7)
    world.now += 2.9
    task = renewing(host)
    done = task.run()
    assert shape(task) == [("read", 0, MIB), ("write", 3072, 512)]
    assert done.area[3072 : 3072 + 200] == host.member.record.encode()
    assert world.delta(7) == done.membership.record
    assert world.delta(7).timestamp == 1002


def test_last_ok_is_the_time_before_the_write() -> None:
    """Invariant 10: a write that takes long does not make the lease younger."""
    world = World()
    host = world.host(7)
    world.now += 2
    task = renewing(host)
    task.until(Write)
    world.now += 5
    assert task.run().membership.last_ok == 1002


def test_a_renewal_is_not_written_once_the_lease_has_run_out() -> None:
    """Invariant 13: a process that was stopped must not finish an old step."""
    world = World()
    host = world.host(7)
    task = renewing(host)
    task.until(Now)
    task.step()
    world.now += 8
    task.raises(NotMember)
    assert world.writes() == []


def edited(world: World, **changes: Any) -> None:
    world.write_delta(replace(world.delta(7), **changes), 7)


@pytest.mark.parametrize("previous_ok", [True, False])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"owner_generation": 2}, "generation 2 of host-7 is there"),
        ({"resource_name": pad_name(b"thief")}, "generation 1 of thief is there"),
        ({"owner_id": 8}, "generation 1 of host-7 is there"),
        ({"timestamp": 0}, "it was released"),
        ({"magic": 0}, "no lockspace record here"),
        ({"version": 0x00020000}, "version"),
        ({"space_name": bytes(48)}, "belongs to lockspace"),
    ],
)
def test_a_record_that_is_no_longer_ours_is_lost_at_once(changes: dict[str, Any], text: str, previous_ok: bool) -> None:
    """Row 13: damage of the own record was retried for a while."""
    world = World()
    host = world.host(7)
    edited(world, **changes)
    error = renewing(host, previous_ok).raises(LockspaceLost)
    assert text in str(error)
    assert world.writes() == []


def test_a_damaged_record_of_our_own_is_lost_at_once() -> None:
    """Row 13."""
    world = World()
    host = world.host(7)
    world.areas[LOCKSPACE][3072 + 153] ^= 0x40
    assert "checksum" in str(renewing(host).raises(LockspaceLost))
    assert world.writes() == []


@pytest.mark.parametrize("changes", [{"timestamp": 1001}, {"write_id": 3}, {"io_timeout_raw": 9}, {"unused1": 1}])
def test_after_a_good_renewal_all_200_bytes_must_be_ours(changes: dict[str, Any]) -> None:
    world = World()
    host = world.host(7)
    edited(world, **changes)
    assert "somebody else wrote it" in str(renewing(host).raises(LockspaceLost))


@pytest.mark.parametrize("landed", [True, False])
def test_after_a_failed_renewal_only_ownership_is_compared(landed: bool) -> None:
    """Row 9: a timed-out write may or may not be on disk."""
    world = World()
    host = world.host(7)
    world.now += 2
    task = renewing(host)
    task.until(Write)
    if landed:
        task.fail_landed()
    else:
        task.fail()
    with pytest.raises(StorageError):
        _ = task.result
    world.now += 1
    assert renewing(host, previous_ok=False).run().membership.last_ok == 1003


def test_a_renewal_keeps_name_generation_and_io_timeout() -> None:
    world = World(io_timeout=3)
    host = world.host(7, generation=5)
    world.now += 6
    before = world.delta(7)
    host.renew()
    assert world.delta(7) == replace(before, timestamp=1006).sealed()


# ------------------------------------------------------------------------------- leaving and coming back


def test_leaving_sets_the_time_to_zero_and_keeps_everything_else() -> None:
    world = World()
    host = world.host(7, generation=3)
    before = world.delta(7)
    host.leave()
    assert world.delta(7) == replace(before, timestamp=0).sealed()
    assert world.writes() == [(LOCKSPACE, 3072)]


@pytest.mark.parametrize("changes", [{"owner_generation": 2}, {"resource_name": pad_name(b"thief")}])
def test_a_record_that_is_not_ours_any_more_is_not_released(changes: dict[str, Any]) -> None:
    """Row 4: release wrote a record it had not verified."""
    world = World()
    host = world.host(7)
    edited(world, **changes)
    host.task(delta.release(host.member)).raises(LockspaceLost)
    assert world.writes() == []


def test_an_engine_that_comes_back_in_time_continues_the_same_generation() -> None:
    """Row 38: a restart must not take a new generation while guests live."""
    world = World()
    host = world.host(7, generation=4)
    saved = host.member.record
    world.now += 2
    host.renew()  # after the state was saved
    member = host.task(delta.resume(host.member.space, saved)).run()
    assert member.identity == host.me
    assert member.record == world.delta(7)
    assert world.writes() == [(LOCKSPACE, 3072)], "resuming writes nothing"


@pytest.mark.parametrize("changes", [{"owner_generation": 5}, {"resource_name": pad_name(b"thief")}, {"timestamp": 0}])
def test_an_engine_that_comes_back_too_late_has_lost(changes: dict[str, Any]) -> None:
    world = World()
    host = world.host(7, generation=4)
    edited(world, **changes)
    host.task(delta.resume(host.member.space, host.member.record)).raises(LockspaceLost)
