# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real sanlock daemons, each as a host of its own, on one machine.

    with short_directory() as directory, SanlockHost("one", directory / "one") as one:
        one.start()
        one.add_lockspace(path, host_id=1)
        with one.holder() as holder:
            holder.acquire(resource)

Each daemon has its own run directory and host name, no watchdog, no privileges
to give up, and no realtime scheduling. Nothing here sleeps: what is waited for
is a line of the daemon's log, an answer, or the end of a process. Every process
is ended by its pid, and by the kernel if the tests die.

A daemon kills the processes that hold leases when it shuts down or loses a
lockspace. So what is to be killed belongs in a `Holder`, a process of its own;
the process that runs the tests may hold leases (`SanlockHost.register`) only
where the daemon is ended with `kill9`, which `close` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests import needs
from vlhook.leases.sanlockclient import SanlockClient
from vlhook.leases.sanlockerrors import SanlockError, SanlockUnreachable
from vlhook.leases.sanlockregistered import Registered
from vlhook.leases.sanlockwire import Disk, Lockspace, Resource

ROOT = Path(__file__).resolve().parent.parent
SPACE = "LS"
AREA = 1 << 20
PATIENCE = 60.0
"""Seconds to wait for anything that must come; on an idle machine it comes at once."""

# In the foreground, logging to standard error, each renewal too; nothing that would touch the system.
OPTIONS = ["-D", "-R", "1", "-w", "0", "-l", "0", "-h", "0", "-L", "-1", "-S", "-1"]


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A directory with a short name: the path of a socket has at most 107 bytes."""
    path = tempfile.mkdtemp(prefix="vlh-")
    try:
        yield Path(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def end_with_us(*command: str) -> list[str]:
    """`command`, killed by the kernel when the thread that starts it ends."""
    return [needs.require_program("setpriv"), "--pdeathsig", "KILL", *command]


# ------------------------------------------------------------------- sanlock's own tools


def run_sanlock(*args: str, run_dir: Path | None = None, check: bool = True) -> str:
    """The output of `sanlock ARGS`, the reference for what our own code says."""
    environment = dict(os.environ)
    if run_dir is not None:
        environment["SANLOCK_RUN_DIR"] = str(run_dir)
    ran = subprocess.run(
        [needs.require_program("sanlock"), *args],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0 or not check, f"sanlock {' '.join(args)}: {ran.stdout}{ran.stderr}"
    return ran.stdout + ran.stderr


def direct_lockspace(path: Path, io_timeout: int = 1, space: str = SPACE) -> Path:
    """Make `path` and format a lockspace in it: a join that asks for N = 1 then takes 2 or 3 seconds."""
    make_area(path)
    run_sanlock("direct", "init", "-s", f"{space}:0:{path}:0", "-o", str(io_timeout))
    return path


def direct_resource(path: Path, name: str, space: str = SPACE) -> Path:
    """Make `path` and format the lease `name` in it."""
    make_area(path)
    run_sanlock("direct", "init", "-r", f"{space}:{name}:{path}:0")
    return path


def direct_dump(path: Path) -> str:
    """What `sanlock direct dump` says of an area."""
    return run_sanlock("direct", "dump", f"{path}:0:1048576")


def direct_leader(path: Path, name: str, space: str = SPACE) -> dict[str, str]:
    """The leader record of the lease in `path`, as sanlock itself reads it."""
    text = run_sanlock("direct", "read_leader", "-r", f"{space}:{name}:{path}:0")
    return {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}


def make_area(path: Path) -> Path:
    """A file of the size of an area, all zero."""
    with open(path, "wb") as file:
        file.truncate(AREA)
    return path


def resource(path: Path, name: str, flags: int = 0, space: str = SPACE, lver: int = 0) -> Resource:
    return Resource(space, name, (Disk(str(path)),), flags, lver)


# ---------------------------------------------------------------------------- daemon


class Log:
    """Lines that a process writes, kept, and waited for."""

    def __init__(self, stream: Iterable[str]) -> None:
        self._lines: list[str] = []
        self._grew = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: Iterable[str]) -> None:
        for line in stream:
            with self._grew:
                self._lines.append(line.rstrip("\n"))
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()

    @property
    def mark(self) -> int:
        """The number of lines so far, for `wait(since=...)`."""
        with self._grew:
            return len(self._lines)

    def text(self, since: int = 0) -> str:
        with self._grew:
            return "\n".join(self._lines[since:])

    def wait(self, pattern: str, *, since: int = 0, patience: float = PATIENCE) -> str:
        """The first line from `since` on in which `pattern` is found."""
        seen = since
        deadline = time.monotonic() + patience
        with self._grew:
            while True:
                for line in self._lines[seen:]:
                    if re.search(pattern, line):
                        return line
                seen = len(self._lines)
                if self._ended or not self._grew.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no line {pattern!r} in:\n" + "\n".join(self._lines[since:]))

    def wait_end(self, patience: float = PATIENCE) -> None:
        """Until every process that had the stream open is gone."""
        self._thread.join(patience)
        assert not self._thread.is_alive(), "somebody still has the log open"


class SanlockHost:
    """One host: a sanlock daemon. `name` is its host name, `run_dir` holds its socket and must be short.

    `inside`: the command that starts it in other namespaces.
    """

    def __init__(
        self, name: str, run_dir: Path, *, options: Iterable[str] = (), inside: Iterable[str] = ()
    ) -> None:
        self.name = name
        self.run_dir = run_dir
        self.client = SanlockClient(str(run_dir / "sanlock.sock"))
        self._options = [*OPTIONS, "-e", name, *options]
        self._inside = list(inside)
        self._process: subprocess.Popen[str] | None = None
        self._log: Log | None = None
        self._holders: list[Holder] = []

    def __enter__(self) -> SanlockHost:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def socket_path(self) -> str:
        return self.client.socket_path

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log(self) -> Log:
        assert self._log is not None, "not started"
        return self._log

    def start(self) -> SanlockHost:
        """Start the daemon; returns when it answers. It may have run before, under the same name."""
        assert self._process is None, "already started"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        command = end_with_us(*self._inside, needs.require_program("sanlock"), "daemon", *self._options)
        process = subprocess.Popen(
            command,
            env={**os.environ, "SANLOCK_PRIVILEGED": "0", "SANLOCK_RUN_DIR": str(self.run_dir)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert process.stderr is not None
        self._process, self._log = process, Log(process.stderr)
        self.log.wait("sanlock daemon started")
        self._wait_until_it_answers(process)
        return self

    def _wait_until_it_answers(self, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.client.version(deadline)
                return
            except SanlockUnreachable:
                # Between its line in the log and listen() lie some system calls; it may also end there.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"exit {process.wait(timeout=0.01)}: {self.log.text()}") from None

    def stop(self) -> None:
        """End it in order: it leaves its lockspaces, and kills every process that holds leases."""
        held = [lease for lease in self.client.leases() if lease.pid == os.getpid() and not lease.orphan]
        assert not held, f"this very process holds {held}: use kill9"
        self.cli("shutdown", "-f", "1", "-w", "1")
        self._gone()

    def kill9(self) -> None:
        """As a crash of the daemon: nothing is released."""
        os.kill(self.pid, signal.SIGKILL)
        self._gone()

    def wait_gone(self) -> None:
        """It was told to end by somebody else."""
        self._gone()

    def _gone(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)
        self.log.wait_end()  # its helper process has the same log
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None

    def sigstop(self) -> None:
        """Hang: connections are still accepted, by the kernel, and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)
        # WNOWAIT leaves the child's state to be asked for again by Popen.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def sigcont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End everything of this host, by force; may be called at any time and twice."""
        for holder in self._holders:
            holder.kill()
        self._holders.clear()
        if self._process is not None:
            self.kill9()

    # ------------------------------------------------------------------------- use

    def cli(self, *args: str, check: bool = True) -> str:
        """The output of `sanlock client ARGS` on this host."""
        return run_sanlock("client", *args, run_dir=self.run_dir, check=check)

    def add_lockspace(self, path: Path, host_id: int, io_timeout: int = 1, space: str = SPACE) -> Lockspace:
        """Join, and wait for it."""
        lockspace = Lockspace(space, host_id, Disk(str(path)))
        self.client.add_lockspace(lockspace, io_timeout, deadline=time.monotonic() + 2 * PATIENCE)
        return lockspace

    def wait_renewals(self, count: int = 1) -> None:
        """Until this host has renewed its lockspaces `count` times more, and so looked at the other hosts."""
        for _ in range(count):
            self.log.wait(r" s\d+ renewed ", since=self.log.mark)

    def register(self) -> Registered:
        """A connection of this very process.

        Should a starved machine make the lockspace fail, a killpath keeps the daemon from ending the tests.
        """
        registered = self.client.register()
        registered.killpath("/bin/true", [])
        return registered

    def holder(self, *, library: bool = False) -> Holder:
        """A process on this host that can hold leases; `library`: by sanlock's own Python binding."""
        holder = Holder(self, library)
        self._holders.append(holder)
        return holder


