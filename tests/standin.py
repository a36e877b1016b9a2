# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that look like a host's QEMUs, for hosts that share this machine.

    with HostProcesses(tmp_path / "proc") as host:
        qemu = host.start(uuid, "demo")
        ... what is tested is given host.proc_dir as its process table ...

A stand-in has `-uuid UUID` on its command line and nothing else of a QEMU. It
ends by itself when the process that started it ends, however that happens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# It waits on its standard input, which nobody writes to: its end is the end of the tests.
_PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "ignore-sigterm" else signal.SIG_DFL)
os.write(1, b"ready")
os.read(0, 1)
"""

# The first thread ends, another goes on: such a process looks like a zombie and is none.
_HEADLESS = """
import ctypes, os, threading
def rest():
    os.write(1, b"ready")
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""


class HostProcesses:
    """One host's process table: a directory of links PID -> /proc/PID, as `--proc-dir` takes it."""

    def __init__(self, directory: Path) -> None:
        self.proc_dir = directory
        self.processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> HostProcesses:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(
        self,
        uuid: str,
        name: str = "demo",
        ignore_sigterm: bool = False,
        extra_args: Sequence[str] = (),
        *,
        headless: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a stand-in; it is ready for signals and in the table when this returns."""
        program = _HEADLESS if headless else _PROGRAM
        command = [
            sys.executable, "-I", "-S", "-c", program, "ignore-sigterm" if ignore_sigterm else "-",
            "-name", f"guest={name},debug-threads=on", "-uuid", uuid, *extra_args,
        ]
        return self.run(command)

    def run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start any program that writes something to its standard output when it is ready."""
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        if not os.read(process.stdout.fileno(), 64):
            raise RuntimeError(f"{command[0]} ended with {process.wait()} before it was ready")
        self.add(process.pid)
        return process

    def add(self, pid: int) -> None:
        """Put a process that somebody else started into the table."""
        link = self.proc_dir / str(pid)
        if not link.is_symlink():
            link.symlink_to(f"/proc/{pid}")

    def remove(self, pid: int) -> None:
        (self.proc_dir / str(pid)).unlink(missing_ok=True)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End a stand-in at once, whatever its state, and take it out of the table."""
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self.remove(process.pid)

    def close(self) -> None:
        for process in self.processes:
            self.stop(process)
        self.processes.clear()
