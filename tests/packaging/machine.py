# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine to install packages on: this one's own system, in which every change is lost in the end.

An overlay over / with a /run, a /proc and a network of its own. What is in `packages` appears as /packages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests import needs
from tests.guests.waiting import wait_for

from .building import PATH

INIT = """\
set -e
base=$1 packages=$2
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/up" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/up,workdir=$base/work" overlay "$base/root" || exit 77
cd "$base/root"
mkdir -p packages
mount --bind "$packages" packages
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t sysfs sysfs sys
pid=$(readlink /proc/self)
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock run/libvirt packages/.old
pivot_root . packages/.old
echo "$PPID" >/dev/null
exec 3>/packages/ready
umount -l /packages/.old
ip link set lo up
echo up >&3
exec 3>&-
exec /usr/bin/python3 -I -c 'import sys; sys.path.insert(0, "/packages"); import namespaces; namespaces.bury_orphans()'
"""


class Machine:
    def __init__(self, base: Path, packages: Path) -> None:
        """Raises nothing; skips the test where this kernel has no overlay for it."""
        needs.require_root()
        needs.require_programs("unshare", "nsenter", "pivot_root", "ip")
        base.mkdir()
        self.packages = packages
        self.log = base.with_suffix(".log")
        shutil.copy(Path(__file__).parents[1] / "guests/namespaces.py", packages / "namespaces.py")
        (packages / "ready").unlink(missing_ok=True)
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "-u", "-i", "-n", "-p", "--propagation", "private", "--fork", "--kill-child",
                 "--", "/bin/sh", "-c", INIT, "sh", str(base), str(packages)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env={"PATH": PATH}, cwd="/", start_new_session=True,
            )  # fmt: skip
        wait_for("the machine", lambda: self._up() or self._process.poll() is not None)
        if self._process.poll() == 77:
            pytest.skip(f"no overlay over / here: {self.log.read_text().strip()}")
        assert self._up(), self.log.read_text()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self.init = int(children[0])

    def _up(self) -> bool:
        ready = self.packages / "ready"
        return ready.exists() and ready.read_text() == "up\n"

    def run(self, command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """A shell command there; standard error goes to standard output."""
        ran = subprocess.run(
            ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "--", "/bin/bash", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
            check=False, env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **environment}, cwd="/",
        )  # fmt: skip
        assert not check or ran.returncode == 0, f"{command}: exit status {ran.returncode}\n{ran.stdout}"
        return ran

    def says(self, command: str, **environment: str) -> str:
        return self.run(command, **environment).stdout

    def end(self) -> None:
        """Everything in it dies at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(60)
