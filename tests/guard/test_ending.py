# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests whose leases ran out are ended, whatever the keeper does (safety rules, 9)."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from pathlib import Path

import pytest

from tests.guard.rig import Rig, died_of
from vlhook.guard.ending import COMPLAIN_SECONDS, KILL, TERM, WAIT, Endings, stage
from vlhook.guard.limit import Limit
from vlhook.guard.table import Guest, Table
from vlhook.guardclient import GuardRefused
from vlhook.lastok import PAGE_SIZE, Page


@pytest.mark.parametrize(
    ("overdue", "keeper_acts", "since_term", "due"),
    [
        (0, True, None, WAIT),
        (19.9, True, None, WAIT),
        (20, True, None, KILL),
        (0, False, None, TERM),
        (19.9, False, None, TERM),
        (20, False, None, KILL),
        (3, False, 3, TERM),
        (5, False, 5, KILL),
        (20, False, 1, KILL),
        # A keeper that comes back does not stop what was begun.
        (7, True, 3, TERM),
        (7, True, 5, KILL),
        (1e6, True, None, KILL),
    ],
)
def test_what_is_due_and_when(overdue: float, keeper_acts: bool, since_term: float | None, due: str) -> None:
    assert stage(overdue, 20, keeper_acts, since_term) == due


