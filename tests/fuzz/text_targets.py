# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is read from libvirt, from sockets, and from files on this host."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzz.fuzzer import MIB, Target
from tests.keeper.hosts import Guest
from vlhook.config.settings import OWN_FILE, QEMU_FILE, SHARED_FILE, examine, read_lock_manager
from vlhook.domain import parse_guest
from vlhook.errors import DomainError, VlhookError
from vlhook.guard.table import StateDamaged as GuardStateDamaged
from vlhook.guard.table import Table
from vlhook.keeper.gates import Verdict
from vlhook.keeper.server import Server
from vlhook.keeper.state import Caller, Incarnation, StateStore
from vlhook.keeper.wire import WireError, pack, read_message
from vlhook.lastok import Page
from vlhook.leases.area import Lease
from vlhook.leases.effects import Read
from vlhook.leases.engine import Owned, Want
from vlhook.leases.geometry import FILE
from vlhook.leases.replay import BadLog, replay
from vlhook.leases.sanlockerrors import WireError as SanlockWireError
from vlhook.leases.sanlockstate import (
    EventMessage,
    decode_hosts,
    decode_lockspaces,
    decode_status,
    held_leases,
    parse_inquiry,
)
from vlhook.leases.sanlockwire import Disk, Header, Lockspace, Options, Resource
from vlhook.leases.steplog import plain

XML = Guest("web", ["/images/a.img"], ["/images/b.img"]).xml(3).encode()
DISKS = [
    b"<disk type='network'><source protocol='rbd' name='pool/image'><host name='::1' port='6789'/></source></disk>",
    b"<disk type='volume'><source pool='p' volume='v'/><target dev='vdz'/></disk>",
    b"<disk type='block' device='lun'><source dev='/dev/sda'/><readonly/></disk>",
    b"<disk type='file' device='cdrom'><target dev='sda'/></disk>",
    b"<disk type='nvme'><source type='pci' managed='yes' namespace='1'><address domain='0x0'/></source></disk>",
    b"<lease><lockspace>s</lockspace><key>k</key><target path='/l' offset='1048576'/></lease>",
    b"<on_lockfailure>pause</on_lockfailure>",
]
POOL = b"<poolstate><pool type='dir'><name>p</name><target><path>/pool</path></target></pool></poolstate>"
XMLS = [XML, *(XML.replace(b"</devices>", disk + b"</devices>") for disk in DISKS)]


def domain(data: bytes) -> None:
    for auto in (True, False):
        guest = parse_guest(data, auto_disk_leases=auto, require_lease_for_disks=not auto, pools=lambda name: POOL)
        json.dumps(asdict(guest))


def pool(data: bytes) -> None:
    parse_guest(XMLS[2], pools=lambda name: data)


def message(data: bytes) -> None:
    size = max(1, data[0] if data else 1)
    left = memoryview(data[1:])

    def receive(most: int) -> bytes:
        nonlocal left
        chunk, left = bytes(left[: min(most, size)]), left[min(most, size) :]
        return chunk

    read = read_message(receive)
    if read:
        again = pack(*read)
        assert read_message(lambda most: again[:most]) == read


class _Nothing:
    """Gates, processes and log of a keeper that has nothing to do."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def handle(self, call: Any) -> Verdict:
        return Verdict()

    def caller(self, pid: int) -> Caller:
        return Caller(pid, 1)

    def start_of(self, pid: int) -> int:
        return 1

    def warning(self, event: str, **fields: Any) -> None:
        pass

    def error(self, event: str, **fields: Any) -> None:
        self.faults.append(f"{event} {fields}")


def request(data: bytes) -> None:
    """A whole connection, answered by the keeper's own server."""
    nothing: Any = _Nothing()
    server = Server(Path("/nowhere"), nothing, nothing, {"status": lambda words: {}}, 20, nothing)
    assert server._slots.acquire(blocking=False)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.settimeout(5)
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        server._serve(theirs)
        answer = ours.recv(1 << 16)
    server._socket.close()
    assert not nothing.faults, nothing.faults
    assert not answer or answer.startswith((b"vlhook/1 ok ", b"vlhook/1 error ")), answer


def daemon(data: bytes) -> None:
    """Everything that a sanlock daemon can answer with."""
    count = data[0] if data else 0
    body = data[1:]
    for decode in (Header.decode, Resource.decode, Lockspace.decode, Disk.decode, Options.decode, EventMessage.decode,
                   lambda d: decode_hosts(d, count), lambda d: decode_lockspaces(d, count),
                   lambda d: list(held_leases(decode_status(d))), lambda d: parse_inquiry(d, count)):  # fmt: skip
        try:
            decode(body)  # type: ignore[operator]
        except SanlockWireError as error:
            str(error)


_FOLDER = tempfile.TemporaryDirectory(prefix="vlhook-fuzz-")
_LOCK = threading.Lock()


def folder() -> Path:
    return Path(_FOLDER.name)


def settings(data: bytes) -> None:
    for name in (SHARED_FILE, OWN_FILE, QEMU_FILE):
        (folder() / name).write_bytes(data)
    _, problems = examine(folder())
    for problem in problems:
        if "\n" in str(problem):
            raise AssertionError(f"more than one line: {str(problem)!r}")
    read_lock_manager(folder())


def sealed(body: bytes) -> bytes:
    return b"%08x\n" % zlib.crc32(body) + body


