# SPDX-License-Identifier: LGPL-2.1-or-later
"""hosts, leases, who and size: what an administrator sees, with keepers and without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tests.keeper import hosts as keepers
from tests.leases import images
from tests.leases.rig import Rig, by, tenant
from tests.test_docs import undocumented
from vlhook.cli import cli, status
from vlhook.cli.common import folded
from vlhook.leases.geometry import FILE

pytestmark = pytest.mark.xdist_group("views")
ROOT = Path(__file__).resolve().parents[2]


def vlhook(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in arguments])


def told(*arguments: object, status: int = 0) -> dict[str, Any]:
    result = vlhook(*arguments, "--json")
    assert result.exit_code == status, result.output
    report = json.loads(result.output)
    assert report["schema"] == 1
    return dict(report)


# ------------------------------------------------------------------------- without a keeper


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Host 1 holds /images/held, host 1 and 2 share /images/shared, /images/free was released."""
    made = Rig(tmp_path_factory.mktemp("leases"), io_timeout=3)
    try:
        one, two = made.join(1, 2)
        one.start("web1", made.want("held"))
        for host in (one, two):
            host.start(f"cluster{host.me[0]}", made.want("shared", shared=True))
        two.start("old", made.want("free"))
        assert two.engine.release(tenant("old"), by())
        yield made
    finally:
        made.stop()


def look(rig: Rig, *arguments: object) -> list[object]:
    return [*arguments, "--dir", rig.folder, "--run-dir", "/nonexistent"]


def row(report: dict[str, Any], disk: str) -> dict[str, Any]:
    path = disk if disk.startswith("/") else f"/images/{disk}"
    return next(dict(lease) for lease in report["leases"] if lease["disk"] == path)


def test_leases_names_state_disk_guest_and_host_of_each_file(rig: Rig) -> None:
    report = told(*look(rig, "leases"))
    held, shared, free = (row(report, disk) for disk in ("held", "shared", "free"))
    assert (held["state"], held["guest"], held["holders"][0]["host_name"]) == ("held", "web1", "host-1")
    assert held["age"] < 60
    assert (shared["state"], {h["host_id"] for h in shared["holders"]}) == ("shared", {1, 2})
    assert (free["state"], free["guest"], free["holders"]) == ("free", "old", [])
    text = vlhook(*look(rig, "leases")).output
    assert "/images/held" in text
    assert "3 leases: 1 free, 1 held, 1 shared" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_leases_can_be_narrowed_to_a_state_and_to_a_host(rig: Rig) -> None:
    assert [lease["disk"] for lease in told(*look(rig, "leases", "--state", "held"))["leases"]] == ["/images/held"]
    assert [lease["disk"] for lease in told(*look(rig, "leases", "--host", 2))["leases"]] == ["/images/shared"]
    assert rig.want("free").name in vlhook(*look(rig, "leases", "--long")).output


def test_only_the_sectors_of_host_ids_in_use_are_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlhook.leases import overview

    lengths: list[int] = []

    class Counting(overview.BlockFile):
        def read(self, offset: int, length: int) -> bytes:
            lengths.append(length)
            return super().read(offset, length)

    monkeypatch.setattr(overview, "BlockFile", Counting)
    seen = overview.lockspace(str(rig.folder))
    lengths.clear()
    for name in overview.lease_names(str(rig.folder)):
        overview.look(str(rig.folder), name, seen)
    assert max(lengths) <= 8192


def test_who_finds_a_lease_by_path_name_file_guest_and_uuid(rig: Rig) -> None:
    want = rig.want("held")
    uuid = row(told(*look(rig, "leases")), "held")["holders"][0]["uuid"]
    for what in ("/images/held", "/images/../images/held", want.name, rig.folder / want.name, "web1"):
        report = told(*look(rig, "who", what))
        assert [lease["name"] for lease in report["leases"]] == [want.name], what
    assert want.name in {lease["name"] for lease in told(*look(rig, "who", uuid))["leases"]}
    text = vlhook(*look(rig, "who", "/images/held")).output
    assert "guest web1" in text
    assert "host 1 (host-1)" in text


def test_who_tells_free_from_held_and_from_unknown_by_its_exit_status(rig: Rig) -> None:
    assert vlhook(*look(rig, "who", "/images/held")).exit_code == 0
    assert vlhook(*look(rig, "who", "/images/free")).exit_code == 1
    unknown = vlhook(*look(rig, "who", "/images/nothing"))
    assert unknown.exit_code == 2
    assert "/images/nothing" in unknown.output
    assert unknown.output.count("\n") == 1


def test_one_look_at_the_lockspace_does_not_claim_that_hosts_live(rig: Rig) -> None:
    report = told(*look(rig, "hosts"), status=1)
    assert [(host["host_id"], host["name"], host["state"]) for host in report["hosts"]] == [
        (1, "host-1", "unknown"),
        (2, "host-2", "unknown"),
    ]
    assert "--observe" in vlhook(*look(rig, "hosts")).output


