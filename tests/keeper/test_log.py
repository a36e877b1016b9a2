# SPDX-License-Identifier: LGPL-2.1-or-later
"""The log: a line an event on a stream, an entry with fields in systemd's journal, and neither floods."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlhook.keeper import journal, messages
from vlhook.keeper.log import SAME_LINE_MAX, Log
from vlhook.leases.engine import Refused, Want
from vlhook.leases.errors import HeldByOther
from vlhook.leases.owner import Holder


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def written(log: Log, pipe: tuple[int, int]) -> list[str]:
    log.close()
    return os.read(pipe[0], 1 << 20).decode().splitlines()


def test_on_a_stream_each_event_is_one_line_with_its_priority(pipe: tuple[int, int]) -> None:
    log = Log("vlhookd", pipe[1])
    log.info("granted", more={"lease": ["a", "b"]}, guest="web 1", leases=2)
    log.alarm("storage", "no answer\nfor 5 s")
    assert written(log, pipe) == [
        '<6>vlhookd: granted guest="web 1" leases=2',
        '<3>vlhookd: alarm what="no answer?for 5 s"',
    ]


def test_a_line_that_is_repeated_endlessly_is_dropped_and_counted(pipe: tuple[int, int]) -> None:
    log = Log("vlhookd", pipe[1])
    for _ in range(SAME_LINE_MAX + 7):
        log.warning("refused", guest="web1")
    log.info("granted", guest="web1")
    lines = written(log, pipe)
    assert lines[:-1] == ["<4>vlhookd: refused guest=web1"] * SAME_LINE_MAX
    assert lines[-1] == "<6>vlhookd: granted guest=web1 lines_lost_before=7"


def entry(data: bytes) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (line.partition("=") for line in data.decode().splitlines())]


@pytest.fixture
def reader(tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What journald would read, for a program whose standard error is `pipe`."""
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        made.settimeout(30)
        here = os.fstat(pipe[1])
        monkeypatch.setenv("JOURNAL_STREAM", f"{here.st_dev}:{here.st_ino}")
        real = journal.of_stream
        monkeypatch.setattr(journal, "of_stream", lambda program, fd: real(program, fd, str(path)))
        yield made


def test_the_journal_gets_guest_leases_versions_and_holders_as_fields(
    reader: socket.socket, pipe: tuple[int, int]
) -> None:
    log = Log("vlhookd", pipe[1])
    log.info("granted", more={"lease": ["aa", "bb"], "lver": [3, 1]}, guest="web1")
    log.warning("refused", more={"lease": ["cc"], "holder": [2]}, guest="web2", why="in use\nVLHOOK_VM=forged")
    first, second = entry(reader.recv(65536)), entry(reader.recv(65536))
    assert first == [
        ("MESSAGE", "granted guest=web1"), ("PRIORITY", "6"), ("SYSLOG_IDENTIFIER", "vlhookd"),
        ("MESSAGE_ID", journal.message_id("granted")), ("VLHOOK_EVENT", "granted"), ("VLHOOK_VM", "web1"),
        ("VLHOOK_LEASE", "aa"), ("VLHOOK_LEASE", "bb"), ("VLHOOK_LVER", "3"), ("VLHOOK_LVER", "1"),
    ]  # fmt: skip
    assert [value for name, value in second if name == "VLHOOK_VM"] == ["web2"], "a text makes no field"
    assert ("VLHOOK_HOLDER", "2") in second
    assert log.close() is None


def test_what_the_journal_does_not_take_is_still_written_as_a_line(
    reader: socket.socket, pipe: tuple[int, int]
) -> None:
    log = Log("vlhookd", pipe[1])
    reader.close()
    log.info("granted", guest="web1")
    assert written(log, pipe) == ["<6>vlhookd: granted guest=web1"]


def test_a_stream_that_is_not_the_journals_gets_lines(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    assert journal.of_stream("vlhookd", pipe[1]) is None


def refused(count: int) -> Refused:
    """A start that wanted `count` disks, all of which host 7 holds."""
    holder = Holder(7, 1, b"uuid.kvm7", 10, alive=True, silent_for=1.0, free_in=0.0)
    error = HeldByOther(name="x", where="", owner_id=7, owner_generation=1, holder=holder)
    return Refused([(Want(f"lease{i}", "space", False, f"/images/{i}.img"), error) for i in range(count)])


def test_a_refusal_names_its_leases_and_their_holder_in_the_journal() -> None:
    assert messages.journal_fields(refused(2)) == {"lease": ["lease0", "lease1"], "holder": [7]}


def test_a_refusal_of_many_disks_stays_one_line_that_can_be_read() -> None:
    line = messages.refusal("web1", refused(20), "/leases")
    assert "disk /images/0.img is in use by host 7 (kvm7) which is alive" in line
    assert line.endswith("(refused, too: disk /images/1.img, disk /images/2.img and 17 more)")
    assert len(line) < 300
