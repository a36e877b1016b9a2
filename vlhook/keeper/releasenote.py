# SPDX-License-Identifier: LGPL-2.1-or-later
"""A release that no keeper took: the hook leaves it in the run directory, where a keeper finds it.

    released/KEY    for each start that it may be about; KEY as in guests/ (`state.py`)

A note is one message of `wire.py`, verb `released`:

    BORN        start of the hook's process, clock ticks since boot
    ANCESTORS   pids of the processes that it was started by, nearest first, blanks between them
    GUEST       the hook's first argument
    XML         its standard input

It is written under another name and renamed, so there is a whole one or none. Nothing is
synced: like all of the run directory it is to be lost with this boot. `missed.py` says what it proves.
"""

from __future__ import annotations

import os

from ..processes import read_stat
from .wire import WireError, pack, read_message

FOLDER = "released"
VERB = b"released"
MAX_ANCESTORS = 8
MAX_BYTES = 4 << 20
"""Far more than any guest's XML; the run directory is small."""


class Note:
    """What a hook left. `born` in ticks since boot."""

    def __init__(self, born: int, ancestors: tuple[int, ...], guest: str, xml: bytes) -> None:
        self.born = born
        self.ancestors = ancestors
        self.guest = guest
        self.xml = xml


def leave(run_dir: bytes, guest: bytes, xml: bytes) -> int:
    """Called by the hook: leave a note for every start of the guest; how many. Raises OSError, ValueError.

    Which starts these are is told by their UUID, anywhere in the XML: the keeper looks closer.
    """
    lower = xml.lower()
    names = os.listdir(run_dir + b"/guests")
    keys = [name for name in names if not name.endswith(b".new") and name.partition(b".")[0] in lower]
    if not keys:
        return 0
    me = read_stat(os.getpid())
    if me is None:
        raise ValueError("/proc does not tell when this process was started")
    born, ancestors = b"%d" % me.start, b" ".join(b"%d" % pid for pid in _ancestors())
    note = pack(VERB, [born, ancestors, guest, xml])
    if len(note) > MAX_BYTES:
        raise ValueError(f"the domain XML is longer than {MAX_BYTES >> 20} MiB")
    for key in keys:
        _replace(run_dir + b"/" + FOLDER.encode() + b"/" + key, note)
    return len(keys)


def read(path: str) -> Note:
    """Raises OSError, and ValueError for what is no note."""
    with open(path, "rb") as file:
        try:
            message = read_message(file.read, MAX_BYTES)
            if message is None or message[0] != VERB:
                raise ValueError("not a note of a release")
            born, ancestors, guest, xml = message[1]
        except WireError as error:
            raise ValueError(str(error)) from error
    return Note(int(born), tuple(int(pid) for pid in ancestors.split()), guest.decode("utf-8", "replace"), xml)


def _ancestors() -> list[int]:
    found: list[int] = []
    pid = os.getppid()
    while pid > 0 and len(found) < MAX_ANCESTORS:
        found.append(pid)
        stat = read_stat(pid)
        if stat is None:
            break
        pid = stat.parent
    return found


def _replace(path: bytes, data: bytes) -> None:
    new = path + b".%d.new" % os.getpid()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(new, path)
    except BaseException:
        os.unlink(new)
        raise
