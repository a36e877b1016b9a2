# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must survive the keeper, but not a reboot: small files below the run directory.

    membership      host id, generation, host name, the record we last wrote, last_ok
    guests/UUID…    one file an incarnation: what it wants, what it holds, how far it got
    released/UUID…  what the hook left where libvirt released an incarnation and no keeper answered (`releasenote.py`)

Each file of the first two is one line of checksum and one JSON object, replaced whole by
rename(2). A file that does not check out is never guessed at: StateDamaged
(safety rules, 6). In the state directory, which outlives reboots, `joined`
says in which boot this host last joined, so that a lost run directory is
noticed, and `lockspace` which lockspace file that was, so that no second one
is made where a directory is not mounted.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from sys import intern
from typing import Any, Optional

from ..errors import VlhookError
from ..leases.clock import Moment
from ..leases.engine import Owned, Tenant, Want
from ..leases.records import Leader
from .releasenote import FOLDER

ACQUIRING = "acquiring"
GRANTED = "granted"
PREPARED = "prepared"
STARTING = "starting"
RUNNING = "running"
ENDING = "ending"
PHASES = (ACQUIRING, GRANTED, PREPARED, STARTING, RUNNING, ENDING)


class StateDamaged(VlhookError):
    msg = "{path}: the keeper's state is damaged: {why}"
    hint = "no lease is touched; when no QEMU process runs on this host, remove that file and restart vlhookd"
    code = "VLH-K601"


class StateUnwritable(VlhookError):
    msg = "{path}: the keeper's state cannot be written: {why}"
    hint = "check the space and the permissions below the run directory"
    code = "VLH-K602"


@dataclass(frozen=True)
class Caller:
    """The libvirtd that called the hook: pid and start time (clock ticks since boot)."""

    pid: int
    start: int


@dataclass
class Incarnation:
    """One life of a guest (safety rules, 1). `sequence` rises with every prepare on this host.

    `wants` in acquiring order, `owned` once granted; `qemu` and `qemu_start`
    are pid and start time (ticks) once QEMU was found, `images` the host paths
    whose dirty pages must be on disk before a release, `devices` the st_dev that these had
    at the start, as far as known, `born` CLOCK_BOOTTIME
    ticks at which the preparing hook process was started; `released`: libvirt said that it is over.
    `deferred`: what libvirt's sanlock plugin takes for it. `adopting`: it ran before its leases
    were asked for, and whether it gets them is not settled. `incoming`: it came by a live migration.
    `volumes`: paths that were resolved without libvirt.
    """

    uuid: str
    guest: str
    domain_id: int
    caller: Caller
    sequence: int
    phase: str
    born: int
    wants: list[Want] = field(default_factory=list)
    owned: list[Owned] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    devices: dict[str, int] = field(default_factory=dict)
    policy: str = "poweroff"
    qemu: int = 0
    qemu_start: int = 0
    since: int = 0
    released: bool = False
    deferred: list[Want] = field(default_factory=list)
    adopting: bool = False
    incoming: bool = False
    volumes: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.uuid}.{self.sequence}"

    @property
    def tpm_states(self) -> list[str]:
        return [want.source for want in self.wants if want.kind == "tpm"]

    @property
    def tenant(self) -> Tenant:
        return Tenant(self.key, self.guest, self.uuid)


@dataclass(frozen=True)
class Member:
    """Which host id this keeper holds, for a successor in the same boot.

    `engine`: by whom. `added`: the sanlock daemon joined the lockspace because this host's keeper asked.
    """

    boot_id: str
    lockspace: str
    host_id: int
    host_name: str
    io_timeout: int
    record: Leader
    last_ok: Moment
    engine: str = "native"
    added: bool = False


