# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook recover` removes what a keeper left only when nothing lives that could write to a disk."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.keeper import hosts as keepers
from vlhook.cli import cli

UUID = "6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10"


class Mess:
    def __init__(self, base: Path) -> None:
        self.run_dir, self.state_dir, self.proc = base / "run", base / "state", base / "proc"
        (self.run_dir / "guests").mkdir(parents=True)
        self.state_dir.mkdir()
        self.proc.mkdir()
        self.damaged = self.run_dir / "guests" / f"{UUID}.1"

    def damage(self) -> None:
        self.damaged.write_bytes(b"00000000\n{}")

    def recover(self, *words: str) -> Result:
        places = ["--run-dir", self.run_dir, "--state-dir", self.state_dir, "--proc-dir", self.proc, "--no-services"]
        return CliRunner().invoke(cli, ["recover", *words, *map(str, places)])


@pytest.fixture
def mess(tmp_path: Path) -> Mess:
    return Mess(tmp_path)


def test_where_nothing_is_wrong_nothing_is_done(mess: Mess) -> None:
    result = mess.recover("--yes")
    assert result.exit_code == 0
    assert "state: in order" in result.output


def test_damaged_state_is_removed_when_nothing_lives(mess: Mess) -> None:
    mess.damage()
    assert mess.recover("--dry-run").exit_code == 1
    assert mess.recover().exit_code == 1, "nobody said yes"
    assert mess.damaged.exists()
    result = mess.recover("--yes")
    assert result.exit_code == 0, result.output
    assert not mess.damaged.exists()
    assert "the checksum is wrong" in result.output


def test_it_is_kept_while_a_qemu_lives(mess: Mess) -> None:
    mess.damage()
    words = ["qemu-system-x86_64", "-c", "import signal; signal.pause()", "-uuid", UUID]
    process = subprocess.Popen(words, executable=sys.executable)
    try:
        (mess.proc / str(process.pid)).symlink_to(f"/proc/{process.pid}")
        keepers.wait_for("its command line", lambda: UUID.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        result = mess.recover("--yes")
        assert result.exit_code == 2
        assert str(process.pid) in result.output
        assert "[VLH-C156]" in result.output
        assert mess.damaged.exists()
    finally:
        process.kill()
        process.wait()
    (mess.proc / str(process.pid)).unlink()
    assert mess.recover("--yes").exit_code == 0


def test_it_is_kept_while_a_keeper_has_its_lock(mess: Mess) -> None:
    mess.damage()
    fd = os.open(mess.run_dir / "keeper.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert mess.recover("--yes").exit_code == 2
        assert mess.damaged.exists()
    finally:
        os.close(fd)


@pytest.mark.xdist_group("cleanup")
def test_a_keeper_that_does_not_start_over_damaged_state_starts_after_it(tmp_path: Path) -> None:
    with keepers.hosts(tmp_path, 1, io_timeout=2) as (one,):
        guest = keepers.Guest("web", [tmp_path / "web.img"])
        assert one.hook("web", "prepare", "begin", "-", xml=guest.xml(1)).returncode == 0
        one.kill_keeper()
        (record,) = (one.run_dir / "guests").iterdir()
        record.write_bytes(b"x" + record.read_bytes()[1:])
        one.start_keeper()
        keepers.wait_for("the keeper to say so", lambda: "damaged" in str(one.status().get("alarms", "")))
        one.kill_keeper()
        places = ["--run-dir", one.run_dir, "--state-dir", one.dir / "state", "--proc-dir", one.proc]
        result = CliRunner().invoke(cli, ["recover", "--yes", "--no-services", *map(str, places)])
        assert result.exit_code == 0, result.output
        one.start_keeper()
        one.wait_joined()
        assert one.status()["guests"] == []
