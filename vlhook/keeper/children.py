# SPDX-License-Identifier: LGPL-2.1-or-later
"""A child of the keeper that answers requests on a socket, and is ended when it misses a deadline."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import vlhook

from .wire import WireError, read_message

MAX_STUCK = 3


class ChildFailed(Exception):
    """No answer; the child was ended, and the next request gets another one."""


class Child:
    """One process of `module`. Not safe to use from several threads at once."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._socket: Optional[socket.socket] = None
        self._stuck: list[subprocess.Popen[bytes]] = []

    def start(self) -> socket.socket:
        """Start it ahead of the first request. Raises ChildFailed."""
        if self._socket and self._process and self._process.poll() is None:
            return self._socket
        self.end()
        self._stuck = [process for process in self._stuck if process.poll() is None]
        if len(self._stuck) >= MAX_STUCK:
            raise ChildFailed(f"{MAX_STUCK} earlier ones are stuck in the kernel (pid {self._stuck[0].pid})")
        ours, theirs = socket.socketpair()
        package = str(Path(vlhook.__file__).resolve().parent.parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-m", self._module],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                close_fds=False,  # see drain
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONPATH": package},
            )
        except OSError as error:
            ours.close()
            raise ChildFailed(f"it could not be started: {error.strerror}") from error
        finally:
            theirs.close()
        self._socket = ours
        return ours

    def ask(self, request: bytes, deadline: float) -> tuple[bytes, list[bytes]]:
        """The answer by CLOCK_MONOTONIC `deadline`. Raises ChildFailed."""
        connection = self.start()

        def receive(size: int) -> bytes:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            return connection.recv(size)

        try:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            connection.sendall(request)
            message = read_message(receive)
        except (OSError, WireError) as error:
            self.end()
            raise ChildFailed(str(error) or type(error).__name__) from error
        if message is None:
            self.end()
            raise ChildFailed("it ended")
        return message

    def end(self) -> None:
        """Kill it. One that is stuck in the kernel is left behind."""
        if self._socket:
            self._socket.close()
            self._socket = None
        process, self._process = self._process, None
        if process:
            process.kill()
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._stuck.append(process)
