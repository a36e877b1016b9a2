# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known holes, put back into the shipped code one at a time, to see that the proof finds them.

A fault is a line of the shipped source and what stands there instead. If the line is
not there any more the fault cannot be planted, and the test that wants it fails.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from vlhook.leases import area, ballot, claims, cleanup, fence, owner, paxos, records, release
from vlhook.simulate import storage, world


@dataclass(frozen=True)
class Edit:
    """In `function` of `place` (a module or a class) `old` becomes `new`."""

    place: Any
    function: str
    old: str
    new: str


FAULTS: dict[str, tuple[Edit, ...]] = {
    "generation check removed": (
        Edit(
            area.Identity,
            "owns",
            "(leader.owner_id, leader.owner_generation) == (self.host_id, self.generation)",
            "leader.owner_id == self.host_id",
        ),
    ),
    "dblock values zeroed on release": (
        Edit(records.Dblock, "with_released", "replace(self, flags=self.flags | RELEASED)", "Dblock(flags=RELEASED)"),
    ),
    "release ignores write_id": (
        Edit(
            release,
            "_free_leader",
            "if leader.write_id != me.host_id or leader.lver < held.lver:",
            "if False:",
        ),
        Edit(release, "_free_leader", "if leader != held.leader:", "if False:"),
        Edit(release, "_settle_once", " and leader.write_id == me.host_id", ""),
    ),
    "next version taken from a fresh leader after a wait": (
        Edit(
            paxos,
            "decide",
            "if leader != cur:\n                return None",
            "if leader != cur:\n                cur, lver = leader, leader.lver + 1",
        ),
    ),
    "success on another host's commit": (
        Edit(paxos, "decide", "if not me.owns(leader) or given_up:", "if given_up:"),
    ),
    "a version that was given up is owned again": (
        Edit(paxos, "decide", "given_up = block.released and block.lver == lver", "given_up = False"),
    ),
    "a new ballot wipes RELEASED and what was accepted": (
        Edit(
            ballot,
            "ballot",
            "replace(before, mbal=mbal) if before.lver == lver else Dblock(mbal=mbal, lver=lver)",
            "Dblock(mbal=mbal, lver=lver)",
        ),
        Edit(paxos, "decide", "given_up = block.released and block.lver == lver", "given_up = False"),
    ),
    "the leader's version is always believed": (
        Edit(paxos, "decide", "max(cur.lver + 1, area.greatest_lver())", "cur.lver + 1"),
        Edit(paxos, "decide", "if outcome.later:", "if False:"),
    ),
    "phase 2 is not read back": (
        Edit(
            ballot,
            "ballot",
            "    if lost or not sectors:\n        return lost or Lost(block, mbal)\n    return Won(block, sharers)",
            "    return Won(block, sharers)",
        ),
    ),
    "mode block written after the leader is freed": (
        Edit(
            release,
            "become_shared",
            "yield from guarded_write(RESOURCE, geo.dblock(me.host_id), host_sector(geo, block, mode, tagged))\n"
            "    yield from _free_leader(lease, me, held)",
            "yield from _free_leader(lease, me, held)\n"
            "    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), host_sector(geo, block, mode, tagged))",
        ),
    ),
    "clean-up can be given up": (
        Edit(release, "settle", "except Abandoned as error:\n            given_up, pause = error, 0.0\n        ", ""),
    ),
    "silent is dead": (
        Edit(owner, "wait_for_owner", "silent >= dead_seconds(delta.io_timeout) + CLOCK_SLACK", "silent >= 0"),
        Edit(owner, "wait_for_owner", "if moved or _changed_at_last_check(view, cur.owner_generation):", "if moved:"),
    ),
    "a claim is not followed by a second read": (
        Edit(claims, "claim", "yield from _check_again(lease, me, area, again)", "pass"),
    ),
    "the ballot of a conversion does not show the claim": (
        Edit(claims, "_decide", "fresh, False, record, _mode(me))", "fresh, False, record)"),
    ),
    "a shared acquire does not heed claims": (
        Edit(
            paxos,
            "_refuse_claimed",
            "holders = yield from living(lease, tuple(s for s in sharers if s.mode.claim), me)",
            "holders = yield from living(lease, (), me)",
        ),
    ),
    "a claim that is withdrawn leaves its mode block": (
        Edit(
            release,
            "_settle_once",
            "host_sector(geo, own.dblock.with_released())",
            "host_sector(geo, own.dblock.with_released(), own.mode)",
        ),
    ),
    "a later version is joined after a torn read": (
        Edit(paxos, "decide", "unchanged = fresh and lver == cur.lver + 1", "unchanged = fresh"),
    ),
    "an early leader is left to the daemon": (
        Edit(claims, "reassert", "if me.owns(leader) and not leader.free and", "if True or"),
    ),
    "a clean-up releases in the file that it removed": (
        Edit(
            cleanup,
            "clean",
            "return (yield from _remove(lease))",
            "done = yield from _remove(lease)\n"
            "    sector = host_sector(geo, held.dblock.with_released())\n"
            "    yield from guarded_write(RESOURCE, geo.dblock(me.host_id), sector)\n"
            "    return done",
        ),
    ),
    "a clean-up does not begin the next version": (
        Edit(cleanup, "_bar_and_look", "Dblock(mbal=mbal, lver=lver + 1)", "held.dblock"),
    ),
    "what a clean-up has begun is joined": (
        Edit(paxos, "decide", "yield from _refuse_barred(lease, area, lver)", "pass"),
    ),
    "a host is ended on somebody's word alone": (
        Edit(
            fence,
            "_wait_silent",
            "fresh and read_at - start >= fail_seconds(found.io_timeout) + CLOCK_SLACK",
            "stamp",
        ),
    ),
    "a clean-up takes RELEASED for the end": (
        Edit(cleanup, "_bar_and_look", "given_up_counts=True", "given_up_counts=False"),
    ),
    "brief although the lease is not free": (Edit(area, "read_beginning", "not leader.free or ", ""),),
    "brief without the own sector": (
        Edit(area, "read_beginning", "guess, me.host_id, lease.where", "guess, me.host_id - 1, lease.where"),
    ),
}


