# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook setup` on a host made of files: from nothing to a keeper that has joined, and nothing twice.

systemctl and mount are stand-ins that note their calls, for there is no systemd here; 'starting' guard and keeper
starts the real ones.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vlhook.cli import cli
from vlhook.config import settings

ROOT = Path(__file__).resolve().parents[2]
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> {calls}
case "$1" in
is-enabled|is-active) test -e {base}/started-$2; exit;;
enable) touch {base}/started-$3;;
esac
case "$*" in
*vlhook-guard*) run="guard --run-dir {base}/run --proc-dir {base}/proc";;
*vlhookd*) run="keeper --run-dir {base}/run --proc-dir {base}/proc --config-dir {base}/etc --state-dir {base}/state \
--libvirt-run-dir {base}/libvirt";;
*) exit 0;;
esac
PYTHONPATH={root} setsid {python} -m vlhook.$run </dev/null >>{base}/log 2>&1 & echo $! >> {base}/pids
"""
MOUNT = """#!/bin/sh
echo "mount $*" >> {calls}
echo "36 25 0:50 / $1 rw - nfs4 server:/x rw,hard" >> {base}/proc/self/mountinfo
"""


class Fresh:
    """A machine on which vlhook was installed and nothing was set."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for folder in ("etc/hooks", "run", "libvirt/storage", "proc/self", "bin"):
            (base / folder).mkdir(parents=True)
        (base / "proc/self/mountinfo").write_text("25 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
        self.calls = base / "calls"
        self.calls.write_text("")
        words = {"base": base, "calls": self.calls, "root": ROOT, "python": sys.executable}
        for name, text in (("systemctl", SYSTEMCTL), ("mount", MOUNT)):
            path = base / "bin" / name
            path.write_text(text.format(**words))
            path.chmod(0o755)
        self.leases = base / "leases"

    def run(self, *arguments: object, stdin: str = "") -> Result:
        places = {
            "--config-dir": "etc", "--run-dir": "run", "--state-dir": "state", "--libvirt-run-dir": "libvirt",
            "--proc-dir": "proc", "--root": ".",
        }  # fmt: skip
        words = [str(word) for word in arguments]
        for option, folder in places.items():
            words += [option, str(self.base / folder)]
        path = f"{self.base / 'bin'}:{os.environ['PATH']}"
        return CliRunner().invoke(cli, ["setup", *words], input=stdin, env={"PATH": path})

    def tree(self) -> set[str]:
        return {str(path.relative_to(self.base)) for path in self.base.rglob("*")}

    def down(self) -> None:
        pids = self.base / "pids"
        for pid in pids.read_text().split() if pids.exists() else ():
            try:
                os.kill(int(pid), signal.SIGTERM)
            except ProcessLookupError:
                continue
            until = time.monotonic() + 30
            while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
                if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                    break
                time.sleep(0.05)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Fresh]:
    made = Fresh(tmp_path)
    yield made
    made.down()


@pytest.mark.xdist_group("views")
def test_one_command_sets_a_host_up_and_the_second_finds_nothing_to_do(fresh: Fresh) -> None:
    result = fresh.run("--dir", fresh.leases, "--io-timeout", 2, "--yes")
    assert result.exit_code == 0, result.output
    found = settings.load(fresh.base / "etc")
    assert (found.host_id, found.disk_lease_dir, found.io_timeout) == (1, str(fresh.leases), 2)
    assert "to take effect" not in result.output, "the keeper is started with these settings"
    assert (fresh.leases / "__LIBVIRT__DISKS__").exists()
    assert (fresh.leases.stat().st_mode & 0o777) == 0o770
    assert f"SERVER:/EXPORT {fresh.leases} nfs hard" in result.output, "a local directory is not left unsaid"
    hook = fresh.base / "etc/hooks/qemu.d/10-vlhook"
    assert os.access(hook, os.X_OK)
    calls = fresh.calls.read_text()
    for unit in ("vlhook-guard.service", "vlhookd.service", "vlhook-cleanup.timer"):
        assert f"systemctl enable --now {unit}" in calls

    before = fresh.tree()
    fresh.calls.write_text("")
    again = fresh.run("--dir", fresh.leases, "--io-timeout", 2, "--yes")
    assert again.exit_code == 0, again.output
    assert again.output.count("nothing to do") == 7
    assert "enable --now" not in fresh.calls.read_text()
    assert fresh.tree() == before


