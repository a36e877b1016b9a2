# SPDX-License-Identifier: LGPL-2.1-or-later
"""Replays a recorded scenario on hosts of ours: the same calls, from processes that live and die as recorded.

What must be held is worked out from the trace alone: a guest was given its leases by its prepare, and its QEMU
runs. Where the recording went on although ours must refuse (nobody held leases there), the refusal is expected,
libvirt's answer to it is played (stopped, release), and what the recording says of that start is left out.

What our hook prints for libvirt at migrate is a token; it shows in what libvirt hands to the next hooks of that
guest, as the recordings show of other metadata. From then on the guest has claims there until its source is gone.

A hook that took its time is replayed in one of two ways. `late`: it asks the keeper when the recorded one ended,
whatever has become of its libvirtd by then. Otherwise it asks at once, and its end is as recorded.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.keeper.host import HookRun, KeeperHost, Libvirtd, wait_for
from tests.keeper.trace import LOCKSPACE, Needs, Trace, needs
from vlhook.errors import VlhookError
from vlhook.leases.area import Lease, read_area
from vlhook.leases.blockio import BlockFile
from vlhook.leases.driver import drive
from vlhook.leases.effects import RESOURCE
from vlhook.leases.geometry import FILE

POOLS = {"p1": "/srv/pool1"}
POOL_STATE = "<poolstate><pool type='dir'><name>{}</name><target><path>{}</path></target></pool></poolstate>"
BEGINNINGS = ("prepare", "restore", "migrate")
SETTLE_SECONDS = 40.0


@dataclass(eq=False)
class Life:
    """One start of a guest, as far as the trace tells."""

    needs: Needs
    granted: bool
    incoming: bool = False


@dataclass(eq=False)
class Span:
    """A hook that runs while other things happen."""

    record: dict[str, Any]
    run: HookRun
    libvirtd: Libvirtd
    life: Life | None
    wanted: int
    asked: bool = False

    @property
    def guest(self) -> str:
        return str(self.record["args"][0])


@dataclass
class Side:
    """One host of the scenario."""

    host: KeeperHost
    lives: dict[str, Life] = field(default_factory=dict)
    spans: dict[int, Span] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    moving: set[str] = field(default_factory=set)
    last: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    ppid: int | None = None

    def runs(self, guest: str) -> bool:
        return guest in self.host.qemus

    def holds(self, uuid: str) -> bool:
        """Does a guest of this UUID run here, with its leases?"""
        lives = self.lives.items()
        return any(life.granted and life.needs.uuid == uuid and self.runs(guest) for guest, life in lives)

    def expected(self, others: Sequence[Side] = ()) -> set[tuple[str, str, str]]:
        return {
            (life.needs.uuid, name, self._mode(life, mode, others))
            for guest, life in self.lives.items()
            if life.granted and self.runs(guest)
            for name, mode in life.needs.leases.items()
        }

    def _mode(self, life: Life, mode: str, others: Sequence[Side]) -> str:
        """What came in is only claimed for as long as its source is there."""
        waits = life.incoming and any(side is not self and side.holds(life.needs.uuid) for side in others)
        return "claimed" if waits and mode == "exclusive" else mode


class Replay:
    def __init__(self, trace: Trace, hosts: Sequence[KeeperHost], late: bool = False) -> None:
        self.trace = trace
        self.late = late
        self.sides = {name: Side(host) for name, host in zip(trace.hosts, hosts)}
        self.refusals: list[str] = []
        self._pools = POOLS if trace.pool_is_active() else {}

    # -- the whole

    def run(self) -> None:
        for side in self.sides.values():
            self._activate_pools(side)
        for index, record in enumerate(self.trace.records):
            if record["host"] in self.sides:
                self._replay(self.sides[record["host"]], record, self.trace.records[index + 1 :])
        for side in self.sides.values():
            for span in list(side.spans.values()):
                self._cut(side, span)

    def running(self) -> dict[str, set[str]]:
        return {name: set(side.host.qemus) for name, side in self.sides.items()}

    def check(self) -> None:
        """Exactly what the guests need that run at the end is held: the keepers say so, and the disk."""
        for name, side in self.sides.items():
            wanted = self._expected(side)
            self._settle(side, f"{self.trace.name}: what {name} holds", wanted)
        on_disk = {
            (host, lease, mode)
            for side in self.sides.values()
            for host, (_, lease, mode) in ((side.host.number, held) for held in self._expected(side))
        }
        assert owned_on_disk([side.host for side in self.sides.values()]) == on_disk

    def _expected(self, side: Side) -> set[tuple[str, str, str]]:
        return side.expected(list(self.sides.values()))

    def end_all(self) -> None:
        """The guests that still run are killed, and nobody tells the keepers: all leases come back."""
        for side in self.sides.values():
            for guest in list(side.host.qemus):
                side.host.end_qemu(guest)
            side.host.kill_libvirtd()
            side.lives.clear()
        self.check()

    def _settle(self, side: Side, what: str, wanted: set[tuple[str, str, str]]) -> None:
        def settled() -> bool:
            try:
                return side.host.held() == wanted and set(side.host.phases().values()) <= {"running"}
            except VlhookError:
                return False

        try:
            wait_for(what, settled, SETTLE_SECONDS)
        except AssertionError as error:
            held, phases = side.host.held(), side.host.phases()
            raise AssertionError(f"{error}\nwanted {wanted}\nheld {held}\nphases {phases}") from None

    def _activate_pools(self, side: Side) -> None:
        directory = side.host.libvirt_dir / "storage"
        for old in directory.iterdir():
            old.unlink()
        for pool, path in self._pools.items():
            (directory / f"{pool}.xml").write_text(POOL_STATE.format(pool, path))

    # -- one record

    def _replay(self, side: Side, record: dict[str, Any], rest: list[dict[str, Any]]) -> None:
        kind = record["kind"]
        if kind == "hook":
            self._hook(side, record, rest)
        elif kind == "note":
            self._note(side, record["note"])
        elif kind == "command":
            self._command(side, record["cmd"])
        elif kind == "qmp":
            self._qmp(side, record)
        else:
            self._event(side, record)

    def _note(self, side: Side, note: str) -> None:
        if note in ("libvirtd kill", "libvirtd restart", "libvirtd has ended", "libvirtd start"):
            self._end_libvirtd(side)
        elif note == "libvirtd stop" and not side.spans:
            self._end_libvirtd(side)  # otherwise it waits for the hooks that run
        elif re.fullmatch(r"(source|destination|src|dst) libvirtd (killed -9|start)", note):
            self._end_libvirtd(side)
        elif note.endswith("loses power"):
            side.host.lose_power()
            side.lives.clear()
        elif note.endswith("boots"):
            side.host.start()
            side.host.wait_joined()

    def _end_libvirtd(self, side: Side) -> None:
        if not self.late:
            for span in side.spans.values():
                self._answered(side, span)
        side.host.kill_libvirtd()

    def _command(self, side: Side, command: str) -> None:
        match = re.match(r"kill -(\w+) \$\(cat /run/libvirt/qemu/(\w+)\.pid\)", command)
        if match and match[2] in side.host.qemus:
            if match[1] in ("STOP", "CONT"):
                side.host.qemus[match[2]].send_signal(signal.Signals[f"SIG{match[1]}"])
            else:
                side.host.end_qemu(match[2])

    def _qmp(self, side: Side, record: dict[str, Any]) -> None:
        guest = record["guest"]
        if guest not in side.left_out | side.moving and "host-signal" in str(record.get("details")):
            side.host.end_qemu(guest)

    def _event(self, side: Side, record: dict[str, Any]) -> None:
        guest = record["guest"]
        if guest in side.moving:
            if (record["event"], record.get("detail")) == ("STOPPED", "MIGRATED"):
                side.moving.discard(guest)
        elif record["event"] == "STARTED" and guest not in side.left_out and not side.runs(guest):
            # No hook was called at its start: it runs unprotected.
            uuid = self.trace.uuid_of(guest)
            side.lives[guest] = Life(Needs(uuid, {}), granted=False)
            side.host.start_qemu(guest, uuid)

    # -- hooks

    def _hook(self, side: Side, record: dict[str, Any], rest: list[dict[str, Any]]) -> None:
        guest, operation = record["args"][:2]
        if record.get("phase") == "end":
            span = side.spans.get(record["pid"])
            if span:
                self._answered(side, span)
                self._ended(side, span, rest)
            return
        before = side.last.get(guest)
        side.last[guest] = (record["args"], record["hook"])
        if before and before[0] == record["args"] and before[1] != record["hook"]:
            return  # another script was called for the same event; ours is one of them
        if self._is_left_out(side, guest, operation):
            return
        for span in [span for span in side.spans.values() if span.guest == guest]:
            if side.ppid == record["ppid"]:
                self._cut(side, span)  # the recorded one was killed
        if record["ppid"] != side.ppid:
            self._end_libvirtd(side)
            side.ppid = record["ppid"]
        span = self._begin(side, record)
        if record.get("phase") == "begin":
            if not self.late:
                self._ask(side, span)
            return
        self._answered(side, span)
        self._ended(side, span, rest)

    def _is_left_out(self, side: Side, guest: str, operation: str) -> bool:
        if guest in side.moving:
            return True
        if guest not in side.left_out:
            return False
        if operation == "release" or operation in BEGINNINGS:
            side.left_out.discard(guest)
        return operation not in BEGINNINGS

    def _begin(self, side: Side, record: dict[str, Any]) -> Span:
        guest, operation = record["args"][:2]
        if operation == "stopped":
            side.host.end_qemu(guest)
        libvirtd = side.host.libvirtd
        run = libvirtd.begin(record["args"], _with_token(record["xml"], side.tokens.get(guest)))
        span = Span(record, run, libvirtd, side.lives.get(guest), 0)
        side.spans[record["pid"]] = span
        return span

    def _ask(self, side: Side, span: Span) -> None:
        span.wanted = self._status_wanted(side, span)
        span.asked = True
        span.run.open_gate()

    def _status_wanted(self, side: Side, span: Span) -> int:
        operation = span.record["args"][1]
        if operation == "prepare":
            wants = needs(span.record["xml"], self._pools)
            return 1 if wants.impossible or self._is_taken(wants, span.guest in side.tokens) else 0
        if operation == "start":
            return 0 if span.life and span.life.granted else 1
        return 0

    def _is_taken(self, wants: Needs, incoming: bool) -> bool:
        """`incoming`: what the same guest holds where it comes from does not count."""
        return any(
            life.granted
            and side.runs(guest)
            and wants.conflicts(life.needs)
            and not (incoming and life.needs.uuid == wants.uuid)
            for side in self.sides.values()
            for guest, life in side.lives.items()
        )

    def _answered(self, side: Side, span: Span) -> None:
        """Our hook has ended. Nothing is told of an orphan's exit status: nobody acts on it."""
        if not span.asked:
            self._ask(side, span)
        if span.run.closed:
            return
        span.libvirtd.finish(span.run)
        guest, operation = span.record["args"][:2]
        what = f"{self.trace.name}: {guest} {operation}"
        if span.run.status is not None and span.libvirtd.alive:
            assert span.run.status == span.wanted, f"{what}: {span.run.status}, {span.run.line}"
            assert bool(span.run.line) == bool(span.wanted), f"{what}: said {span.run.line!r}"
        if operation == "migrate":
            token = re.search(r'token="(\w+)"', span.run.printed)
            side.tokens.update({guest: token[1]} if token else {})
        else:
            assert span.run.printed == "", f"{what}: printed {span.run.printed!r}"
        if operation == "prepare":
            granted = span.run.status == 0
            incoming = side.tokens.pop(guest, None) is not None
            span.life = Life(needs(span.record["xml"], self._pools), granted, incoming)
            side.lives[guest] = span.life

    def _ended(self, side: Side, span: Span, rest: list[dict[str, Any]]) -> None:
        """The hook has ended as recorded: libvirt goes on, if it lives."""
        del side.spans[span.record["pid"]]
        guest, operation = span.record["args"][:2]
        if operation == "release" and span.life is side.lives.get(guest):
            side.lives.pop(guest, None)
        if not span.libvirtd.alive:
            return
        if operation == "prepare" and span.run.status:
            self._refused(side, span, rest)
        elif operation == "start" and not span.run.status and not span.record.get("rc"):
            assert span.life
            needed = span.life.needs
            side.host.start_qemu(guest, needed.uuid, span.life.incoming, files=needed.volumes)

    def _refused(self, side: Side, span: Span, rest: list[dict[str, Any]]) -> None:
        guest = span.guest
        self.refusals.append(span.run.line)
        del side.lives[guest]
        for operation in ("stopped", "release"):
            done = side.host.hook([guest, operation, "end", "-"], span.record["xml"])
            assert done.status == 0
        side.left_out.add(guest)
        for name, other in self.sides.items():
            if other is not side and any(_has_moved(record, name, guest) for record in rest):
                other.moving.add(guest)

    def _cut(self, side: Side, span: Span) -> None:
        """A hook of which no end was recorded: it was killed."""
        if not span.asked:
            span.asked = True
            span.run.kill()
            span.libvirtd.finish(span.run)
        else:
            self._answered(side, span)
        del side.spans[span.record["pid"]]


