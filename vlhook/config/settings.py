# SPDX-License-Identifier: LGPL-2.1-or-later
"""The settings of this host, from qemu-sanlock.conf and qemu-vlhook.conf.

`Settings` is the one place where a setting is described: the shipped
qemu-vlhook.conf, its lens and the lens's tests, and the manual page are made
from it (`documents.py`). The keeper reads its settings with this module, so it
stays small: no Augeas, nothing of ours but `config` and `errors`.

qemu-sanlock.conf belongs to libvirt's sanlock plugin as well. Its settings keep
their names, their meaning and their types (numbers without quotes, texts with),
but for one: `auto_disk_leases` is on unless it is set to 0. In qemu-vlhook.conf
quotes are free. An unknown name is an error in both: a misspelt setting must not
silently be a default. What cannot be read is never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Optional

from ..errors import VlhookError
from .kinds import Account, Choice, Directory, Flag, Kind, Number
from .lines import BadLine, Line, read_lines, shown
from .virconf import VirConfError, settings_of

SHARED_FILE = "qemu-sanlock.conf"
OWN_FILE = "qemu-vlhook.conf"
QEMU_FILE = "qemu.conf"
LOCK_MANAGERS = Choice(("nop", "sanlock", "lockd"))
LARGEST_FILE = 1 << 20
OBSOLETE = {SHARED_FILE: ("ignore_readonly_and_shared_disks",)}
"""Names that libvirt's lens still knows and nothing reads any more."""


class SettingsError(VlhookError):
    """Base of everything that is wrong with a settings file. Fields: `file`, mostly `line`."""

    msg = "{file}: the settings cannot be used"
    hint = "correct the file, then restart vlhookd"
    code = "VLH-S100"


class SettingsUnreadable(SettingsError):
    msg = "{file}: the settings cannot be read: {why}"
    hint = "vlhookd must be able to read this file; check what it is and who may read it"
    code = "VLH-S101"


class NotASetting(SettingsError):
    msg = "{file}, line {line}: {why}"
    hint = "correct that line, then restart vlhookd"
    code = "VLH-S102"


class UnknownSetting(SettingsError):
    msg = "{file}, line {line}: there is no setting {name}{nearest}"
    hint = "correct or remove that line, then restart vlhookd"
    code = "VLH-S103"


class SetTwice(SettingsError):
    msg = "{file}, line {line}: {name} was set in line {first} already"
    hint = "remove one of the two lines, then restart vlhookd"
    code = "VLH-S104"