STORAGE_FAULTS: dict[str, tuple[Edit, ...]] = {
    "a write that failed lands after it was answered": (
        Edit(
            storage.Link,
            "land",
            "if not io.failed or self.random() < 0.5:",
            "if io.failed:\n"
            "            self.world.push(self.lag * 20 * self.random(), lambda io: self._write(io, io.data), io)\n"
            "        else:",
        ),
    ),
    "a restarted keeper does not wait for the writes of the one before": (
        Edit(world.World, "_start_again", "host.link.inflight or ", ""),
    ),
}
"""What a driver must never do (safety rules, 12); planted in the simulated one."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The shipped code with the fault `name` in it."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for edit in FAULTS.get(name) or STORAGE_FAULTS[name]:
            real = getattr(edit.place, edit.function)
            faulty = _edited(real, edit)
            for place in {edit.place, *_importers(real)} if inspect.ismodule(edit.place) else {edit.place}:
                undo.append((place, edit.function, real))
                setattr(place, edit.function, faulty)
        yield
    finally:
        for place, function, real in reversed(undo):
            setattr(place, function, real)


def _edited(real: FunctionType, edit: Edit) -> Any:
    source = getattr(real, "__faulty_source__", None) or textwrap.dedent(inspect.getsource(real))
    assert source.count(edit.old) >= 1, f"{edit.function} has no line {edit.old!r} any more"
    before, _, after = source.rpartition(edit.old)
    source = before + edit.new + after
    made: dict[str, Any] = {}
    code = compile("from __future__ import annotations\n" + source, f"<faulty {edit.function}>", "exec")
    exec(code, real.__globals__, made)
    faulty = made[edit.function]
    faulty.__faulty_source__ = source
    return faulty


def _importers(function: FunctionType) -> list[Any]:
    modules = [m for name, m in sys.modules.items() if name.startswith("vlhook.leases.")]
    return [m for m in modules if getattr(m, function.__name__, None) is function]
