# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhookd reads its settings without Augeas, the command line writes them with it: both must see the same file.

The texts are made of the pieces of settings, so that most are nearly right and many are.
"""

from __future__ import annotations

import atexit
import functools
import re
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from tests import needs
from vlhook.config.augeas import lens_path
from vlhook.config.documents import bad_values, good_values, specs_of
from vlhook.config.lines import Line, read_lines
from vlhook.config.settings import OWN_FILE, SHARED_FILE, SPECS, SettingsError, read_value
from vlhook.config.virconf import settings_of

Pairs = list[tuple[str, Optional[str]]]
PATH = Path("/etc/libvirt/x.conf")


@functools.cache
def binding() -> Any:
    needs.require_module("augeas")
    from augeas import Augeas

    opened = Augeas(loadpath=lens_path(), flags=Augeas.NO_LOAD | Augeas.NO_MODL_AUTOLOAD)
    atexit.register(opened.close)
    return opened


def by_augeas(lens: str, text: str) -> Pairs | None:
    """The settings that the lens finds, None where it refuses the text."""
    tree = binding()
    tree.remove("/in")
    tree.remove("/out")
    tree.set("/in", text)
    try:
        tree.text_store(lens, "/in", "/out")
    except (ValueError, RuntimeError):
        return None
    nodes = tree.match("/out/*")
    names = [node.rsplit("/", 1)[1].partition("[")[0] for node in nodes]
    return [(name, tree.get(node) or None) for name, node in zip(names, nodes) if not name.startswith("#")]


def by_vlhook(text: str) -> Pairs | None:
    lines = list(read_lines(text))
    if not all(isinstance(line, Line) for line in lines):
        return None
    return [(line.name, line.value or None) for line in lines if isinstance(line, Line)]


def by_vlhook_checked(file: str, text: str) -> Pairs | None:
    """The same, but only if every value is allowed in that file."""
    found = by_vlhook(text)
    try:
        for line in read_lines(text):
            if isinstance(line, Line):
                read_value(file, PATH, line)
    except SettingsError:
        return None
    return found


CHARACTERS = st.characters(blacklist_categories=["Cs", "Cc"], max_codepoint=0x2FFF)
BLANKS = st.text(" \t", max_size=2)
PIECES = st.sampled_from(
    ["=", '"', "'", "#", "\r", ";", "[", "]", ",", "1", "0", "007", "yes", "a b", "/srv", "+5", "host_id", "x_1", "é"]
)
REMARKS = st.one_of(st.just(""), st.builds("#{}".format, st.text(CHARACTERS, max_size=8)))
QUOTED = st.one_of(st.builds('"{}"'.format, st.text(CHARACTERS)), st.builds("'{}'".format, st.text(CHARACTERS)))


def quotes(values: list[str]) -> st.SearchStrategy[str]:
    """One of the values, bare or in quotes of either kind."""
    return st.builds(str.format, st.sampled_from(["{}", '"{}"', "'{}'"]), st.sampled_from(values))


def settings_lines(file: str) -> st.SearchStrategy[str]:
    values = {spec.name: good_values(spec) * 3 + bad_values(spec) for spec in specs_of(file)}
    of_table = [st.tuples(st.just(name), quotes(found)) for name, found in values.items()]
    pair = st.one_of(*of_table, st.tuples(st.sampled_from(list(SPECS)), st.one_of(QUOTED, PIECES)))
    made = st.tuples(BLANKS, pair, BLANKS, BLANKS, BLANKS, REMARKS)
    return made.map(lambda t: f"{t[0]}{t[1][0]}{t[2]}={t[3]}{t[1][1]}{t[4]}{t[5]}")


ANY_LINE = st.builds("".join, st.lists(PIECES | BLANKS | st.text(CHARACTERS, max_size=3), max_size=7))


def files(file: str) -> st.SearchStrategy[str]:
    """python-augeas 0.5 cannot hand over an empty text, so there is always a line."""
    line = st.one_of(settings_lines(file), settings_lines(file), BLANKS, REMARKS, ANY_LINE)
    return st.lists(line, min_size=1, max_size=5).map(lambda lines: "".join(f"{line}\n" for line in lines))


def note(found: object) -> None:
    event("accepted" if found is not None else "refused")


@given(files(OWN_FILE))
def test_the_lens_takes_exactly_the_files_that_vlhookd_takes_and_both_see_the_same(text: str) -> None:
    found = by_augeas("Vlhook.lns", text)
    note(found)
    assert found == by_vlhook_checked(OWN_FILE, text)


@given(files(SHARED_FILE))
def test_what_our_lens_of_libvirts_file_takes_vlhookd_reads_alike(text: str) -> None:
    found = by_augeas("Vlhook_sanlock.lns", text)
    note(found)
    if found is None:
        # Only 0 for "not set", a quote inside quotes, or a bad value that the lens cannot tell are left to vlhookd.
        taken = by_vlhook_checked(SHARED_FILE, text)
        assert taken is None or ("host_id", "0") in taken or "'" in text or '"' in text
        return
    obsolete = "ignore_readonly_and_shared_disks"
    assert found == by_vlhook(text)
    assert obsolete in text or by_vlhook_checked(SHARED_FILE, text) is not None


@given(files(SHARED_FILE))
def test_what_libvirts_own_lens_takes_vlhookd_reads_alike(text: str) -> None:
    if not Path("/usr/share/augeas/lenses/libvirt_sanlock.aug").is_file():
        needs.lacking("needs libvirt's lens libvirt_sanlock.aug")
    found = by_augeas("Libvirt_sanlock.lns", text)
    note(found)
    assume(found is not None)
    assert found == by_vlhook(text)


@given(files(SHARED_FILE))
def test_the_command_line_can_read_every_file_that_vlhookd_can_split_into_settings(text: str) -> None:
    found = by_augeas("Vlhook_lines.any", text)
    note(found)
    if "[" not in text:
        assert found == by_vlhook(text)


LISTS = st.builds("[{}]".format, st.lists(st.sampled_from(['"a"', '"b#"', ",", " ", "\n"]), max_size=6).map("".join))
OF_LIBVIRT = st.tuples(st.sampled_from(["a", "lock_manager", "nvram"]), LISTS | QUOTED | PIECES, REMARKS)


def as_number(value: Optional[str]) -> Optional[str]:
    """Numbers in one spelling."""
    return str(int(value)) if value and re.fullmatch("[+-]?[0-9]+", value) else value


@given(st.lists(OF_LIBVIRT, min_size=1, max_size=4))
def test_libvirts_whole_syntax_is_read_as_augeas_reads_it(lines: list[tuple[str, str, str]]) -> None:
    text = "".join(f"{name} = {value} {remark}\n" for name, value, remark in lines)
    found = by_augeas("Vlhook_qemu.lns", text)
    note(found)
    # Words without quotes are for vlhook's own file; libvirt has none.
    assume(found is not None and not any(re.match("[A-Za-z/.:_]", value) for _, value, _ in lines))
    read = [(item.name, item.value) for item in settings_of(text)]
    texts = [(name, None if isinstance(value, list) else str(value) or None) for name, value in read]
    assert [(n, as_number(v)) for n, v in found or []] == [(n, as_number(v)) for n, v in texts]


@pytest.mark.parametrize("name", SPECS)
def test_every_allowed_value_is_allowed_by_both(name: str) -> None:
    spec = SPECS[name]
    lens = "Vlhook.lns" if spec.file == OWN_FILE else "Vlhook_sanlock.lns"
    for value in good_values(spec):
        text = f'{name} = "{value}"\n' if spec.kind.text else f"{name} = {value}\n"
        assert by_augeas(lens, text) == by_vlhook_checked(spec.file, text) == [(name, value)]
