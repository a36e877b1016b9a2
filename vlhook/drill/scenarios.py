# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is taken away in a drill, and what must follow: the promises of docs/fencing.md, measured.

All times are seconds after the first host's last good renewal. The one thing
that must never happen: the second host is granted the disk while the first
one's QEMU can still write to it. That is judged beneath both of them, by the
last write that reached the disk.
"""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ..errors import VlhookError
from .bench import DISK, GRACE, IO_TIMEOUT, POLL, BenchHost, wait_until

N = IO_TIMEOUT
LIMIT, DEAD = 8 * N, 8 * N + 60
# Host 2 sees host 1's last renewal with its own next one, waits a second more than it must, and tries twice a second.
TAKEN = DEAD + 2 * N + 3
JOIN_SECONDS = 60.0
LOOP_SECONDS = 150.0
PROMISED = {
    "warned": f"{4 * N}",
    "stopped": f"{LIMIT}",
    "gone": f"<= {LIMIT + GRACE + 1}",
    "watchdog": f"<= {LIMIT + 50}",
    "granted": f"<= {TAKEN}",
}


class DrillFailed(VlhookError):
    msg = "the drill {name} did not go as promised: {why}"
    hint = "logs are in {directory}"
    code = "VLH-C302"


Act = Callable[[BenchHost, BenchHost, threading.Event], None]
"""(host 1, host 2, the drill is over)"""


@dataclass(frozen=True)
class Scenario:
    """`act` takes something away from host 1. `stubborn`: its QEMU ignores SIGTERM. `harmless`: nobody may notice."""

    name: str
    title: str
    act: Act
    harmless: bool = False
    stubborn: bool = False
    stuck: bool = False


@dataclass
class Outcome:
    """Times as above; None: it did not happen. `granted`: host 2 got the disk; `wrote`: host 1's last write."""

    name: str
    title: str
    times: dict[str, Optional[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


def run(scenario: Scenario, directory: Optional[Path] = None) -> Outcome:
    """Two fresh hosts, one guest, one loss. Raises DrillFailed if it could not even begin."""
    base = directory or Path(tempfile.mkdtemp(prefix=f"vlhook-drill-{scenario.name}-"))
    (base / "shared/leases").mkdir(parents=True)
    (base / "shared/disks").mkdir()
    (base / "shared/disks" / DISK).write_bytes(bytes(1 << 20))
    hosts: list[BenchHost] = []
    try:
        hosts += [BenchHost(base, 1), BenchHost(base, 2)]
        return _Run(scenario, base, *hosts).go()
    finally:
        for host in hosts:
            host.close()


class _Run:
    def __init__(self, scenario: Scenario, base: Path, one: BenchHost, two: BenchHost) -> None:
        self._scenario, self._base = scenario, base
        self._one, self._two = one, two
        self._seen: dict[str, float] = {}
        self._ages: dict[str, float] = {}
        self._last_ok = 0.0
        self._over = threading.Event()

    def go(self) -> Outcome:
        one, two = self._one, self._two
        self._must(wait_until(lambda: one.joined() and two.joined(), JOIN_SECONDS), "the hosts do not join")
        self._must(one.start(self._scenario.stubborn)[0] == 0, "host 1 does not get the disk")
        self._must(wait_until(lambda: one.last_write() > 0, 10), "the guest does not write")
        self._must(two.start()[0] != 0, "host 2 gets a disk that is in use")
        self._must(wait_until(lambda: one.logged("bound guest="), 10), "the guard does not know the guest's process")
        threads = [
            threading.Thread(target=self._watch, daemon=True),
            threading.Thread(target=self._scenario.act, args=(one, two, self._over), daemon=True),
        ]
        for thread in threads:
            thread.start()
        granted = self._contend(threads[1])
        self._over.set()
        for thread in threads:
            thread.join()
        return self._judge(granted)

    def _contend(self, act: threading.Thread) -> Optional[float]:
        """Host 2 tries all the time, as an impatient administrator would."""
        harmless = self._scenario.harmless
        until = time.monotonic() + DEAD + 60
        while time.monotonic() < until:
            if self._two.start()[0] == 0:
                return time.monotonic()
            if harmless:
                over = time.monotonic() + 4 * N
                until = over if act.is_alive() else min(until, over)
            time.sleep(0.5)
        return None

    def _watch(self) -> None:
        one = self._one
        what: dict[str, Callable[[], bool]] = {
            "warned": lambda: one.logged("has confirmed no renewal"),
            "stopped": lambda: one.logged(r"stopped guest=\S+ .*signal=|signalled .*signal="),
            "gone": lambda: not one.qemu_lives(),
            "watchdog": one.is_reset.is_set,
        }
        while not self._over.is_set():
            if "gone" not in self._seen:
                # As long as the guest lives it is the generation under which it was started.
                self._last_ok = max(self._last_ok, one.last_ok())
            for name, happened in what.items():
                if name not in self._seen and happened():
                    self._seen[name] = time.monotonic()
                    self._ages[name] = self._seen[name] - self._last_ok
            time.sleep(POLL)

    def _judge(self, granted: Optional[float]) -> Outcome:
        one, scenario, base = self._one, self._scenario, self._last_ok
        wrote = one.last_write()
        out = Outcome(scenario.name, scenario.title)
        out.times = {name: self._ages.get(name) for name in PROMISED}
        out.times["wrote"] = None if scenario.harmless else wrote - base
        out.times["granted"] = granted - base if granted else None
        if granted is not None and (wrote > granted or one.qemu_lives()):
            out.problems.append("TWO WRITERS: host 2 got the disk before host 1 was done with it")
        if scenario.harmless:
            done = [name for name in ("stopped", "gone", "watchdog") if name in self._seen]
            if done or granted:
                out.problems.append(f"harm was done: {', '.join(done) or 'the disk was given away'}")
        else:
            out.problems += [] if granted else ["host 2 never got the disk"]
            out.late = _late(out.times, scenario.stuck)
        return out

    def _must(self, well: object, why: str) -> None:
        if not well:
            raise DrillFailed(name=self._scenario.name, why=why, directory=self._base)


def _late(times: dict[str, Optional[float]], stuck: bool) -> list[str]:
    """What came later than promised, for people: a busy machine alone may cause it."""
    gone = LIMIT + (50 if stuck else GRACE + 1)
    limits = {"stopped": LIMIT, "gone": gone, "watchdog": LIMIT + 50, "granted": TAKEN}
    found = [(name, limit, times.get(name)) for name, limit in limits.items()]
    return [f"{name} at {at:.1f} s instead of {limit}" for name, limit, at in found if at and at > limit + 1]


def _fault(mode: str) -> Act:
    return lambda one, two, over: one.leases.set(mode)


def _until(multiple: int, *, everywhere: bool = False) -> Act:
    """The lease directory hangs until so many N after the last renewal."""

    def act(one: BenchHost, two: BenchHost, over: threading.Event) -> None:
        layers = [one.leases, two.leases] if everywhere else [one.leases]
        for layer in layers:
            layer.set("hang")
        over.wait(one.last_ok() + multiple * N - time.monotonic())
        for layer in layers:
            layer.set("ok")

    return act


def _stuck(one: BenchHost, two: BenchHost, over: threading.Event) -> None:
    one.disks.set("hang")
    one.leases.set("hang")


def _stop_keeper(one: BenchHost, two: BenchHost, over: threading.Event) -> None:
    one.keeper.send_signal(signal.SIGSTOP)


def _loop(one: BenchHost, two: BenchHost, over: threading.Event) -> None:
    """At any point of its start, too."""
    _restart_for(LOOP_SECONDS, one, over)
    wait_until(one.joined, JOIN_SECONDS)


def _crash_loop(one: BenchHost, two: BenchHost, over: threading.Event) -> None:
    one.leases.set("eio")
    _restart_for(DEAD, one, over)


def _restart_for(seconds: float, one: BenchHost, over: threading.Event) -> None:
    until = time.monotonic() + seconds
    pause = 0.3
    while time.monotonic() < until and not one.is_reset.is_set() and not over.wait(pause):
        one.kill_keeper()
        one.start_keeper()
        pause = pause % 2.5 + 0.3


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("hang", "storage of the leases hangs on one host", _fault("hang")),
        Scenario("eio", "it answers with errors", _fault("eio")),
        Scenario("readonly", "it becomes read-only", _fault("readonly")),
        Scenario("everywhere", f"it hangs on all hosts and returns at {12 * N} s", _until(12, everywhere=True)),
        Scenario("back-before", f"it returns at 7N = {7 * N} s", _until(7), harmless=True),
        Scenario("back-after", f"it returns at 9N = {9 * N} s", _until(9)),
        Scenario("keeper-killed", "keeper killed, and not started again", lambda one, two, over: one.kill_keeper()),
        Scenario("keeper-stopped", "keeper stopped (SIGSTOP)", _stop_keeper),
        Scenario("keeper-loop", f"keeper killed again and again for {LOOP_SECONDS:.0f} s", _loop, harmless=True),
        Scenario("crash-loop", "storage answers with errors, keeper killed again and again", _crash_loop),
        Scenario("stubborn", "storage hangs, QEMU ignores SIGTERM", _fault("hang"), stubborn=True),
        Scenario("stuck", "storage hangs, QEMU too, stuck in the kernel", _stuck, stuck=True),
    )
}
