# SPDX-License-Identifier: LGPL-2.1-or-later
"""What real hosts did on real storage, logged step by step, is what the generators do."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.leases.rig import Rig, RigHost
from vlhook.cli import cli
from vlhook.leases import driver, fence, paxos
from vlhook.leases.area import Identity, Lease
from vlhook.leases.blockio import BlockFile
from vlhook.leases.driver import Cancel, drive, log_steps
from vlhook.leases.effects import LOCKSPACE, RESOURCE
from vlhook.leases.engine import Refused
from vlhook.leases.errors import Abandoned, StorageError
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.replay import OPERATIONS, BadLog, Outcome, read_lines, replay
from vlhook.leases.steplog import SMALLEST, StepLog

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "steps"
    written = StepLog(str(path), 256 << 20)
    log_steps(written)
    yield path
    log_steps(None)
    written.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"))
    rig.join(1, 2)
    yield rig
    rig.stop()


def run_again(log: Path) -> Outcome:
    return replay(read_lines(str(log)), str(log))


def agreed(log: Path) -> Outcome:
    outcome = run_again(log)
    assert outcome.disagreements == []
    return outcome


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def rewrite(log: Path, entries: list[dict[str, Any]]) -> None:
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def take_and_give(host: RigHost, rig: Rig, disk: str, shared: bool = False) -> None:
    host.start("web", rig.want(disk, shared))
    host.stop("web")


def test_the_life_of_a_lease_agrees_and_tells_who_held_it_when(rig: Rig, log: Path) -> None:
    one, two = rig.hosts[1], rig.hosts[2]
    take_and_give(one, rig, "life")
    two.start("db", rig.want("life"))
    one.refusal("web", rig.want("life"))
    two.stop("db")
    take_and_give(one, rig, "life", shared=True)
    outcome = agreed(log)
    assert outcome.steps > 30
    assert (outcome.cut, outcome.open) == (0, 0)
    name = rig.want("life").name
    mine = sorted((h for h in outcome.holdings if h.name == name), key=lambda h: h.since)
    assert [(h.host_id, h.shared) for h in mine] == [(1, False), (2, False), (1, True)]
    assert [h.lver for h in mine] == sorted(h.lver for h in mine)
    for former, latter in zip(mine, mine[1:]):
        assert former.until is not None
        assert former.since < former.until < latter.since


def test_joining_renewing_resuming_and_leaving_agree(tmp_path: Path, log: Path) -> None:
    folder = tmp_path / "leases"
    folder.mkdir()
    rig = Rig(folder, io_timeout=1)
    (host,) = rig.join(7)
    assert host.lease.wait_renewal(30)
    host.lease.leave()
    agreed(log)
    assert {line["run"] for line in lines(log) if "run" in line} == {"delta.acquire", "delta.renew", "delta.release"}


def test_what_a_clean_up_and_an_early_end_of_a_host_did_agrees(rig: Rig, tmp_path: Path, log: Path) -> None:
    one, want = rig.hosts[1], rig.want("cleaned")
    take_and_give(one, rig, "cleaned")
    assert one.engine.clean(want)
    folder = tmp_path / "leases"
    folder.mkdir()
    other = Rig(folder, io_timeout=1)
    dead, living = other.join(1, 2)
    dead.lease.stop()
    steps = fence.end_membership(other.space(2), 1, b"host-1")
    with BlockFile(str(other.lockspace)) as file:
        drive(steps, {LOCKSPACE: file}, member=living.lease.check, seen=living.lease.seen)
    agreed(log)
    runs = {line["run"] for line in lines(log) if "run" in line}
    assert {"cleanup.clean", "fence.end_membership"} <= runs
    living.lease.stop()


def test_every_protocol_operation_can_be_run_again() -> None:
    """What the modules that call `drive` hand to it is what the log may hold."""
    run = set()
    for path in (ROOT / "vlhook").rglob("*.py"):
        text = path.read_text()
        if "drive(" not in text or path.name == "driver.py":
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        nodes = list(ast.walk(ast.parse(text)))
        parts = [node.value for node in nodes if isinstance(node, ast.YieldFrom)]
        for node in nodes:
            if node in parts:
                continue
            steps = _named(module, node.func) if isinstance(node, ast.Call) else None
            if inspect.isgeneratorfunction(steps) and steps.__module__.startswith("vlhook.leases."):
                run.add(f"{steps.__module__.rpartition('.')[2]}.{steps.__name__}")
    assert len(run) > 15
    assert run <= set(OPERATIONS)


def _named(module: object, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return getattr(module, node.id, None)
    return getattr(_named(module, node.value), node.attr, None) if isinstance(node, ast.Attribute) else None


def test_contending_threads_agree(rig: Rig, log: Path) -> None:
    def contend(host: RigHost, guest: str) -> None:
        for _ in range(10):
            try:
                host.start(guest, rig.want("fought"))
            except Refused:
                continue
            host.stop(guest)

    threads = [
        threading.Thread(target=contend, args=(host, f"{host.me[0]}-{number}"))
        for host in rig.hosts.values()
        for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome = agreed(log)
    assert outcome.operations > 20


class Broken(BlockFile):
    """Fails the write numbered `at`, once."""

    at = 2

    def write(self, offset: int, data: bytes) -> None:
        self.at -= 1
        if not self.at:
            raise StorageError(op="write", where=self.path, why="injected")
        super().write(offset, data)


def test_a_storage_error_and_the_clean_up_after_it_agree(rig: Rig, log: Path) -> None:
    take_and_give(rig.hosts[1], rig, "broken")
    path = str(rig.path(rig.want("broken")))
    lease = Lease(LOCKSPACE_NAME.encode(), rig.want("broken").name.encode(), path, str(rig.lockspace), FILE)
    with Broken(path) as file, BlockFile(str(rig.lockspace), writable=False) as space:
        with pytest.raises(StorageError):
            drive(paxos.acquire(lease, rig.hosts[1].lease.identity), {RESOURCE: file, LOCKSPACE: space})
    agreed(log)
    errors = [line["error"]["="] for line in lines(log) if "error" in line]
    assert errors == ["StorageError"]
    assert lines(log)[-1]["failed"][0] == "StorageError"


def test_an_attempt_that_was_given_up_agrees(rig: Rig, log: Path) -> None:
    take_and_give(rig.hosts[1], rig, "given up")
    path = str(rig.path(rig.want("given up")))
    lease = Lease(LOCKSPACE_NAME.encode(), rig.want("given up").name.encode(), path, str(rig.lockspace), FILE)
    cancel = Cancel()
    cancel.cancel("the test wants it")
    with BlockFile(path) as file, pytest.raises(Abandoned):
        drive(paxos.acquire(lease, Identity(1, 1)), {RESOURCE: file}, cancel=cancel)
    agreed(log)


# ------------------------------------------------------------------------------ what does not agree is found


def _change(log: Path, change: Any) -> Outcome:
    entries = lines(log)
    change(entries)
    rewrite(log, entries)
    return run_again(log)


def test_another_order_of_writes_is_found(rig: Rig, log: Path) -> None:
    take_and_give(rig.hosts[1], rig, "order")

    def swap(entries: list[dict[str, Any]]) -> None:
        writes = [i for i, e in enumerate(entries) if e.get("ask", {}).get("=") == "Write"]
        first, second = writes[:2]
        entries[first]["ask"], entries[second]["ask"] = entries[second]["ask"], entries[first]["ask"]

    found = _change(log, swap).disagreements
    assert found
    assert found[0].operation == "paxos.acquire"
    assert "asks for" in found[0].what


def test_a_missing_check_of_membership_is_found(rig: Rig, log: Path) -> None:
    take_and_give(rig.hosts[1], rig, "member")

    def drop(entries: list[dict[str, Any]]) -> None:
        entries.remove(next(e for e in entries if e.get("ask", {}).get("=") == "Member"))

    assert _change(log, drop).disagreements


def test_a_success_that_the_disk_does_not_bear_out_is_found(rig: Rig, log: Path) -> None:
    """An engine that reported success although the value committed was another's would be found like this."""
    take_and_give(rig.hosts[1], rig, "success")

    def lie(entries: list[dict[str, Any]]) -> None:
        acquire = next(e for e in entries if e.get("run") == "paxos.acquire")
        end = next(e for e in entries if e["op"] == acquire["op"] and "end" in e)
        del end["end"]
        end["failed"] = ["HeldByOther", "no"]

    entries = [e for e in lines(log) if "op" in e]
    rewrite(log, entries)
    found = _change(log, lie).disagreements
    assert [one.operation for one in found] == ["paxos.acquire"]
    assert "ends with" in found[0].what


