# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook cleanup` with a keeper: what goes, what stays, and what an administrator is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.keeper import hosts as keepers
from vlhook.cli import cli
from vlhook.errors import VlhookError
from vlhook.keeper.client import KeeperSays, call
from vlhook.leases.directory import Ownership, create_lease, format_resource
from vlhook.leases.geometry import FILE
from vlhook.leases.names import lease_name

pytestmark = pytest.mark.xdist_group("cleanup")
ROOT = Path(__file__).resolve().parents[2]
SPACE = b"__LIBVIRT__DISKS__"


class Field:
    """One host, and another one that only has its keeper; `held` is held by a guest of the first."""

    def __init__(self, base: Path, one: keepers.Host, two: keepers.Host) -> None:
        self.base, self.one, self.two = base, one, two
        self.leases = base / "leases"
        self.disk = base / "held.img"
        self.disk.write_bytes(b"")
        guest = keepers.Guest("web1", [self.disk])
        run = one.hook("web1", "prepare", "begin", "-", xml=guest.xml(1))
        assert run.returncode == 0, run.stderr
        self.held = lease_name(os.fsencode(str(self.disk)))

    def free(self, *disks: str) -> list[str]:
        names = [lease_name(disk.encode()) for disk in disks]
        for name in names:
            create_lease(str(self.leases / name), FILE, SPACE, name.encode(), Ownership())
        return names

    def run(self, *arguments: object, host: keepers.Host | None = None) -> Result:
        host = host or self.one
        places = ["--run-dir", host.run_dir, "--config-dir", host.dir / "etc"]
        return CliRunner().invoke(cli, [str(word) for word in ["cleanup", *arguments, *places]])

    def told(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        result = self.run(*arguments, "--json")
        assert result.exit_code == status, result.output
        return dict(json.loads(result.output))


@pytest.fixture(scope="module")
def field_(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    base = tmp_path_factory.mktemp("cleanup")
    with keepers.hosts(base, 2, io_timeout=2) as (one, two):
        yield Field(base, one, two)


def test_unused_leases_go_and_the_guests_lease_stays(field_: Field) -> None:
    names = field_.free("/a", "/b", "/c")
    report = field_.told()
    assert sorted(report["removed"]) == sorted(names)
    assert report["schema"] == 1
    assert report["bytes"] == 3 << 20
    assert (field_.leases / field_.held).exists()
    assert not any((field_.leases / name).exists() for name in names)
    assert (field_.leases / "__LIBVIRT__DISKS__").exists()


def test_a_guest_of_another_host_keeps_its_lease(field_: Field) -> None:
    assert "0 leases removed" in field_.run(host=field_.two).output
    assert (field_.leases / field_.held).exists()


def test_dry_run_names_what_would_go_and_touches_nothing(field_: Field) -> None:
    (name,) = field_.free("/dry")
    result = field_.run("--dry-run")
    assert result.exit_code == 0
    assert name in result.output
    assert "1 leases would be removed" in result.output
    assert (field_.leases / name).exists()


def test_older_than_spares_what_was_used_lately(field_: Field) -> None:
    young, old = field_.free("/young", "/old")
    path = field_.leases / old
    os.utime(path, (time.time() - 8 * 86400,) * 2)
    field_.told("--older-than", "7d")
    assert (field_.leases / young).exists()
    assert not path.exists()


@pytest.mark.parametrize("text", ["7 weeks", "-1d", "d", "1e9"])
def test_a_span_of_time_that_is_none_is_refused(field_: Field, text: str) -> None:
    assert field_.run("--dry-run", "--older-than", text).exit_code == 2


def test_quiet_says_nothing(field_: Field) -> None:
    field_.free("/quiet")
    result = field_.run("-q")
    assert (result.exit_code, result.output) == (0, "")


def test_damaged_and_half_made_files_are_not_touched(field_: Field) -> None:
    names = {kind: lease_name(kind.encode()) for kind in ("damaged", "half", "zero")}
    area = bytearray(format_resource(FILE, SPACE, names["damaged"].encode()))
    area[40] ^= 1
    contents = {"damaged": bytes(area), "half": bytes(512), "zero": bytes(FILE.area)}
    for kind, content in contents.items():
        (field_.leases / names[kind]).write_bytes(content)
    try:
        assert field_.told()["removed"] == []
        for kind, content in contents.items():
            assert (field_.leases / names[kind]).read_bytes() == content
    finally:
        for name in names.values():
            (field_.leases / name).unlink()


def test_what_a_broken_clean_up_left_cleared_is_removed(field_: Field) -> None:
    name = lease_name(b"/cleared")
    (field_.leases / name).write_bytes(format_resource(FILE, SPACE, name.encode(), cleared_at=1))
    assert field_.told()["removed"] == [name]


def test_temporary_files_of_hosts_that_died_go_after_a_day(field_: Field) -> None:
    files = [field_.leases / f".{'a' * 32}.{number * 16}.new" for number in "12"]
    for path in files:
        path.write_bytes(b"")
    os.utime(files[0], (time.time() - 2 * 86400,) * 2)
    assert field_.told()["temporary"] == 1
    assert [path.exists() for path in files] == [False, True]


def test_one_host_at_a_time(field_: Field) -> None:
    """Both keepers clean at once, again and again: nothing but 'removed', 'gone' or 'elsewhere' ever comes of it."""
    outcomes: list[str] = []

    def clean(host: keepers.Host, names: list[str]) -> None:
        try:
            outcomes.extend(r["outcome"] for r in call(host.run_dir, "clean", 60, names=names)["results"])
        except KeeperSays as error:
            outcomes.append(vars(error)["keeper_code"])
        except VlhookError as error:
            outcomes.append(repr(error))

    for turn in range(5):
        names = field_.free(*(f"/{turn}/{number}" for number in range(8)))
        threads = [threading.Thread(target=clean, args=(host, names)) for host in (field_.one, field_.two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(outcomes) <= {"removed", "gone", "kept", "VLH-K851"}
    field_.told()
    held = {lease["lease"] for guest in field_.one.status()["guests"] for lease in guest["leases"]}
    assert field_.held in held
    assert {path.name for path in field_.leases.iterdir() if len(path.name) == 32} == held


@pytest.mark.parametrize("names", ["x", ["../etc/passwd"], ["A" * 32], [1], ["a" * 32] * 300])
def test_the_keeper_removes_nothing_but_leases_of_disks(field_: Field, names: object) -> None:
    with pytest.raises(KeeperSays) as caught:
        call(field_.one.run_dir, "clean", names=names)
    assert vars(caught.value)["keeper_code"] == "VLH-K852"


def test_a_keeper_that_died_in_the_middle_gives_back_what_it_had_taken(field_: Field) -> None:
    """Its note names the lease; the lease is held under its generation, which goes on."""
    (name,) = field_.free("/middle")
    host = field_.two
    guest = keepers.Guest("tmp", ["/middle"])
    assert host.hook("tmp", "prepare", "begin", "-", xml=guest.xml(7)).returncode == 0
    report = call(field_.two.run_dir, "clean", names=[name])
    assert report["results"][0]["outcome"] == "kept", "a guest of this host holds it"
    (host.run_dir / "guests").iterdir()
    host.kill_keeper()
    for path in (host.run_dir / "guests").iterdir():
        path.unlink()  # as if not a guest, but a clean-up had taken it
    (host.run_dir / "cleaning").write_text(json.dumps([name]))
    host.start_keeper()
    host.wait_joined()
    keepers.wait_for("the note to be worked off", lambda: not (host.run_dir / "cleaning").exists())

    def removed() -> bool:
        return name in field_.told()["removed"]

    keepers.wait_for("the lease to be free again", removed)


def test_another_directory_than_the_keepers_is_refused(field_: Field, tmp_path: Path) -> None:
    name = lease_name(b"/elsewhere")
    create_lease(str(tmp_path / name), FILE, SPACE, name.encode(), Ownership())
    result = field_.run("--dir", tmp_path)
    assert result.exit_code == 2
    assert "[VLH-C144]" in result.output
    assert (tmp_path / name).exists()


def test_without_a_keeper_nothing_is_removed(field_: Field) -> None:
    (name,) = field_.free("/no keeper")
    result = CliRunner().invoke(cli, ["cleanup", "--dir", str(field_.leases), "--run-dir", "/nonexistent"])
    assert result.exit_code == 2
    assert (field_.leases / name).exists()
    field_.told()


def test_it_can_be_called_by_the_name_of_libvirts_script(field_: Field, tmp_path: Path) -> None:
    script = tmp_path / "virt-sanlock-cleanup"
    script.write_text("import sys; sys.argv[0] = sys.argv[0]\nfrom vlhook.cli import main\nmain()\n")
    (name,) = field_.free("/by name")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLHOOK_RUN_DIR": str(field_.one.run_dir)}
    environment["VLHOOK_CONFIG_DIR"] = str(field_.one.dir / "etc")
    ran = subprocess.run([sys.executable, script, "-q"], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    assert not (field_.leases / name).exists()