def _has_moved(record: dict[str, Any], host: str, guest: str) -> bool:
    moved = (record["kind"], record.get("event"), record.get("detail")) == ("libvirt", "STOPPED", "MIGRATED")
    return moved and (record["host"], record["guest"]) == (host, guest)


def _with_token(xml: str, token: str | None) -> str:
    if token is None:
        return xml
    mark = f'<vlhook:incoming xmlns:vlhook="urn:vlhook:incoming" token="{token}"/>'
    if "<metadata>" in xml:
        return xml.replace("<metadata>", f"<metadata>{mark}", 1)
    return xml.replace("</uuid>", f"</uuid><metadata>{mark}</metadata>", 1)


# -- the disk


def owned_on_disk(hosts: Sequence[KeeperHost]) -> set[tuple[int, str, str]]:
    """(host id, lease, mode) of all lease files, as far as the owner's present generation holds it."""
    generations = {host.number: host.status()["membership"]["generation"] for host in hosts}
    owned = set()
    for path in sorted(hosts[0].leases.iterdir()):
        if path.name != LOCKSPACE:
            owned |= {(host, path.name, mode) for host, mode in _owners(path, generations)}
    return owned


def _owners(path: Path, generations: dict[int, int]) -> set[tuple[int, str]]:
    lease = Lease(LOCKSPACE.encode(), path.name.encode(), str(path), "", FILE)
    with BlockFile(str(path), writable=False) as file:
        area = drive(read_area(lease, FILE), {RESOURCE: file})
    leader = area.leader
    own = area.sector_of(leader.owner_id)
    owners = {
        (sector.host_id, "claimed" if sector.mode.claim else "shared")
        for sector in area.sharers()
        if generations.get(sector.host_id) == sector.mode.generation
    }
    gone = leader.free or generations.get(leader.owner_id) != leader.owner_generation
    given_back = own is not None and own.dblock.released and leader.write_id != leader.owner_id
    if not gone and not given_back:
        owners.add((leader.owner_id, "exclusive"))
    return owners
