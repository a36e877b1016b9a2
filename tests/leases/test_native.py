# SPDX-License-Identifier: LGPL-2.1-or-later
"""The native engine on real files: several hosts in this process, each with its own membership."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.leases.rig import Rig, RigHost, eventually, tenant
from vlhook.leases import directory, files, membership, native, paxos
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import (
    AreaTooShort,
    BadLeaderChecksum,
    BadMagic,
    BadResourceName,
    Cleared,
    FileReplaced,
    HeldByOther,
    HeldHere,
    InDoubtHere,
    LeaseError,
    NotCreated,
    NotMember,
    NotOurLockspace,
    SharedByOthers,
    StorageError,
    Timeout,
)
from vlhook.leases.geometry import FILE
from vlhook.leases.holder import decode_holder
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.records import Leader, ModeBlock

SPACE = LOCKSPACE_NAME.encode()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("leases"))
    rig.join(1, 2)
    yield rig
    rig.stop()


@pytest.fixture
def one(rig: Rig) -> RigHost:
    return rig.hosts[1]


@pytest.fixture
def two(rig: Rig) -> RigHost:
    return rig.hosts[2]


@pytest.fixture
def disk(rig: Rig, request: pytest.FixtureRequest) -> Callable[..., Want]:
    """disk("a") is a lease that no other test uses."""
    return lambda name="disk", shared=False: rig.want(f"{request.node.name}-{name}", shared)


def in_thread(call: Callable[[], Any]) -> Callable[[], Any]:
    """Start `call`; what is returned waits for its end and gives its result or exception."""
    outcome: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # told by whoever waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(60)
        assert not thread.is_alive()
        if errors:
            raise errors[0]
        return outcome[0]

    return wait


# ------------------------------------------------------------------------------------------ all or nothing


def test_a_guest_gets_all_its_leases_and_its_files_are_made(rig: Rig, one: RigHost, disk: Any) -> None:
    wants = [disk("a"), disk("b"), disk("c", shared=True)]
    owned = one.start("web", *wants)
    assert [o.want for o in owned] == wants
    assert [rig.owner(w) for w in wants] == [one.me, one.me, None]
    assert rig.sector(wants[2], 1).mode == ModeBlock(1, one.me[1])
    assert [o.inode for o in owned] == [rig.path(w).stat().st_ino for w in wants]
    one.stop("web")
    assert [rig.owner(w) for w in wants] == [None] * 3
    assert not rig.sector(wants[2], 1).mode.shared
    assert one.guests(wants[0]) == []


def test_one_refused_lease_and_the_others_are_given_back(rig: Rig, one: RigHost, two: RigHost, disk: Any) -> None:
    wants = [disk(n) for n in "abcd"]
    two.start("other", wants[2])
    failures = one.refusal("web", *wants)
    assert [w for w, _ in failures] == [wants[2]]
    assert isinstance(failures[0][1], HeldByOther)
    assert [rig.owner(w) for w in wants] == [None, None, two.me, None]
    two.start("next", wants[0], wants[1], wants[3])
    two.stop("next")
    two.stop("other")


def test_the_refusal_names_host_guest_and_disk_of_the_holder(one: RigHost, two: RigHost, disk: Any) -> None:
    two.start("db7", disk())
    holder = one.why("web", disk()).__dict__["holder"]
    assert (holder.host_id, holder.name) == (2, b"host-2")
    assert (holder.record.guest, holder.record.disk) == ("db7", disk().source)
    two.stop("db7")


def test_the_same_lease_twice_is_one_lease(one: RigHost, disk: Any) -> None:
    assert len(one.start("web", disk(), disk())) == 1
    one.stop("web")


def test_a_refused_second_request_does_not_give_back_what_the_guest_holds(
    rig: Rig, one: RigHost, two: RigHost, disk: Any
) -> None:
    """A disk plugged into a running guest is refused: the guest's other disks stay its own."""
    one.start("web", disk("root"))
    two.start("other", disk("hot"))
    one.refusal("web", disk("hot"))
    assert rig.owner(disk("root")) == one.me
    assert one.guests(disk("root")) == ["web"]
    one.stop("web")
    two.stop("other")


