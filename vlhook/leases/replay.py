# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the steps of a protocol log (`steplog.py`) again, on the generators of this very version.

A generator does no I/O and reads no clock, so with the same arguments and the
same answers it must ask for the same things, byte for byte, and end alike. What
a real host did on real storage is thereby what simulator and checker explore.
The log may come from somebody else: it is read within bounds, and what is not
one raises BadLog.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import area, claims, cleanup, delta, effects, errors, fence, paxos, release, sanlockfiles
from .area import Identity, Lease
from .errors import LeaseError
from .geometry import Geometry
from .holder import HolderRecord
from .records import Dblock, Leader
from .release import Held
from .steplog import VERSION, digest, plain

OPERATIONS: dict[str, Callable[..., effects.Steps[Any]]] = {
    "area.read_area": area.read_area,
    "area.read_geometry": area.read_geometry,
    "area.read_host_sector": area.read_host_sector,
    "claims.claim": claims.claim,
    "claims.claimable": claims.claimable,
    "claims.elsewhere": claims.elsewhere,
    "claims.held_elsewhere": claims.held_elsewhere,
    "claims.mark_running": claims.mark_running,
    "claims.reassert": claims.reassert,
    "claims.still_claimed": claims.still_claimed,
    "claims.try_convert": claims.try_convert,
    "cleanup.clean": cleanup.clean,
    "cleanup.remove_cleared": cleanup.remove_cleared,
    "delta.acquire": delta.acquire,
    "delta.probe": delta.probe,
    "delta.read_own": delta.read_own,
    "delta.release": delta.release,
    "delta.renew": delta.renew,
    "delta.resume": delta.resume,
    "fence.end_membership": fence.end_membership,
    "paxos.acquire": paxos.acquire,
    "paxos.judge": paxos.judge,
    "release.release": release.release,
    "release.settle": release.settle,
    "release.still_held": release.still_held,
    "sanlockfiles.confirm": sanlockfiles.confirm,
    "sanlockfiles.obstacle": sanlockfiles.obstacle,
}
_RECORDS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (
        Dblock, Geometry, Held, HolderRecord, Identity, Leader, Lease,
        claims.Claimed, delta.Membership, delta.OwnTrace, delta.Space,
        effects.HostView, effects.Member, effects.Now, effects.Random,
        effects.Read, effects.Remove, effects.Seen, effects.Sleep, effects.Write,
    )
}  # fmt: skip
_ERRORS: dict[str, Callable[..., Any]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, LeaseError)
}
LONGEST_LINE = 16 << 20
LONGEST_BYTES = 8 << 20
MOST_OPEN = 10_000


class BadLog(LeaseError):
    msg = "{where}: not a protocol log of this version: {why}"
    hint = "give a file that vlhookd --protocol-log wrote, and the vlhook of the same version"
    code = "VLH-L301"


@dataclass(frozen=True)
class Disagreement:
    """The generators of this version do not do what the log says was done. `line` counts from 1."""

    line: int
    operation: str
    what: str


@dataclass(frozen=True)
class Holding:
    """A lease from the end of its acquire to the beginning of its release; times are `at` of the log.

    `until` None: the log ends before.
    """

    host_id: int
    generation: int
    name: str
    lver: int
    shared: bool
    since: float
    until: float | None = None


@dataclass
class Outcome:
    """`cut`: operations whose beginning is not in the log; `open`: those whose end is not."""

    operations: int = 0
    steps: int = 0
    cut: int = 0
    open: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    holdings: list[Holding] = field(default_factory=list)


@dataclass
class _Run:
    name: str
    arguments: dict[str, Any]
    steps: effects.Steps[Any]
    effect: object = None
    over: bool = False
    result: object = None
    error: BaseException | None = None
    agrees: bool = True

    def go_on(self, resume: Callable[[], object]) -> None:
        try:
            self.effect = resume()
        except StopIteration as stop:
            self.over, self.effect, self.result = True, None, stop.value
        except Exception as error:  # compared with the end that the log tells
            self.over, self.effect, self.error = True, None, error


def replay(lines: Iterable[bytes], where: str) -> Outcome:
    """Run everything in the log again. `where` names it in errors. Raises BadLog."""
    return _Replay(where).run(lines)


def read_lines(path: str) -> Iterator[bytes]:
    """The lines of a log; of a line that is too long as much as shows that it is. Raises OSError."""
    with open(path, "rb") as file:
        while True:
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            yield line


