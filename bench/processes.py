# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs to be measured: how they are started, what they cost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"
"""The system's, as installed: without the costs of a virtual environment."""
LIBVIRTS = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}
"""What libvirtd gives a hook."""


@cache
def compile_all() -> None:
    """As a package's installation does it; without, the hook is compiled at each event."""
    command = [PYTHON, "-m", "compileall", "-q", str(ROOT / "vlhook"), str(ROOT / "bench"), str(ROOT / "tests")]
    subprocess.run(command, env=environment(), check=True)


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run_time(command: Sequence[str], extra: dict[str, str], stdin: Path) -> float:
    """Seconds from the start of a process to its end, which must be a success; its output goes nowhere."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(stdin), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    begun = time.perf_counter()
    pid = os.posix_spawn(command[0], command, {**LIBVIRTS, **extra}, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"{' '.join(command)}: wait status {status}")
    return took


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads that a process has ever had."""
    return time.clock_gettime((~pid << 3) | 2)


def idle_ticks(parties: Mapping[str, Sequence[int]], seconds: float) -> dict[str, float]:
    """Clock ticks (1/100 s) that the processes of each party use in that time, by the system's count."""
    before = {party: sum(_ticks(pid) for pid in pids) for party, pids in parties.items()}
    time.sleep(seconds)
    return {party: float(sum(_ticks(pid) for pid in pids) - before[party]) for party, pids in parties.items()}


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def family(pid: int) -> list[int]:
    """The process and those that descend from it. Threads may end while they are looked at."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def memory(pid: int, field: str = "VmRSS") -> int:
    """Bytes of a line of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise KeyError(field)