def test_a_lease_of_another_lockspace_is_refused(one: RigHost, disk: Any) -> None:
    error = one.why("web", replace(disk(), space="OTHER"))
    assert isinstance(error, NotOurLockspace)
    assert "joined only __LIBVIRT__DISKS__" in str(error)


# --------------------------------------------------------------------------------- guests of one host


def test_guests_of_one_host_exclude_each_other(rig: Rig, one: RigHost, disk: Any) -> None:
    """Trap 6: on disk a host that owns a lease takes it again without complaint."""
    one.start("web", disk())
    before = rig.path(disk()).read_bytes()
    for shared in (False, True):
        error = one.why("db", disk(shared=shared))
        assert isinstance(error, HeldHere)
        assert "held by guest web of this host" in str(error)
    assert rig.path(disk()).read_bytes() == before, "the disk is not asked"
    one.stop("web")
    one.start("db", disk())
    one.stop("db")


def test_release_gives_back_only_what_that_guest_holds(rig: Rig, one: RigHost, disk: Any) -> None:
    one.start("web", disk("a"))
    one.start("db", disk("b"))
    one.stop("web")
    assert (rig.owner(disk("a")), rig.owner(disk("b"))) == (None, one.me)
    one.stop("db")
    one.stop("never started")


def test_guests_of_one_host_share_by_a_count(rig: Rig, one: RigHost, two: RigHost, disk: Any) -> None:
    """One mode block a host: it stays until the last guest has gone."""
    want = disk(shared=True)
    one.start("web", want)
    lver = rig.leader(want).lver
    one.start("db", want)
    assert rig.leader(want).lver == lver, "no second ballot, which would drop the mode block"
    one.stop("web")
    assert isinstance(two.why("other", disk()), SharedByOthers)
    one.stop("db")
    two.start("other", disk())
    two.stop("other")


def test_guests_of_one_host_that_start_at_once_share(one: RigHost, disk: Any) -> None:
    want = disk(shared=True)
    starts = [in_thread(lambda g=g: one.start(f"guest{g}", want)) for g in range(6)]
    for start in starts:
        start()
    assert sorted(one.guests(want)) == [f"guest{g}" for g in range(6)]
    for g in range(6):
        one.stop(f"guest{g}")


def test_of_guests_of_one_host_that_start_at_once_one_gets_the_lease(rig: Rig, one: RigHost, disk: Any) -> None:
    starts = [in_thread(lambda g=g: one.start(f"guest{g}", disk())) for g in range(6)]
    won = 0
    for start in starts:
        try:
            start()
            won += 1
        except Refused as refused:
            assert isinstance(refused.failures[0][1], HeldHere)
    assert won == 1
    assert rig.owner(disk()) == one.me
    for g in range(6):
        one.stop(f"guest{g}")


# ------------------------------------------------------------------------------ starts of two hosts that cross