class _Replay:
    def __init__(self, where: str) -> None:
        self._where = where
        self._line = 0
        self._pid: object = None
        self._runs: dict[int, _Run] = {}
        self._held: dict[tuple[int, int, str], Holding] = {}
        self.outcome = Outcome()

    def run(self, lines: Iterable[bytes]) -> Outcome:
        last = b""
        for raw in lines:
            if last:
                self._take(self._decode(last))
            last = raw
            self._line += 1
        if last.endswith(b"\n"):  # else it was cut off by the end of its writer
            self._take(self._decode(last))
        self.outcome.open += len(self._runs)
        self.outcome.holdings += self._held.values()
        return self.outcome

    def _bad(self, why: str) -> BadLog:
        return BadLog(where=f"{self._where}, line {self._line}", why=why)

    def _decode(self, raw: bytes) -> dict[str, Any]:
        if len(raw) > LONGEST_LINE:
            raise self._bad("the line is too long")
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            raise self._bad("it is not JSON") from None
        if not isinstance(line, dict):
            raise self._bad("it is no object")
        return line

    def _take(self, line: dict[str, Any]) -> None:
        if "protocol-log" in line:
            if line["protocol-log"] != VERSION:
                raise self._bad(f"version {line['protocol-log']}, expected {VERSION}")
            self._new_file(line.get("pid"))
            return
        number, at = line.get("op"), line.get("at")
        if not isinstance(number, int) or not isinstance(at, (int, float)):
            raise self._bad("an operation's number or time is missing")
        try:
            if "run" in line:
                self._begin(number, line, at)
            elif number not in self._runs:
                self.outcome.cut += "end" in line or "failed" in line
            elif "ask" in line:
                self._step(self._runs[number], line)
            else:
                self._end(self._runs.pop(number), line, at)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError, zlib.error) as error:
            raise self._bad(f"{type(error).__name__}: {error}") from None

    def _new_file(self, pid: object) -> None:
        """The numbers go on if it is of the same engine; one that was started later counts anew."""
        if pid != self._pid:
            self.outcome.open += len(self._runs)
            self._runs.clear()
        self._pid = pid

    def _begin(self, number: int, line: dict[str, Any], at: float) -> None:
        if len(self._runs) >= MOST_OPEN:
            raise self._bad(f"more than {MOST_OPEN} operations at a time")
        name = line["run"]
        if name not in OPERATIONS:
            raise self._bad(f"operation {name!r} is not known")
        arguments = {key: _value(item) for key, item in line["with"].items()}
        run = self._runs[number] = _Run(name, arguments, OPERATIONS[name](**arguments))
        run.go_on(lambda: run.steps.send(None))
        self.outcome.operations += 1
        if name == "release.release":
            self._released(arguments, at)

    def _step(self, run: _Run, line: dict[str, Any]) -> None:
        self.outcome.steps += 1
        if not run.agrees:
            return
        logged = _value(line["ask"])
        if run.over or run.effect != logged:
            self._disagree(run, f"the log has {_short(logged)}, this version {_ended(run)}")
            return
        if "error" in line:
            error = _value(line["error"])
            if not isinstance(error, LeaseError):
                raise self._bad("an error that is none")
            run.go_on(lambda: run.steps.throw(error))
        else:
            answer = _value(line["got"])
            run.go_on(lambda: run.steps.send(answer))

    def _end(self, run: _Run, line: dict[str, Any], at: float) -> None:
        if not run.agrees:
            return
        if "end" in line:
            same = run.over and run.error is None and digest(run.result) == line["end"]
        else:
            same = run.over and [type(run.error).__name__, str(run.error)] == line["failed"]
        if not same:
            told = line.get("failed") or "a result"
            self._disagree(run, f"the log ends with {told}, this version {_ended(run)}")
        elif run.name == "paxos.acquire" and isinstance(run.result, Held):
            self._taken(run.arguments, run.result, at)

    def _disagree(self, run: _Run, what: str) -> None:
        run.agrees = False
        self.outcome.disagreements.append(Disagreement(self._line, run.name, what))

    def _taken(self, arguments: dict[str, Any], held: Held, at: float) -> None:
        me, name = arguments["me"], arguments["lease"].show()
        key = (me.host_id, me.generation, name)
        self._held[key] = Holding(me.host_id, me.generation, name, held.lver, held.shared, at)

    def _released(self, arguments: dict[str, Any], at: float) -> None:
        me, name = arguments["me"], arguments["lease"].show()
        held = self._held.pop((me.host_id, me.generation, name), None)
        if held:
            since = (held.host_id, held.generation, held.name, held.lver, held.shared, held.since)
            self.outcome.holdings.append(Holding(*since, until=at))


def _ended(run: _Run) -> str:
    if not run.over:
        return f"asks for {_short(run.effect)}"
    if run.error is not None:
        return f"fails with {type(run.error).__name__}: {run.error}"
    return f"ends with {_short(run.result)}"


def _short(value: object) -> str:
    text = json.dumps(plain(value))
    return text if len(text) <= 300 else text[:300] + "…"


def _value(item: Any) -> Any:
    """What `steplog.plain` made, back again. Raises ValueError and its like for anything else."""
    if isinstance(item, list):
        return tuple(_value(one) for one in item)
    if not isinstance(item, dict):
        return item
    if "z" in item:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(item["z"]), LONGEST_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("bytes that are cut off or too many")
        return data
    fields_of = {key: _value(value) for key, value in item.items() if key != "="}
    kind = _RECORDS.get(item["="]) or _ERRORS.get(item["="])
    if kind is None:
        raise ValueError(f"record {item['=']!r} is not known")
    return kind(**fields_of)
