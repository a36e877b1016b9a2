# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the sanlock daemon tells: hosts, events, status items, held leases (sanlock companion, 4.1).

Two commands list leases, and the two differ in worth. `status` sends structures:
every name and path arrives whole. `inquire` sends one line of text, and the
daemon (seen with 3.8.5) fails with -81 over a name or path that has a space,
escapes no backslash, escapes a colon only in the path, and appends stray bytes
to a name of 48 bytes. `parse_inquiry` raises WireError rather than guess where
it sees that; whoever must know for certain asks for `status`.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .sanlockerrors import WireError
from .sanlockwire import HEADER_SIZE, LOCKSPACE_SIZE, Header, Lockspace, Resource, cut, text_of

# host_id generation timestamp io_timeout flags
_HOST = struct.Struct("=QQQII")
# host_id generation event data
_HOST_EVENT = struct.Struct("=QQQQ")
# after header and host event: from_host_id from_generation
_EVENT_FROM = struct.Struct("=QQ")
# type flags pid(signed) pad value name str_len pad
_STATE = struct.Struct("=IIiIQ48sI4x")
HOST_SIZE, HOST_EVENT_SIZE, STATE_SIZE = _HOST.size, _HOST_EVENT.size, _STATE.size
_STATUS_SHARED = 0x1
"""In a lease's `flags=` of the status, which are hexadecimal and the daemon's own, not RES_*."""
EVENT_SIZE = HEADER_SIZE + HOST_EVENT_SIZE + _EVENT_FROM.size


class HostState(enum.IntEnum):
    """What the daemon thinks of a host (format document, 6.4)."""

    UNKNOWN = 1
    FREE = 2
    LIVE = 3
    FAIL = 4
    DEAD = 5


class StateType(enum.IntEnum):
    DAEMON = 1
    CLIENT = 2
    LOCKSPACE = 3
    RESOURCE = 4


# -------------------------------------------------------------------- hosts and events


@dataclass(frozen=True)
class Host:
    """A host as the daemon saw it at its last renewal; `timestamp` is the other host's clock, in seconds."""

    host_id: int
    generation: int
    timestamp: int
    io_timeout: int
    flags: int

    @property
    def state(self) -> HostState:
        """UNKNOWN for a number that is none of the states."""
        try:
            return HostState(self.flags & 0xF)
        except ValueError:
            return HostState.UNKNOWN

    def encode(self) -> bytes:
        return _HOST.pack(self.host_id, self.generation, self.timestamp, self.io_timeout, self.flags)

    @classmethod
    def decode(cls, data: bytes, at: int = 0) -> Host:
        return cls(*_HOST.unpack(cut(data, at, HOST_SIZE, "host")))


def decode_hosts(data: bytes, count: int) -> tuple[Host, ...]:
    """Exactly `count` hosts and nothing else."""
    if len(data) != count * HOST_SIZE:
        raise WireError(what="list of hosts", why=f"{len(data)} bytes for {count} hosts")
    return tuple(Host.decode(data, i * HOST_SIZE) for i in range(count))


def decode_lockspaces(data: bytes, count: int) -> tuple[Lockspace, ...]:
    """Exactly `count` lockspaces and nothing else."""
    if len(data) != count * LOCKSPACE_SIZE:
        raise WireError(what="list of lockspaces", why=f"{len(data)} bytes for {count} lockspaces")
    return tuple(Lockspace.decode(data, i * LOCKSPACE_SIZE) for i in range(count))


@dataclass(frozen=True)
class HostEvent:
    host_id: int
    generation: int
    event: int
    data: int

    def encode(self) -> bytes:
        return _HOST_EVENT.pack(self.host_id, self.generation, self.event, self.data)

    @classmethod
    def decode(cls, data: bytes, at: int = 0) -> HostEvent:
        return cls(*_HOST_EVENT.unpack(cut(data, at, HOST_EVENT_SIZE, "host event")))


@dataclass(frozen=True)
class EventMessage:
    """What a connection that is registered for events receives: 80 bytes each."""

    event: HostEvent
    from_host_id: int
    from_generation: int

    @classmethod
    def decode(cls, data: bytes) -> EventMessage:
        whole = cut(data, 0, EVENT_SIZE, "event message")
        Header.decode(whole)
        sender = _EVENT_FROM.unpack_from(whole, HEADER_SIZE + HOST_EVENT_SIZE)
        return cls(HostEvent.decode(whole, HEADER_SIZE), *sender)


# ----------------------------------------------------------------------------- status