class Crossing:
    """Each host has its first lease before either asks for its second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: dict[int, Want]) -> None:
        self._first = first
        self._barrier = threading.Barrier(2)
        self._have = {host_id: threading.Event() for host_id in first}
        self.tries = 0
        real = files.LeaseFiles.take

        def take(this: Any, host: Any, want: Want, *rest: Any) -> Any:
            host_id = host.identity.host_id
            if want != first[host_id]:
                self.tries += 1
                assert all(event.wait(60) for event in self._have.values())
            done = real(this, host, want, *rest)
            if want == first[host_id]:
                self._have[host_id].set()
            return done

        monkeypatch.setattr(files.LeaseFiles, "take", take)


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_starts_that_cross_exactly_one_wins(
    rig: Rig, one: RigHost, two: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    a, b = disk("a"), disk("b")
    mine, theirs = (b, a) if swapped else (a, b)
    Crossing(monkeypatch, {1: mine, 2: theirs})
    starts = {1: in_thread(lambda: one.start("x", a, b)), 2: in_thread(lambda: two.start("y", b, a))}
    winners = []
    for host_id, start in starts.items():
        try:
            start()
            winners.append(host_id)
        except Refused as refused:
            assert all(isinstance(error, HeldByOther) for _, error in refused.failures)
    least = min((a, b), key=lambda want: want.key)
    assert winners == [1 if mine == least else 2]
    assert rig.owner(a) == rig.owner(b) == rig.hosts[winners[0]].me
    one.stop("x")
    two.stop("y")


def test_a_start_that_insists_in_vain_still_names_the_holder(one: RigHost, two: RigHost, disk: Any) -> None:
    a, b = sorted((disk("a"), disk("b")), key=lambda want: want.key)
    two.start("other", b)
    ((want, error),) = one.refusal("web", a, b)
    assert want == b
    assert isinstance(error, HeldByOther), "and not: the storage is slow"
    two.stop("other")


# ---------------------------------------------------------------------------- files that are not what they should be


def changing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None], times: int = 1) -> None:
    """`change` happens when an acquire has won its lease, before it looks whether the file is still the same."""
    real = paxos.acquire
    left = [times]

    def acquire(*args: Any, **options: Any) -> Any:
        held = yield from real(*args, **options)
        if left[0]:
            left[0] -= 1
            change()
        return held

    monkeypatch.setattr(paxos, "acquire", acquire)


def test_a_lease_file_that_a_cleaner_removed_under_a_waiter_is_made_anew(
    rig: Rig, one: RigHost, two: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 39: after winning, the open file must still be the one that the path names."""
    path = rig.path(disk())
    directory.create_lease(str(path), FILE, SPACE, disk().name.encode(), directory.Ownership())
    old = os.open(path, os.O_RDONLY)
    changing(monkeypatch, path.unlink)
    (owned,) = one.start("web", disk())
    assert (owned.lver, owned.inode) == (1, path.stat().st_ino)
    assert rig.owner(disk()) == one.me
    left = os.pread(old, 1024 + 512, 0)
    os.close(old)
    assert left[152:160] == bytes(8), "what was won in the removed file is given back: a waiter may still be in it"
    two.refusal("other", disk())
    one.stop("web")


