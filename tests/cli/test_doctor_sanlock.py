# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook doctor sanlock`: what it says of a daemon that runs, hangs, is absent, or is set up otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.keeper import hosts as keepers
from vlhook.cli import doctor
from vlhook.cli.checks import FAIL, GOOD, NOTE, WARN, Check, Finding, Host
from vlhook.cli.checks import sanlock as daemon_checks
from vlhook.cli.checks.sanlock import Account
from vlhook.leases.directory import Ownership, create_lease, create_lockspace, lockspace_path
from vlhook.leases.geometry import FILE
from vlhook.leases.names import LOCKSPACE_NAME, lease_name
from vlhook.leases.sanlockspace import DaemonState, SpaceState
from vlhook.leases.sanlockwire import Disk, Lockspace


def configure(host: Host, engine: str = "sanlock", host_id: int = 1, io_timeout: int = 2, more: str = "") -> None:
    text = f'host_id = {host_id}\ndisk_lease_dir = "{host.root}/leases"\nio_timeout = {io_timeout}\n'
    (host.config_dir / "qemu-sanlock.conf").write_text(text)
    (host.config_dir / "qemu-vlhook.conf").write_text(f"engine = {engine}\n{more}")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for name in ("etc", "run", "leases", "proc"):
        (tmp_path / name).mkdir()
    made = Host(
        config_dir=tmp_path / "etc", run_dir=tmp_path / "run", proc_dir=str(tmp_path / "proc"), root=tmp_path,
        sanlock_socket=str(tmp_path / "sanlock.sock"),
    )  # fmt: skip
    configure(made)
    create_lockspace(str(made.lease_dir), FILE, 2, Ownership())
    return made


def findings(host: Host) -> list[Finding]:
    found = doctor.examine(Check("sanlock", daemon_checks.sanlock), host)
    return [Finding(str(one["verdict"]), str(one["what"]), one["mend"] or "") for one in found]


def only(host: Host, verdict: str) -> Finding:
    found = [one for one in findings(host) if one.verdict == verdict]
    assert len(found) == 1, findings(host)
    return found[0]


# ------------------------------------------------------------------------ a daemon that runs


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[keepers.Host]:
    with keepers.hosts(tmp_path_factory.mktemp("doctor"), 1, io_timeout=2, engine="sanlock") as (made,):
        yield made


def place(one: keepers.Host) -> Host:
    assert one.sanlock
    link = one.proc / str(one.sanlock.pid)
    if not link.is_symlink():
        link.symlink_to(f"/proc/{one.sanlock.pid}")
    return Host(
        config_dir=one.dir / "etc", run_dir=one.run_dir, proc_dir=str(one.proc), root=one.dir,
        sanlock_socket=one.sanlock.socket_path,
    )  # fmt: skip


@pytest.mark.sanlock
@pytest.mark.xdist_group("doctor-sanlock")
def test_version_lockspace_watchdog_and_rights_are_told(one: keepers.Host) -> None:
    answers, joined, watchdog, rights = findings(place(one))
    assert [f.verdict for f in (answers, joined, watchdog, rights)] == [GOOD, GOOD, NOTE, GOOD]
    assert "sanlock 3." in answers.what
    assert "sanlock1.node1" in answers.what
    assert f"joined {LOCKSPACE_NAME} as host 1, generation {one.generation()}, io_timeout 2 s" in joined.what
    assert "-w 0" in watchdog.what
    assert "may write all 1 files" in rights.what


@pytest.mark.parametrize(("name", "value"), [("host_id", 7), ("io_timeout", 3)])
@pytest.mark.sanlock
@pytest.mark.xdist_group("doctor-sanlock")
def test_a_lockspace_that_is_joined_otherwise_than_configured(
    one: keepers.Host, tmp_path: Path, name: str, value: int
) -> None:
    (tmp_path / "qemu-vlhook.conf").write_text("engine = sanlock\n")
    text = one.config.read_text()
    (tmp_path / "qemu-sanlock.conf").write_text("".join(
        f"{name} = {value}\n" if line.startswith(name) else line for line in text.splitlines(keepends=True)
    ))  # fmt: skip
    found = only(replace(place(one), config_dir=tmp_path), FAIL)
    assert "host id 1 and io_timeout 2" in found.what
    assert f"{name.replace('_', ' ') if name == 'host_id' else name} {value}" in found.what
    assert "systemctl restart sanlock vlhookd" in found.mend


@pytest.mark.sanlock
@pytest.mark.xdist_group("doctor-sanlock")
def test_a_daemon_that_hangs_is_a_finding_and_not_waited_for(one: keepers.Host) -> None:
    assert one.sanlock
    one.sanlock.sigstop()
    try:
        (found,) = findings(place(one))
    finally:
        one.sanlock.sigcont()
    assert found.verdict == FAIL
    assert "did not answer" in found.what
    assert found.mend


