# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever comes in: one clear line, nothing started, nothing lost, the keeper lives."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keeper.hosts import HOOK, Guest, Host, hosts, one_line, wait_for
from vlhook.leases import hostids
from vlhook.leases.directory import Ownership
from vlhook.leases.names import lease_name
from vlhook.leases.records import Leader

pytestmark = pytest.mark.xdist_group("bad-input")

BOMB = (
    b"<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'><!ENTITY c '&b;&b;&b;&b;&b;'>]>"
    b"<domain><name>&c;</name></domain>"
)
EXTERNAL = b"<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>"
GOOD = Guest("x", ["/srv/x.img"]).xml(1).encode()
BAD_XML = {
    "empty": b"",
    "blank": b"  \n",
    "no XML": b"hello",
    "truncated": GOOD[: len(GOOD) // 2],
    "zeros": bytes(1000),
    "entity bomb": BOMB,
    "external entity": EXTERNAL,
    "other root": b"<network><name>x</name></network>",
    "foreign namespace": GOOD.replace(b"<domain ", b"<domain xmlns='urn:x' "),
    "no uuid": GOOD.replace(b"<uuid>", b"<uuid>no"),
    "no name": GOOD.replace(b"<name>x</name>", b""),
    "unknown disk type": GOOD.replace(b"type='file'", b"type='hologram'"),
    "disk without source": GOOD.replace(b"<source file='/srv/x.img'/>", b""),
    "deep": b"<domain>" * 20000,
    "64 MiB": GOOD[:-9] + b"<x>" + b"a" * (64 << 20) + b"</x></domain>",
    "17 MiB of disks": GOOD[:-19] + b"<y/>" * 4_500_000 + b"</devices></domain>",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with hosts(tmp_path_factory.mktemp("bad"), 1, io_timeout=2) as (made,):
        yield made


def well(host: Host, tmp_path: Path) -> None:
    """The keeper lives, holds nothing, and a good guest starts."""
    host.wait_empty()
    guest = Guest("good", [tmp_path / "good.img"])
    assert host.start(guest) == (0, "")
    host.stop(guest)
    host.wait_empty()


@pytest.mark.parametrize("kind", sorted(BAD_XML))
def test_bad_xml_is_refused_with_one_line(host: Host, tmp_path: Path, kind: str) -> None:
    for operation in ("prepare", "start"):
        done = host.hook("x", operation, "begin", "-", xml=BAD_XML[kind])
        assert (done.returncode, done.stdout) == (1, b"")
        line = one_line(done.stderr)
        assert line.startswith("vlhook: guest x is not started: ")
        assert ";" in line, "no next step"
    assert host.hook("x", "release", "end", "-", xml=BAD_XML[kind]).returncode == 0
    well(host, tmp_path)


def test_an_unknown_operation_is_refused_and_known_ones_that_need_nothing_pass(host: Host) -> None:
    assert host.hook("x", "levitate", "begin", "-", xml=GOOD).returncode == 1
    assert host.hook("x", "prepare", "middle", "-", xml=GOOD).returncode == 1
    for operation, sub in (
        ("started", "begin"),
        ("stopped", "end"),
        ("restore", "begin"),
    ):
        done = host.hook("x", operation, sub, "-", xml=GOOD)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = host.hook("x")
    assert done.returncode == 64
    assert b"usage" in done.stderr


def test_the_name_must_be_that_of_the_xml(host: Host, tmp_path: Path) -> None:
    done = host.hook("y", "prepare", "begin", "-", xml=GOOD)
    assert done.returncode == 1
    assert "its XML is that of x" in one_line(done.stderr)
    well(host, tmp_path)


def test_start_without_prepare_is_refused(host: Host, tmp_path: Path) -> None:
    done = host.hook("x", "start", "begin", "-", xml=GOOD)
    assert done.returncode == 1
    assert "holds no leases" in one_line(done.stderr)
    well(host, tmp_path)


def test_start_with_other_disks_than_prepared_is_refused(host: Host, tmp_path: Path) -> None:
    guest = Guest("swap", [tmp_path / "a"])
    assert host.prepare(guest, 5) == (0, "")
    guest.disks = [str(tmp_path / "b")]
    done = host.hook("swap", "start", "begin", "-", xml=guest.xml(5))
    assert done.returncode == 1
    assert "changed between prepare and start" in one_line(done.stderr)
    host.after_end(guest)
    well(host, tmp_path)


def test_a_start_by_another_libvirtd_than_prepared_it_is_refused(host: Host, tmp_path: Path) -> None:
    guest = Guest("foreign", [tmp_path / "a"])
    environment = {"PATH": "/usr/bin:/bin", "VLHOOK_RUN_DIR": str(host.run_dir)}
    from tests.keeper.hosts import HOOK

    script = f"{HOOK} foreign prepare begin -; exit $?"
    done = subprocess.run(["sh", "-c", script], input=guest.xml(5).encode(), env=environment, check=False)
    assert done.returncode == 0
    refused = host.hook("foreign", "start", "begin", "-", xml=guest.xml(5))
    assert refused.returncode == 1
    wait_for("the prepared guest of a dead libvirtd to be collected", lambda: not host.phases())
    well(host, tmp_path)


AREAS = {
    "short": lambda data: data[:4096],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "garbage": lambda data: os.urandom(4096) + data[4096:],
    "leader damaged": lambda data: data[:40] + b"\xff" + data[41:],
    "dblock damaged": lambda data: data[:1024] + b"\xff" + data[1025:],
    "other lease": lambda data: data,
}


@pytest.mark.parametrize("kind", sorted(AREAS))
def test_a_damaged_lease_file_refuses_the_start_and_stays_as_it_is(host: Host, tmp_path: Path, kind: str) -> None:
    guest = Guest("damaged", [tmp_path / "disk.img"])
    path = tmp_path.parent / "x"
    leases = Path(host.status()["lease_directory"])
    path = leases / lease_name(str(tmp_path / "disk.img").encode())
    assert host.start(guest) == (0, "")
    host.stop(guest)
    host.wait_empty()
    if kind == "other lease":
        path = leases / lease_name(b"/another/disk")
        shutil.copy(leases / lease_name(str(tmp_path / "disk.img").encode()), path)
        guest = Guest("damaged", ["/another/disk"])
    path.write_bytes(AREAS[kind](path.read_bytes()))
    before = path.read_bytes()
    status, line = host.start(guest)
    assert status == 1
    assert str(path) in line
    assert path.read_bytes() == before, "a damaged area is never repaired silently"
    path.unlink()
    well(host, tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"GET / HTTP/1.0\r\n\r\n", b"vlhook/1", b"vlhook/1 hook 6 1 1 1 1 1 99\nabc", b"vlhook/1 hook 0\n",
     b"vlhook/1 hook 1 999999999\n", b"vlhook/1 call 2 6 1\nstatus[", b"\0" * 70000, b"vlhook/1 hook -1\n",
     b"vlhook/1 call 2 4 2\nnone{}", b"vlhook/1 h\xc3\xa4 0\n"],
)  # fmt: skip
def test_garbage_on_the_socket_harms_nobody(host: Host, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(host.run_dir / "vlhookd.sock"))
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        peer.settimeout(20)
        answer = peer.recv(4096)
    assert answer == b"" or answer.startswith(b"vlhook/1 error ")
    assert host.joined()


def test_silent_connections_do_not_keep_others_out(host: Host, tmp_path: Path) -> None:
    silent = []
    for _ in range(50):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(host.run_dir / "vlhookd.sock"))
        silent.append(peer)
    well(host, tmp_path)
    for peer in silent:
        peer.close()