class BadValue(SettingsError):
    msg = "{file}, line {line}: {name} is {value}, it must be {allowed}"
    hint = "correct that line, then restart vlhookd"
    code = "VLH-S105"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: line `line` of `file`, or nowhere (the default)."""

    file: Optional[Path] = None
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "default"


@dataclass(frozen=True)
class Spec:
    """Everything that is to be said of one setting. `brief` is one line, `text` paragraphs.

    `default` is the value of a setting that is not set, `unset` the same for
    people where the value alone does not say it. `zero_is_unset`: the file may
    say 0 for "not set". `idle`: a change takes effect only while no guest of
    this host holds leases.
    """

    file: str
    kind: Kind
    brief: str
    text: str
    unset: str = ""
    idle: bool = False
    zero_is_unset: bool = False
    name: str = ""
    default: Any = None

    def parse(self, line: Line) -> Any:
        """The value of a line of the file, None for "not set". Raises ValueError."""
        if self.zero_is_unset and not line.quoted and line.value == "0":
            return None
        if self.file == SHARED_FILE and line.quoted != self.kind.text:
            raise ValueError(line.value)
        return self.kind.parse(line.value)

    @property
    def allowed(self) -> str:
        if self.file != SHARED_FILE:
            return self.kind.allowed
        return self.kind.allowed + (', in "quotes"' if self.kind.text else ", without quotes")


def setting(file: str, kind: Kind, default: Any, brief: str, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"spec": Spec(file, kind, brief, text, default=default, **more)})


@dataclass(frozen=True)
class Settings:
    """One attribute a setting, with its default; the names are those of the files."""

    host_id: int = setting(
        SHARED_FILE, Number(1, 2000), 0, unset="not set", idle=True, zero_is_unset=True,
        brief="This host's number in the lease directory.",
        text="""Every host that uses the lease directory needs a number of its own. 'vlhook host-id --auto'
            picks one that no other host has. It has no default, and vlhookd does not run without it; 0 stands
            for not set. A second host with the same number is refused when it joins.""",
    )  # fmt: skip
    auto_disk_leases: bool = setting(
        SHARED_FILE, Flag(), True,
        brief="Whether a disk has a lease without being asked for.",
        text="""1: every disk that a guest can write has a lease of its own, named after the MD5 of its source
            path. 0: a guest has only the leases that its XML asks for with <lease>. If it is not set, it is 1
            for vlhook, whose task this is, and 0 for libvirt's sanlock plugin.""",
    )  # fmt: skip
    disk_lease_dir: str = setting(
        SHARED_FILE, Directory(), "/var/lib/libvirt/sanlock", idle=True,
        brief="The lease directory.",
        text="""It must be on a file system that all hosts share, mounted at the same path on each of them. On a
            local disk it protects this host against itself, and nothing else. It holds the file
            __LIBVIRT__DISKS__ and one file for each disk.""",
    )  # fmt: skip
    require_lease_for_disks: bool = setting(
        SHARED_FILE, Flag(), False, unset="1 if auto_disk_leases is 0, otherwise 0",
        brief="Whether a guest without leases is refused.",
        text="""1: a guest that has disks which it can write, not marked as shareable, and no lease at all does
            not start. With auto_disk_leases such a guest has leases anyway.""",
    )  # fmt: skip
    io_timeout: int = setting(
        SHARED_FILE, Number(1, 120, zero=10, unit="seconds"), 10, idle=True,
        brief="How long the storage may take to answer.",
        text="""All other times follow from it: a host renews its own lease every 2 io_timeouts, stops its guests
            when it has not succeeded for 8, and other hosts take over after 8 io_timeouts and 60 seconds: after 140
            seconds with the default, after 17 minutes with 120, the largest value; the field on disk
            could not hold more than 255. A watchdog daemon needs 2 or more. Use the same value on all hosts.""",
    )  # fmt: skip
    user: str = setting(
        SHARED_FILE, Account(), "", unset="not set: whoever runs vlhookd, root",
        brief="The owner of new lease files.",
        text="""Set user and group to those of the sanlock daemon where hosts with it use the same directory.""",
    )  # fmt: skip
    group: str = setting(
        SHARED_FILE, Account(), "", unset="not set: the group of whoever runs vlhookd, root",
        brief="The group of new lease files.",
        text="""If it is set, the group may write __LIBVIRT__DISKS__.""",
    )  # fmt: skip

    engine: str = setting(
        OWN_FILE, Choice(("native", "sanlock", "auto")), "native", idle=True,
        brief="Who takes the leases.",
        text="""native: vlhookd itself, by Disk Paxos on the lease directory. sanlock: the sanlock daemon of this
            host, which vlhookd drives; no guest gets leases while it does not run. auto: sanlock if it runs when this
            host joins, otherwise native. Hosts of either kind exclude each other.""",
    )  # fmt: skip
    hook_deadline: int = setting(
        OWN_FILE, Number(1, 120, unit="seconds"), 20,
        brief="How long the start of a guest may wait for its leases.",
        text="""When it is over, the start is refused and all leases that it had already are given back. libvirt
            holds the guest's job for that long, so it should stay below the 30 seconds for which other
            commands wait for it.""",
    )  # fmt: skip
    watchdog: str = setting(
        OWN_FILE, Choice(("required", "automatic", "off")), "automatic",
        brief="Whether a watchdog resets this host if its guests cannot be stopped in time.",
        text="""required: no guest gets leases unless a watchdog is armed. automatic: the watchdog daemon wdmd or a
            watchdog device is used where there is one, and 'vlhook status' says if there is none. off: none is
            used; then a host that hangs, and comes back after others took its disks, can destroy them.""",
    )  # fmt: skip
    on_lockfailure: str = setting(
        OWN_FILE, Choice(("poweroff", "pause")), "poweroff",
        brief="What is done to a guest that lost its leases.",
        text="""For guests whose XML has no <on_lockfailure>. poweroff: it is ended. pause: it is paused if that is
            known to be safe, that is if nothing can let it run again without its leases; otherwise it is
            ended, and the log says so.""",
    )  # fmt: skip
    identity_leases: bool = setting(
        OWN_FILE, Flag(words=True), True,
        brief="Whether one disk under two names is found out.",
        text="""Each disk whose identity is certain (WWID, LVM or NFS file id) has a second lease on that identity:
            two guests that reach it by different paths exclude each other.""",
    )  # fmt: skip
    chain_leases: bool = setting(
        OWN_FILE, Flag(words=True), False,
        brief="Whether the images below a qcow2 overlay have leases.",
        text="""Each has a shared lease: guests may use one base together, and no guest that writes it can start. Only
            declared formats are followed. A commit into a base is not held up: stop its other guests first.""",
    )  # fmt: skip
    nvram_leases: bool = setting(
        OWN_FILE, Flag(words=True), True,
        brief="Whether a guest's NVRAM has a lease.",
        text="""Files in libvirt's own directory for NVRAM, which no other host sees, have none.""",
    )  # fmt: skip
    tpm_leases: bool = setting(
        OWN_FILE, Flag(words=True), True,
        brief="Whether the state of an emulated TPM has a lease.",
        text="""It lies below a directory that is named by the guest's UUID, and so is its lease.""",
    )  # fmt: skip
    refused_disk: str = setting(
        OWN_FILE, Choice(("detach", "pause", "alarm")), "detach",
        brief="What is done when a running guest uses a disk whose lease is refused.",
        text="""Disks that are attached to a running guest, and images that a snapshot or block job adds, get their
            lease just after the fact, from vlhook-watch. If somebody else holds it: detach takes the disk away from
            the guest, and pauses a guest that does not let go of it within a second; pause pauses it at once; alarm
            only says so. 'vlhook attach-disk' takes the lease before the disk is attached.""",
    )  # fmt: skip
    lockfailure_grace: int = setting(
        OWN_FILE, Number(0, 40, unit="seconds"), 20,
        brief="How long a guest that lost its leases may take to end by itself.",
        text="""Counted from 8 io_timeouts after the last renewal. Then it is killed. Other hosts may take its
            disks 60 seconds after the same moment; the rest of that time is left for the kill and the watchdog.""",
    )  # fmt: skip
    claim_foreign: bool = setting(
        OWN_FILE, Flag(words=True), False,
        brief="Whether a live migration is accepted from a host that does not run vlhook.",
        text="""A guest that migrates in claims its leases from the host it comes from, if that host's record names
            the same guest. libvirt's sanlock plugin writes no such record. yes: claim without it.""",
    )  # fmt: skip

    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False, repr=False)

    def origin(self, name: str) -> Origin:
        return self.origins.get(name, Origin())


