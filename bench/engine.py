# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook's engine as a process of its own: `python -m bench.engine DIRECTORY HOST_ID IO_TIMEOUT`.

The very code that takes leases in the keeper, with memory kept as there and without the keeper around it, to be
measured beside the sanlock daemon: asked from outside, over a pipe, as that is over its socket. One JSON object a line:

    {"acquire": {GUEST: [DISK, …], …}}      all guests at once, as after a power failure
    {"release": [GUEST, …]}
    {"clean": [DISK, …]}                    remove lease files that nobody uses, one after another
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tests.leases.rig import Rig, RigHost, by, tenant
from vlhook.keeper.memory import bound
from vlhook.leases.engine import Want
from vlhook.leases.names import LOCKSPACE_NAME, lease_name

from .processes import PYTHON, environment


class Engine:
    """The other end of the pipe. The host joins while `__init__` returns; `joined` waits for it."""

    name = "vlhook"

    def __init__(self, directory: Path, host_id: int, io_timeout: int) -> None:
        command = [PYTHON, "-m", "bench.engine", str(directory), str(host_id), str(io_timeout)]
        self._process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def joined(self) -> None:
        self._answer()

    def acquire(self, guests: Mapping[str, Sequence[str]]) -> None:
        self._ask({"acquire": guests})

    def release(self, guests: Iterable[str]) -> None:
        self._ask({"release": list(guests)})

    def clean(self, disks: Iterable[str]) -> None:
        self._ask({"clean": list(disks)})

    def _ask(self, words: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line != b"null\n":
            raise RuntimeError(f"vlhook's engine: {line.decode() or 'it ended'}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _serve(host: RigHost) -> None:
    for line in sys.stdin.buffer:
        ((verb, guests),) = json.loads(line).items()
        if verb == "acquire":
            failed = _at_once([_starting(host, guest, disks) for guest, disks in guests.items()])
        elif verb == "clean":
            failed = _at_once([lambda disks=guests: _clean(host, disks)])  # type: ignore[misc]
        else:
            failed = _at_once([_stopping(host, guest) for guest in guests])
        print(json.dumps(failed), flush=True)


def _want(disk: str) -> Want:
    return Want(lease_name(disk.encode()), LOCKSPACE_NAME, False, disk)


def _clean(host: RigHost, disks: Sequence[str]) -> None:
    for disk in disks:
        if not host.engine.clean(_want(disk)):
            raise FileNotFoundError(disk)


def _starting(host: RigHost, guest: str, disks: Sequence[str]) -> Callable[[], object]:
    wants = [_want(disk) for disk in disks]
    return lambda: host.engine.acquire(tenant(guest), wants, by(), lambda: False)


def _stopping(host: RigHost, guest: str) -> Callable[[], object]:
    return lambda: host.engine.release(tenant(guest), by()) or 1 / 0


def _at_once(acts: Sequence[Callable[[], object]]) -> str | None:
    """What went wrong, if anything. The last one is done by this thread, as a request is by the keeper's."""
    failures: list[str] = []

    def run(act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # told to whoever measures
            failures.append(f"{error!r} {vars(error)}")

    threads = [threading.Thread(target=run, args=(act,)) for act in acts[:-1]]
    for thread in threads:
        thread.start()
    run(acts[-1])
    for thread in threads:
        thread.join()
    return "; ".join(failures) or None


def main() -> None:
    directory, host_id, io_timeout = sys.argv[1:]
    bound()
    rig = Rig(Path(directory), int(io_timeout))
    (host,) = rig.join(int(host_id))
    print("null", flush=True)
    _serve(host)


if __name__ == "__main__":
    main()
