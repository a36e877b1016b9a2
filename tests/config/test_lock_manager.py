# SPDX-License-Identifier: LGPL-2.1-or-later
"""lock_manager, found in libvirt's qemu.conf whatever else stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import needs
from vlhook.config.settings import (
    BadValue,
    NotASetting,
    SettingsError,
    SetTwice,
    parse_lock_manager,
    read_lock_manager,
)
from vlhook.config.virconf import settings_of

FILE = Path("/etc/libvirt/qemu.conf")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ('# lock_manager = "lockd"\n', None),
        ('lock_manager = "sanlock"\n', "sanlock"),
        ("lock_manager='nop'", "nop"),
        ('  lock_manager="""lockd"""  # why\n', "lockd"),
        ('x = 1; lock_manager = "lockd"\n', "lockd"),
        ('lock_manager = "sanlock"\r\nuser = "root"\r\n', "sanlock"),
        ('acl = [\n  "/dev/null", "/dev/a#b",\n  [ 1, -2 ],\n]\nlock_manager = "sanlock"\n', "sanlock"),
        ('text = """\nlock_manager = "nop"\n"""\nlock_manager = "lockd"\n', "lockd"),
        ('password = "# lock_manager = nop"\n', None),
        ('lock_manager = "fictional"\n', "fictional"),
        ("big = " + "9" * 9000 + '\nlock_manager = "nop"', "nop"),
    ],
)
def test_the_value_is_what_libvirt_would_read(text: str, value: str | None) -> None:
    assert parse_lock_manager(text, FILE) == value


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("lock_manager = 1\n", BadValue, 'line 1: lock_manager is "1", it must be nop, sanlock or lockd'),
        ('\nlock_manager = ""\n', BadValue, "line 2: lock_manager is"),
        ('lock_manager = [ "nop" ]\n', BadValue, "it must be nop"),
        ('lock_manager = "nop"\nlock_manager = "nop"\n', SetTwice, "line 2: lock_manager was set in line 1"),
        ("lock_manager = sanlock\n", NotASetting, "line 1: a number, a text in quotes or a list is expected"),
        ('lock_manager = "sanlock\n', NotASetting, "line 1: "),
        ('acl = [ "a"\n\n "b" ]\nlock_manager = "nop"\n', NotASetting, "line 3: the list is not closed"),
        ('user = "a" "b"\n', NotASetting, "line 1: something follows the value of user"),
        ("user\n", NotASetting, "line 1: user is not followed by '='"),
        ("x = " + "[" * 5000, NotASetting, "line 1: "),
    ],
)
def test_what_libvirt_would_refuse_is_an_error_and_not_a_guess(
    text: str, kind: type[SettingsError], said: str
) -> None:
    with pytest.raises(kind) as caught:
        parse_lock_manager(text, FILE)
    assert said in str(caught.value)
    assert str(FILE) in str(caught.value)


def test_a_host_without_qemu_conf_has_no_lock_manager(tmp_path: Path) -> None:
    assert read_lock_manager(tmp_path) is None


def test_libvirts_shipped_file_is_understood_also_with_all_its_examples_in_use() -> None:
    if not FILE.is_file():
        needs.lacking(f"needs libvirt's {FILE}")
    text = FILE.read_text(encoding="utf-8")
    assert parse_lock_manager(text, FILE) is None
    used = text.replace('\n#lock_manager = "lockd"', '\nlock_manager = "lockd"')
    assert parse_lock_manager(used, FILE) == "lockd"
    assert [item.name for item in settings_of(used)] == ["lock_manager"]