def state(data: bytes) -> None:
    store = StateStore(folder() / "run", folder() / "state", "boot")
    store.prepare()
    (folder() / "run/membership").write_bytes(sealed(data))
    (folder() / "run/guests/u.1").write_bytes(sealed(data))
    for load in (store.load_member, store.load_guests):
        try:
            load()
        except VlhookError as error:
            str(error)


def guard_list(data: bytes) -> None:
    path = folder() / "guard.state"
    path.write_bytes(b"vlhook-guard 1 %08x\n" % zlib.crc32(data) + data)
    Table(str(path), "boot").load()


def page(data: bytes) -> None:
    path = folder() / "page"
    slot = data[:96].ljust(96, b"\0")
    path.write_bytes((slot + zlib.crc32(slot).to_bytes(4, "little") + data[96:]).ljust(4096, b"\0"))
    opened = Page.open(str(path))
    try:
        found = opened.load()
        if found:
            found.elapsed(), found.heartbeat_age()
    finally:
        opened.close()


def log(data: bytes) -> None:
    replay(data.splitlines(keepends=True), "log")


_WANT = Want("n", "s", False, "/d")
_LIFE = Incarnation("u", "web", 1, Caller(1, 2), 1, "running", 5, [_WANT], [Owned(_WANT, "/p", 4, 7)], ["/d"])
_MEMBER = {"boot_id": "boot", "lockspace": "/l", "host_id": 1, "host_name": "h", "io_timeout": 1, "record": "00" * 200,
           "last_ok": [1.0, 2.0]}  # fmt: skip
_UUID = b"c7a5fdbd-9edc-4d8a-84c1-d2f4d1f0a001"
_GUARDED = b"boot boot\ncomplete 1\npage 1 2 3 4 5\nguest " + _UUID + b" 1 2 3 0 776562 4:5\n"
_LINES: list[dict[str, Any]] = [
    {"protocol-log": 1, "pid": 1},
    {"op": 1, "at": 0, "run": "area.read_host_sector",
     "with": {"lease": plain(Lease(b"s", b"n", "/l", "/s", FILE)), "geo": plain(FILE), "host_id": 1}},
    {"op": 1, "at": 1, "ask": plain(Read("resource", 1024, 512)), "got": plain(bytes(512))},
    {"op": 1, "at": 2, "end": "0"},
]  # fmt: skip
_LOG = b"".join(json.dumps(line).encode() + b"\n" for line in _LINES)
HOOK = pack(b"hook", [b"web", b"prepare", b"begin", b"-", b"1", XML])
TARGETS = [
    Target("domain XML", domain, XMLS, (DomainError,), [*DISKS, b"<!DOCTYPE d [", b"&a;", b"xmlns='u'", b"<![CDATA[",
           b"<?p?>", b"&#0;", b"&#x10ffff;", b"</domain>", b"\xff\xfe"], memory=8 * MIB, lines=600_000),
    Target("pool state", pool, [POOL], (DomainError,), [b"<pool type='fs'>", b"<path>", b"\0"], memory=8 * MIB),
    Target("socket message", message, [b"\3" + HOOK, b"\xff" + pack(b"call", [b"status", b"{}"])], (WireError,),
           [b"vlhook/1", b" 16", b"\n", b"999999999", b" -1"]),
    Target("request", request, [HOOK, pack(b"call", [b"status", b"{}"]), pack(b"call", [b"status", b"[" * 5000]),
           pack(b"hook", [b"web", b"start", b"begin", b"-", "²".encode(), b""])], (),
           [b"vlhook/1 hook 6 ", b"\n", b"{", b"[" * 3000, "²".encode()], memory=4 * MIB),
    Target("sanlock daemon", daemon, [b"\1" + Resource("s", "n", (Disk("/p"),)).encode(),
           b"\1" + Lockspace("s").encode(), b"\2" + Header(5, length=40).encode(), b"\1s:n:/p\\:q:0:3",
           b"\1" + bytes(80)], (),
           [b":", b"\\", b" ", b"name=", b"pid=1 "]),
    Target("settings", settings, [b"host_id = 3\nio_timeout=10 # x\nuser = \"qemu\"\n", b"engine = native\n",
           b'lock_manager = "sanlock"\ncgroup_controllers = [ "cpu", 1 ]\n', b'a = """x\ny"""; b = -1'], (VlhookError,),
           [b"=", b'"""', b"[", b"]", b",", b"#", b"\r", b"\xef\xbb\xbf", b"hook_deadline", b"disk_lease_dir", b"\0"],
           memory=4 * MIB),
    Target("keeper's state", state, [json.dumps(asdict(_LIFE)).encode(), json.dumps(_MEMBER).encode()], (),
           [b'"00"', b"[[]]", b"null", b"1e999", b'{"boot_id": "boot"}', b"[" * 3000]),
    Target("guard's list", guard_list, [_GUARDED],
           (GuardStateDamaged,), [b"guest ", b"page ", b"-", b"\xff", b"ff", b":"]),
    Target("last_ok page", page, [b"VLHLASTO" + bytes(88)], (), [b"VLHLASTO"]),
    Target("protocol log", log, [_LOG], (BadLog,), [b'{"=": ', b'"op": 1', b"null", b"[]", b"1e999", b'"Read"', b'"z"'],
           memory=2 * MIB),
]  # fmt: skip