# ---------------------------------------------------------------------------- holder


class Refused(AssertionError):
    """A holder's command failed; `result` is the daemon's number."""

    def __init__(self, result: int, text: str) -> None:
        super().__init__(f"{result}: {text}")
        self.result = result


class Holder:
    """A process with one registered connection, told what to do over a pipe."""

    def __init__(self, host: SanlockHost, library: bool) -> None:
        kind = "library" if library else "own"
        command = [sys.executable, "-m", "tests.sanlock_daemon", kind, host.socket_path]
        self._process = subprocess.Popen(
            end_with_us(*command),
            cwd=ROOT,
            env={**os.environ, "SANLOCK_RUN_DIR": str(host.run_dir)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # registered

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def acquire(self, *resources: Resource) -> None:
        self._tell("acquire", resources)

    def release(self, *resources: Resource) -> None:
        self._tell("release", resources)

    def adopt(self, *resources: Resource) -> None:
        self._tell("adopt", resources)

    def restrict_sigkill(self) -> None:
        self._tell("restrict", ())

    def killpath(self, path: str, *args: str) -> None:
        """The program that the daemon runs when a lockspace fails; this process's pid is appended."""
        self._say(["killpath", [path, args]])

    def kill(self) -> None:
        """As a crash; returns when the process is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def wait_killed(self) -> int:
        """Until somebody else has ended it; returns the signal."""
        return -self._process.wait(PATIENCE)

    def _tell(self, verb: str, resources: Iterable[Resource]) -> None:
        self._say([verb, [(one.space, one.name, one.disks[0].path, one.flags, one.lver) for one in resources]])

    def _say(self, command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the holder has ended"
        answer = json.loads(line)
        if answer is not None:
            raise Refused(*answer)


def _from_words(space: str, name: str, path: str, flags: int, lver: int) -> Resource:
    return resource(Path(path), name, flags, space, lver)


def _own(socket_path: str) -> Iterator[object]:
    registered = SanlockClient(socket_path, timeout=PATIENCE).register()
    answer = None
    while True:
        verb, words = yield answer
        answer = None
        try:
            if verb == "restrict":
                registered.restrict(2)
            elif verb == "killpath":
                registered.killpath(*words, append_pid=True)
            else:
                getattr(registered, verb)([_from_words(*one) for one in words])
        except SanlockError as error:
            answer = (error.result, str(error))


def _library() -> Iterator[object]:
    """Without a line of ours between the test and the daemon."""
    import sanlock

    connection = sanlock.register()
    answer = None
    while True:
        verb, words = yield answer
        answer = None
        try:
            for space, name, path, flags, _ in words:
                where = (space.encode(), name.encode(), [(path, 0)])
                if verb == "acquire":
                    sanlock.acquire(*where, slkfd=connection, shared=bool(flags & 4))
                else:
                    sanlock.release(*where, slkfd=connection)
        except sanlock.SanlockException as error:
            answer = (error.errno, str(error))


def _be_a_holder(kind: str, socket_path: str) -> None:
    work = _library() if kind == "library" else _own(socket_path)
    print(json.dumps(next(work)), flush=True)
    for line in sys.stdin:
        print(json.dumps(work.send(json.loads(line))), flush=True)


if __name__ == "__main__":
    _be_a_holder(*sys.argv[1:])