def _specs() -> dict[str, Spec]:
    table = ((item.name, item.metadata.get("spec")) for item in fields(Settings))
    return {name: replace(spec, name=name) for name, spec in table if spec}


SPECS = _specs()
"""The description of every setting, by name, in the order of the class."""


def names_of(file: str) -> list[str]:
    return [name for name, spec in SPECS.items() if spec.file == file]


def load(config_dir: Path) -> Settings:
    """The settings of this host; a file that does not exist sets nothing.

    Raises SettingsError: the first of what is wrong.
    """
    settings, problems = examine(config_dir)
    for problem in problems:
        raise problem
    return settings


def examine(config_dir: Path) -> tuple[Settings, list[SettingsError]]:
    """All settings that can be understood, and everything that is wrong, in the order of the files."""
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    problems: list[SettingsError] = []
    for file in (SHARED_FILE, OWN_FILE):
        path = config_dir / file
        try:
            lines = list(read_lines(read_text(path)))
        except SettingsUnreadable as error:
            problems.append(error)
            continue
        _take(file, path, lines, values, origins, problems)
    if "require_lease_for_disks" not in values:
        values["require_lease_for_disks"] = not values.get("auto_disk_leases", True)
    return Settings(**values, origins=origins), problems


def _take(
    file: str,
    path: Path,
    lines: Iterable[Line | BadLine],
    values: dict[str, Any],
    origins: dict[str, Origin],
    problems: list[SettingsError],
) -> None:
    seen: dict[str, int] = {}
    for line in lines:
        if isinstance(line, BadLine):
            problems.append(NotASetting(file=path, line=line.number, why=line.why))
            continue
        if line.name in seen:
            problems.append(SetTwice(file=path, line=line.number, name=line.name, first=seen[line.name]))
            continue
        seen[line.name] = line.number
        if line.name in OBSOLETE.get(file, ()):
            continue
        try:
            value = read_value(file, path, line)
        except SettingsError as error:
            problems.append(error)
            continue
        if value is not None:
            values[line.name] = value
            origins[line.name] = Origin(path, line.number)


