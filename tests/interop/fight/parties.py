# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hosts of a fight: bare engines, hosts with keeper, guard and guests, hosts with a sanlock daemon.

Each has a thread that lets it be for a moment and then does something bad to it, again and again, in an order of its
own; whatever ends is started again. A host that is stopped for longer than 8N is never left so until others may take
what it held: it goes on and finds that it is lost, or it is reset, as its watchdog would have done.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.interop.fight.contender import FAULT, LOST
from tests.interop.fight.section import Record
from tests.keeper.hosts import PYTHON, ROOT, Guest, Host
from tests.leases.rig import eventually
from tests.sanlock_daemon import SanlockHost, end_with_us
from vlhook.leases.names import LOCKSPACE_NAME
from vlhook.leases.sanlockerrors import SanlockError

N = 2
FAIL, DEAD = 8 * N, 8 * N + 60
QEMU = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.interop.fight.section import Record, section
with section(Record(Path({record!r})), {who!r}, {disks!r}):
    os.write(1, b"in")
    signal.pause()
"""


class Fight:
    """What all hosts have in common. `until`: CLOCK_MONOTONIC seconds of its end."""

    def __init__(self, folder: Path, disks: Sequence[str], seconds: float, pace: float, seed: int) -> None:
        self.folder = folder
        self.leases = folder / "leases"
        self.disks = list(disks)
        self.record = Record(folder / "record")
        self.pace = pace
        self.seed = seed
        self.seconds = seconds
        self.until = float("inf")
        self.over = threading.Event()

    def begin(self) -> None:
        self.until = time.monotonic() + self.seconds

    def left(self) -> float:
        return self.until - time.monotonic()

    def contender(self, kind: str, who: str, **words: Any) -> subprocess.Popen[str]:
        """Started, not yet ready."""
        words = {
            "kind": kind, "who": who, "leases": str(self.leases), "disks": self.disks, "pace": self.pace,
            "record": str(self.record.path), "seed": self.seed, **words,
        }  # fmt: skip
        command = end_with_us(sys.executable, "-m", "tests.interop.fight.contender", json.dumps(words))
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def end_by(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    process.wait()
    _close(process)


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def told_to_stop(process: subprocess.Popen[str]) -> int:
    """Its exit status, after it finished what it was at."""
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    status = process.wait(180)
    _close(process)
    return status


class Party:
    """One host. `actions` are done one after another in a random order, round after round."""

    def __init__(self, fight: Fight, name: str, host_id: int) -> None:
        self.fight = fight
        self.name = name
        self.host_id = host_id
        self.chance = random.Random(f"{fight.seed} {name}")
        self.done: dict[str, int] = {}
        self.failure: BaseException | None = None
        self._calm, self._dismissed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def actions(self) -> list[Callable[[], None]]:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it has joined the lockspace and takes leases."""
        raise NotImplementedError

    def mend(self) -> None:
        """Start again what has ended."""
        raise NotImplementedError

    def stop(self) -> None:
        """Finish; afterwards it holds no lease."""
        raise NotImplementedError

    def close(self) -> None:
        """Everything of it ends, by force."""
        raise NotImplementedError

    def harass(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Until nothing more is done to it."""
        self._calm.wait()
        if self.failure:
            raise self.failure

    def _run(self) -> None:
        try:
            order = self.actions()
            self.chance.shuffle(order)
            for action in itertools.cycle(order):
                self._let_be(2 + 4 * self.chance.random())
                if self.fight.left() <= 0:
                    break
                action()
                name = getattr(action, "__name__", str(action))
                self.done[name] = self.done.get(name, 0) + 1
                self.mend()
            self.mend()
        except BaseException as error:  # raised again by `join`
            self.failure = error
        self._calm.set()
        self._dismissed.wait()  # what this thread started ends with it

    def dismiss(self) -> None:
        self.close()
        self._dismissed.set()

    def _let_be(self, seconds: float) -> None:
        """Until it takes part, and so long after that."""
        while not self.ready() and self.fight.left() > 0:
            time.sleep(0.2)
            self.mend()
        until = min(self.fight.until, time.monotonic() + seconds)
        while time.monotonic() < until:
            time.sleep(min(0.5, max(0.0, until - time.monotonic())))
            self.mend()

    def stopped(self, pids: Sequence[int], seconds: float) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def for_a_moment(self) -> float:
        return 0.2 + (FAIL - 6) * self.chance.random()

    def absent(self) -> None:
        """So long that others take what it held, by its death."""
        self.close()
        time.sleep(DEAD + 10)


class Engine(Party):
    """A host that is one process."""

    process: subprocess.Popen[str]
    log_steps = False

    def start(self) -> None:
        steps = str(self.fight.folder / f"{self.name}.steps") if self.log_steps else ""
        words = {"host_id": self.host_id, "io_timeout": N, "threads": 2, "steps": steps}
        self.process = self.fight.contender("engine", self.name, **words)

    def ready(self) -> bool:
        """It has said a line."""
        return self.process.poll() is None and bool(select.select([self.process.stdout], [], [], 0)[0])

    def mend(self) -> None:
        if self.process.poll() is not None:
            assert self.process.returncode != FAULT, f"{self.name}: see the record"
            _close(self.process)
            self.start()

    def actions(self) -> list[Callable[[], None]]:
        return [self.kill, self.pause, self.pause, self.pause_too_long]

    def kill(self) -> None:
        end_by(self.process)

    def pause(self) -> None:
        self.stopped([self.process.pid], self.for_a_moment())

    def pause_too_long(self) -> None:
        self.stopped([self.process.pid], FAIL + 2)

    def stop(self) -> None:
        while (status := told_to_stop(self.process)) != 0:
            # What it held when it was lost is its own on disk until it comes back, with another generation.
            assert status == LOST, f"{self.name}: {status}, see the record"
            self.start()
            eventually(self.ready, f"{self.name} comes back")

    def close(self) -> None:
        end_by(self.process)


class Daemon(Party):
    """A host with a sanlock daemon and some processes that hold leases."""

    CLIENTS = 2

    def __init__(self, fight: Fight, name: str, host_id: int, run_dir: Path) -> None:
        super().__init__(fight, name, host_id)
        self.host = SanlockHost(name, run_dir)
        self.clients: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self.host.start()
        self.host.add_lockspace(self.fight.leases / LOCKSPACE_NAME, self.host_id, N, LOCKSPACE_NAME)
        self._start_clients()

    def ready(self) -> bool:
        return bool(self.clients)

    def _start_clients(self) -> None:
        while len(self.clients) < self.CLIENTS:
            who = f"{self.name}-{len(self.clients)}-{time.monotonic_ns()}"
            words = {"host_id": self.host_id, "socket": self.host.socket_path}
            self.clients.append(self.fight.contender("sanlock", who, **words))

    def mend(self) -> None:
        for client in [c for c in self.clients if c.poll() is not None]:
            assert client.returncode != FAULT, f"{self.name}: see the record"
            _close(client)
            self.clients.remove(client)
        if self.host._process is None:
            self.start()
        elif not self.spaces():
            # It failed, on a machine that was too slow or after a stop, and killed its clients.
            self.reset()
            self.start()
        self._start_clients()

    def spaces(self) -> bool:
        try:
            return bool(self.host.client.get_lockspaces())
        except SanlockError:
            return True

    def actions(self) -> list[Callable[[], None]]:
        return [self.reset, self.kill_client, self.pause, self.pause_too_long_and_reset, self.pause_client]

    def reset(self) -> None:
        """A power failure: who held a lease is gone before the daemon is."""
        for client in self.clients:
            end_by(client)
        self.clients.clear()
        self.host.kill9()

    def kill_client(self) -> None:
        end_by(self.clients.pop(0))

    def pause(self) -> None:
        self.stopped([self.host.pid], self.for_a_moment())

    def pause_client(self) -> None:
        self.stopped([self.clients[0].pid], self.for_a_moment())

    def pause_too_long_and_reset(self) -> None:
        os.kill(self.host.pid, signal.SIGSTOP)
        time.sleep(FAIL + 2)
        self.reset()

    def stop(self) -> None:
        while any(self._clients_told_to_stop()):
            self.reset()  # the daemon has lost its host id, and its clients with it
            self.start()

    def _clients_told_to_stop(self) -> list[int]:
        statuses = [told_to_stop(client) for client in self.clients]
        self.clients.clear()
        assert FAULT not in statuses, f"{self.name}: see the record"
        return statuses

    def close(self) -> None:
        for client in self.clients:
            end_by(client)
        self.clients.clear()
        self.host.close()


class PowerFailed(Exception):
    """The host was reset while something was being done on it."""


class GuestHost(Host):
    """Its guests hold the flocks of their disks."""

    def __init__(self, fight: Fight, number: int) -> None:
        super().__init__(fight.folder, number, fight.leases, io_timeout=N)
        self.fight = fight
        self.power = threading.RLock()
        self.boot = 0
        self.keeper_options = ["--protocol-log", self.dir / "steps", "--protocol-log-mib", 512]

    def crash(self) -> None:
        with self.power:
            self.boot += 1
            super().crash()

    def run_qemu(self, guest: Guest, stubborn: bool = False) -> subprocess.Popen[bytes]:
        disks = [(d, False) for d in guest.disks] + [(d, True) for d in guest.shared]
        record = str(self.fight.record.path)
        code = QEMU.format(root=str(ROOT), record=record, who=f"{guest.name} {guest.uuid}", disks=disks)
        command = ["qemu-system-x86_64", "-c", code, "-name", f"guest={guest.name}", "-uuid", guest.uuid]
        with self.power:
            if self.boot != self.begun_in:
                raise PowerFailed
            pipe = subprocess.PIPE
            qemu = subprocess.Popen(command, executable=PYTHON, stdin=subprocess.DEVNULL, stdout=pipe)
            (self.proc / str(qemu.pid)).symlink_to(f"/proc/{qemu.pid}")
            (self.dir / f"libvirt/qemu/{guest.name}.pid").write_text(f"{qemu.pid}\n")
            self.qemus[guest.uuid] = qemu
        assert qemu.stdout
        qemu.stdout.read(2)
        return qemu

    begun_in = 0


class Keeper(Party):
    """A host with keeper, guard and guests, which start and end one after another."""

    def __init__(self, fight: Fight, name: str, host_id: int) -> None:
        super().__init__(fight, name, host_id)
        self.host = GuestHost(fight, host_id)
        self._guests = threading.Thread(target=self._run_guests)
        self._numbers = itertools.count(1)
        self.fault: BaseException | None = None
        self.up = threading.Event()

    def start(self) -> None:
        self.host.start_daemons()
        self.up.set()
        if not self._guests.ident:
            self._guests.start()

    def ready(self) -> bool:
        return self.host.joined()

    def mend(self) -> None:
        for name in ("keeper", "guard"):
            process = getattr(self.host, name)
            if process is None or process.poll() is not None:
                getattr(self.host, f"start_{name}")()

    def actions(self) -> list[Callable[[], None]]:
        return [self.kill_keeper, self.kill_keeper, self.pause_keeper, self.pause_keeper_too_long, self.kill_guard,
                self.kill_qemu, self.power_failure]  # fmt: skip

    def kill_keeper(self) -> None:
        self.host.kill_keeper()
        time.sleep(2 * self.chance.random())

    def kill_guard(self) -> None:
        assert self.host.guard
        self.host.guard.kill()
        self.host.guard.wait()

    def pause_keeper(self) -> None:
        assert self.host.keeper
        self.stopped([self.host.keeper.pid], self.for_a_moment())

    def pause_keeper_too_long(self) -> None:
        """The guard ends the guests."""
        assert self.host.keeper
        self.stopped([self.host.keeper.pid], FAIL + 4)

    def kill_qemu(self) -> None:
        for qemu in list(self.host.qemus.values()):
            qemu.kill()

    def power_failure(self) -> None:
        self.host.crash()

    def absent(self) -> None:
        self.up.clear()
        self.host.crash()
        time.sleep(DEAD + 10)
        self.up.set()

    def _run_guests(self) -> None:
        while not self.fight.over.is_set():
            try:
                if self.up.wait(1):
                    self._one_guest()
                self.fight.over.wait(self.fight.pace)
            except PowerFailed:
                continue
            except BaseException as error:  # raised again by `stop`
                self.fault = error
                return

    def _one_guest(self) -> None:
        """One or two disks, perhaps shared, for a while."""
        host = self.host
        host.begun_in = host.boot
        disks = self.chance.sample(self.fight.disks, self.chance.choice((1, 1, 2)))
        shared = self.chance.random() < 0.25
        name = f"{self.name}-{next(self._numbers)}"
        guest = Guest(name, [] if shared else disks, disks if shared else [])
        status, _ = host.start(guest)
        if status:
            return
        self.fight.over.wait(self.chance.random() * (4.0 if self.chance.random() < 0.2 else 0.2))
        host.stop(guest)

    def stop(self) -> None:
        self._guests.join()
        if self.fault:
            raise self.fault
        self.host.wait_joined(DEAD + 60)
        self.host.wait_empty(60)

    def close(self) -> None:
        self.fight.over.set()
        self.up.set()
        with self.host.power:
            self.host.boot += 1
            self.host.down()
        if self._guests.ident:
            self._guests.join(120)
        self.host.down()
