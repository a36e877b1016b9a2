# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole vlhookd with guard, reader and prober, and guests whose QEMU is a shell that waits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.keeper.hosts import Host
from tests.leases.rig import Rig
from vlhook.keeper.wire import pack, read_message

from . import domains

SECONDS = 60.0


class Keeper(Host):
    """`fill` gives it guests that run, with leases. Its directories should be in memory, as /run is."""

    def __init__(self, base: Path, number: int, leases: Path, io_timeout: int = 10) -> None:
        super().__init__(base, number, leases, io_timeout)
        self._pipe = os.pipe()
        self._guests = 0

    def ask(self, guest: str, operation: str, sub: str, xml: str) -> None:
        """What the hook asks, without the hook. Raises RuntimeError when the answer is no."""
        fields = [guest, operation, sub, "-", str(os.getpid()), xml]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(self.run_dir / "vlhookd.sock"))
            connection.sendall(pack(b"hook", [field.encode() for field in fields]))
            verb, answer = read_message(connection.recv) or (b"", [])
            if verb != b"ok" or answer[0] != b"0":
                raise RuntimeError(f"{operation} of {guest}: {answer}")
            if operation == "prepare":
                connection.sendall(pack(b"ack"))
                read_message(connection.recv)

    def fill(self, leases: int, each: int = 8) -> None:
        """Start guests of `each` disks until they hold so many leases."""
        while self._guests * each < leases:
            self._guests += 1
            number = self._guests
            name, uuid = f"guest{number}", f"00000000-0000-4000-8000-{number:012d}"
            xml = domains.live(name, uuid, number, [f"/images/{number}-{disk}" for disk in range(each)])
            self.ask(name, "prepare", "begin", xml)
            self.ask(name, "start", "begin", xml)
            self._run(name, uuid)

    def _run(self, name: str, uuid: str) -> None:
        words = ["qemu-system-x86_64", "-c", "read -r line", "-name", f"guest={name}", "-uuid", uuid]
        qemu = subprocess.Popen(words, executable="/bin/sh", stdin=self._pipe[0])
        (self.proc / str(qemu.pid)).symlink_to(f"/proc/{qemu.pid}")
        (self.dir / f"libvirt/qemu/{name}.pid").write_text(f"{qemu.pid}\n")
        state = f"<domstatus state='running' reason='booted' pid='{qemu.pid}'>\n"
        (self.dir / f"libvirt/qemu/{name}.xml").write_text(state)
        self.qemus[uuid] = qemu

    def restart(self) -> None:
        """Ends the keeper as an upgrade does, and starts the next."""
        assert self.keeper
        self.keeper.send_signal(signal.SIGHUP)
        self.keeper.wait()
        self.start_keeper()

    def down(self) -> None:
        super().down()
        for end in self._pipe:
            os.close(end)
        self._pipe = os.pipe()


@contextlib.contextmanager
def keeper(base: Path, number: int = 1, io_timeout: int = 10) -> Iterator[Keeper]:
    """Joined, on the lease directory BASE/leases; the lockspace there says 1 s, so that joining is quick."""
    leases = base / "leases"
    leases.mkdir(exist_ok=True)
    Rig(leases)
    made = Keeper(base, number, leases, io_timeout)
    try:
        made.start_daemons()
        made.wait_joined(SECONDS)
        yield made
    finally:
        made.down()


def pids(keeper: Keeper) -> dict[str, int]:
    """The keeper's own process and the guard's."""
    assert keeper.keeper
    assert keeper.guard
    return {"vlhookd": keeper.keeper.pid, "vlhook-guard": keeper.guard.pid}