# ------------------------------------------------------------------------------ made-up ones


@pytest.mark.parametrize(("engine", "verdict"), [("sanlock", FAIL), ("auto", NOTE)])
def test_no_daemon_is_a_failure_unless_the_engine_is_auto(host: Host, engine: str, verdict: str) -> None:
    configure(host, engine)
    (found,) = findings(host)
    assert found.verdict == verdict
    assert found.mend == ("systemctl enable --now sanlock" if verdict == FAIL else "")


def test_with_the_native_engine_nothing_is_said(host: Host) -> None:
    configure(host, "native")
    assert findings(host) == []


def space_of(host: Host, **other: object) -> SpaceState:
    where = Lockspace(LOCKSPACE_NAME, 1, Disk(lockspace_path(str(host.lease_dir))))
    good = SpaceState(where, "spaces", 4, 2, int(time.monotonic()), False, False, True)
    return replace(good, **other)  # type: ignore[arg-type]


def answers(monkeypatch: pytest.MonkeyPatch, space: SpaceState | None, use_watchdog: bool = True) -> None:
    state = DaemonState("3.8.5", "one.node1", use_watchdog, 40, space)
    monkeypatch.setattr(daemon_checks, "look", lambda client, name: state)


def runs_as(monkeypatch: pytest.MonkeyPatch, uid: int, any_file: bool = False) -> None:
    who = Account(uid, os.getgid(), frozenset({4712}), any_file)
    monkeypatch.setattr(daemon_checks, "account", lambda socket_path, proc_dir: who)


def test_a_watchdog_of_the_daemon_is_good_and_none_at_all_a_warning(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, space_of(host))
    assert "-w 1" in [one for one in findings(host) if "wdmd" in one.what][0].what
    configure(host, more="watchdog = off\n")
    answers(monkeypatch, space_of(host), use_watchdog=False)
    assert "nothing resets this host" in only(host, WARN).what


def test_an_io_timeout_that_is_too_short_for_the_daemons_watchdog(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(host, io_timeout=1)
    answers(monkeypatch, None)
    assert "io_timeout" in only(host, FAIL).mend
    answers(monkeypatch, None, use_watchdog=False)
    assert FAIL not in {one.verdict for one in findings(host)}


@pytest.mark.parametrize("other", [{"dead": True}, {"killing": True}, {"state": "rem"}])
def test_a_lockspace_that_failed_or_ends(host: Host, monkeypatch: pytest.MonkeyPatch, other: dict[str, object]) -> None:
    answers(monkeypatch, space_of(host, **other))
    assert LOCKSPACE_NAME in only(host, FAIL).what


def test_a_lockspace_that_is_renewed_late_or_not_joined_yet(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, space_of(host, last_ok=int(time.monotonic()) - 14))
    assert "14 s ago" in only(host, WARN).what or "15 s ago" in only(host, WARN).what
    answers(monkeypatch, None)
    assert {one.verdict for one in findings(host)} == {GOOD, NOTE}


def test_files_that_the_daemons_user_may_not_write(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, space_of(host))
    name = lease_name(b"/srv/a")
    create_lease(str(host.lease_dir / name), FILE, LOCKSPACE_NAME.encode(), name.encode(), Ownership())
    host.lease_dir.chmod(0o711)
    runs_as(monkeypatch, 4711)
    made, closed = (one for one in findings(host) if one.verdict == FAIL)
    assert made.mend.startswith("vlhook config set user 4711 && vlhook config set group")
    assert "may not read and write 2 files" in closed.what
    assert closed.mend.startswith("chown 4711:")
    host.lease_dir.chmod(0o700)
    assert "may not enter" in [one for one in findings(host) if one.verdict == FAIL][-1].what
    runs_as(monkeypatch, 4711, any_file=True)
    assert FAIL not in {one.verdict for one in findings(host)}


def test_files_of_the_daemons_own_user_are_good(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, space_of(host))
    runs_as(monkeypatch, os.getuid())
    with (host.config_dir / "qemu-sanlock.conf").open("a") as file:
        file.write(f'user = "+{os.getuid()}"\n')
    assert FAIL not in {one.verdict for one in findings(host)}


def test_a_daemon_that_does_not_come_up_before_vlhookd(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    (host.root / "run/systemd/system").mkdir(parents=True)
    answers(monkeypatch, space_of(host))
    told = {"is-enabled": "enabled\n", "show": "network.target sanlock.service\n"}
    monkeypatch.setattr(daemon_checks, "output", lambda *words: told[words[1]])
    assert {one.verdict for one in findings(host)} == {GOOD}
    told["is-enabled"] = "disabled\n"
    assert only(host, WARN).mend == "systemctl enable sanlock"
    told.update({"is-enabled": "enabled\n", "show": "network.target\n"})
    assert "After=sanlock.service" in only(host, WARN).mend
