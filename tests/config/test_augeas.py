# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changing one value through Augeas: one line of the file changes, or nothing does."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
from vlhook.config import augeas
from vlhook.config.augeas import (
    AugeasError,
    NoAugeas,
    NoLens,
    NotAsAsked,
    NotReadable,
    NotUnderstood,
    NotWritten,
    change,
    values,
)

QEMU_CONF = Path("/etc/libvirt/qemu.conf")


def anything(text: str) -> None:
    """A check that is always content."""


def set_(path: Path, name: str, value: str) -> bool:
    return change(path, name, value, anything)


def one_line_diff(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that went and those that came."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
    return [x[1:] for x in lines if x.startswith("-")], [x[1:] for x in lines if x.startswith("+")]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "qemu-sanlock.conf"
    path.write_text("# libvirt's\n\n#host_id = 1\n  io_timeout=5  # slow disks\n", encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 40 KiB."""
    needs.require_root()
    where = tmp_path / "small"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory that a user without rights can read, for a test which calls os.seteuid."""
    needs.require_root()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        os.seteuid(0)


# ------------------------------------------------------------------------------ what is changed


def test_a_new_setting_follows_the_comment_that_shows_it(conf: Path) -> None:
    assert set_(conf, "host_id", "7")
    assert conf.read_text() == "# libvirt's\n\n#host_id = 1\nhost_id = 7\n  io_timeout=5  # slow disks\n"


def test_a_change_keeps_blanks_and_comment_of_the_line(conf: Path) -> None:
    assert set_(conf, "io_timeout", "6")
    assert conf.read_text() == "# libvirt's\n\n#host_id = 1\n  io_timeout=6  # slow disks\n"


def test_a_setting_that_nothing_shows_is_added_at_the_end(conf: Path) -> None:
    assert set_(conf, "disk_lease_dir", "/srv/leases")
    assert conf.read_text().endswith('# slow disks\ndisk_lease_dir = "/srv/leases"\n')


def test_the_value_that_is_there_already_is_not_written_again(conf: Path) -> None:
    def written() -> tuple[int, int]:
        return conf.stat().st_ino, conf.stat().st_ctime_ns

    before = written()
    assert not set_(conf, "io_timeout", "5")
    assert written() == before


def test_a_setting_is_removed_and_nothing_else(conf: Path) -> None:
    assert change(conf, "io_timeout", None, anything)
    assert conf.read_text() == "# libvirt's\n\n#host_id = 1\n"
    assert not change(conf, "io_timeout", None, anything)


def test_a_file_that_does_not_exist_is_made(tmp_path: Path) -> None:
    assert set_(tmp_path / "qemu-vlhook.conf", "engine", "sanlock")
    assert (tmp_path / "qemu-vlhook.conf").read_text() == 'engine = "sanlock"\n'
    assert (tmp_path / "qemu-vlhook.conf").stat().st_mode & 0o777 == 0o644
    assert set_(tmp_path / "qemu.conf", "lock_manager", "nop")
    assert (tmp_path / "qemu.conf").stat().st_mode & 0o777 == 0o600


def test_mode_and_owner_stay(conf: Path) -> None:
    needs.require_root()
    conf.chmod(0o640)
    os.chown(conf, 1234, 4321)
    assert set_(conf, "host_id", "7")
    found = conf.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 1234, 4321)


def test_a_symbolic_link_stays_one(conf: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "qemu-sanlock.conf"
    link.parent.mkdir()
    link.symlink_to("../qemu-sanlock.conf")
    assert set_(link, "host_id", "7")
    assert link.is_symlink()
    assert "host_id = 7" in conf.read_text()
    assert os.listdir(link.parent) == [link.name]


def test_libvirts_shipped_qemu_conf_comes_back_with_one_line_changed(tmp_path: Path) -> None:
    if not QEMU_CONF.is_file():
        needs.lacking(f"needs libvirt's {QEMU_CONF}")
    path = tmp_path / "qemu.conf"
    before = QEMU_CONF.read_text(encoding="utf-8")
    assert before.count("\n") > 500
    path.write_text(before, encoding="utf-8")

    assert set_(path, "lock_manager", "sanlock")
    assert one_line_diff(before, path.read_text()) == ([], ['lock_manager = "sanlock"'])
    example = before.splitlines().index('#lock_manager = "lockd"')
    assert path.read_text().splitlines()[example + 1] == 'lock_manager = "sanlock"'

    second = path.read_text()
    assert set_(path, "lock_manager", "nop")
    assert one_line_diff(second, path.read_text()) == (['lock_manager = "sanlock"'], ['lock_manager = "nop"'])
    assert change(path, "lock_manager", None, anything)
    assert path.read_text() == before


# -------------------------------------------------------------------------- what is not changed


def unchanged(path: Path, kind: type[AugeasError], said: str, value: str = "7") -> None:
    """Setting host_id ends in that error; file and directory are as before, and no other file is left."""
    before, listed = path.read_bytes(), os.listdir(path.parent)
    with pytest.raises(kind) as caught:
        set_(path, "host_id", value)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    euid = os.geteuid()
    os.seteuid(os.getuid())
    assert (path.read_bytes(), os.listdir(path.parent)) == (before, listed)
    os.seteuid(euid)


def test_a_full_disk_leaves_the_old_file_whole(small: Path) -> None:
    path = small / "qemu-sanlock.conf"
    path.write_text("# x\n" * 6000 + "host_id = 1\n", encoding="utf-8")
    unchanged(path, NotWritten, "No space left on device")


def test_a_read_only_file_system_is_named(small: Path) -> None:
    path = small / "qemu-sanlock.conf"
    path.write_text("host_id = 1\n", encoding="utf-8")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    unchanged(path, NotWritten, "Read-only file system")


def test_a_directory_without_permission_to_write_is_named(as_nobody: Path) -> None:
    path = as_nobody / "qemu-sanlock.conf"
    path.write_text("host_id = 1\n", encoding="utf-8")
    os.seteuid(65534)
    unchanged(path, NotWritten, "Permission denied")


def test_a_file_without_permission_to_read_is_not_taken_for_empty(as_nobody: Path) -> None:
    path = as_nobody / "qemu-sanlock.conf"
    path.write_text("host_id = 1\n", encoding="utf-8")
    path.chmod(0o600)
    os.chown(as_nobody, 65534, 65534)
    os.seteuid(65534)
    with pytest.raises(NotReadable, match="Permission denied"):
        set_(path, "host_id", "7")
    os.seteuid(0)
    assert path.read_text() == "host_id = 1\n"


@pytest.mark.parametrize("line", ["host_id = 1\r", "nonsense", 'user = "x', "a = 1; b = 2"])
def test_a_line_that_augeas_does_not_understand_is_named(conf: Path, line: str) -> None:
    conf.write_bytes(f"# one\n\n{line}\nio_timeout = 3\n".encode())
    with pytest.raises(NotUnderstood, match="line [34]: "):
        set_(conf, "host_id", "7")
    assert conf.read_bytes() == f"# one\n\n{line}\nio_timeout = 3\n".encode()


def test_a_setting_that_is_there_twice_is_not_set_in_one_place(conf: Path) -> None:
    conf.write_text("host_id = 1\nhost_id = 2\n", encoding="utf-8")
    unchanged(conf, NotAsAsked, "it is set 2 times")
    assert change(conf, "host_id", None, anything)
    assert conf.read_text() == ""


def test_a_text_that_the_check_refuses_never_becomes_the_file(conf: Path) -> None:
    seen = []

    def refuse(text: str) -> None:
        seen.append((text, conf.read_text()))
        raise ValueError("no")

    before = conf.read_text()
    with pytest.raises(ValueError, match="no"):
        change(conf, "host_id", "7", refuse)
    assert "host_id = 7" in seen[0][0]
    assert seen[0][1] == conf.read_text() == before
    assert os.listdir(conf.parent) == [conf.name]


def test_without_our_lens_the_package_is_named(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augeas, "LENS", "Vlhook_of_the_future.any")
    unchanged(conf, NoLens, "vlhook-augeas")


def test_without_the_binding_the_package_is_named(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "augeas", None)
    unchanged(conf, NoAugeas, "python3-augeas")


@pytest.mark.parametrize("base", [OSError, RuntimeError, ValueError])
@pytest.mark.parametrize("call", ["__init__", "add_transform", "load", "save"])
def test_whatever_a_binding_raises_becomes_one_line(
    conf: Path, monkeypatch: pytest.MonkeyPatch, base: type[Exception], call: str
) -> None:
    """python-augeas 0.5 raises these, 1.2 classes of its own that derive from them."""
    real = pytest.importorskip("augeas")

    def fail(*_: object, **__: object) -> None:
        raise type("OfThisBinding", (base,), {})("out of memory")

    broken = type("Broken", (real.Augeas,), {call: fail, "close": lambda self: None, "__del__": lambda self: None})
    monkeypatch.setitem(sys.modules, "augeas", types.SimpleNamespace(Augeas=broken))
    unchanged(conf, AugeasError, "out of memory")


def test_two_commands_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    path = tmp_path / "qemu-vlhook.conf"
    script = (
        f"import sys; sys.path.insert(0, {str(Path(augeas.__file__).parents[2])!r})\n"
        "from pathlib import Path; from vlhook.config.augeas import change\n"
        "change(Path(sys.argv[1]), sys.argv[2], '1', lambda text: None)"
    )
    names = [f"setting_{n}" for n in "abcdefgh"]
    running = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in names]
    assert [process.wait(60) for process in running] == [0] * len(names)
    assert sorted(name for name, _ in values(path)) == names
