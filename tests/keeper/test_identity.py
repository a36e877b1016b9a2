# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's name: made once, kept, and made anew where the state came from another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlhook.keeper.identity import IdentityUnusable, Machine, host_identity

HERE = Machine("machine-a", "dmi-a")


def test_the_name_is_made_once_and_kept(tmp_path: Path) -> None:
    first = host_identity(tmp_path / "lib", HERE)
    again = host_identity(tmp_path / "lib", HERE)
    assert first == again
    assert len(first.name.encode()) <= 47
    assert first.name[36] == "."
    assert host_identity(tmp_path / "other", HERE).name != first.name


@pytest.mark.parametrize("machine", [Machine("machine-b", "dmi-a"), Machine("machine-a", "dmi-b")])
def test_a_clone_gets_a_name_of_its_own(tmp_path: Path, machine: Machine) -> None:
    first = host_identity(tmp_path, HERE)
    clone = host_identity(tmp_path, machine)
    assert clone.name != first.name
    assert clone.renamed_from == first.name
    assert host_identity(tmp_path, machine).renamed_from == ""


@pytest.mark.parametrize("machine", [Machine("machine-a", ""), Machine("", "dmi-a"), Machine("", "")])
def test_what_cannot_be_read_for_a_moment_is_no_sign_of_a_clone(tmp_path: Path, machine: Machine) -> None:
    first = host_identity(tmp_path, HERE)
    assert host_identity(tmp_path, machine).name == first.name
    assert host_identity(tmp_path, HERE).name == first.name


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}', '{"name": "x", "machine": {}}'])
def test_a_damaged_identity_is_an_error_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "host-identity"
    path.write_text(text)
    with pytest.raises(IdentityUnusable, match="host-identity"):
        host_identity(tmp_path, HERE)
    assert path.read_text() == text