def test_a_hook_that_hangs_up_before_its_grant_leaves_no_lease(host: Host, tmp_path: Path) -> None:
    from vlhook.keeper.wire import pack

    guest = Guest("hangup", [tmp_path / "a"])
    fields = [b"hangup", b"prepare", b"begin", b"-", str(os.getpid()).encode(), guest.xml(1).encode()]
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(host.run_dir / "vlhookd.sock"))
        peer.sendall(pack(b"hook", fields))
        assert peer.recv(4096).startswith(b"vlhook/1 ok ")
        assert host.held() == {(str(tmp_path / "a"), "exclusive")}
    well(host, tmp_path)


def test_a_reader_that_dies_or_hangs_costs_one_refusal(host: Host, tmp_path: Path) -> None:
    assert host.keeper

    def reader() -> int:
        children = Path(f"/proc/{host.keeper.pid}/task/{host.keeper.pid}/children").read_text().split()
        found = [c for c in children if "vlhook.keeper.reader" in Path(f"/proc/{c}/cmdline").read_text()]
        return int(found[0]) if found else 0

    os.kill(wait_for("a reader", reader), signal.SIGKILL)
    well(host, tmp_path)
    os.kill(wait_for("a reader", reader), signal.SIGSTOP)
    status, line = host.start(Guest("hang", [tmp_path / "h"]))
    assert status == 1
    assert "could not be read" in line
    well(host, tmp_path)


def test_without_the_guard_no_guest_gets_leases(tmp_path: Path) -> None:
    with hosts(tmp_path, 1) as (host,):
        assert host.guard
        host.guard.kill()
        host.guard.wait()
        status, line = host.start(Guest("g", [tmp_path / "a"]))
        assert status == 1
        assert "vlhook-guard" in line
        assert host.held() == set()
        host.start_guard()
        wait_for("the guard", lambda: host.status()["fencing"]["guard"] == "ready")
        well(host, tmp_path)


