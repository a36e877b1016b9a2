# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings as vlhookd reads them: values, origins, and every error with file, line, value and what is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from vlhook.config import settings
from vlhook.config.settings import (
    BadValue,
    NotASetting,
    Origin,
    SettingsError,
    SettingsUnreadable,
    SetTwice,
    UnknownSetting,
    load,
)

SHARED, OWN = settings.SHARED_FILE, settings.OWN_FILE


def written(folder: Path, text: str, file: str = SHARED) -> Path:
    path = folder / file
    path.write_bytes(text.encode())
    return path


def refused(folder: Path, text: str, file: str = SHARED) -> SettingsError:
    written(folder, text, file)
    with pytest.raises(SettingsError) as caught:
        load(folder)
    return caught.value


# ------------------------------------------------------------------------------------ values


def test_without_files_every_setting_has_its_default(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found == settings.Settings()
    assert (found.host_id, found.io_timeout, found.disk_lease_dir) == (0, 10, "/var/lib/libvirt/sanlock")
    assert (found.engine, found.hook_deadline, found.watchdog) == ("native", 20, "automatic")
    assert (found.on_lockfailure, found.lockfailure_grace, found.claim_foreign) == ("poweroff", 20, False)
    assert all(str(found.origin(name)) == "default" for name in settings.SPECS)


def test_leases_for_all_disks_are_on_unless_they_are_set_to_0(tmp_path: Path) -> None:
    assert load(tmp_path).auto_disk_leases
    written(tmp_path, "auto_disk_leases = 1\n")
    assert load(tmp_path).auto_disk_leases
    written(tmp_path, "auto_disk_leases = 0\n")
    assert not load(tmp_path).auto_disk_leases


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("", False),
        ("auto_disk_leases = 1\n", False),
        ("auto_disk_leases = 0\n", True),
        ("auto_disk_leases = 0\nrequire_lease_for_disks = 0\n", False),
        ("require_lease_for_disks = 1\n", True),
    ],
)
def test_leases_are_required_by_default_only_where_they_are_not_automatic(
    tmp_path: Path, text: str, required: bool
) -> None:
    written(tmp_path, text)
    assert load(tmp_path).require_lease_for_disks is required


def test_each_value_knows_its_file_and_line(tmp_path: Path) -> None:
    shared = written(tmp_path, "# libvirt's\n\n  host_id=7   # ours\ndisk_lease_dir = \"/leases/\"\n")
    own = written(tmp_path, "hook_deadline = '30'\nengine = sanlock\nclaim_foreign = yes\n", OWN)
    found = load(tmp_path)
    assert (found.host_id, found.disk_lease_dir) == (7, "/leases")
    assert (found.hook_deadline, found.engine, found.claim_foreign) == (30, "sanlock", True)
    assert found.origin("host_id") == Origin(shared, 3)
    assert str(found.origin("engine")) == f"{own}:2"
    assert found.origin("io_timeout") == Origin()


def test_0_stands_for_no_host_id_and_for_the_default_io_timeout(tmp_path: Path) -> None:
    written(tmp_path, "host_id = 0\nio_timeout = 0\n")
    found = load(tmp_path)
    assert (found.host_id, found.io_timeout) == (0, 10)
    assert str(found.origin("host_id")) == "default"


def test_a_name_that_only_libvirts_lens_still_knows_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path, "ignore_readonly_and_shared_disks = 1\nhost_id = 3\n")
    assert load(tmp_path).host_id == 3


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    written(tmp_path, "host_id = 2000")
    assert load(tmp_path).host_id == 2000