def read_value(file: str, path: Path, line: Line) -> Any:
    """The value of one line of the file named `file`, at `path`. Raises UnknownSetting, BadValue."""
    spec = SPECS.get(line.name)
    if spec is None or spec.file != file:
        raise UnknownSetting(
            file=path, line=line.number, name=shown(line.name, ""), nearest=_nearest(file, line.name)
        )
    try:
        return spec.parse(line)
    except ValueError:
        value = shown(line.value, '"') if line.quoted else shown(line.value, "")
        raise BadValue(
            file=path, line=line.number, name=line.name, value=value, allowed=spec.allowed
        ) from None


def _nearest(file: str, name: str) -> str:
    if name in SPECS:
        return f" in this file; it belongs in {SPECS[name].file}"
    import difflib

    close = difflib.get_close_matches(name, names_of(file), 1)
    return f"; the nearest is {close[0]}" if close else f"; there are {', '.join(names_of(file))}"


def read_text(path: Path) -> str:
    """The text of a settings file, "" if there is none. Raises SettingsUnreadable."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SettingsUnreadable(file=path, why=error.strerror or str(error)) from error
    if len(data) > LARGEST_FILE:
        raise SettingsUnreadable(file=path, why=f"it has more than {LARGEST_FILE} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsUnreadable(file=path, why=f"line {line} is not UTF-8") from error


def read_lock_manager(config_dir: Path) -> Optional[str]:
    """`lock_manager` of libvirt's qemu.conf, None if it is not set. Raises SettingsError."""
    path = config_dir / QEMU_FILE
    return parse_lock_manager(read_text(path), path)


def parse_lock_manager(text: str, path: Path) -> Optional[str]:
    """The same of the text of qemu.conf; of everything else only the syntax matters.

    Any name is returned as it stands: libvirt loads plugins by name. A second
    setting is an error, although libvirt would use the first: a person who reads
    the file may take the other for the valid one.
    """
    try:
        found = [item for item in settings_of(text) if item.name == "lock_manager"]
    except VirConfError as error:
        raise NotASetting(file=path, line=error.line, why=error.why) from error
    if len(found) > 1:
        raise SetTwice(file=path, line=found[1].line, name="lock_manager", first=found[0].line)
    if not found:
        return None
    value = found[0].value
    if not isinstance(value, str) or not value.isprintable() or not value.strip():
        allowed = LOCK_MANAGERS.allowed + ', in "quotes"'
        raise BadValue(
            file=path, line=found[0].line, name="lock_manager", value=shown(str(value), '"'), allowed=allowed
        )
    return value
