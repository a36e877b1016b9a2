# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook config`: what it shows, what it writes, and what it says of every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import vlhook.cli
from tests import needs
from vlhook.config import settings

SHARED, OWN, QEMU = settings.SHARED_FILE, settings.OWN_FILE, settings.QEMU_FILE
Config = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration directory whose lease directory is not there."""
    where = tmp_path / "libvirt"
    where.mkdir()
    (where / SHARED).write_text(f'disk_lease_dir = "{tmp_path}/leases"\n', encoding="utf-8")
    return where


@pytest.fixture
def config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """config("set", "host_id", 7) runs that command on the directory `folder`."""
    monkeypatch.setitem(vlhook.cli.COMMANDS, "config", ("config", "config_group"))

    def run(command: str, *words: object) -> Result:
        arguments = ["config", command, "--config-dir", str(folder), *map(str, words)]
        result = CliRunner().invoke(vlhook.cli.cli, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    return run


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------- showing


def test_show_lists_every_setting_with_value_and_origin(config: Config, folder: Path) -> None:
    (folder / OWN).write_text("# ours\nhook_deadline = 30\n", encoding="utf-8")
    (folder / QEMU).write_text('lock_manager = "lockd"\n', encoding="utf-8")
    result = config("show")
    rows = {line.split()[0]: line.split(None, 1)[1].strip() for line in result.output.splitlines()}
    assert result.exit_code == 0
    assert list(rows) == [*settings.SPECS, "lock_manager"]
    assert rows["hook_deadline"].split() == ["30", f"{folder / OWN}:2"]
    assert rows["io_timeout"].split() == ["10", "default"]
    assert rows["host_id"].rsplit(None, 1) == ["not set", "default"]
    assert rows["lock_manager"].split() == ["lockd", str(folder / QEMU)]


def test_show_as_json_keeps_types_and_says_what_is_not_set(config: Config, folder: Path) -> None:
    (folder / SHARED).write_text("host_id = 5\nauto_disk_leases = 0\n", encoding="utf-8")
    report = json.loads(config("show", "--json").output)
    rows = {row.pop("name"): row for row in report["settings"]}
    assert (report["schema"], report["problems"]) == (1, [])
    assert rows["host_id"] == {
        "value": 5, "origin": "file", "file": str(folder / SHARED), "line": 1, "default": None
    }  # fmt: skip
    assert rows["auto_disk_leases"]["value"] is False
    assert rows["require_lease_for_disks"]["value"] is True
    assert rows["user"] == {"value": None, "origin": "default", "file": None, "line": None, "default": None}
    assert rows["lock_manager"]["value"] == "nop"


def test_show_lists_everything_that_is_wrong_and_fails(config: Config, folder: Path) -> None:
    (folder / SHARED).write_text("host_id = 2001\n", encoding="utf-8")
    (folder / OWN).write_text("engin = native\n", encoding="utf-8")
    (folder / QEMU).write_text("lock_manager = 3\n", encoding="utf-8")
    result = config("show")
    assert result.exit_code == 1
    wrong = [line for line in result.output.splitlines() if line.startswith("WRONG: ")]
    assert [str(folder / name) in line for name, line in zip((SHARED, OWN, QEMU), wrong)] == [True] * 3
    assert len(json.loads(config("show", "--json").output)["problems"]) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("io_timeout", "10"), ("auto_disk_leases", "1"), ("claim_foreign", "0"), ("lock_manager", "nop")],
)
def test_get_prints_the_value_alone(config: Config, name: str, value: str) -> None:
    result = config("get", name)
    assert (result.exit_code, result.output) == (0, value + "\n")


def test_get_of_what_is_not_set_fails(config: Config) -> None:
    result = config("get", "host_id")
    assert result.exit_code == 2
    assert "host_id is not set" in result.output


# ------------------------------------------------------------------------------------- setting


def test_set_writes_the_value_and_says_what_to_restart(config: Config, folder: Path) -> None:
    result = config("set", "io_timeout", 20)
    assert result.exit_code == 0
    assert f"io_timeout is 20 now, in {folder / SHARED}" in result.output
    assert "systemctl restart vlhookd" in result.output
    assert "while no guest of this host holds leases" in result.output
    assert "libvirtd" not in result.output
    assert text(folder / SHARED).endswith('leases"\nio_timeout = 20\n')
    assert settings.load(folder).io_timeout == 20


def test_set_names_libvirt_too_where_its_plugin_reads_the_file(config: Config, folder: Path) -> None:
    (folder / QEMU).write_text('lock_manager = "sanlock"\n', encoding="utf-8")
    assert "try-restart virtqemud libvirtd" in config("set", "auto_disk_leases", 0).output
    assert "libvirtd" not in config("set", "hook_deadline", 5).output


def test_set_of_lock_manager_goes_to_qemu_conf(config: Config, folder: Path) -> None:
    result = config("set", "lock_manager", "sanlock")
    assert result.exit_code == 0
    assert "try-restart virtqemud libvirtd" in result.output
    assert "from its next start" in result.output
    assert "takes only <lease> elements, because auto_disk_leases is not set to 1" in result.output
    assert text(folder / QEMU) == 'lock_manager = "sanlock"\n'


@pytest.mark.parametrize(
    ("engine", "step"), [("native", "when no guest\nof vlhook runs here"), ("sanlock", "restart libvirtd at any time")]
)
def test_set_of_lock_manager_says_how_guests_change_their_protector(config: Config, engine: str, step: str) -> None:
    config("set", "auto_disk_leases", 1)
    config("set", "engine", engine)
    assert step in config("set", "lock_manager", "sanlock").output


def test_set_of_a_value_that_is_there_says_so(config: Config) -> None:
    config("set", "hook_deadline", 5)
    result = config("set", "hook_deadline", 5)
    assert (result.exit_code, result.output.splitlines()[0].startswith("hook_deadline is 5 already")) == (0, True)


def test_set_names_what_is_still_wrong_in_the_file(config: Config, folder: Path) -> None:
    (folder / OWN).write_text("hook_deadline = 999\nengine = native\n", encoding="utf-8")
    assert "still wrong" not in config("set", "hook_deadline", 9).output
    (folder / OWN).write_text("hook_deadline = 999\nengine = native\n", encoding="utf-8")
    result = config("set", "engine", "auto")
    assert result.exit_code == 0
    assert f"still wrong: {folder / OWN}, line 1: hook_deadline is 999" in result.output


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("host_id", "0", 'host_id cannot be "0": it must be a whole number from 1 to 2000'),
        ("host_id", "2001", "a whole number from 1 to 2000"),
        ("host_id", "one", 'host_id cannot be "one"'),
        ("host_id", "1\r", 'host_id cannot be "1\\r"'),
        ("host_id", "", "a whole number"),
        ("io_timeout", "121", "or 0 for the default 10"),
        ("auto_disk_leases", "yes", "1 or 0"),
        ("disk_lease_dir", "leases", "an absolute path"),
        ("disk_lease_dir", "/a'b\"c", "free of one of the two kinds of quotes"),
        ("engine", "Native", "native, sanlock or auto"),
        ("lock_manager", "san lock", "nop, sanlock or lockd"),
        ("hostid", "1", "there is no setting hostid; the nearest is host_id"),
        ("a/b[1]", "1", "there is no setting a/b[1]"),
    ],
)
def test_set_refuses_a_bad_value_with_what_is_allowed_and_writes_nothing(
    config: Config, folder: Path, name: str, value: str, said: str
) -> None:
    before = text(folder / SHARED)
    result = config("set", name, value)
    assert result.exit_code == 2
    assert said in result.output
    assert result.output.count("\n") == 1
    assert (text(folder / SHARED), os.listdir(folder)) == (before, [SHARED])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("host_id = 1\r\n", "line 1: the line ends with a carriage return"),
        ("# x\nnonsense\n", "line 2: 'nonsense' is not of the form"),
        ("io_timeout = 1\nio_timeout = 2\n", "it is set 2 times; nothing was changed; run 'vlhook config unset"),
        ('io_timeout = "5"\n', 'it would be "7", it must be a whole number'),
        ('io_timeout = "7"\n', 'it would be "7", it must be a whole number'),
    ],
)
def test_set_names_the_line_that_is_in_its_way_and_writes_nothing(
    config: Config, folder: Path, content: str, said: str
) -> None:
    (folder / SHARED).write_bytes(content.encode())
    result = config("set", "io_timeout", 7)
    assert result.exit_code == 2
    assert said in result.output
    assert str(folder / SHARED) in result.output
    assert (folder / SHARED).read_bytes() == content.encode()


@pytest.mark.parametrize("content", ['x = """\n', "x = [ 1\n", "lock_manager = nop nop\n"])
def test_set_names_the_line_of_qemu_conf_that_is_in_its_way(config: Config, folder: Path, content: str) -> None:
    (folder / QEMU).write_text(content, encoding="utf-8")
    result = config("set", "lock_manager", "nop")
    assert result.exit_code == 2
    assert f"{folder / QEMU}, line " in result.output
    assert text(folder / QEMU) == content


