# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keeper restarted under running guests: how long nobody is answered, and what it costs the guests."""

from __future__ import annotations

import threading
import time

from vlhook.errors import VlhookError
from vlhook.keeper.client import call

from .. import domains
from ..keeper import Keeper, keeper
from ..processes import compile_all
from ..report import Row, Table
from ..storage import directory

ROUNDS = 5
COUNTS = (8, 64, 256, 1000)
EACH = 8
TARGET_SECONDS = 1.0
PATIENCE = 60.0
POLL_SECONDS = 0.002
OURS, NOT_POSSIBLE = "vlhook", "not possible"
PROBE = "ffffffff-0000-4000-8000-000000000001"


def measure(rounds: int) -> Table:
    table = Table("restart", "the keeper restarted under running guests, by leases held", rounds=rounds)
    compile_all()
    answered: list[Row] = []
    granted: list[Row] = []
    with directory() as base, keeper(base) as ours:
        for count in COUNTS:
            ours.fill(count, EACH)
            ours.wait_found()
            silent, closed = [], []
            for _ in range(rounds):
                one, other = _restart(ours)
                silent.append(one)
                closed.append(other)
            notes = {"sanlock": NOT_POSSIBLE}
            what = f"{count} leases"
            answered.append(
                Row(f"until a request is answered, {what}", {OURS: silent}, "s", target=TARGET_SECONDS, absolute=True,
                    x=count, curve="answered", notes=notes)
            )  # fmt: skip
            granted.append(
                Row(f"until a guest gets a lease, {what}", {OURS: closed}, "s", x=count, curve="granted", notes=notes)
            )
    table.rows = answered + granted
    table.remarks.append(
        "From the signal that ends it. No lease was lost and no new generation taken, or this table would not be here. "
        "The sanlock daemon cannot be restarted while it holds leases: it ends the guests, or the watchdog does."
    )
    return table


def _restart(ours: Keeper) -> tuple[float, float]:
    """Seconds from the end until it answers, and until it grants."""
    before = _held(ours)
    begun = time.perf_counter()
    restart = threading.Thread(target=ours.restart)
    restart.start()
    answered = _until(begun, lambda: call(ours.run_dir, "status"), gone=lambda: not restart.is_alive())
    restart.join()
    granted = _until(begun, lambda: _probe(ours))
    ours.ask("probe", "release", "end", domains.live("probe", PROBE, -1))
    ours.wait_found()
    if _held(ours) != before:
        raise RuntimeError("the keeper lost leases, or has another generation")
    return answered, granted


def _probe(ours: Keeper) -> None:
    ours.ask("probe", "prepare", "begin", domains.live("probe", PROBE, 900001, ["/images/probe"]))


def _held(ours: Keeper) -> tuple[int, list[str]]:
    report = ours.status()
    held = sorted(lease["lease"] for guest in report["guests"] if guest["uuid"] != PROBE for lease in guest["leases"])
    return report["membership"]["generation"], held


def _until(begun: float, ask: object, gone: object = lambda: True) -> float:
    """Seconds since `begun` until `ask` succeeds once the former keeper is gone."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if gone():  # type: ignore[operator]
            try:
                ask()  # type: ignore[operator]
                return time.perf_counter() - begun
            except (VlhookError, OSError, RuntimeError, TypeError):
                pass
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"the keeper did not come back within {PATIENCE:.0f} s")
