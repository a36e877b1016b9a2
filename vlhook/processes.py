# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's process table: which process is a guest's QEMU, and whether it is gone.

A pid alone never identifies a process: it is used again. A process is (pid,
start time) of one boot, and to act on one a pidfd is opened first and
everything else checked afterwards (safety rules, 5): while the pidfd says that
the process is not gone, its pid cannot have been given to another.

**Gone** means that the pidfd is readable: every thread of the process has
ended, its memory and its files are closed. A zombie that only waits for its
parent is gone. A zombie whose other threads still run is not, and neither is
one that is stuck in the kernel while it dies: its writes may still come.

**Not knowing is not absence.** The command line of a process cannot be read
once its memory was given back (it is dying, perhaps stuck), nor where /proc
hides it. Such a process is reported as `unknown`, and whoever needs to be sure
that a guest has no process must ask `sign_of_life`, which counts it.

Reading a command line may block for as long as the process is stuck in the
kernel with its memory map locked. Whoever must not wait reads in another
thread. Reading `stat` and a pidfd never blocks.

`proc_dir` is /proc, or a directory with links to the entries of some processes
(a host that shares its machine with others).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from vlhook.errors import VlhookError

PROC = "/proc"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Flags of a task (field 9 of stat).
KERNEL_THREAD = 0x00200000

SWTPM = "swtpm"

# A command line longer than this is not QEMU's: the kernel allows less.
COMMAND_LINE_MAX = 16 << 20
PIECE = 16 << 10


class ProcessError(VlhookError):
    """A process is not there, or not the one that was meant. Fields: `pid`, `why`."""

    msg = "process {pid}: {why}"
    code = "VLH-P001"
    pid: int
    why: str


class NoSuchProcess(ProcessError):
    """The process is gone, or it is not in this host's process table."""

    code = "VLH-P002"


class NotTheProcess(ProcessError):
    """The pid belongs to another process: another start time, or another guest's UUID."""

    code = "VLH-P003"


class Stat(NamedTuple):
    """What /proc/PID/stat tells: name, state letter, parent, task flags, number of threads, start time in ticks."""

    name: str
    state: str
    parent: int
    flags: int
    threads: int
    start: int

    @property
    def ended(self) -> bool:
        """Every thread has ended: what is left waits for its parent, or is gone this moment."""
        return self.state in "ZXx" and self.threads <= 1


class Process(NamedTuple):
    """A verified process. `start` in clock ticks since boot; whoever got it closes `pidfd`."""

    pid: int
    start: int
    pidfd: int

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.start

    def gone(self) -> bool:
        return gone(self.pidfd)

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; False if the process is gone. Raises OSError (not permitted)."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        os.close(self.pidfd)


class Scan(NamedTuple):
    """One pass over the process table.

    `guests`: UUID (lower case) to the (pid, start) of every process with `-uuid UUID` on its
    command line. `unknown`: (pid, start, name) of the processes whose command line cannot be known.
    `tpms`: (pid, command line) of the emulated TPMs.
    """

    guests: dict[str, list[tuple[int, int]]]
    unknown: list[tuple[int, int, str]]
    tpms: Sequence[tuple[int, list[bytes]]] = ()


def boot_id() -> str:
    """The kernel's id of this boot, as a UUID. Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def ticks_now() -> int:
    """Now, on the clock of start times: clock ticks since boot, time asleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * TICKS_PER_SECOND // 1_000_000_000


def gone(pidfd: int) -> bool:
    """Whether the process of a pidfd is gone, in the sense of this module. Never blocks."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def read_stat(pid: int, proc_dir: str = PROC) -> Stat | None:
    """The stat of a process, None if there is none. Raises OSError if it may not be read."""
    try:
        with open(f"{proc_dir}/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    if len(fields) < 20:
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    return Stat(name, fields[0].decode(), int(fields[1]), int(fields[6]), int(fields[17]), int(fields[19]))


def start_time(pid: int, proc_dir: str = PROC) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none. Raises OSError."""
    stat = read_stat(pid, proc_dir)
    return stat.start if stat else None


def alive(pid: int, start: int, proc_dir: str = PROC) -> bool:
    """Whether the process (pid, start) still runs, libvirtd's for example.

    For a process that need not be acted on. One whose stat may not be read counts as alive.
    """
    try:
        stat = read_stat(pid, proc_dir)
    except OSError:
        return True
    return stat is not None and stat.start == start and not stat.ended


def command_line(pid: int, proc_dir: str = PROC) -> list[bytes]:
    """The arguments of a process; [] if it has none to show. May block. Raises OSError.

    When the first thread of a process has ended while others run, only their entries still
    show the command line.
    """
    text = _read_all(f"{proc_dir}/{pid}/cmdline") or _threads_command_line(f"{proc_dir}/{pid}/task")
    arguments = text.split(b"\0")
    if not arguments[-1]:
        arguments.pop()
    return arguments


def _threads_command_line(task_dir: str) -> bytes:
    for thread in _numbers(task_dir):
        try:
            text = _read_all(f"{task_dir}/{thread}/cmdline")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text:
            return text
    return b""


def uuid_of(arguments: list[bytes]) -> str | None:
    """The UUID that follows `-uuid` on a QEMU's command line, in lower case."""
    for option, value in zip(arguments, arguments[1:]):
        if option == b"-uuid":
            return value.decode("ascii", "replace").lower()
    return None


