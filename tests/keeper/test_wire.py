# SPDX-License-Identifier: LGPL-2.1-or-later
"""The message framing: what was packed is read back, anything else is a WireError."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlhook.keeper.wire import MAX_FIELDS, WireError, pack, read_message


def source(data: bytes, step: int = 3) -> Callable[[int], bytes]:
    left = [data]

    def receive(size: int) -> bytes:
        part, left[0] = left[0][: min(size, step)], left[0][min(size, step) :]
        return part

    return receive


@given(st.lists(st.binary(max_size=200), max_size=MAX_FIELDS), st.integers(1, 50))
def test_what_was_packed_is_read_back_however_it_is_cut(fields: list[bytes], step: int) -> None:
    assert read_message(source(pack(b"verb", fields), step)) == (b"verb", fields)


@given(st.binary(max_size=300))
def test_garbage_is_a_wire_error_or_nothing(data: bytes) -> None:
    try:
        message = read_message(source(data))
    except WireError:
        return
    assert message is None or data.startswith(b"vlhook/1 ")


def test_a_peer_that_hangs_up_before_a_message_is_no_error() -> None:
    assert read_message(source(b"")) is None


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_message_that_is_cut_off_is_an_error(cut: int) -> None:
    data = pack(b"hook", [b"abc", b"de"])
    assert len(data) > cut
    with pytest.raises(WireError):
        read_message(source(data[:-cut]))


def test_a_long_message_is_refused_before_it_is_read() -> None:
    taken = []

    def receive(size: int) -> bytes:
        taken.append(size)
        return b"vlhook/1 hook 1 999999999\n" if len(taken) == 1 else bytes(size)

    with pytest.raises(WireError, match="too long"):
        read_message(receive)
    assert len(taken) == 1


def test_an_endless_head_is_given_up() -> None:
    with pytest.raises(WireError, match="4096"):
        read_message(lambda size: b"x" * size)
