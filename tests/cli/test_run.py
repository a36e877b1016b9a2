# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook run`: the tool runs while the lease is held, not otherwise, and never longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper import hosts as keepers
from vlhook.leases.names import lease_name

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("cleanup")]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[keepers.Host]]:
    with keepers.hosts(tmp_path_factory.mktemp("run"), 2, io_timeout=2) as found:
        for host in found:
            # The host's process table is the machine's: the tool's process is not known in advance.
            assert host.run_dir
        yield found


def start(host: keepers.Host, *words: object) -> subprocess.Popen[str]:
    """`vlhook run WORDS` in the process table of that host."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLHOOK_RUN_DIR": str(host.run_dir)}
    command = [sys.executable, "-m", "vlhook.cli", "run", *map(str, words)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    link(host, process.pid)
    return process


def link(host: keepers.Host, pid: int) -> None:
    path = host.proc / str(pid)
    if not path.is_symlink():
        path.symlink_to(f"/proc/{pid}")


def link_unshare(host: keepers.Host, process: subprocess.Popen[str]) -> int:
    """Put the process that stands for QEMU into the host's table, as soon as it is there."""

    def child() -> int:
        for line in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            command = Path(f"/proc/{line}/cmdline").read_bytes()
            if b"-uuid" in command:
                return int(line)
        return 0

    pid = int(keepers.wait_for("the tool's process", child))
    link(host, pid)
    return pid


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_tool_runs_with_the_lease_and_its_exit_status_is_passed_on(
    pair: list[keepers.Host], tmp_path: Path
) -> None:
    one, two = pair
    image = tmp_path / "a.img"
    image.write_bytes(b"")
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    process = start(one, image, "--", "/bin/sh", "-c", f"cat {fifo}; echo done; exit 7")
    link_unshare(one, process)
    keepers.wait_for("the tool to be watched", lambda: [g for g in one.status()["guests"] if g["phase"] == "running"])
    guest = keepers.Guest("web", [image])
    refused = two.hook("web", "prepare", "begin", "-", xml=guest.xml(1))
    assert refused.returncode == 1
    assert b"vlhook-run-" in refused.stderr
    fifo.write_text("")
    status, out, err = ended(process)
    assert (status, out) == (7, "done\n"), err
    assert two.hook("web", "prepare", "begin", "-", xml=guest.xml(2)).returncode == 0, "it is free at once"


def test_the_tool_is_not_run_while_a_guest_has_the_image(pair: list[keepers.Host], tmp_path: Path) -> None:
    one, two = pair
    image = tmp_path / "b.img"
    image.write_bytes(b"")
    guest = keepers.Guest("db", [image])
    assert two.hook("db", "prepare", "begin", "-", xml=guest.xml(3)).returncode == 0
    made = tmp_path / "made"
    status, _, err = ended(start(one, image, "--", "touch", made))
    assert status == 2
    assert "guest db" in err
    assert err.count("\n") == 1
    assert not made.exists()


def test_when_the_guard_kills_it_everything_of_the_tool_dies(pair: list[keepers.Host], tmp_path: Path) -> None:
    one, _ = pair
    image, pids = tmp_path / "c.img", tmp_path / "pids"
    image.write_bytes(b"")
    script = f"sleep 600 & setsid sleep 600 & jobs -p > {pids}; wait"
    process = start(one, image, "--", "/bin/sh", "-c", script)
    pid = link_unshare(one, process)
    keepers.wait_for("the tool's children", lambda: pids.exists() and len(pids.read_text().split()) == 2)
    inside = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    space = os.readlink(f"/proc/{inside}/ns/pid")
    os.kill(pid, signal.SIGKILL)
    status, _, _ = ended(process)
    assert status == 128 + signal.SIGKILL

    def alive() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == space:
                    found.append(entry.name)
            except OSError:
                continue
        return found

    keepers.wait_for("the whole namespace to end", lambda: not alive())
    name = lease_name(os.fsencode(str(image)))
    keepers.wait_for("the lease to be free", lambda: name not in str(one.status()["guests"]))


@pytest.mark.parametrize("words", [["a.img"], ["--", "true"], ["a.img", "--"], ["-x", "a.img", "--", "true"]])
def test_bad_usage_is_said(pair: list[keepers.Host], words: list[str]) -> None:
    assert ended(start(pair[0], *words))[0] == 2


def test_a_program_that_does_not_exist_takes_no_lease(pair: list[keepers.Host], tmp_path: Path) -> None:
    status, _, err = ended(start(pair[0], tmp_path / "d.img", "--", "no-such-program"))
    assert status == 2
    assert "[VLH-C154]" in err
