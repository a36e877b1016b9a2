# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tokens: one prepare of one guest by one libvirtd, soon (safety rules, 16)."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlhook.keeper.incoming import LIFE_SECONDS, MAX_TOKENS, Tokens
from vlhook.keeper.state import Caller

CALLER = Caller(10, 20)
UUID = "e4fc25a6-e112-5280-beea-07b6c036da24"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    return Tokens(tmp_path, clock)


def test_a_token_is_worth_one_prepare(tokens: Tokens) -> None:
    token = tokens.make(UUID, CALLER)
    assert tokens.take(token, "web1", UUID, CALLER)
    assert not tokens.take(token, "web1", UUID, CALLER)


def test_no_token_and_one_that_nobody_made_are_worth_nothing(tokens: Tokens) -> None:
    tokens.make(UUID, CALLER)
    assert not tokens.take(None, "web1", UUID, CALLER)
    assert not tokens.take("a" * 32, "web1", UUID, CALLER)


@pytest.mark.parametrize(("uuid", "caller"), [("other", CALLER), (UUID, Caller(10, 21)), (UUID, Caller(11, 20))])
def test_a_token_of_another_guest_or_libvirtd_is_used_up_for_nothing(tokens: Tokens, uuid: str, caller: Caller) -> None:
    token = tokens.make(UUID, CALLER)
    assert not tokens.take(token, "web1", uuid, caller)
    assert not tokens.take(token, "web1", UUID, CALLER)


def test_a_token_grows_old(tokens: Tokens, clock: Clock) -> None:
    token, other = tokens.make(UUID, CALLER), tokens.make(UUID, CALLER)
    clock.now += LIFE_SECONDS - 1
    assert tokens.take(token, "web1", UUID, CALLER)
    clock.now += 1
    assert not tokens.take(other, "web1", UUID, CALLER)


def test_a_guest_that_was_stored_with_the_token_is_started_and_does_not_come_in(
    tokens: Tokens, tmp_path: Path
) -> None:
    """After an offline migration the stored XML has it; a live one stores the XML at its end."""
    token, other = tokens.make(UUID, CALLER), tokens.make(UUID, CALLER)
    (tmp_path / "web1.xml").write_text(f"<domain>{token}</domain>")
    assert not tokens.take(token, "web1", UUID, CALLER)
    assert tokens.take(other, "web1", UUID, CALLER)


def test_what_cannot_be_looked_up_does_not_come_in(tokens: Tokens, tmp_path: Path) -> None:
    (tmp_path / "web1.xml").mkdir()
    assert not tokens.take(tokens.make(UUID, CALLER), "web1", UUID, CALLER)
    assert not tokens.take(tokens.make(UUID, CALLER), "../web1", UUID, CALLER)


def test_there_is_a_bound_and_the_oldest_go_first(tokens: Tokens) -> None:
    made = [tokens.make(UUID, CALLER) for _ in range(MAX_TOKENS + 1)]
    assert not tokens.take(made[0], "web1", UUID, CALLER)
    assert tokens.take(made[1], "web1", UUID, CALLER)
    assert tokens.take(made[-1], "web1", UUID, CALLER)