@pytest.mark.parametrize("name", settings.SPECS)
def test_every_setting_has_an_attribute_a_description_and_a_valid_default(name: str) -> None:
    spec = settings.SPECS[name]
    assert getattr(settings.Settings(), name) == spec.default
    assert spec.brief
    assert len(spec.text) > 40
    if not spec.unset:
        assert spec.kind.parse(spec.kind.show(spec.default)) == spec.default


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("host_id = 2001", "host_id is 2001, it must be a whole number from 1 to 2000, without quotes"),
        ("host_id = one", "host_id is one, it must be"),
        ('host_id = "1"', 'host_id is "1", it must be a whole number from 1 to 2000, without quotes'),
        ("host_id = -1", "host_id is -1, it must be"),
        ("host_id = 1.5", "host_id is 1.5, it must be"),
        ("host_id = " + "9" * 5000, "host_id is 99999"),
        ("host_id = \u0661", "is not one value"),
        ("io_timeout = 121", "a whole number from 1 to 120 (seconds), or 0 for the default 10"),
        ("auto_disk_leases = 2", "auto_disk_leases is 2, it must be 1 or 0"),
        ("auto_disk_leases = yes", "it must be 1 or 0, without quotes"),
        ('disk_lease_dir = "leases"', 'disk_lease_dir is "leases", it must be an absolute path'),
        ("disk_lease_dir = /leases", 'at most 960 bytes, in "quotes"'),
        (f'disk_lease_dir = "/{"x" * 960}"', "at most 960 bytes"),
        ('disk_lease_dir = "/a\x01b"', '"/a\\x01b"'),
        ('user = ""', 'user is "", it must be'),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(tmp_path: Path, line: str, said: str) -> None:
    error = refused(tmp_path, f"# first\n{line}\n")
    assert str(error).startswith(f"{tmp_path / SHARED}, line 2: ")
    assert said in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "line", ["hook_deadline = 0", "hook_deadline = 121", "lockfailure_grace = 41", "engine = lockd"]
)
def test_vlhooks_own_settings_have_their_ranges(tmp_path: Path, line: str) -> None:
    assert isinstance(refused(tmp_path, line, OWN), BadValue)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("host_id = 1\r\n", 1, "carriage return"),
        ("# all of it\r\n\r\nhost_id = 1\r\n", 2, "carriage return"),
        ("\ufeffhost_id = 1\n", 1, "byte order mark"),
        ("\nhost_id 1\n", 2, "'host_id 1' is not of the form 'name = value'"),
        ("host_id =\n", 1, "host_id has no value"),
        ("host_id = # 1\n", 1, "host_id has no value"),
        ("host_id = [ 1 ]\n", 1, "host_id is a list"),
        ("host_id = 1 2\n", 1, "'1 2' is not one value"),
        ("host_id = 1; io_timeout = 3\n", 1, "is not one value"),
        ('user = "sanlock\n', 1, "is not closed in this line"),
        ("1host = 1\n", 1, "'1host' is no name of a setting"),
        ("host_id = 1\0\n", 1, "'1\\x00'"),
    ],
)
def test_a_line_that_is_no_setting_is_named_with_the_reason(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    error = refused(tmp_path, text)
    assert isinstance(error, NotASetting)
    assert f"{SHARED}, line {line}: " in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        (SHARED, "hostid", "the nearest is host_id"),
        (SHARED, "Host_Id", "the nearest is host_id"),
        (OWN, "hook_dedline", "the nearest is hook_deadline"),
        (OWN, "zzzzz", "there are engine, hook_deadline"),
        (SHARED, "engine", "it belongs in qemu-vlhook.conf"),
        (OWN, "host_id", "it belongs in qemu-sanlock.conf"),
    ],
)
def test_an_unknown_setting_is_an_error_that_names_the_nearest(
    tmp_path: Path, file: str, name: str, said: str
) -> None:
    error = refused(tmp_path, f"\n{name} = 1\n", file)
    assert isinstance(error, UnknownSetting)
    assert f"{file}, line 2: there is no setting {name}" in str(error)
    assert said in str(error)


def test_a_setting_that_is_set_twice_is_an_error_even_with_one_value(tmp_path: Path) -> None:
    error = refused(tmp_path, "host_id = 1\n# then\nhost_id = 1\n")
    assert isinstance(error, SetTwice)
    assert "line 3: host_id was set in line 1 already" in str(error)


def test_a_file_that_is_a_directory_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / SHARED).mkdir()
    with pytest.raises(SettingsUnreadable, match="Is a directory"):
        load(tmp_path)


def test_a_file_without_permission_is_an_error_and_not_taken_for_absent(tmp_path: Path) -> None:
    needs.require_root()
    written(tmp_path, "host_id = 1\n").chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(SettingsUnreadable, match=r"cannot be read: Permission denied"):
            load(tmp_path)
    finally:
        os.seteuid(0)


def test_bytes_that_are_not_utf8_are_reported_with_their_line(tmp_path: Path) -> None:
    (tmp_path / OWN).write_bytes(b"hook_deadline = 3\n# caf\xe9\n")
    with pytest.raises(SettingsUnreadable, match="line 2 is not UTF-8"):
        load(tmp_path)


def test_a_huge_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / SHARED, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(SettingsUnreadable, match="more than 1048576 bytes"):
        load(tmp_path)


def test_examine_finds_everything_that_is_wrong_and_keeps_what_is_right(tmp_path: Path) -> None:
    written(tmp_path, "host_id = 4\nio_timeout = 999\nnonsense\n")
    written(tmp_path, "enginge = native\nhook_deadline = 5\n", OWN)
    found, problems = settings.examine(tmp_path)
    assert (found.host_id, found.io_timeout, found.hook_deadline) == (4, 10, 5)
    assert [type(problem) for problem in problems] == [BadValue, NotASetting, UnknownSetting]


def test_reading_good_settings_loads_nothing_large(tmp_path: Path) -> None:
    written(tmp_path, "host_id = 4\n")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(settings.__file__).parents[2])!r})\n"
        "from pathlib import Path; from vlhook.config.settings import load\n"
        f"assert load(Path({str(tmp_path)!r})).host_id == 4\n"
        "print(*sorted({'difflib', 'augeas', 'click', 'lxml', 'json'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
