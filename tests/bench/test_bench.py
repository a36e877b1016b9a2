# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bench still runs, and tells of what it measured what was measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from bench import calls
from bench.__main__ import TABLES
from bench.measure import added, alternate, quotients, spread
from bench.report import Row, Table
from bench.tables import leases
from tests import needs

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.root
@pytest.mark.sanlock
@pytest.mark.xdist_group("bench")
def test_the_cheapest_table_measures_vlhook_beside_the_real_sanlock_daemon() -> None:
    needs.require_root()
    needs.require_program("sanlock")
    table = leases.smallest()
    assert [row.what for row in table.rows] == ["acquire, tmpfs, 1 lease", "release, tmpfs, 1 lease"]
    for row in table.rows:
        assert set(row.figures) == {"vlhook", "sanlock"}
        assert row.ratio() is not None
        assert all(figure > 0 for rounds in row.figures.values() for figure in rounds)
    assert json.loads(json.dumps(table.as_json()))["rows"][0]["ratio"]["median"] > 0


@pytest.mark.parametrize("name", TABLES)
def test_each_table_can_be_made(name: str) -> None:
    module = importlib.import_module(f"bench.tables.{name}")
    assert module.ROUNDS > 0
    assert callable(module.measure)


def test_what_is_asked_of_the_storage_is_counted_whichever_way_it_is_asked() -> None:
    trace = """\
1  openat(AT_FDCWD</>, "/leases/ab", O_RDWR|O_SYNC|O_DIRECT) = 4</leases/ab>
1  preadv2(4</leases/ab>, [{iov_base="\\20"..., iov_len=1536}], 1, 0, 0 <unfinished ...>
2  pwritev2(5</leases/__LIBVIRT__DISKS__>, [{iov_base="\\1"..., iov_len=512}], 1, 0, 0) = 512
2  openat(AT_FDCWD</>, "/etc/passwd", O_RDONLY) = 7</etc/passwd>
1  <... preadv2 resumed>) = 1536
3  io_submit(0x7f, 2, [{aio_data=0, aio_lio_opcode=IOCB_CMD_PREAD, aio_fildes=1</leases/ab>, aio_buf=0x7, \
aio_nbytes=1024, aio_offset=0}, {aio_data=0, aio_lio_opcode=IOCB_CMD_PWRITE, aio_fildes=1</leases/ab>, \
aio_buf="\\1"..., aio_nbytes=512, aio_offset=9}]) = 2
1  unlink("/leases/ab") = 0
"""
    found = calls.count(trace, Path("/leases"))
    assert found == {
        calls.OPENS: 1, calls.READS: 2, calls.READ_BYTES: 2560, calls.WRITES: 1, calls.WRITTEN_BYTES: 512,
        calls.REMOVALS: 1,
    }  # fmt: skip


def test_parties_take_turns_and_what_comes_before_is_not_counted() -> None:
    order: list[str] = []
    figures = alternate({name: lambda name=name: float(order.append(name) or len(order)) for name in "ab"}, 2)
    assert "".join(order) == "baabba"
    assert figures == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_the_ratio_is_that_of_each_round() -> None:
    """The machine was ten times slower in the second round, for both."""
    found = quotients([1.0, 10.0, 1.0], [2.0, 20.0, 2.0])
    assert found is not None
    assert (found.low, found.median, found.high) == (0.5, 0.5, 0.5)


def test_what_is_added_is_compared_and_not_the_whole() -> None:
    found = added([130.0] * 9, [110.0] * 9, [100.0] * 9)
    assert found is not None
    assert found.median == 3.0
    assert added([130.0], [99.0], [100.0]) is None


def test_quartiles_are_of_the_rounds() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]).low == 2.0


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("r", {"vlhook": [0.2], "x": [1.0]}, peer="x", target=0.2), True),
        (Row("r", {"vlhook": [0.3], "x": [1.0]}, peer="x", target=0.2), False),
        (Row("r", {"vlhook": [0.9]}, "s", target=1.0, absolute=True), True),
        (Row("r", {"vlhook": [1.1]}, "s", target=1.0, absolute=True), False),
        (Row("r", {"vlhook": [1.0], "x": [1.0]}, peer="x"), None),
    ],
)
def test_a_target_is_met_or_missed_or_not_there(row: Row, met: bool | None) -> None:
    assert row.met() is met
    line = Table("t", "title", rows=[row]).text().splitlines()[4]
    assert line.split("|")[-2].strip() == {True: "yes", False: "no", None: ""}[met]


def test_every_source_of_the_bench_is_short() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