def test_a_lease_file_that_was_swapped_under_a_waiter(
    rig: Rig, one: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rig.path(disk())

    def swap() -> None:
        new = path.with_name("swapped")
        new.write_bytes(directory.format_resource(FILE, SPACE, disk().name.encode()))
        new.replace(path)

    changing(monkeypatch, swap)
    (owned,) = one.start("web", disk())
    assert owned.inode == path.stat().st_ino
    assert rig.owner(disk()) == one.me
    one.stop("web")


def test_a_lease_file_that_is_replaced_again_and_again_ends_in_an_error(
    one: RigHost, rig: Rig, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing(monkeypatch, rig.path(disk()).unlink, times=1000)
    error = one.why("web", disk())
    assert isinstance(error, FileReplaced)
    assert "replaced again and again" in str(error)


def half_made(kind: str, name: str) -> bytes:
    whole = directory.format_resource(FILE, SPACE, name.encode())
    return {"empty": b"", "short": whole[:4096], "zeroed": bytes(len(whole))}[kind]


@pytest.mark.parametrize("kind", ["empty", "short", "zeroed"])
def test_a_half_made_file_of_another_host_is_waited_for(rig: Rig, one: RigHost, disk: Any, kind: str) -> None:
    """Format document, 11: libvirt's plugin makes the name first and the content after it."""
    path = rig.path(disk())
    path.write_bytes(half_made(kind, disk().name))
    start = in_thread(lambda: one.start("web", disk()))
    eventually(lambda: one.guests(disk()) == ["web"], "the start has begun")
    with path.open("r+b") as file:
        file.write(directory.format_resource(FILE, SPACE, disk().name.encode()))
    assert start()[0].lver == 1
    one.stop("web")


@pytest.mark.parametrize(
    ("kind", "error", "text"),
    [
        ("empty", AreaTooShort, "the file ends at byte 0, the area needs 1048576"),
        ("short", AreaTooShort, "the file ends at byte 4096"),
        ("zeroed", BadMagic, "no lease here: magic 0x00000000"),
    ],
)
def test_a_half_made_file_that_stays_so_is_named_and_not_touched(
    rig: Rig, one: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch, kind: str, error: type[LeaseError], text: str
) -> None:
    monkeypatch.setattr(files, "UNFINISHED_SECONDS", 2.5)  # more than a second of polls: it is not "replaced"
    before = half_made(kind, disk().name)
    rig.path(disk()).write_bytes(before)
    found = one.why("web", disk())
    assert type(found) is error
    assert text in str(found)
    assert str(rig.path(disk())) in str(found)
    assert rig.path(disk()).read_bytes() == before


def test_a_cleared_file_is_waited_out_until_the_cleaner_has_removed_it(rig: Rig, one: RigHost, disk: Any) -> None:
    """Safety rules, 14: the cleaner writes the cleared leader, then removes the name."""
    path = rig.path(disk())
    path.write_bytes(directory.format_resource(FILE, SPACE, disk().name.encode(), cleared_at=5))
    start = in_thread(lambda: one.start("web", disk()))
    eventually(lambda: one.guests(disk()) == ["web"], "the start has begun")
    path.unlink()
    assert start()[0].lver == 1
    one.stop("web")


def test_a_cleared_file_that_stays_is_named(rig: Rig, one: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "UNFINISHED_SECONDS", 0.2)
    rig.path(disk()).write_bytes(directory.format_resource(FILE, SPACE, disk().name.encode(), cleared_at=5))
    assert isinstance(one.why("web", disk()), Cleared)


@pytest.mark.parametrize(("at", "error"), [(40, BadLeaderChecksum), (104, BadResourceName), (0, BadMagic)])
def test_a_damaged_file_is_refused_at_once_and_not_touched(
    rig: Rig, one: RigHost, disk: Any, at: int, error: type[LeaseError]
) -> None:
    content = bytearray(directory.format_resource(FILE, SPACE, disk().name.encode()))
    content[at] ^= 0x41
    rig.path(disk()).write_bytes(content)
    found = one.why("web", disk())
    assert type(found) is error
    assert str(rig.path(disk())) in str(found)
    assert rig.path(disk()).read_bytes() == content
    assert one.guests(disk()) == []


def test_files_of_two_leases_that_were_swapped_are_noticed(rig: Rig, one: RigHost, disk: Any) -> None:
    a, b = rig.path(disk("a")), rig.path(disk("b"))
    one.start("web", disk("a"), disk("b"))
    one.stop("web")
    a.rename(a.with_name("aside"))
    b.rename(a)
    a.with_name("aside").rename(b)
    error = one.why("web", disk("a"))
    assert f"is the lease {disk('b').name}, not {disk('a').name}" in str(error)
    assert "swapped or renamed" in str(error)


def test_a_lease_element_whose_file_is_absent_is_refused_and_nothing_is_made(rig: Rig, one: RigHost, disk: Any) -> None:
    path = rig.folder / "explicit"
    assert isinstance(one.why("web", replace(disk(), path=str(path))), NotCreated)
    assert not path.exists()


def test_a_lease_may_lie_at_an_offset_of_its_file(rig: Rig, one: RigHost, two: RigHost, disk: Any) -> None:
    path = rig.folder / "two-areas"
    names = [b"first", b"second"]
    path.write_bytes(b"".join(directory.format_resource(FILE, SPACE, name) for name in names))
    first, second = (Want(name.decode(), LOCKSPACE_NAME, False, "", str(path), i << 20) for i, name in enumerate(names))
    one.start("web", second)
    two.start("other", first)
    assert isinstance(two.why("more", second), HeldByOther)
    one.stop("web")
    two.stop("other")
    path.unlink()


def test_an_absent_lockspace_is_named_and_no_lease_file_is_made(rig: Rig, one: RigHost, disk: Any) -> None:
    aside = rig.lockspace.with_name("aside")
    directory.create_lease(str(rig.path(disk())), FILE, SPACE, disk().name.encode(), directory.Ownership())
    rig.lockspace.rename(aside)
    try:
        error = one.why("web", disk())
    finally:
        aside.rename(rig.lockspace)
    assert isinstance(error, NotCreated)
    assert str(rig.lockspace) in str(error)


def test_a_removed_file_is_no_obstacle_to_the_guests_end(rig: Rig, one: RigHost, disk: Any) -> None:
    one.start("web", disk())
    rig.path(disk()).unlink()
    one.stop("web")
    assert one.guests(disk()) == []


def test_a_release_never_writes_into_a_new_file_that_took_the_old_ones_place(
    rig: Rig, one: RigHost, two: RigHost, disk: Any
) -> None:
    """Also where the new file has the old one's inode number, as on ext4 it often does."""
    path = rig.path(disk())
    for _ in range(3):
        one.start("web", disk())
        one.stop("web")
    (owned,) = one.start("web", disk())
    path.unlink()
    two.start("other", disk())
    entry = next(e for e in one.engine.entries() if e.want.key == disk().key)
    entry.owned = replace(owned, inode=path.stat().st_ino)
    before = path.read_bytes()
    one.stop("web")
    assert path.read_bytes() == before
    assert rig.owner(disk()) == two.me
    assert any("replaced" in alarm for alarm in one.alarms)
    two.stop("other")


# ------------------------------------------------------------------------------------------- storage that fails


class Failing:
    """Writes of one file fail, for as long as `on`; counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.on = True
        self.failures = 0
        real, name = os.pwritev, str(path)

        def pwritev(fd: int, views: Any, at: int) -> int:
            if self.on and os.readlink(f"/proc/self/fd/{fd}") == name:
                self.failures += 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, views, at)

        monkeypatch.setattr(os, "pwritev", pwritev)


def test_a_release_that_meets_storage_errors_is_tried_on_and_the_lease_counts_as_held(
    rig: Rig, one: RigHost, two: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 21."""
    monkeypatch.setattr(native, "RETRY_SECONDS", 0.05)
    one.start("web", disk())
    failing = Failing(monkeypatch, rig.path(disk()))
    assert not one.engine.release(tenant("web"), time.monotonic() + 0.2)
    eventually(lambda: failing.failures >= 3, "it is tried again")
    assert rig.owner(disk()) == one.me
    error = one.why("db", disk(), deadline=time.monotonic() + 0.2)
    assert isinstance(error, InDoubtHere)
    assert "still being given back for guest web" in str(error)
    assert isinstance(two.why("other", disk()), HeldByOther)
    assert any("it is tried again" in alarm for alarm in one.alarms)
    failing.on = False
    eventually(lambda: one.guests(disk()) == [], "it works at last")
    two.start("other", disk())
    two.stop("other")


def test_an_acquire_that_meets_storage_errors_is_refused_and_cleaned_up_when_storage_is_back(
    rig: Rig, one: RigHost, two: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlhook.leases import release

    monkeypatch.setattr(release, "RETRY_SECONDS", 0.05)
    one.start("web", disk())
    one.stop("web")
    failing = Failing(monkeypatch, rig.path(disk()))
    error = one.why("web", disk(), deadline=time.monotonic() + 0.5)
    assert isinstance(error, Timeout)
    assert one.guests(disk()) == ["web"], "in doubt, so held here"
    failing.on = False
    eventually(lambda: one.guests(disk()) == [], "settled")
    assert rig.owner(disk()) is None
    two.start("other", disk())
    two.stop("other")


@pytest.mark.parametrize("call", ["link", "write"])
def test_a_lease_file_that_cannot_be_made_refuses_the_start(
    rig: Rig, one: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def fail(*args: Any) -> Any:
        if call == "write" and len(args[1]) < 4096:
            return real(*args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    error = one.why("web", disk())
    assert isinstance(error, StorageError)
    assert "No space left on device" in str(error)
    assert not rig.path(disk()).exists()


def test_a_caller_that_hung_up_gets_nothing(rig: Rig, one: RigHost, two: RigHost, disk: Any) -> None:
    """Safety rules, 3: what an abandoned request had taken is given back."""
    rig.path(disk()).write_bytes(b"")  # half made: the acquire waits
    gone = threading.Event()
    refused = in_thread(lambda: one.refusal("web", disk("x"), disk(), gone=gone.is_set))
    eventually(lambda: one.guests(disk()) == ["web"], "the start has begun")
    gone.set()
    refused()
    eventually(lambda: one.guests(disk()) == [], "given up")
    rig.path(disk()).unlink()
    two.start("other", disk("x"), disk())
    two.stop("other")


def test_an_unexpected_fault_of_ours_refuses_the_start_and_blocks_nothing(
    one: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "record_of", lambda *args: 1 / 0)
        error = one.why("web", disk())
    assert "ZeroDivisionError" in str(error)
    assert "\n" not in str(error)
    assert any("unexpected" in alarm for alarm in one.alarms)
    one.start("web", disk())
    one.stop("web")


class Frozen:
    """An ext4 in a file, whose writes hang while it is frozen: real storage that does not answer."""

    def __init__(self, folder: Path) -> None:
        self.image, self.mount = folder / "image", folder / "mount"
        self.frozen = False

    def __enter__(self) -> Frozen:
        tools = [needs.require_program(name) for name in ("mkfs.ext4", "mount", "fsfreeze", "umount")]
        self._mkfs, self._mount, self._fsfreeze, self._umount = tools
        self.image.write_bytes(b"")
        os.truncate(self.image, 32 << 20)
        self.mount.mkdir()
        self._run(self._mkfs, "-q", str(self.image))
        done = subprocess.run(
            [self._mount, "-o", "loop", str(self.image), str(self.mount)], capture_output=True, check=False
        )
        if done.returncode:
            needs.lacking(f"cannot mount a file system here: {done.stderr.decode().strip()}")
        return self

    def freeze(self) -> None:
        self._run(self._fsfreeze, "-f", str(self.mount))
        self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self._run(self._fsfreeze, "-u", str(self.mount))
            self.frozen = False

    def __exit__(self, *args: object) -> None:
        self.thaw()
        self._run(self._umount, str(self.mount))

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


@pytest.mark.root
@pytest.mark.parametrize("start_at", ["existing file", "new file"])
def test_storage_that_hangs_refuses_the_start_at_its_deadline_and_keeps_the_lease_in_doubt(
    rig: Rig, one: RigHost, two: RigHost, disk: Any, tmp_path: Path, start_at: str
) -> None:
    """Safety rules, 12 and architecture rule 7: what timed out may still happen, so nothing else is done meanwhile."""
    with Frozen(tmp_path) as storage:
        for host in (one, two):
            host.files.directory = str(storage.mount)
        try:
            path = storage.mount / disk().name
            if start_at == "existing file":
                one.start("before", disk())
                one.stop("before")
            storage.freeze()
            error = one.why("web", disk(), deadline=time.monotonic() + 0.7)
            assert isinstance(error, Timeout)
            if start_at == "existing file":
                assert f"a write of {path} has been unanswered for" in str(error)
            again = one.why("db", disk(), deadline=time.monotonic() + 0.3)
            assert isinstance(again, InDoubtHere)
            assert "for guest web of this host" in str(again)
            storage.thaw()
            eventually(lambda: one.guests(disk()) == [], "what was in doubt is settled")
            assert Leader.decode(path.read_bytes()).free
            two.start("other", disk())
            two.stop("other")
            eventually(lambda: not two.guests(disk()), "released")
        finally:
            storage.thaw()
            for host in (one, two):
                host.files.directory = str(rig.folder)


@pytest.mark.root
def test_a_full_a_read_only_and_a_vanished_lease_directory_refuse_the_start_in_one_line(
    rig: Rig, one: RigHost, disk: Any, tmp_path: Path
) -> None:
    mount, umount = needs.require_programs("mount", "umount")
    folder = tmp_path / "directory"
    seen = []
    try:
        for options in ("size=256k", "ro", ""):
            one.files.directory = str(folder)
            if options:
                folder.mkdir(exist_ok=True)
                subprocess.run([mount, "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
            try:
                seen.append(str(one.why("web", disk())))
            finally:
                if options:
                    subprocess.run([umount, str(folder)], check=True)
                    shutil.rmtree(folder)
    finally:
        one.files.directory = str(rig.folder)
    for text, reason in zip(seen, ("No space left on device", "Read-only file system", "No such file or directory")):
        assert reason in text
        assert str(folder / disk().name) in text
        assert "\n" not in text
    assert one.guests(disk()) == []


# ----------------------------------------------------------------------------------------------- after a restart


def test_a_restarted_engine_finds_what_its_predecessor_held(rig: Rig, one: RigHost, two: RigHost, disk: Any) -> None:
    wants = [disk("a"), disk("b", shared=True)]
    owned = one.start("web", *wants)
    again = one.restarted()
    assert again.engine.restore(tenant("web"), owned) == []
    assert isinstance(again.why("db", wants[0]), HeldHere)
    assert isinstance(two.why("other", wants[0]), HeldByOther)
    again.start("db", wants[1])
    again.stop("web")
    assert rig.owner(wants[0]) is None
    assert rig.sector(wants[1], 1).mode.shared, "db still shares it"
    again.stop("db")
    assert not rig.sector(wants[1], 1).mode.shared
    one.engine._entries.clear()


def test_two_guests_that_share_are_both_restored(rig: Rig, one: RigHost, disk: Any) -> None:
    want = disk(shared=True)
    owned = {guest: one.start(guest, want) for guest in ("web", "db")}
    again = one.restarted()
    for guest, leases in owned.items():
        assert again.engine.restore(tenant(guest), leases) == []
    again.stop("web")
    assert rig.sector(want, 1).mode.shared
    again.stop("db")
    assert not rig.sector(want, 1).mode.shared
    one.engine._entries.clear()


def test_two_guests_that_share_are_both_restored_when_that_is_done_at_the_same_moment(
    rig: Rig, one: RigHost, disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = disk(shared=True)
    owned = {guest: one.start(guest, want) for guest in ("web", "db")}
    again = one.restarted()
    meet, find = threading.Barrier(2), again.files.find

    def find_together(*arguments: Any) -> Any:
        meet.wait(60)
        return find(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(again.files, "find", find_together)
        done = [in_thread(partial(again.engine.restore, tenant(guest), owned[guest])) for guest in owned]
        assert [wait() for wait in done] == [[], []]
    again.stop("web")
    assert rig.sector(want, 1).mode.shared, "db still shares it"
    again.stop("db")
    assert not rig.sector(want, 1).mode.shared
    one.engine._entries.clear()


def replaced(rig: Rig, want: Want) -> None:
    path = rig.path(want)
    path.unlink()
    directory.create_lease(str(path), FILE, SPACE, want.name.encode(), directory.Ownership())


def damaged(rig: Rig, want: Want) -> None:
    with rig.path(want).open("r+b") as file:
        file.seek(40)
        file.write(b"\xff")


@pytest.mark.parametrize("harm", [replaced, damaged, lambda rig, want: rig.path(want).unlink()])
def test_what_is_lost_is_told_by_a_restarted_engine(rig: Rig, one: RigHost, disk: Any, harm: Any) -> None:
    wants = [disk("a"), disk("b")]
    owned = one.start("web", *wants)
    harm(rig, wants[0])
    again = one.restarted()
    lost = again.engine.restore(tenant("web"), owned)
    assert [o.want for o, _ in lost] == [wants[0]]
    assert again.guests(wants[1]) == ["web"]
    again.stop("web")
    one.engine._entries.clear()


def test_an_acquire_that_its_engine_did_not_live_to_finish_is_settled(
    rig: Rig, one: RigHost, two: RigHost, disk: Any
) -> None:
    """Row 21 and format document 10.3: the disk says ours, nobody manages it."""
    want = disk()
    one.start("web", want)
    again = one.restarted()
    again.engine.settle(tenant("web"), [want, disk("never begun")])
    eventually(lambda: again.guests(want) == [], "settled")
    assert rig.owner(want) is None
    assert not rig.path(disk("never begun")).exists(), "settling makes no files"
    two.start("other", want)
    two.stop("other")
    one.engine._entries.clear()


def test_settling_touches_nothing_that_was_restored_before(rig: Rig, one: RigHost, disk: Any) -> None:
    """A guest that was being refused when the keeper died wanted what another guest of this host holds."""
    want = disk()
    owned = one.start("web", want)
    before = rig.path(want).read_bytes()
    again = one.restarted()
    assert again.engine.restore(tenant("web"), owned) == []
    again.engine.settle(tenant("db"), [want])
    again.stop("db")
    assert rig.path(want).read_bytes() == before
    assert again.guests(want) == ["web"]
    again.stop("web")
    one.engine._entries.clear()


# --------------------------------------------------------------------------------------- the own lease runs out


def test_a_host_whose_own_lease_ran_out_takes_and_writes_nothing(rig: Rig, disk: Any, tmp_path: Path) -> None:
    other = Rig(tmp_path, io_timeout=1)
    (host,) = other.join(1)
    want = disk()
    host.start("web", want)
    host.lease.stop()
    eventually(lambda: host.engine.why_not() is not None, "8 s without a renewal")
    before = other.path(want).read_bytes()
    error = host.why("db", disk("b"))
    assert isinstance(error, NotMember)
    assert "the limit is 8 s" in str(error)
    assert not other.path(disk("b")).exists(), "not even a file is made"
    host.stop("web")
    assert other.path(want).read_bytes() == before, "others may have it by then: it is not written any more"


def test_a_membership_that_is_resumed_keeps_its_generation_and_its_leases(disk: Any, tmp_path: Path) -> None:
    """Row 38: a restart must not take a new generation while guests live."""
    rig = Rig(tmp_path, io_timeout=2)
    (host,) = rig.join(1)
    owned = host.start("web", disk())
    host.lease.stop()
    again = RigHost(rig, membership.resume(rig.space(1), host.lease.member.record, host.lease.last_ok))
    assert again.me == host.me
    assert again.engine.restore(tenant("web"), owned) == []
    assert again.lease.wait_renewal(60)
    assert again.lease.lost is None
    again.stop("web")
    again.lease.leave()
    assert rig.owner(disk()) is None


def test_the_owners_sector_tells_people_which_guest_holds(rig: Rig, one: RigHost, disk: Any) -> None:
    one.start("web", disk())
    record = decode_holder(rig.sector(disk(), 1).holder_bytes)
    assert record
    assert (record.guest, record.disk, record.uuid_text()) == ("web", disk().source, tenant("web").uuid)
    one.stop("web")
