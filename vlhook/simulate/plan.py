# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to happen in a simulated run: drawn from a seed, so a run is repeated by naming it.

A run has one or more rounds; each is a turbulent phase, in which guests come and go
and accidents happen, and a calm phase, in which everything must come to rest and
every lease must be had. A plan is a flat list of actions, so that a failing run can
be made smaller by leaving actions out (`Plan.only`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Optional

DRIFT = 0.001
"""Clock rates lie within 1 ± this. (A dead time of 140 s then differs by 0.3 s at most; the slack is 1 s.)"""
CONTEND, ACCIDENTS, DAY = "contend", "accidents", "day"
MOVES = "moves"
PROFILES = (CONTEND, ACCIDENTS, DAY, MOVES)

START, CRASH, BOOT, STOP, TRAP, SUSPEND, RESTART, DARK, WEAK, DOOM, CALM = (
    "start", "crash", "boot", "stop", "trap", "suspend", "restart", "dark", "weak", "doom", "calm",
)  # fmt: skip
MOVE, CLEAN, CONFIRM = BY_PEOPLE = ("move", "clean", "confirm")


@dataclass(frozen=True)
class Action:
    """At second `at` of the run. `seconds`: how long it lasts; `patience`: after which a start is given up.

    `count`: how often a refused start is tried again; the write to a lease at which a doomed host crashes;
    the host that somebody says is off. `host` of a move: where the guest goes.
    """

    at: float
    what: str
    host: int = 0
    lease: str = ""
    shared: bool = False
    seconds: float = 0.0
    patience: float = 0.0
    fail: float = 0.0
    repeat: float = 0.0
    tear: float = 0.0
    late: float = 0.0
    lag: float = 0.0
    count: int = 0

    def __str__(self) -> str:
        if self.what == START:
            mode = "shared" if self.shared else "exclusive"
            text = f"a guest starts, {self.lease} {mode}, for {self.seconds:.2f} s, patience {self.patience:.2f} s"
            text += f", tried again up to {self.count} times" if self.count else ""
        elif self.what == WEAK:
            text = (
                f"storage: lag {self.lag:.3f} s, errors {self.fail:.0%}, repeated {self.repeat:.0%},"
                f" torn {self.tear:.0%}, very late {self.late:.0%}"
            )
        elif self.what == CALM:
            return f"{self.at:9.3f} s  calm"
        else:
            text = TEXTS[self.what].format(self.seconds, self.count, self.lease)
        return f"{self.at:9.3f} s  host {self.host}: {text}"


TEXTS = {
    CRASH: "crashes",
    BOOT: "boots",
    STOP: "its keeper is stopped for {:.1f} s",
    TRAP: "its keeper is to be stopped for {:.1f} s between its next check and the write",
    SUSPEND: "is suspended for {:.1f} s",
    RESTART: "its keeper is killed and started again",
    DOOM: "crashes when the {1}. of its next writes to a lease lands, and boots {0:.1f} s later",
    DARK: "storage disappears for {:.1f} s",
    MOVE: "the guest that has {2} is to move here, which takes {0:.2f} s",
    CLEAN: "removes {2}, if nobody uses it",
    CONFIRM: "is told that host {1} is off",
}


@dataclass(frozen=True)
class Plan:
    seed: int
    profile: str
    hosts: int
    io_timeout: int
    leases: tuple[str, ...]
    cold: bool
    """Do the hosts have to join first?"""
    actions: tuple[Action, ...]
    only: Optional[tuple[int, ...]] = None

    def keep(self, numbers: tuple[int, ...]) -> Plan:
        """The same run with these of its actions only."""
        return replace(self, only=numbers)

    def chosen(self) -> list[tuple[int, Action]]:
        numbered = list(enumerate(self.actions))
        if self.only is None:
            return numbered
        return [(n, a) for n, a in numbered if n in self.only or a.what == CALM]

    def cleans(self) -> bool:
        return self.profile == MOVES

    def command(self) -> str:
        """What repeats this run."""
        only = "" if self.only is None else " --only " + (",".join(map(str, self.only)) or "none")
        return f"vlhook simulate --profile {self.profile} --hosts {self.hosts} --seed {self.seed}{only}"


class _Drawing:
    """Draws one plan."""

    def __init__(self, seed: int, profile: str, hosts: int) -> None:
        self.rng = rng = random.Random(f"{profile} {hosts} {seed}")
        self.seed, self.profile, self.hosts = seed, profile, hosts
        self.actions: list[Action] = []
        self.leases = tuple("abcdefghij"[: 1 if rng.random() < 0.7 else 2])

    def host(self) -> int:
        return 1 + int(self.rng.random() * self.hosts)

    def start(self, at: float, longest: float, patience: float) -> None:
        rng = self.rng
        short = rng.random() < 0.4
        self.actions.append(
            Action(
                at,
                START,
                self.host(),
                rng.choice(self.leases),
                rng.random() < 0.3,
                seconds=longest * rng.random() ** 2,
                patience=patience * (0.2 * rng.random() if short else 0.2 + rng.random()),
                count=rng.choice((0, 0, 1, 2, 3)),
            )  # fmt: skip
        )

    def weak(self, at: float, host: int, lag: float) -> None:
        rng = self.rng
        self.actions.append(
            Action(
                at,
                WEAK,
                host,
                lag=lag * (0.2 + 2 * rng.random() ** 2),
                fail=rng.choice((0, 0, 0, 0.02, 0.15)),
                repeat=rng.choice((0, 0, 0.1, 0.4)),
                tear=rng.choice((0, 0.3)),
                late=rng.choice((0.025, 0.025, 0.2)),
            )  # fmt: skip
        )

    def accident(self, at: float, io_timeout: int) -> None:
        rng, host = self.rng, self.host()
        what = rng.choice((CRASH, DOOM, DOOM, STOP, TRAP, SUSPEND, RESTART, DARK, WEAK))
        far = 8 * io_timeout + 80
        if what == WEAK:
            self.weak(at, host, rng.choice((0.01, 0.1, 2.0)))
            return
        longest = far if rng.random() < 0.5 else 2 * io_timeout
        self.actions.append(Action(at, what, host, seconds=longest * rng.random(), count=rng.randint(1, 4)))
        if what == CRASH and rng.random() < 0.6:
            self.actions.append(Action(at + 5 + longest * rng.random(), BOOT, host))

    def plan(self, io_timeout: int, cold: bool) -> Plan:
        actions = tuple(sorted(self.actions, key=lambda a: a.at))
        return Plan(self.seed, self.profile, self.hosts, io_timeout, self.leases, cold, actions)


def contend(seed: int, hosts: int) -> Plan:
    """A few seconds: several hosts want the same leases at once; storage is slow, forgetful, repeats and tears."""
    d = _Drawing(seed, CONTEND, hosts)
    rng = d.rng
    if rng.random() < 0.3:
        return _duel(d)
    lag = rng.choice((0.002, 0.02, 0.1))
    for host in range(1, hosts + 1):
        d.weak(0.0, host, lag)
    span = lag * rng.choice((5, 20, 60))
    for _ in range(rng.randint(2, 3 + hosts)):
        d.start(span * rng.random(), lag * 20, lag * 60)
    for _ in range(rng.choice((0, 0, 1, 2))):
        what = rng.choice((STOP, RESTART, RESTART, TRAP))
        d.actions.append(Action(span * rng.random(), what, d.host(), seconds=span * rng.random()))
    d.actions.append(Action(span * 2, CALM))
    return d.plan(10, cold=False)


def _duel(d: _Drawing) -> Plan:
    """All want one lease for a moment, again and again; nothing fails, but many an I/O is overtaken by others."""
    rng, lag = d.rng, 0.02
    for host in range(1, d.hosts + 1):
        d.actions.append(Action(0.0, WEAK, host, lag=lag, late=rng.choice((0.0, 0.1, 0.3))))
        for _ in range(rng.choice((1, 1, 2))):
            at, seconds = lag * 6 * rng.random(), lag * 3 * rng.random()
            start = Action(at, START, host, d.leases[0], rng.random() < 0.1, seconds, lag * 200, count=2)
            d.actions.append(start)
    d.actions.append(Action(lag * 100, CALM))
    return d.plan(10, cold=False)


def accidents(seed: int, hosts: int) -> Plan:
    """Some minutes: machines crash and boot, keepers are stopped or restarted, storage disappears."""
    d = _Drawing(seed, ACCIDENTS, hosts)
    rng = d.rng
    io_timeout = rng.choice((2, 10, 10))
    span = (8 * io_timeout + 70) * (0.2 + 2 * rng.random())
    for _ in range(rng.randint(2, 4 + hosts)):
        d.start(span * rng.random(), span, 30.0)
    for _ in range(rng.randint(1, 4)):
        d.accident(span * rng.random(), io_timeout)
    d.actions.append(Action(span * 1.2, CALM))
    return d.plan(io_timeout, cold=rng.random() < 0.1)


def moves(seed: int, hosts: int) -> Plan:
    """Guests move from host to host, leases are removed as unused, hosts that crashed are confirmed to be off."""
    d = _Drawing(seed, MOVES, hosts)
    rng, short = d.rng, d.rng.random() < 0.8
    d.leases = ("a",)
    lag = rng.choice((0.002, 0.02, 0.1)) if short else 0.01
    io_timeout = 10 if short else rng.choice((2, 10))
    span = lag * rng.choice((60, 200)) if short else (8 * io_timeout + 70) * (0.5 + 2 * rng.random())
    if short or rng.random() < 0.5:
        for host in range(1, hosts + 1):
            d.weak(0.0, host, lag)
    first = Action(0.0, START, d.host(), "a", seconds=span * (0.3 + rng.random()), patience=lag * 100, count=3)
    d.actions.append(first)
    for _ in range(rng.randint(1, 2 + hosts)):
        d.start(span * rng.random(), span / 3, lag * 60 if short else 30.0)
    for _ in range(rng.randint(1, 5)):
        at, takes = span * rng.random() ** 2, span / 4 * rng.random() ** 2
        d.actions.append(Action(at, MOVE, d.host(), "a", seconds=takes, patience=lag * 60 if short else 20.0))
    for _ in range(rng.choice((0, 1, 2, 3))):
        d.actions.append(Action(span * rng.random(), CLEAN, d.host(), "a"))
    if short:
        for _ in range(rng.choice((0, 0, 1, 2))):
            what = rng.choice((STOP, RESTART, RESTART, TRAP))
            d.actions.append(Action(span * rng.random(), what, d.host(), seconds=span * rng.random()))
    else:
        for _ in range(rng.randint(1, 3)):
            d.accident(span * rng.random(), io_timeout)
        for _ in range(rng.choice((0, 1, 2, 4))):
            d.actions.append(Action(span * 1.2 * rng.random(), CONFIRM, d.host(), count=d.host()))
    d.actions.append(Action(span * (2 if short else 1.2), CALM))
    return d.plan(io_timeout, cold=False)


def day(seed: int, hosts: int, hours: float = 1.0) -> Plan:
    """Hours, in rounds of a turbulent and a calm phase; leases for every few hosts."""
    d = _Drawing(seed, DAY, hosts)
    rng = d.rng
    io_timeout = rng.choice((2, 10))
    d.leases = tuple(f"lease{n}" for n in range(max(2, hosts // 3)))
    at = 60.0
    while at < hours * 3600:
        length = 120 + 500 * rng.random()
        for _ in range(int(hosts * length / 60)):
            d.start(at + length * rng.random(), length / 2, 30.0)
        for _ in range(int(hosts * length / 300) + 1):
            d.accident(at + length * rng.random(), io_timeout)
        at += length
        d.actions.append(Action(at, CALM))
        at += 30
    return d.plan(io_timeout, cold=True)


def draw(seed: int, profile: str, hosts: int, hours: float = 1.0) -> Plan:
    if profile == CONTEND:
        return contend(seed, hosts)
    if profile == MOVES:
        return moves(seed, hosts)
    if profile == ACCIDENTS:
        return accidents(seed, hosts)
    return day(seed, hosts, hours)