def test_two_looks_tell_who_lives(rig: Rig) -> None:
    report = told(*look(rig, "hosts", "--observe", 2.5 * rig.io_timeout))
    assert {host["state"] for host in report["hosts"]} == {"live"}


def test_damaged_half_made_and_cleared_files_are_told_apart_and_fail_the_exit_status(tmp_path: Path) -> None:
    names = {"fresh": "a" * 32, "cleared": "b" * 32, "half": "c" * 32, "zero": "d" * 32}
    made = Rig(tmp_path)
    from vlhook.leases.directory import format_resource

    space = b"__LIBVIRT__DISKS__"
    for kind in ("fresh", "cleared"):
        area = format_resource(FILE, space, names[kind].encode(), cleared_at=int(kind == "cleared"))
        (tmp_path / names[kind]).write_bytes(area)
    (tmp_path / names["half"]).write_bytes(format_resource(FILE, space, names["half"].encode())[:512])
    (tmp_path / names["zero"]).write_bytes(bytes(FILE.area))
    (tmp_path / ("e" * 32)).write_bytes(format_resource(FILE, space, b"other"))
    (tmp_path / "__LIBVIRT__DISKS__.bak").write_bytes(b"not a lease")
    report = told(*look(made, "leases"), status=1)
    states = {lease["name"][0]: lease["state"] for lease in report["leases"]}
    assert states == {"a": "free", "b": "cleared", "c": "unfinished", "d": "unfinished", "e": "damaged"}


@pytest.mark.parametrize("name", [name for name in images.names("resource") if "corrupt" not in name])
def test_what_is_said_of_sanlocks_own_areas_is_what_sanlock_says(tmp_path: Path, name: str) -> None:
    from vlhook.leases import overview
    from vlhook.leases.inspect import inspect
    from vlhook.leases.records import Leader

    data = images.image(name)
    if Leader.decode(data).space_name.rstrip(b"\0") != images.SPACE:
        pytest.skip("of another lockspace than libvirt's")
    lease = images.resource_name(name)
    (tmp_path / lease.decode()).write_bytes(data)
    view = overview.look(str(tmp_path), lease.decode(), overview.Overview(str(tmp_path), {}))
    whole = inspect(data)
    assert {(h.host_id, h.mode) for h in view.holders} == {(h.host_id, h.mode) for h in whole.holders}


def test_a_directory_without_lockspace_is_explained(tmp_path: Path) -> None:
    result = vlhook("hosts", "--dir", tmp_path, "--run-dir", "/nonexistent")
    assert result.exit_code == 2
    assert "no host has ever joined" in result.output
    assert told("leases", "--dir", tmp_path, "--run-dir", "/nonexistent")["leases"] == []


def test_watch_shows_it_again_until_it_is_interrupted(rig: Rig) -> None:
    words = ["hosts", "--json", "--watch", "0.1", "--dir", str(rig.folder), "--run-dir", "/nonexistent"]
    command = [sys.executable, "-m", "vlhook.cli", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout
        frames = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 1)
    finally:
        process.kill()
        process.wait()
    assert all(len(frame["hosts"]) == 2 for frame in frames)


def test_storage_that_does_not_answer_is_named_and_waited_for_no_longer_than_the_limit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    from vlhook.leases import overview

    stuck = Event()
    name = rig.want("held").name

    def look_or_hang(directory: str, lease: str, seen: overview.Overview) -> overview.LeaseView:
        if lease == name:
            stuck.wait()
        return real(directory, lease, seen)

    real = overview.look
    monkeypatch.setattr(overview, "look", look_or_hang)
    try:
        seen = overview.whole(str(rig.folder), seconds=1.0)
    finally:
        stuck.set()
    assert seen.unanswered == (name,)
    assert len(seen.leases) == 2


# ---------------------------------------------------------------------------- with keepers


def test_with_a_keeper_status_hosts_leases_and_who_know_who_lives(tmp_path: Path) -> None:
    disk = tmp_path / "web1.img"
    disk.write_bytes(b"")
    guest = keepers.Guest("web1", [disk])
    with keepers.hosts(tmp_path, 2, io_timeout=2) as (one, two):
        run = one.hook("web1", "prepare", "begin", "-", xml=guest.xml(1))
        assert run.returncode == 0, run.stderr
        look = ["--run-dir", two.run_dir, "--config-dir", two.dir / "etc"]

        def both_seen() -> bool:
            found = json.loads(vlhook("hosts", *look, "--json").output)
            return found["source"] == "keeper" and [h["state"] for h in found["hosts"]] == ["live", "live"]

        keepers.wait_for("both hosts seen alive", both_seen, 60)
        assert "this host" in vlhook("hosts", *look).output
        lease = row(told("leases", *look), str(disk))
        assert (lease["guest"], lease["disk"], lease["holders"][0]["host_state"]) == ("web1", str(disk), "live")
        text = vlhook("who", disk, *look).output
        assert "guest web1" in text
        assert "which is alive" in text
        status = vlhook("status", "--run-dir", one.run_dir)
        assert status.exit_code in (0, 1)
        told_of_it = json.loads(vlhook("status", "--run-dir", one.run_dir, "--json").output)
        assert undocumented("status", told_of_it) == set()
        assert "joined" in status.output
        assert str(disk) in status.output