def test_dry_run_names_the_steps_and_does_none(fresh: Fresh) -> None:
    before = fresh.tree()
    result = fresh.run("--dry-run", "--dir", fresh.leases, "--nfs", "filer:/export/leases", "--host-id", 7)
    assert result.exit_code == 0, result.output
    for words in (
        "set disk_lease_dir",
        f"filer:/export/leases {fresh.leases} nfs hard",
        "host_id to 7",
        "install the hook",
    ):
        assert words in result.output
    assert fresh.tree() == before
    assert "enable --now" not in fresh.calls.read_text()


def test_nfs_goes_to_fstab_once_and_is_mounted(fresh: Fresh) -> None:
    fstab = fresh.base / "etc/fstab"
    fstab.write_text("# mine\n/dev/sda1 / ext4 defaults 0 1")
    for _ in range(2):
        result = fresh.run("--dir", fresh.leases, "--nfs", "filer:/export", "--no-services", "--yes")
        assert result.exit_code == 0, result.output
    assert fstab.read_text() == (
        f"# mine\n/dev/sda1 / ext4 defaults 0 1\nfiler:/export {fresh.leases} nfs hard,nofail,_netdev 0 0\n"
    )
    assert fresh.calls.read_text().count(f"mount {fresh.leases}") == 1


def test_somebody_elses_main_hook_is_not_overwritten(fresh: Fresh) -> None:
    hook = fresh.base / "etc/hooks/qemu"
    hook.write_text("#!/bin/sh\n# mine\n")
    result = fresh.run("--dir", fresh.leases, "--no-services", "--main-hook", "--yes")
    assert result.exit_code == 2
    assert "somebody else's" in result.output
    assert "mine" in hook.read_text()
    assert fresh.run("--dir", fresh.leases, "--no-services", "--yes").exit_code == 0
    assert (fresh.base / "etc/hooks/qemu.d/10-vlhook").exists()


def test_without_a_terminal_it_asks_for_yes(fresh: Fresh) -> None:
    result = fresh.run()
    assert result.exit_code == 2
    assert "[VLH-C152]" in result.output


def test_a_step_that_is_declined_is_left_out(fresh: Fresh, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlhook.cli import setup

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(setup, "sys", type("Sys", (), {"stdin": Terminal()}))
    result = fresh.run("--dir", fresh.leases, "--host-id", 3, "--no-services", stdin="y\nn\nn\nn\n")
    assert result.exit_code == 1, result.output
    assert not fresh.leases.exists()
    assert settings.load(fresh.base / "etc").host_id == 0
    assert settings.load(fresh.base / "etc").disk_lease_dir == str(fresh.leases)


def test_a_step_that_fails_says_why_in_one_line(fresh: Fresh) -> None:
    (fresh.base / "bin/systemctl").write_text("#!/bin/sh\necho 'Unit vlhook-guard.service not found.' >&2\nexit 5\n")
    result = fresh.run("--dir", fresh.leases, "--yes")
    assert result.exit_code == 2
    assert "Unit vlhook-guard.service not found." in result.output
    assert "[VLH-C151]" in result.output


@pytest.mark.parametrize(
    "words", [["--nfs", "nonsense"], ["--host-id", "0"], ["--host-id", "many"], ["--dir", "relative"]]
)
def test_nonsense_is_refused_before_anything_is_done(fresh: Fresh, words: list[str]) -> None:
    before = fresh.tree()
    assert fresh.run("--yes", *words).exit_code == 2
    assert fresh.tree() == before
