# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process asks of the system for a lease, counted by strace(1): opens, reads, writes and their bytes.

A count does not depend on how busy the machine is. Only what names a file of the lease directory counts,
without the lockspace's renewals, which happen beside.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vlhook.leases.names import LOCKSPACE_NAME

OPENS, READS, READ_BYTES, WRITES, WRITTEN_BYTES = "opens", "reads", "bytes read", "writes", "bytes written"
SYNCS, REMOVALS = "fsyncs", "removals"
KINDS = (OPENS, READS, READ_BYTES, WRITES, WRITTEN_BYTES, SYNCS, REMOVALS)
_CALLS = "openat,preadv,preadv2,pwritev,pwritev2,io_submit,fsync,fdatasync,unlink,unlinkat"
_LINE = re.compile(r"^\d+ +(\w+)\((.*)$")
_AIO = re.compile(r"IOCB_CMD_(PREAD|PWRITE).*?aio_fildes=\d+<([^>]*)>.*?aio_nbytes=(\d+)")
_LENGTHS = re.compile(r"iov_len=(\d+)")


@contextlib.contextmanager
def counted(pid: int, directory: Path, scratch: Path) -> Iterator[Counter[str]]:
    """Filled in at the end, with all that the process's threads did meanwhile. `scratch`: a directory for the trace."""
    trace = scratch / "trace"
    command = ["strace", "-f", "-y", "-v", "-s", "1", "-e", f"trace={_CALLS}", "-o", str(trace), "-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert strace.stderr
    if "attached" not in (said := strace.stderr.readline()):
        strace.communicate()
        raise RuntimeError(f"strace: {said}")
    found: Counter[str] = Counter()
    try:
        yield found
    finally:
        strace.send_signal(signal.SIGINT)
        strace.communicate()
    found.update(count(trace.read_text(), directory))


def count(trace: str, directory: Path) -> Counter[str]:
    """By kind; the output of strace -f -y -v -s 1."""
    found: Counter[str] = Counter()
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match:
            for kind, path, size in _done(match[1], match[2]):
                if not path.startswith(f"{directory}/"):
                    continue
                if kind in (READS, WRITES) and path.endswith(LOCKSPACE_NAME):
                    continue
                found[kind] += 1
                if size:
                    found[READ_BYTES if kind == READS else WRITTEN_BYTES] += size
    return found


def _done(call: str, rest: str) -> Iterator[tuple[str, str, int]]:
    """(kind, path, bytes) of one line; of a call that was interrupted by another's line, its beginning."""
    if call == "io_submit":
        for verb, path, size in _AIO.findall(rest):
            yield (READS if verb == "PREAD" else WRITES), path, int(size)
    elif call == "openat":
        yield OPENS, _quoted(rest), 0
    elif call in ("unlink", "unlinkat"):
        yield REMOVALS, _quoted(rest), 0
    else:
        path = rest.partition("<")[2].partition(">")[0]
        if "sync" in call:
            yield SYNCS, path, 0
            return
        size = sum(int(length) for length in _LENGTHS.findall(rest))
        yield (READS if call.startswith("pread") else WRITES), path, size


def _quoted(rest: str) -> str:
    return rest.partition('"')[2].partition('"')[0]