def test_set_with_an_odd_directory_is_read_back_as_it_was_given(config: Config, folder: Path) -> None:
    odd = "/srv/it's the #1 lease dir [é]"
    assert config("set", "disk_lease_dir", odd).exit_code == 0
    assert settings.load(folder).disk_lease_dir == odd
    assert config("get", "disk_lease_dir").output == odd + "\n"


def test_set_of_a_directory_that_cannot_be_written_changes_nothing(config: Config, folder: Path) -> None:
    before = text(folder / SHARED)
    assert config("set", "disk_lease_dir", "/with 'both' \"quotes\"").exit_code == 2
    assert text(folder / SHARED) == before


# ----------------------------------------------------------------------------------- removing


def test_unset_removes_the_line_and_the_default_is_in_force(config: Config, folder: Path) -> None:
    config("set", "io_timeout", 20)
    result = config("unset", "io_timeout")
    assert f"io_timeout removed from {folder / SHARED}" in result.output
    assert "systemctl restart vlhookd" in result.output
    assert "io_timeout" not in text(folder / SHARED)
    assert config("unset", "io_timeout").output == "io_timeout is not set\n"


def test_unset_removes_every_line_also_of_names_and_values_that_are_wrong(config: Config, folder: Path) -> None:
    (folder / OWN).write_text("nonsense = 3\nengine = x\nengine = y\n", encoding="utf-8")
    assert config("unset", "nonsense").exit_code == 0
    assert config("unset", "engine").exit_code == 0
    assert text(folder / OWN) == ""
    assert config("unset", "nonsense").exit_code == 2