def test_without_the_keeper_no_guest_starts_and_release_passes(tmp_path: Path) -> None:
    host = Host(tmp_path, 1, tmp_path / "leases")
    done = host.hook("x", "prepare", "begin", "-", xml=GOOD)
    assert done.returncode == 1
    assert "no answer from vlhookd" in one_line(done.stderr)
    assert host.hook("x", "release", "end", "-", xml=GOOD).returncode == 0
    assert host.hook("x", "reconnect", "begin", "-", xml=GOOD).returncode == 0


@pytest.mark.parametrize("config", ["host_id = 0", "host_id = 2001", 'host_id = "one"', "hostid = 1", "host_id 1", ""])
def test_bad_settings_end_the_keeper_with_status_78_and_the_line(tmp_path: Path, config: str) -> None:
    host = Host(tmp_path, 1, tmp_path / "leases")
    host.config.write_text(config + "\n")
    host.start_keeper()
    assert host.keeper
    assert host.keeper.wait(20) == 78
    assert "qemu-sanlock.conf" in host.log_text()
    assert "Traceback" not in host.log_text()


def test_a_lease_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    host = Host(tmp_path, 1, tmp_path / "nowhere").start_daemons()
    try:
        wait_for("the alarm", lambda: host.status().get("alarms"))
        status, line = host.prepare(Guest("g", [tmp_path / "a"]))
        assert status == 1
        assert str(tmp_path / "nowhere") in line
        (tmp_path / "nowhere").mkdir()
        host.wait_joined()
    finally:
        host.down()


def test_a_clone_that_brought_its_host_id_along_does_not_join(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    hostids.bind(str(leases), 1, hostids.Machine("another machine", "kvm7", "boot"), Ownership())
    host = Host(tmp_path, 1, leases).start_daemons()
    try:
        (alarm,) = wait_for("the alarm", lambda: host.status().get("alarms"))
        assert "host id 1" in alarm
        assert "kvm7" in alarm
        assert [p.name for p in leases.iterdir()] == [".vlhook-host-1"], "nothing was written before that"
        (leases / ".vlhook-host-1").unlink()
        host.wait_joined()
    finally:
        host.down()


def test_a_hook_waits_for_a_keeper_that_is_being_restarted(tmp_path: Path) -> None:
    with hosts(tmp_path, 1, io_timeout=2) as (host,):
        guest = Guest("g", [tmp_path / "a"])
        assert host.start(guest) == (0, "")
        host.kill_keeper()
        host.end_qemu(guest)
        release = subprocess.Popen(
            [HOOK, guest.name, "release", "end", "-"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "VLHOOK_RUN_DIR": str(host.run_dir)},
        )
        host.start_keeper()
        assert release.communicate(guest.xml(-1).encode(), timeout=60)[1] == b""
        assert release.returncode == 0
        host.wait_empty()


def test_xml_that_does_not_come_to_an_end_is_refused_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "hook-deadline").write_text("0.3\n")
    environment = {"PATH": "/usr/bin:/bin", "VLHOOK_RUN_DIR": str(tmp_path)}
    hook = subprocess.Popen(
        [HOOK, "g", "prepare", "begin", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert hook.stdin
    assert hook.stderr
    hook.stdin.write(GOOD[:20])
    hook.stdin.flush()
    assert hook.wait(60) == 1
    assert "did not come to an end" in one_line(hook.stderr.read())
    hook.stdin.close()
    hook.stderr.close()


def test_a_lease_directory_that_is_unmounted_at_the_release_keeps_the_lease_until_it_is_back(tmp_path: Path) -> None:
    with hosts(tmp_path, 1, io_timeout=2) as (host,):
        guest = Guest("g", [tmp_path / "a"])
        assert host.start(guest) == (0, "")
        wait_for("its QEMU", lambda: host.phases() == {"g": "running"})
        leases = tmp_path / "leases"
        leases.rename(tmp_path / "away")
        host.end_qemu(guest)
        wait_for("the release to fail", lambda: "is it mounted?" in host.log_text())
        assert host.phases() == {"g": "ending"}
        (tmp_path / "away").rename(leases)
        host.wait_empty()
        area = (leases / lease_name(os.fsencode(tmp_path / "a"))).read_bytes()
        assert Leader.decode(area).timestamp == 0


@pytest.mark.root
def test_a_full_lease_directory_refuses_new_leases_and_harms_no_old_ones(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", leases], check=True)
    try:
        with hosts(tmp_path, 1) as (host,):
            first = Guest("first", [tmp_path / "a"])
            assert host.start(first) == (0, "")
            status, line = host.start(Guest("second", [tmp_path / n for n in "bcde"]))
            assert status == 1
            assert "No space left" in line
            assert host.held() == {(str(tmp_path / "a"), "exclusive")}
            assert not [p.name for p in leases.iterdir() if p.name.startswith(".")], "half-made files are left"
            host.stop(first)
            host.wait_empty()
    finally:
        subprocess.run(["umount", "-l", leases], check=True)