def test_a_second_lease_on_a_disks_identity_is_not_listed_as_another_disk(rig: Rig) -> None:
    second = replace(rig.want("held"), name="f" * 32, kind="identity")
    one = rig.hosts[1]
    one.start("web1", second)
    try:
        text = vlhook(*look(rig, "leases")).output
        assert text.count("/images/held") == 1
        assert "4 leases, 1 of them on the identity of a disk: 1 free, 2 held, 1 shared" in text
        assert "/images/held  (identity)" in vlhook(*look(rig, "leases", "--long")).output
        marks = {lease["name"]: lease["identity"] for lease in told(*look(rig, "leases"))["leases"]}
        assert [name for name, mark in marks.items() if mark] == [second.name]
    finally:
        assert one.engine.release(tenant("web1"), by(), [second])
        rig.path(second).unlink()


def test_status_shows_a_disk_once_and_names_what_is_no_disk() -> None:
    lease = {"mode": "exclusive", "disk": "/a", "lease": "x", "kind": "disk"}
    leases = [lease, {**lease, "kind": "identity"}, {**lease, "disk": "/nvram", "kind": "nvram"}]
    policy = {"asked": None, "does": "poweroff", "why": ""}
    guest = {
        "name": "web1", "uuid": "u", "phase": "running", "since": 0, "pid": 1, "protector": "vlhook", "leases": leases,
        "deferred": [], "on_lockfailure": policy,
    }  # fmt: skip
    assert list(status._guest(guest))[1:] == ["    exclusive  /a", "    exclusive  /nvram  (nvram)"]


def test_colours_are_for_terminals_and_no_color_turns_them_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(word) for word in look(rig, "leases")]
    assert "\x1b" not in CliRunner().invoke(cli, words).output
    assert "\x1b[" in CliRunner().invoke(cli, words, color=True).output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in CliRunner().invoke(cli, words, color=True).output


def test_a_line_that_is_too_long_for_the_terminal_is_folded_at_blanks_and_set_in() -> None:
    text = "fencing   " + click.style("the guard is AWAY", fg="red") + "; no watchdog: nothing resets this host"
    lines = list(folded([text, "    by guest web1 on host 1 since noon", "short"], 40))
    assert [click.unstyle(line) for line in lines] == [
        "fencing   the guard is AWAY; no", "          watchdog: nothing resets this", "          host",
        "    by guest web1 on host 1 since noon", "short",
    ]  # fmt: skip
    assert list(folded([text], None)) == [text], "into a pipe goes one line"
    command = "      -> a command that is to be copied stays in one line"
    assert list(folded([command], 40)) == [command]


# ------------------------------------------------------------------------------------ size


def test_size_of_the_worked_example_is_2000_mb() -> None:
    report = told("size", "--hosts", 20, "--guests", 50, "--disks", 2, "--dir", "/")
    assert report["disks_512"] == 2000 << 20
    assert (report["disks_4096"], report["disks_4096_default"]) == (2000 << 20, 16000 << 20)
    assert {name: size >> 20 for name, size in report["more"].items()} == {
        "identity": 2000,
        "nvram": 1000,
        "tpm": 1000,
        "chain": 2000,
    }
    assert "2000 MB" in vlhook("size").output


@pytest.mark.parametrize(("hosts", "area"), [(250, 1), (251, 2), (501, 4), (1001, 8)])
def test_size_at_4_kib_follows_the_highest_host_id(hosts: int, area: int) -> None:
    assert told("size", "--hosts", hosts, "--guests", 1, "--disks", 1, "--dir", "/")["area_4096"] == area << 20


def test_size_compares_with_the_free_space_and_counts_what_is_there_already(tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    free = space.f_bavail * space.f_frsize >> 20
    too_many = min(2000, free // 100 + 1000)
    assert vlhook("size", "--hosts", too_many, "--guests", 1000, "--dir", tmp_path).exit_code == 1
    assert vlhook("size", "--hosts", 1, "--guests", 1, "--dir", tmp_path).exit_code == 0
    assert vlhook("size", "--dir", tmp_path / "missing").exit_code == 2
    (tmp_path / ("a" * 32)).write_bytes(bytes(FILE.area))
    assert told("size", "--hosts", 1, "--dir", tmp_path)["used"] == FILE.area


def test_looking_needs_no_right_to_write(rig: Rig, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(rig.folder, copy)
    for path in copy.iterdir():
        path.chmod(0o444)
    assert len(told("leases", "--dir", copy, "--run-dir", "/nonexistent")["leases"]) == 3