class StateStore:
    """Reads and writes the files. Raises StateDamaged and StateUnwritable."""

    def __init__(self, run_dir: Path, state_dir: Path, boot_id: str) -> None:
        self._run = run_dir
        self._guests = run_dir / "guests"
        self.released = run_dir / FOLDER
        self._joined = state_dir / "joined"
        self.lockspace_note = state_dir / "lockspace"
        self._boot_id = boot_id

    def prepare(self) -> None:
        self._guests.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.released.mkdir(mode=0o700, exist_ok=True)
        self._forget_old_releases()
        self._joined.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    # -- the host

    def save_member(self, member: Member) -> None:
        record = member.record.encode().hex()
        last_ok = [member.last_ok.monotonic, member.last_ok.boottime]
        data = {**asdict(member), "record": record, "last_ok": last_ok}
        _write(self._run / "membership", data)

    def load_member(self) -> Optional[Member]:
        """What the last keeper of this boot left; None if it left or there was none."""
        data = _read(self._run / "membership")
        if data is None or data.get("boot_id") != self._boot_id:
            return None
        try:
            record = Leader.decode(bytes.fromhex(data.pop("record")))
            return Member(**{**data, "record": record, "last_ok": Moment(*data["last_ok"])})
        except (TypeError, ValueError, KeyError, struct.error) as error:
            raise StateDamaged(path=self._run / "membership", why=str(error)) from error

    def forget_member(self) -> None:
        _remove(self._run / "membership")
        _remove(self._joined)

    def note_joined(self) -> None:
        """Remember durably that this host joined in this boot."""
        _write(self._joined, {"boot_id": self._boot_id})

    def note_lockspace(self, path: str) -> None:
        """Remember for good which lockspace this host was in."""
        if self.noted_lockspace() != path:
            _write(self.lockspace_note, {"path": path})

    def noted_lockspace(self) -> str:
        """The lockspace file in which this host was last; "" if it was in none. Raises StateDamaged."""
        data = _read(self.lockspace_note)
        return str(data.get("path", "")) if data else ""

    def joined_in_this_boot(self) -> bool:
        data = _read(self._joined)
        return data is not None and data.get("boot_id") == self._boot_id

    # -- the guests

    def save_guest(self, life: Incarnation) -> None:
        _write(self._guests / life.key, asdict(life))

    def forget_guest(self, life: Incarnation) -> None:
        _remove(self._guests / life.key)
        _remove(self.released / life.key)

    def _forget_old_releases(self) -> None:
        for path in self.released.iterdir():
            uuid, _, rest = path.name.partition(".")
            if not (self._guests / f"{uuid}.{rest.partition('.')[0]}").exists():
                _remove(path)

    def load_guests(self) -> list[Incarnation]:
        """All incarnations, the oldest first."""
        if not self._guests.is_dir():
            return []
        paths = sorted(p for p in self._guests.iterdir() if not p.name.endswith(".new"))
        return sorted((_guest(p) for p in paths), key=lambda life: life.sequence)


def _guest(path: Path) -> Incarnation:
    data = _read(path)
    try:
        if data is None:
            raise ValueError("empty")
        data["caller"] = Caller(**data["caller"])
        data["wants"] = [_want(w) for w in data["wants"]]
        data["deferred"] = [_want(w) for w in data.get("deferred", [])]
        same = {want: want for want in data["wants"]}
        for owned in data["owned"]:
            want = _want(owned["want"])
            owned["want"] = same.get(want, want)
        data["owned"] = [Owned(**owned) for owned in data["owned"]]
        life = Incarnation(**data)
        if life.phase not in PHASES or life.key != path.name:
            raise ValueError(f"phase {life.phase!r}, key {life.key!r}")
    except (TypeError, ValueError, KeyError) as error:
        raise StateDamaged(path=path, why=str(error)) from error
    return life


def _want(fields: dict[str, Any]) -> Want:
    """Many leases have the same lockspace and kind: one string for all. Raises TypeError, KeyError."""
    return Want(**{**fields, "space": intern(fields["space"]), "kind": intern(fields.get("kind", "disk"))})


def _write(path: Path, data: dict[str, Any]) -> None:
    body = json.dumps(data, separators=(",", ":"), ensure_ascii=True).encode()
    new = path.with_name(path.name + ".new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(b"%08x\n" % zlib.crc32(body) + body)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError as error:
        raise StateUnwritable(path=path, why=error.strerror or str(error)) from error


def _read(path: Path) -> Optional[dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateDamaged(path=path, why=error.strerror or str(error)) from error
    head, _, body = raw.partition(b"\n")
    if head != b"%08x" % zlib.crc32(body):
        raise StateDamaged(path=path, why="the checksum is wrong")
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise StateDamaged(path=path, why=str(error)) from error
    if not isinstance(data, dict):
        raise StateDamaged(path=path, why="not an object")
    return data


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StateUnwritable(path=path, why=error.strerror or str(error)) from error