def open_process(
    pid: int, *, proc_dir: str = PROC, start: int | None = None, uuid: str | None = None,
    pidfd: int | None = None,
) -> Process:
    """Open a process by pid and verify that it is the one that is meant.

    Checked where given: its start time; that its command line carries the guest's UUID (this may
    block). `pidfd`, where given, must be one of `pid`; it is used instead of a new one and owned
    by the result, or closed on an error. Raises NoSuchProcess, NotTheProcess, OSError.
    """
    given = pidfd is not None
    if pidfd is None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise NoSuchProcess(pid=pid, why="no such process") from None
    try:
        if given and _pid_of(pidfd) != pid:
            raise NotTheProcess(pid=pid, why="it ended, or the descriptor sent along is no pidfd of it")
        return _verified(pid, pidfd, proc_dir, start, uuid)
    except BaseException:
        os.close(pidfd)
        raise


def _verified(pid: int, pidfd: int, proc_dir: str, start: int | None, uuid: str | None) -> Process:
    stat = read_stat(pid, proc_dir)
    if stat is None:
        raise NoSuchProcess(pid=pid, why="not in this host's process table")
    if start is not None and stat.start != start:
        raise NotTheProcess(pid=pid, why=f"it started at {stat.start}, the one meant at {start}")
    if uuid is not None:
        try:
            found = uuid_of(command_line(pid, proc_dir))
        except (FileNotFoundError, ProcessLookupError):
            raise NoSuchProcess(pid=pid, why="it ended") from None
        if found != uuid.lower():
            raise NotTheProcess(pid=pid, why=f"its command line has no -uuid {uuid}")
    # If it is not gone now, it was there all the time and all that was read is its own.
    if gone(pidfd):
        raise NoSuchProcess(pid=pid, why="it ended")
    if start_time(pid, proc_dir) != stat.start:
        raise NotTheProcess(pid=pid, why="the process table changed under it")
    return Process(pid, stat.start, pidfd)


def scan(proc_dir: str = PROC, *, progress: Callable[[int], bool] | None = None) -> Scan:
    """Look at every process once. May block. Raises OSError if the table itself cannot be read.

    `progress` is called with each pid before its command line is read; where it returns False
    the process is not read and counts as unknown.
    """
    guests: dict[str, list[tuple[int, int]]] = {}
    unknown: list[tuple[int, int, str]] = []
    tpms: list[tuple[int, list[bytes]]] = []
    for pid in _numbers(proc_dir):
        try:
            stat = read_stat(pid, proc_dir)
        except OSError:
            # Hidden: it may have started any time, so it counts against everybody.
            unknown.append((pid, ticks_now(), "?"))
            continue
        if stat is None or stat.ended or stat.flags & KERNEL_THREAD:
            continue
        try:
            arguments = command_line(pid, proc_dir) if progress is None or progress(pid) else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            arguments = []
        uuid = uuid_of(arguments)
        if uuid is not None:
            guests.setdefault(uuid, []).append((pid, stat.start))
        elif not arguments and _still_there(pid, stat, proc_dir):
            unknown.append((pid, stat.start, stat.name))
        if stat.name.startswith(SWTPM):
            tpms.append((pid, arguments))
    return Scan(guests, unknown, tuple(tpms))


def sign_of_life(uuid: str, seen: Scan, *, since: int = 0) -> str | None:
    """Why a process of this guest may exist, in words; None only if a scan shows that none does.

    `since` (ticks, see `ticks_now`): a process whose command line cannot be known counts only if
    it started at that time or later. Without it every such process counts.
    """
    for pid, _ in seen.guests.get(uuid.lower(), []):
        return f"process {pid} runs with -uuid {uuid}"
    for pid, start, name in seen.unknown:
        if start >= since:
            return f"process {pid} ({name}) does not tell which guest it is, or was while it dies"
    return None


def tpm_in_use(state: str, seen: Scan) -> str | None:
    """Why the TPM state at this path may still be written, in words; None if no emulated TPM has it.

    It is a process beside QEMU, which may outlive it (safety rules, 5).
    """
    for pid, arguments in seen.tpms:
        if any(_names(argument, os.fsencode(state)) for argument in arguments):
            return f"process {pid} ({SWTPM}) still has the TPM state {state}"
    return None


def _names(argument: bytes, path: bytes) -> bool:
    """Whether `path`, or what lies below it, stands in an argument such as dir=PATH,mode=0600."""
    _, *rests = argument.split(path)
    return any(rest[:1] in (b"", b"/", b",") for rest in rests)


def read_pid_file(path: str) -> int | None:
    """The pid in a file such as /run/libvirt/qemu/GUEST.pid; None if absent or not a number.

    Raises OSError for anything but absence.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(32).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return int(text) if text.isdigit() and int(text) > 0 else None


def _still_there(pid: int, before: Stat, proc_dir: str) -> bool:
    try:
        stat = read_stat(pid, proc_dir)
    except OSError:
        return True
    return stat is not None and stat.start == before.start and not stat.ended


def _pid_of(pidfd: int) -> int | None:
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                return int(line[4:])
    return None


def _numbers(directory: str) -> list[int]:
    return [int(name) for name in os.listdir(directory) if name.isdigit()]


def _read_all(path: str) -> bytes:
    # In pieces: a read of so much takes so much memory, however little there is.
    parts, left = [], COMMAND_LINE_MAX
    with open(path, "rb", buffering=0) as file:
        while left:
            part = file.read(min(left, PIECE))
            if not part:
                break
            parts.append(part)
            left -= len(part)
    return b"".join(parts)