def test_a_dead_keepers_guest_is_asked_to_end_at_the_limit(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest()
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGTERM
    rig.expect("expired", "keeper=does-not-act")


def test_a_guest_that_ignores_it_is_killed(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest(ignore_sigterm=True)
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGKILL
    rig.expect("signalled", "SIGTERM")


def test_a_stopped_qemu_is_killed(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "1")
    _, qemu = rig.guest()
    qemu.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, qemu.pid, os.WSTOPPED)  # until then SIGTERM would end it
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGKILL


def test_a_working_keeper_acts_first_and_the_guard_kills_at_the_end_of_grace(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "2")
    _, qemu = rig.guest()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGKILL
    rig.expect("expired", "keeper=acts-first")
    rig.expect("gone")
    assert "SIGTERM" not in rig.log
    assert rig.keeper.poll() is None


def test_a_keeper_that_stops_beating_in_its_grace_is_not_waited_for(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest()
    rig.renew(80)
    rig.expect("expired", "keeper=acts-first")
    assert died_of(qemu) == signal.SIGTERM


def test_a_stopped_keeper_is_killed_at_the_limit(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest()
    rig.keeper.send_signal(signal.SIGSTOP)
    rig.renew(80, beat=10)
    assert died_of(qemu) == signal.SIGTERM
    assert died_of(rig.keeper) == signal.SIGKILL
    rig.expect("keeper-killed", f"pid={rig.keeper.pid}")


def test_before_the_limit_a_stopped_keeper_costs_nothing(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    rig.keeper.send_signal(signal.SIGSTOP)
    rig.renew(70, beat=60, io_timeout=10)
    rig.turn()
    assert qemu.poll() is None
    assert rig.keeper.poll() is None
    assert not rig.client.watched()[0].ending


def test_the_keepers_pid_in_use_by_another_process_is_left_alone(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest()
    rig.renew(80, beat=10, keeper_start=1)
    assert died_of(qemu) == signal.SIGTERM
    rig.turn()
    assert rig.keeper.poll() is None


def test_a_guest_that_was_never_bound_is_found_and_ended(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest(bind=False)
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGTERM


def test_a_qemu_that_appears_after_the_limit_is_ended_too(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "1")
    uuid, qemu = rig.guest()
    rig.kill_keeper()
    rig.renew(80)
    died_of(qemu)
    rig.expect("gone")
    assert died_of(rig.host.start(uuid, "late")) in (signal.SIGTERM, signal.SIGKILL)


def test_only_watched_guests_are_ended(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    other = rig.host.start("11111111-2222-3333-4444-555555555555", "without-leases")
    rig.kill_keeper()
    rig.renew(80)
    died_of(qemu)
    rig.turn()
    assert other.poll() is None


def test_a_renewal_that_comes_late_saves_nobody(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "2")
    uuid, qemu = rig.guest()
    rig.renew(80)
    rig.expect("expired", "keeper=acts-first")
    rig.renew()
    with pytest.raises(GuardRefused, match="being ended"):
        rig.client.watch(uuid, "demo")
    assert died_of(qemu) == signal.SIGKILL


def test_a_renewal_in_time_changes_nothing(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    _, clock = rig.guest("clock")
    for age in (20, 50, 70):
        rig.renew(age)
        rig.turn()
    rig.renew(io_timeout=200)
    clock.kill()
    rig.expect("gone")
    assert qemu.poll() is None
    assert [guest.ending for guest in rig.client.watched()] == [False, False]


def test_another_generation_means_that_the_leases_are_gone(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest()
    rig.renew(generation=2)
    assert died_of(qemu) == signal.SIGKILL
    rig.expect("expired", "generation")


def test_after_a_suspension_guests_are_killed_at_once(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "20")
    _, qemu = rig.guest()
    rig.renew()
    latest = rig.page.load()
    assert latest is not None
    # By CLOCK_MONOTONIC the renewal is fresh, and the keeper has just beaten.
    rig.page.write(latest._replace(last_ok_boottime=latest.last_ok_boottime - 200 * 10**9))
    assert died_of(qemu) == signal.SIGKILL


@pytest.mark.parametrize("harm", ["garbage", "zeros", "truncated", "removed"])
def test_without_a_readable_page_the_last_known_renewal_counts(rig: Rig, harm: str) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    rig.renew(79)
    rig.turn()
    if harm == "truncated":
        os.truncate(rig.page_path, 100)
    elif harm == "removed":
        rig.page_path.unlink()
    else:
        with open(rig.page_path, "r+b") as file:
            file.write(os.urandom(PAGE_SIZE) if harm == "garbage" else bytes(PAGE_SIZE))
    assert died_of(qemu) == signal.SIGTERM


def test_a_page_that_was_made_anew_is_followed(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    rig.page_path.unlink()
    rig.page = Page.create(str(rig.page_path))
    rig.renew(80, beat=10)
    assert died_of(qemu) == signal.SIGTERM


def test_all_guests_of_the_host_are_ended(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    running = [rig.guest(f"demo{number}", bind=number % 2 == 0)[1] for number in range(8)]
    rig.kill_keeper()
    rig.renew(80)
    assert {died_of(qemu) for qemu in running} == {signal.SIGTERM}


def test_a_log_that_nobody_reads_does_not_stop_the_guard(rig: Rig) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    rig.renew()
    rig.start_guard("--grace", "1", stderr=writing)
    _, qemu = rig.guest(ignore_sigterm=True)
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGKILL
    os.close(reading)
    os.close(writing)


def test_a_guard_that_gets_no_more_memory_ends_its_guests_all_the_same(rig: Rig) -> None:
    """Not a page and not a thread more than it had with a guest to watch."""
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest(ignore_sigterm=True)
    _, unbound = rig.guest("unbound", bind=False)
    rig.kill_keeper()
    assert rig.guard
    (size,) = re.findall(r"VmSize:\s+(\d+) kB", Path(f"/proc/{rig.guard.pid}/status").read_text())
    resource.prlimit(rig.guard.pid, resource.RLIMIT_AS, (int(size) << 10, int(size) << 10))
    rig.renew(80)
    assert died_of(qemu) == signal.SIGKILL
    assert died_of(unbound) == signal.SIGTERM
    assert rig.guard.poll() is None


def test_a_process_stuck_in_the_kernel_does_not_hold_up_the_others(rig: Rig) -> None:
    """Reading the command line of one that has its memory map locked never returns, as a FIFO's open."""
    rig.renew()
    rig.start_guard("--grace", "40")
    _, bound = rig.guest("bound")
    uuid, unbound = rig.guest("unbound", bind=False)
    stuck = rig.host.proc_dir / "999999999"
    stuck.mkdir()
    (stuck / "stat").write_text("999999999 (stuck) D" + " 1" * 40 + "\n")
    os.mkfifo(stuck / "cmdline")
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(bound) == signal.SIGTERM
    assert died_of(unbound) == signal.SIGTERM
    # It started long before this guest was watched, so it is not its QEMU.
    rig.client.forget(uuid)


def test_a_fault_in_the_state_directory_does_not_stop_the_killing(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    # Nothing can be saved any more.
    (rig.run_dir / "guard.state.new").mkdir()
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGTERM
    rig.expect("not-saved")


class Protected:
    """A process that the guard may not kill at first."""

    pid, start, key = 4242, 1, (4242, 1)

    def __init__(self) -> None:
        self.sent: list[signal.Signals] = []

    def gone(self) -> bool:
        return False

    def send(self, number: signal.Signals) -> bool:
        self.sent.append(number)
        if len(self.sent) == 1:
            raise PermissionError(1, "Operation not permitted")
        return True


def test_a_sigkill_that_was_refused_is_sent_again_and_said_each_time(tmp_path: Path) -> None:
    said: list[str] = []
    table = Table(str(tmp_path / "list"), "boot")
    guest, process = Guest("u", "g", 0, 1, 1), Protected()
    guest.add(process)  # type: ignore[arg-type]
    limit = Limit(str(tmp_path / "page"), lambda *_, **__: None)
    endings = Endings(table, limit, 20, lambda _, what, **__: said.append(what))
    endings.doom(guest, 30, "the test says so")
    endings.end(guest)
    endings.end(guest)
    assert process.sent == [signal.SIGKILL]
    assert said == ["expired", "not-signalled"]
    (target,) = guest.targets.values()
    for _ in range(2):
        target.complained -= COMPLAIN_SECONDS
        endings.end(guest)
    assert process.sent == 3 * [signal.SIGKILL]
    assert said[2:] == 2 * ["signalled", "does-not-die"]
