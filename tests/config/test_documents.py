# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files that are made from the table of settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.config import documents, settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", documents.documents())
def test_the_file_in_the_source_tree_is_what_the_table_makes(name: str) -> None:
    said = "python3 -m vlhook.config.documents"
    assert (ROOT / name).read_text(encoding="utf-8") == documents.documents()[name], said


def test_the_shipped_file_sets_nothing_and_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    shipped = tmp_path / settings.OWN_FILE
    shipped.write_text(documents.shipped_file(), encoding="utf-8")
    assert settings.load(tmp_path).origins == {}
    examples = re.findall(r"^#([a-z_]+ = .*)$", documents.shipped_file(), re.MULTILINE)
    shipped.write_text("\n".join(examples), encoding="utf-8")
    found = settings.load(tmp_path)
    assert found == settings.Settings()
    assert list(found.origins) == settings.names_of(settings.OWN_FILE)


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 40000))
def test_the_pattern_of_a_range_matches_its_numbers_and_no_others(one: int, other: int, number: int) -> None:
    low, high = sorted((one, other))
    pattern = documents.number_pattern(low, high)
    for tried in (number, low - 1, low, high, high + 1):
        inside = low <= tried <= high
        assert bool(re.fullmatch(pattern, str(tried))) is inside


def test_the_manual_describes_every_setting() -> None:
    manual = documents.manual()
    for name, spec in settings.SPECS.items():
        assert f"### {name}\n\n{spec.brief}" in manual
