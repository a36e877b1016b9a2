# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which host ids of a lease directory are taken, before a host joins with one.

Taken is an id that any host has ever joined with: a host that is switched off
has left its record free and will come back. Between the choice of an id and the
first join nothing on disk says so, and many hosts may choose at once, when they
are installed. So the choice is noted beside the lockspace in a file of its own,
`.vlhook-host-N`, which only one host can make; its name begins with a dot, so
that no clean-up takes it for a lease. It says which machine the id is for: a
clone that brought its settings along finds that it is another one.

A note never grants anything, and nothing that protects a guest depends on it:
two hosts with one id are kept apart by the record in the lockspace alone.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass
from typing import Optional

from .blockio import BlockFile
from .directory import Ownership, lockspace_path, publish
from .errors import LeaseError, NotCreated, StorageError
from .geometry import HEADER
from .names import LOCKSPACE_NAME
from .records import Leader, check_delta, show_name

FIRST, LAST = 1, 2000
_NOTE = re.compile(r"\.vlhook-host-([1-9][0-9]{0,3})")
_LARGEST_NOTE = 4096
_FREE = "free"


class HostIdTaken(LeaseError):
    msg = "host id {host_id} of {where} is taken: {who}"
    hint = (
        "give this host another one: 'vlhook host-id --auto'; if it was this host's before it was installed "
        "anew, or that host is gone for good: 'vlhook host-id set --force {host_id}'"
    )
    code = "VLH-L263"


class NoFreeHostId(LeaseError):
    msg = "{where}: every host id from {first} to {last} has been used"
    hint = "take that of a host which is gone for good: 'vlhook host-id set --force N'"
    code = "VLH-L264"


@dataclass(frozen=True)
class Machine:
    """This machine, for a note: `mark` tells it from others and from its clones, `node` is for people."""

    mark: str
    node: str
    boot_id: str


@dataclass(frozen=True)
class Note:
    """For which machine an id was set, and when (seconds of the epoch)."""

    host_id: int
    machine: Machine
    since: int

    def __str__(self) -> str:
        try:
            day = time.strftime(" on %Y-%m-%d", time.localtime(self.since))
        except (OverflowError, ValueError, OSError):
            day = ""  # another host wrote it
        return f"it was set for host {self.machine.node}{day}"


@dataclass(frozen=True)
class HostIds:
    """What a lease directory says of its host ids, at one moment. `records` has those ever used."""

    directory: str
    last: int
    records: dict[int, str]
    joined: frozenset[int]
    notes: dict[int, Note]

    def taken_by_other(self, host_id: int, machine: Machine, own_name: str) -> str:
        """Why this machine should not use that id; "" if nothing speaks against it."""
        if host_id > self.last:
            return f"the lease directory has room for {self.last} hosts"
        note = self.notes.get(host_id)
        if note and note.machine.mark != machine.mark:
            return str(note)
        name = self.records.get(host_id, "")
        if not name or name == own_name:
            return ""
        if note and host_id not in self.joined:
            return ""
        state = "has joined with it" if host_id in self.joined else "used it last"
        return f"host {name} {state}"

    def choose(self, machine: Machine, own_name: str, wanted: int = 0) -> int:
        """`wanted`, or an id that this machine had, if it is no other's; else the lowest that nobody ever had.

        Raises NoFreeHostId.
        """
        own = [h for h, note in self.notes.items() if note.machine.mark == machine.mark]
        own += [h for h, name in self.records.items() if name == own_name]
        for host_id in ([wanted] if wanted else []) + sorted(own):
            if not self.taken_by_other(host_id, machine, own_name):
                return host_id
        for host_id in range(FIRST, self.last + 1):
            if host_id not in self.records and host_id not in self.notes:
                return host_id
        raise NoFreeHostId(where=self.directory, first=FIRST, last=self.last)


def look(directory: str) -> HostIds:
    """Read the lockspace, if it has been made, and the notes. Raises LeaseError."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise StorageError(op="read", where=directory, why=error.strerror or str(error)) from error
    found = (_NOTE.fullmatch(name) for name in names)
    notes = {int(m[1]): _read_note(os.path.join(directory, m[0]), int(m[1])) for m in found if m}
    last, records, joined = _read_records(lockspace_path(directory))
    return HostIds(directory, last, records, joined, notes)


def _read_records(path: str) -> tuple[int, dict[int, str], frozenset[int]]:
    space = LOCKSPACE_NAME.encode()
    try:
        file = BlockFile(path, writable=False)
    except NotCreated:
        return LAST, {}, frozenset()
    with file:
        head = Leader.decode(file.read(0, HEADER))
        check_delta(head, space, f"{path}, host id 1")
        geo = head.geometry(path)
        view = memoryview(file.read(0, geo.area))
        records, joined = {}, set()
        for host_id in range(FIRST, geo.max_hosts + 1):
            record = Leader.decode(view[geo.delta(host_id) :])
            name = _user(record, space, path)
            if name != _FREE:
                records[host_id] = name
                if record.timestamp:
                    joined.add(host_id)
    return geo.max_hosts, records, frozenset(joined)


def _user(record: Leader, space: bytes, path: str) -> str:
    try:
        check_delta(record, space, path)
    except LeaseError:
        return "unknown (its record is damaged)"
    if not (record.owner_id or record.owner_generation or record.timestamp):
        return _FREE
    return show_name(record.resource_name) or "without a name"


def _note_path(directory: str, host_id: int) -> str:
    return os.path.join(directory, f".vlhook-host-{host_id}")


def _read_note(path: str, host_id: int) -> Note:
    """The note; one that cannot be read is some other machine's."""
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read(_LARGEST_NOTE))
        machine = Machine(*(_plain(data["machine"][key]) for key in ("mark", "node", "boot_id")))
        return Note(host_id, machine, int(data["since"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Note(host_id, Machine("", f"unknown ({path} cannot be read)", ""), 0)


def _plain(value: object) -> str:
    text = str(value)
    return "".join(c if c.isprintable() else "?" for c in text)


def bind(directory: str, host_id: int, machine: Machine, owner: Ownership, force: bool = False) -> bool:
    """Note that `host_id` is this machine's. False: it was noted before.

    With `force` another machine's note is replaced. Raises HostIdTaken (another
    machine was first) and StorageError.
    """
    path = _note_path(directory, host_id)
    note = {"host_id": host_id, "machine": asdict(machine), "since": int(time.time())}
    content = (json.dumps(note, indent=1) + "\n").encode()
    if publish(path, content, 0o644, owner):
        return True
    found = _read_note(path, host_id)
    if found.machine.mark == machine.mark:
        return False
    if not force:
        raise HostIdTaken(where=directory, host_id=host_id, who=str(found))
    _remove(path)
    return bind(directory, host_id, machine, owner)


def unbind(directory: str, host_id: int, machine: Machine) -> None:
    """Take this machine's note of that id away, if there is one. Raises StorageError."""
    path = _note_path(directory, host_id)
    if os.path.lexists(path) and _read_note(path, host_id).machine.mark == machine.mark:
        _remove(path)


def noted_for_other(directory: str, host_id: int, machine: Machine) -> Optional[Note]:
    """The note of that id if it is another machine's: this one is a clone, or was given a used id."""
    path = _note_path(directory, host_id)
    if not os.path.lexists(path):
        return None
    note = _read_note(path, host_id)
    return note if note.machine.mark != machine.mark else None


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StorageError(op="removal", where=path, why=error.strerror or str(error)) from error