# ------------------------------------------------------------------------------------------------ its bounds


def test_the_log_never_takes_more_than_its_limit_and_what_is_left_agrees(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "small"
    written = StepLog(str(path), SMALLEST)
    log_steps(written)
    try:
        size = 0
        host = rig.hosts[1]
        while not (tmp_path / "small.1").exists() or size < SMALLEST // 4:
            take_and_give(host, rig, "small")
            size = path.stat().st_size
    finally:
        log_steps(None)
        written.close()
    older = tmp_path / "small.1"
    assert path.stat().st_size + older.stat().st_size <= SMALLEST
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ran = CliRunner().invoke(cli, ["replay", str(path)])
    assert ran.exit_code == 0, ran.output
    assert ran.output.startswith("agrees: ")
    alone = replay(read_lines(str(path)), str(path))
    assert alone.disagreements == []
    assert alone.cut <= 2, "the operations that the change of files cut"


def test_a_log_that_cannot_be_written_is_given_up_and_nothing_else_is(rig: Rig, tmp_path: Path) -> None:
    faults: list[str] = []
    written = StepLog(str(tmp_path / "gone"), 256 << 20, faults.append)
    os.close(written._fd)
    written._fd = os.open("/dev/full", os.O_WRONLY)
    log_steps(written)
    try:
        take_and_give(rig.hosts[1], rig, "full")
    finally:
        log_steps(None)
    assert len(faults) == 1
    assert "No space left" in faults[0]


def test_nothing_is_logged_unless_it_is_wanted(rig: Rig) -> None:
    assert driver._log is None
    take_and_give(rig.hosts[1], rig, "quiet")


def test_the_log_of_an_engine_that_was_killed_in_mid_line_is_read_to_there(rig: Rig, log: Path) -> None:
    take_and_give(rig.hosts[1], rig, "killed")
    whole = log.read_bytes()
    log.write_bytes(whole[:-7])
    outcome = agreed(log)
    assert outcome.open == 1
    log.write_bytes(whole + whole)
    assert agreed(log).open == 0, "the next engine of that file counts anew"


# ---------------------------------------------------------------------------------- logs that are none


@pytest.mark.parametrize(
    "line",
    [b"x", b"[]", b"{}", b'{"protocol-log": 9}', b'{"op": 1}', b'{"op": "1", "at": 2}',
     b'{"op": 1, "at": 1, "run": "os.system", "with": {}}', b'{"op": 1, "at": 1, "run": [], "with": {}}',
     b'{"op": 1, "at": 1, "run": "area.read_area", "with": {"lease": {"=": "Popen"}}}',
     b'{"op": 1, "at": 1, "run": "area.read_area", "with": {"lease": {"z": "eJw="}}}', b"[" * 100000],
)  # fmt: skip
def test_what_is_no_log_is_refused_with_its_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "no log"
    path.write_bytes(b'{"protocol-log": 1, "pid": 1}\n' + line + b"\n")
    with pytest.raises(BadLog, match="line 2"):
        run_again(path)
    ran = CliRunner().invoke(cli, ["replay", str(path)])
    assert ran.exit_code == 2
    assert ran.output.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    ran = CliRunner().invoke(cli, ["replay", str(tmp_path / "absent")])
    assert (ran.exit_code, ran.output.count("\n")) == (2, 1)
    assert "No such file" in ran.output


KEYS = st.sampled_from(["=", "z", "op", "at", "run", "with", "ask", "got", "end"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(ANYTHING)
def test_any_json_is_a_log_or_is_refused(value: object) -> None:
    begin = {"op": 1, "at": 0, "run": "area.read_area", "with": {"lease": None, "guess": None}}
    for line in (value, {"op": 1, "at": 1, "ask": value, "got": value}, {**begin, "with": value}):
        try:
            replay([json.dumps(line).encode() + b"\n"], "x")
        except BadLog:
            pass