def test_unset_of_lock_manager_leaves_the_rest_of_qemu_conf(config: Config, folder: Path) -> None:
    (folder / QEMU).write_text('# x\nlock_manager = "lockd"  # y\nmax_queued = 3\n', encoding="utf-8")
    assert config("unset", "lock_manager").exit_code == 0
    assert text(folder / QEMU) == "# x\nmax_queued = 3\n"


# ------------------------------------------------------------------------- where nothing can be written


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    needs.require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_in_one_line(config: Config, small: Path) -> None:
    (small / OWN).write_text("# x\n" * 6000, encoding="utf-8")
    result = config("set", "engine", "auto")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert f"{small / OWN} cannot be written: No space left on device; nothing was changed" in result.output
    assert text(small / OWN) == "# x\n" * 6000
    assert os.listdir(small) == [OWN]


def test_a_read_only_file_system_is_said_in_one_line(config: Config, small: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    result = config("set", "engine", "auto")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "cannot be written: Read-only file system; nothing was changed" in result.output


def test_a_user_without_rights_is_told_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    needs.require_root()
    monkeypatch.setitem(vlhook.cli.COMMANDS, "config", ("config", "config_group"))
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        os.seteuid(65534)
        try:
            result = CliRunner().invoke(vlhook.cli.cli, ["config", "set", "--config-dir", name, "engine", "auto"])
        finally:
            os.seteuid(0)
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
        assert "cannot be written: Permission denied; nothing was changed" in result.output
        assert os.listdir(name) == []
