# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard's own life: start, stop, death and resumption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid as uuids
from pathlib import Path

import pytest

from tests.guard.rig import PATIENCE, ROOT, Rig, died_of
from vlhook.guard.table import Table
from vlhook.guardclient import GuardRefused
from vlhook.notify import notify, watchdog_interval
from vlhook.processes import boot_id


def run_guard(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vlhook.guard", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )


# ------------------------------------------------------------------ death and resumption


def test_a_guard_that_was_killed_goes_on_with_its_guests(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, bound = rig.guest("bound")
    _, unbound = rig.guest("unbound", bind=False)
    rig.kill_guard()
    rig.start_guard()
    assert rig.client.ping()
    assert (uuid, (bound.pid,)) in [(guest.uuid, guest.pids) for guest in rig.client.watched()]
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(bound) == signal.SIGTERM
    assert died_of(unbound) == signal.SIGTERM


def test_a_guest_that_ended_while_no_guard_ran_is_not_confused_with_another_process(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest()
    rig.kill_guard()
    rig.host.stop(qemu)
    rig.start_guard()
    assert [(guest.uuid, guest.pids) for guest in rig.client.watched()] == [(uuid, ())]
    rig.client.forget(uuid)


def test_a_dying_qemu_that_shows_no_command_line_is_found_again(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid, qemu = rig.guest(headless=True)
    rig.kill_guard()
    rig.start_guard()
    assert [guest.pids for guest in rig.client.watched()] == [(qemu.pid,)]
    with pytest.raises(GuardRefused):
        rig.client.forget(uuid)


def test_an_end_that_was_begun_is_completed_by_the_next_guard(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "40")
    _, qemu = rig.guest(ignore_sigterm=True)
    rig.kill_keeper()
    rig.renew(80)
    rig.expect("signalled", "SIGTERM")
    rig.kill_guard()
    # A renewal that comes now is too late for this guest.
    rig.renew(io_timeout=200)
    rig.start_guard("--grace", "40")
    assert died_of(qemu) == signal.SIGKILL


def test_the_grace_is_counted_across_a_restart(rig: Rig) -> None:
    rig.renew()
    rig.start_guard("--grace", "3")
    _, qemu = rig.guest(ignore_sigterm=True)
    rig.kill_keeper()
    rig.renew(80)
    rig.expect("signalled", "SIGTERM")
    rig.kill_guard()
    rig.log = ""
    rig.start_guard("--grace", "0")
    assert died_of(qemu) == signal.SIGKILL
    rig.expect("signalled", "SIGKILL")
    assert "SIGTERM" not in rig.log


def age_list(rig: Rig, age: float) -> None:
    """Make the guard's list say that the last renewal was so many seconds ago."""
    rig.renew(age)
    table = Table(str(rig.run_dir / "guard.state"), boot_id())
    table.load()
    table.save(rig.page.load())


@pytest.mark.parametrize("harm", ["removed", "garbage"])
def test_a_guard_without_a_page_goes_by_the_renewal_it_knew(rig: Rig, harm: str) -> None:
    rig.renew()
    rig.start_guard()
    _, qemu = rig.guest()
    rig.kill_guard()
    age_list(rig, 95)
    if harm == "removed":
        rig.page_path.unlink()
    else:
        rig.page_path.write_bytes(os.urandom(4096))
    # 15 s past the limit, by that renewal.
    rig.start_guard("--grace", "10")
    assert died_of(qemu) == signal.SIGKILL


# ------------------------------------------------------------------ a list that is lost


@pytest.fixture(params=["damaged", "lost"])
def amnesia(rig: Rig, request: pytest.FixtureRequest) -> tuple[str, subprocess.Popen[bytes]]:
    """A guest that the guard once watched, and whose list is no more."""
    rig.renew()
    rig.start_guard("--grace", "40")
    uuid, qemu = rig.guest("demo")
    rig.kill_guard()
    path = rig.run_dir / "guard.state"
    if request.param == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    rig.start_guard("--grace", "40")
    return uuid, qemu


def test_at_the_limit_every_qemu_is_ended(rig: Rig, amnesia: tuple[str, subprocess.Popen[bytes]]) -> None:
    uuid, qemu = amnesia
    rig.expect("list-damaged", "<3>")
    assert not rig.client.ping()
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGTERM
    rig.expect("gone", uuid)


def test_without_any_knowledge_at_all_the_smallest_limit_counts(
    rig: Rig, amnesia: tuple[str, subprocess.Popen[bytes]]
) -> None:
    rig.kill_guard()
    (rig.run_dir / "guard.state").unlink()
    rig.page_path.unlink()
    rig.start_guard("--grace", "0")
    assert died_of(amnesia[1]) == signal.SIGKILL


def test_before_the_limit_nobody_is(rig: Rig, amnesia: tuple[str, subprocess.Popen[bytes]]) -> None:
    _, clock = rig.guest("clock")
    clock.kill()
    rig.expect("gone")
    assert amnesia[1].poll() is None


def test_the_next_guard_still_knows_that_it_does_not_know(
    rig: Rig, amnesia: tuple[str, subprocess.Popen[bytes]]
) -> None:
    rig.kill_guard()
    rig.start_guard("--grace", "40")
    assert not rig.client.ping()
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(amnesia[1]) == signal.SIGTERM


def test_when_the_keeper_has_named_its_guests_only_they_are_ended(
    rig: Rig, amnesia: tuple[str, subprocess.Popen[bytes]]
) -> None:
    uuid, qemu = amnesia
    stranger = rig.host.start(str(uuids.uuid4()), "never-had-leases")
    rig.client.watch(uuid, "demo")
    rig.client.complete()
    assert rig.client.ping()
    rig.kill_keeper()
    rig.renew(80)
    assert died_of(qemu) == signal.SIGTERM
    rig.expect("gone", uuid)
    rig.turn()
    assert stranger.poll() is None


def test_a_guest_that_ran_already_when_it_was_named_anew_is_not_forgotten_lightly(
    rig: Rig, amnesia: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """A dying process of unknown guest counts although it started before the guest was named."""
    uuid, qemu = amnesia
    rig.client.watch(uuid, "demo")
    rig.host.stop(qemu)
    entry = rig.host.proc_dir / "999999999"
    (entry / "task").mkdir(parents=True)
    (entry / "stat").write_text("999999999 (qemu-kvm) D" + " 1" * 5 + " 4" + " 1" * 13 + "\n")
    (entry / "cmdline").write_bytes(b"")
    with pytest.raises(GuardRefused, match="999999999"):
        rig.client.forget(uuid)


# ------------------------------------------------------------------ start and stop


def test_a_guard_is_not_stopped_while_a_guest_runs(rig: Rig) -> None:
    rig.renew(io_timeout=100)
    rig.start_guard()
    _, qemu = rig.guest()
    rig.stop_guard()
    rig.expect("stop-refused", str(qemu.pid))
    with pytest.raises(GuardRefused, match="stopped"):
        rig.client.watch(str(uuids.uuid4()), "next")
    rig.kill_keeper()
    rig.renew(800, io_timeout=100)
    assert died_of(qemu) == signal.SIGTERM
    assert rig.guard is not None
    assert rig.guard.wait(PATIENCE) == 0
    assert not (rig.run_dir / "guard.sock").exists()


def test_a_guard_is_not_stopped_while_a_qemu_runs_that_was_never_bound(rig: Rig) -> None:
    rig.renew(io_timeout=100)
    rig.start_guard()
    _, qemu = rig.guest(bind=False)
    rig.stop_guard()
    rig.expect("stop-refused", str(qemu.pid))
    rig.host.stop(qemu)
    assert rig.guard is not None
    assert rig.guard.wait(PATIENCE) == 0


def test_a_guard_without_guests_stops_at_once(rig: Rig) -> None:
    rig.start_guard()
    rig.stop_guard()
    assert rig.guard is not None
    assert rig.guard.wait(PATIENCE) == 0
    rig.expect("ends")


def test_guests_without_processes_are_remembered_across_a_stop(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    uuid = str(uuids.uuid4())
    rig.client.watch(uuid, "demo")
    rig.stop_guard()
    assert rig.guard is not None
    assert rig.guard.wait(PATIENCE) == 0
    rig.start_guard()
    assert [guest.uuid for guest in rig.client.watched()] == [uuid]


def test_a_second_guard_is_refused_and_disturbs_nothing(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    second = run_guard("--run-dir", rig.run_dir, "--proc-dir", rig.host.proc_dir)
    assert second.returncode == 1
    assert "another guard runs on" in second.stderr
    assert second.stderr.count("\n") == 1
    rig.client.watch(str(uuids.uuid4()), "demo")


@pytest.mark.parametrize("grace", ["41", "-1", "nan", "soon"])
def test_a_grace_that_others_do_not_wait_for_is_refused(tmp_path: Path, grace: str) -> None:
    ran = run_guard("--run-dir", tmp_path, f"--grace={grace}")
    assert ran.returncode == 2
    assert "--grace" in ran.stderr


def test_a_run_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run_guard("--run-dir", tmp_path / "file")
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "Traceback" not in ran.stderr


@pytest.mark.root
def test_the_guards_memory_is_locked(rig: Rig) -> None:
    rig.start_guard()
    assert rig.guard is not None
    status = Path(f"/proc/{rig.guard.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert int(fields["VmLck"].split()[0]) >= int(fields["VmRSS"].split()[0])
    assert fields["VmSwap"].split()[0] == "0"


def test_the_page_stays_in_memory(rig: Rig) -> None:
    rig.renew()
    rig.start_guard()
    rig.turn()
    assert rig.guard is not None
    assert str(rig.page_path) in Path(f"/proc/{rig.guard.pid}/maps").read_text()


# ------------------------------------------------------------------ the service manager


def test_a_notification_without_a_manager_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/socket")
    assert not notify("READY=1")


def test_the_watchdog_is_fed_at_half_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert watchdog_interval() == 5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval() is None
    monkeypatch.delenv("WATCHDOG_USEC")
    monkeypatch.delenv("WATCHDOG_PID")
    assert watchdog_interval() is None
