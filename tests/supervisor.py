# SPDX-License-Identifier: LGPL-2.1-or-later
"""A service manager for one service: it speaks systemd's notify protocol and keeps descriptors.

    with Supervisor(tmp_path / "notify", argv, log) as service:
        service.wait_for("READY=1")
        service.restart(signal.SIGKILL)

After each end the service is started anew with the descriptors that it stored, as Restart=always does.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PATIENCE = 60.0


class Supervisor:
    def __init__(self, address: Path, argv: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._argv = list(argv)
        self._environment = environment
        self._log = log
        self._address = address
        self._stored: dict[str, list[int]] = {}
        self._news = threading.Condition()
        self.said: list[str] = []
        """Every line since the latest start."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        threading.Thread(target=self._listen, daemon=True).start()
        self.process = self._start()

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.forget()
        self._socket.shutdown(socket.SHUT_RDWR)

    def _start(self) -> subprocess.Popen[bytes]:
        names = [(name, fd) for name, fds in self._stored.items() for fd in fds]
        # Numbers that nothing else has, out of the way of 3, 4, …
        copies = [os.dup2(fd, 200 + n, inheritable=True) for n, (_, fd) in enumerate(names)]
        moves = " ".join(f"{3 + n}<&{fd} {fd}<&-" for n, fd in enumerate(copies))
        listen = ""
        if names:
            joined = ":".join(name for name, _ in names)
            listen = f"export LISTEN_PID=$$ LISTEN_FDS={len(names)} LISTEN_FDNAMES={joined}; "
        shell = f'{listen}exec "$@" {moves}'
        environment = {**self._environment, "NOTIFY_SOCKET": str(self._address)}
        with open(self._log, "ab") as log:
            # bash: sh has no descriptors of more than one digit.
            process = subprocess.Popen(
                ["/bin/bash", "-c", shell, "service", *self._argv],
                env=environment, stdin=subprocess.DEVNULL, stderr=log, cwd="/", pass_fds=copies,
            )  # fmt: skip
        for fd in copies:
            os.close(fd)
        return process

    def restart(self, number: signal.Signals) -> None:
        """End the service with this signal and start it again at once."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        with self._news:
            self.said.clear()
        self.process = self._start()

    def forget(self) -> None:
        """Drop what was stored, as a manager does when a service is stopped."""
        for fds in self._stored.values():
            for fd in fds:
                os.close(fd)
        self._stored.clear()

    def stored(self) -> list[str]:
        return [name for name, fds in self._stored.items() for _ in fds]

    def wait_for(self, line: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: line in self.said, PATIENCE), f"{line} not in {self.said}"

    def _listen(self) -> None:
        while True:
            data, extra, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(16 * 4))
            if not data:
                return
            lines = data.decode().split("\n")
            passed = array.array("i")
            for _, _, raw in extra:
                passed.frombytes(raw)
            with self._news:
                self._take(dict(line.split("=", 1) for line in lines), list(passed))
                self.said += lines
                self._news.notify_all()

    def _take(self, words: dict[str, str], passed: list[int]) -> None:
        name = words.get("FDNAME", "stored")
        if "FDSTORE" in words:
            self._stored.setdefault(name, []).extend(passed)
            return
        if "FDSTOREREMOVE" in words:
            passed += self._stored.pop(name, [])
        for fd in passed:  # of a BARRIER: closing it is the answer
            os.close(fd)