@dataclass(frozen=True)
class StateItem:
    """One item of the status.

    `value`: a lockspace's host id, a resource's lver. `words`: its key=value text.
    """

    type: StateType
    flags: int
    pid: int
    value: int
    name: str
    words: Mapping[str, str]
    lockspace: Lockspace | None = None
    resource: Resource | None = None

    def number(self, key: str) -> int | None:
        """The word `key` as a number, None if absent or none."""
        word = self.words.get(key, "")
        return int(word) if re.fullmatch(r"-?[0-9]{1,20}", word) else None


def parse_words(text: str) -> dict[str, str]:
    """`a=1 b=two words c=` as a dict: what has no `=` continues the value before it."""
    words: dict[str, str] = {}
    last = None
    for part in text.split(" "):
        key, equals, value = part.partition("=")
        if equals:
            words[key] = value
            last = key
        elif last is not None:
            words[last] += " " + part
    return words


def _state_item(data: bytes, at: int) -> tuple[StateItem, int]:
    head = cut(data, at, STATE_SIZE, "status item")
    kind, flags, pid, _, value, name, length = _STATE.unpack(head)
    try:
        kind = StateType(kind)
    except ValueError:
        raise WireError(what="status item", why=f"its type is {kind}") from None
    at += STATE_SIZE
    words = parse_words(text_of(cut(data, at, length, "status item")))
    at += length
    lockspace, resource = None, None
    if kind is StateType.LOCKSPACE:
        lockspace = Lockspace.decode(data, at)
        at += LOCKSPACE_SIZE
    elif kind is StateType.RESOURCE:
        resource = Resource.decode(data, at)
        at += resource.size
    return StateItem(kind, flags, pid, value, text_of(name), words, lockspace, resource), at


def decode_status(data: bytes) -> tuple[StateItem, ...]:
    """All that follows the header of a status answer, up to the end of the stream."""
    items = []
    at = 0
    while at < len(data):
        item, at = _state_item(data, at)
        items.append(item)
    return tuple(items)


@dataclass(frozen=True)
class HeldLease:
    """A lease that the daemon has. `state`: held, add (being acquired), rem (being released) or orphan.

    `pid` is the holder's, for an orphan its former holder's. Whether a lease is
    persistent the daemon does not tell.
    """

    resource: Resource
    state: str
    pid: int
    lver: int
    shared: bool

    @property
    def orphan(self) -> bool:
        return self.state == "orphan"


def held_leases(items: Iterable[StateItem]) -> Iterator[HeldLease]:
    """The leases among status items. Raises WireError."""
    for item in items:
        if item.resource is None:
            continue
        flags = item.words.get("flags", "")
        if not re.fullmatch(r"[0-9a-f]{1,8}", flags) or "list" not in item.words:
            raise WireError(what="status item", why=f"lease {item.name!r} has no flags or no list")
        shared = bool(int(flags, 16) & _STATUS_SHARED)
        yield HeldLease(item.resource, item.words["list"], item.pid, item.value, shared)


# ---------------------------------------------------------------------------- inquire


@dataclass(frozen=True)
class Inquired:
    """A lease that a connection holds. `lver` is None for a shared lease."""

    space: str
    name: str
    path: str
    offset: int
    lver: int | None

    @property
    def shared(self) -> bool:
        return self.lver is None

    def __str__(self) -> str:
        path = re.sub(r"([: ])", r"\\\1", self.path)
        return f"{self.space}:{self.name}:{path}:{self.offset}:{'SH' if self.lver is None else self.lver}"


_WORD = re.compile(
    rb"(?P<space>[^: ]{1,48}):(?P<name>[^: ]{1,48}):(?P<path>(?:[^\\: ]|\\[: ]|\\(?![: ]))+)"
    rb":(?P<offset>[0-9]{1,20}):(?P<lver>SH|[0-9]{1,20})"
)
_BETWEEN = re.compile(rb"(?<!\\) ")


def parse_inquiry(data: bytes, count: int) -> tuple[Inquired, ...]:
    """The text of an inquire answer, which must name `count` leases."""
    text = data.partition(b"\0")[0]
    words = _BETWEEN.split(text) if text else []
    if len(words) != count:
        raise WireError(what="list of leases", why=f"{len(words)} leases where {count} are announced")
    return tuple(_inquired(word) for word in words)


def _inquired(word: bytes) -> Inquired:
    found = _WORD.fullmatch(word)
    if found is None:
        raise WireError(what="list of leases", why=f"cannot tell name and path apart in {word!r}")
    path = re.sub(rb"\\([: ])", rb"\1", found["path"])
    lver = None if found["lver"] == b"SH" else int(found["lver"])
    space, name = text_of(found["space"]), text_of(found["name"])
    return Inquired(space, name, text_of(path), int(found["offset"]), lver)
