# SPDX-License-Identifier: LGPL-2.1-or-later

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standin import HostProcesses
from vlhook import processes
from vlhook.processes import NoSuchProcess, NotTheProcess, Scan

PF_EXITING = 0x4
GUEST = "6d1f5f2c-2f3e-4d0a-9a53-0c1d2e3f4a5b"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostProcesses]:
    with HostProcesses(tmp_path / "proc") as host:
        yield host


def table(host: HostProcesses) -> str:
    return str(host.proc_dir)


def wait_gone(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 30)[0]


def find(host: HostProcesses, uuid: str = GUEST) -> list[int]:
    with contextlib.ExitStack() as stack:
        pids = [pid for pid, _ in processes.scan(table(host)).guests.get(uuid.lower(), [])]
        for pid in pids:
            stack.callback(processes.open_process(pid, proc_dir=table(host), uuid=uuid).close)
        return pids


# ------------------------------------------------------------------ finding


def test_a_guests_process_is_found_by_its_uuid(host: HostProcesses) -> None:
    mine = host.start(GUEST)
    host.start(str(uuids.uuid4()))
    assert find(host) == [mine.pid]


def test_the_case_of_a_uuid_does_not_matter(host: HostProcesses) -> None:
    upper = host.start(GUEST.upper())
    lower = host.start(GUEST)
    assert sorted(find(host)) == sorted([upper.pid, lower.pid])
    assert sorted(find(host, GUEST.upper())) == sorted([upper.pid, lower.pid])


def test_a_uuid_elsewhere_on_the_command_line_is_no_guest(host: HostProcesses) -> None:
    host.start(str(uuids.uuid4()), extra_args=["-smbios", f"uuid={GUEST}", GUEST])
    assert find(host) == []


def test_a_process_outside_the_hosts_table_is_not_found(host: HostProcesses, tmp_path: Path) -> None:
    host.start(GUEST)
    with HostProcesses(tmp_path / "another-host") as other:
        assert find(other) == []


def test_in_the_real_table_kernel_threads_and_this_very_process_are_no_unknowns(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    seen = processes.scan()
    assert (qemu.pid, processes.start_time(qemu.pid)) in seen.guests[GUEST]
    assert os.getpid() not in [pid for pid, _, _ in seen.unknown]


def test_processes_that_vanish_while_one_looks_are_passed_over(host: HostProcesses) -> None:
    ended = [host.start(str(uuids.uuid4())) for _ in range(3)]
    mine = host.start(GUEST)
    for process in ended:
        process.kill()
        process.wait()
    # Their links stay behind and lead nowhere.
    assert len(os.listdir(host.proc_dir)) == 4
    assert find(host) == [mine.pid]
    assert processes.scan(table(host)).unknown == []


def test_a_very_long_command_line_is_read_to_its_end(host: HostProcesses) -> None:
    padding = ["-device", "x" * 2000] * 200
    program = "import os; os.write(1, b'ready'); os.read(0, 1)"
    mine = host.run([sys.executable, "-I", "-S", "-c", program, *padding, "-uuid", GUEST])
    assert find(host) == [mine.pid]


# ------------------------------------------------------------------ gone, and not gone


def test_a_zombie_is_gone(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    process = processes.open_process(qemu.pid, proc_dir=table(host), uuid=GUEST)
    assert not process.gone()
    qemu.kill()
    wait_gone(process.pidfd)
    stat = processes.read_stat(qemu.pid)
    assert stat is not None, "its parent has not waited for it"
    assert stat.state == "Z"
    assert process.gone()
    assert not processes.alive(process.pid, process.start)
    assert find(host) == []
    process.close()


def test_a_stopped_process_is_not_gone(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    qemu.send_signal(signal.SIGSTOP)
    assert find(host) == [qemu.pid]


def test_a_zombie_whose_other_threads_run_is_still_the_guest(host: HostProcesses) -> None:
    qemu = host.start(GUEST, headless=True)
    process = processes.open_process(qemu.pid, proc_dir=table(host), uuid=GUEST)
    # The first thread ends at its own time.
    while (stat := processes.read_stat(qemu.pid)) and stat.state != "Z":
        select.select([], [], [], 0.01)
    assert Path(f"/proc/{qemu.pid}/cmdline").read_bytes() == b""
    assert not process.gone()
    assert processes.alive(process.pid, process.start)
    assert find(host) == [qemu.pid]
    process.close()


# ------------------------------------------------------------------ identity


def test_a_process_is_verified_by_start_time_and_uuid(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    start = processes.start_time(qemu.pid)
    assert start is not None
    process = processes.open_process(qemu.pid, proc_dir=table(host), start=start, uuid=GUEST.upper())
    assert process.key == (qemu.pid, start)
    process.close()


def test_another_start_time_is_another_process(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    start = processes.start_time(qemu.pid)
    assert start is not None
    with pytest.raises(NotTheProcess, match="started at"):
        processes.open_process(qemu.pid, proc_dir=table(host), start=start + 1)
    assert not processes.alive(qemu.pid, start + 1)


def test_another_uuid_is_another_guest(host: HostProcesses) -> None:
    qemu = host.start(str(uuids.uuid4()))
    with pytest.raises(NotTheProcess, match="-uuid"):
        processes.open_process(qemu.pid, proc_dir=table(host), uuid=GUEST)


def test_a_process_of_another_host_is_not_opened(host: HostProcesses) -> None:
    with pytest.raises(NoSuchProcess, match="process table"):
        processes.open_process(os.getpid(), proc_dir=table(host))


def test_a_pid_that_nobody_has_is_no_process(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    qemu.kill()
    qemu.wait()
    with pytest.raises(NoSuchProcess):
        processes.open_process(qemu.pid, proc_dir=table(host))
    assert processes.start_time(qemu.pid) is None
    assert not processes.alive(qemu.pid, 1)


def test_a_zombie_is_not_opened(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    pidfd = os.pidfd_open(qemu.pid)
    qemu.kill()
    wait_gone(pidfd)
    with pytest.raises(NoSuchProcess, match="ended"):
        processes.open_process(qemu.pid, proc_dir=table(host))
    os.close(pidfd)


def test_a_descriptor_that_came_along_must_be_a_pidfd_of_that_process(host: HostProcesses) -> None:
    qemu, other = host.start(GUEST), host.start(GUEST)
    good = processes.open_process(
        qemu.pid, proc_dir=table(host), uuid=GUEST, pidfd=os.pidfd_open(qemu.pid))
    good.close()
    for wrong in (os.pidfd_open(other.pid), os.open("/dev/null", os.O_RDONLY)):
        with pytest.raises(NotTheProcess):
            processes.open_process(qemu.pid, proc_dir=table(host), uuid=GUEST, pidfd=wrong)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(wrong)


def test_a_name_with_spaces_and_brackets_does_not_hide_the_start_time(host: HostProcesses) -> None:
    program = (
        "import os; open('/proc/self/comm', 'w').write('a) Z 1 (b'); os.write(1, b'ready'); os.read(0, 1)"
    )
    process = host.run([sys.executable, "-I", "-S", "-c", program])
    stat = processes.read_stat(process.pid)
    assert stat is not None
    assert stat.name == "a) Z 1 (b"
    assert stat.state in "SR"
    assert abs(stat.start - processes.ticks_now()) < 600 * processes.TICKS_PER_SECOND


# ------------------------------------------------------------------ not knowing


def fake_process(directory: Path, pid: int, *, state: str = "D", flags: int = 0, threads: int = 1) -> None:
    """An entry of a process table whose command line is empty."""
    entry = directory / str(pid)
    (entry / "task").mkdir(parents=True)
    fields = ["1"] * 20
    fields[0], fields[6], fields[17], fields[19] = state, str(flags), str(threads), "5000"
    (entry / "stat").write_text(f"{pid} (qemu-system-x86) {' '.join(fields)}\n")
    (entry / "cmdline").write_bytes(b"")


def test_a_process_that_dies_stuck_in_the_kernel_is_unknown_not_absent(tmp_path: Path) -> None:
    fake_process(tmp_path, 4242, flags=PF_EXITING)
    seen = processes.scan(str(tmp_path))
    assert seen == Scan({}, [(4242, 5000, "qemu-system-x86")])
    assert "4242" in (processes.sign_of_life(GUEST, seen) or "")
    assert processes.sign_of_life(GUEST, seen, since=5000) is not None
    # It started before the guest in question can have.
    assert processes.sign_of_life(GUEST, seen, since=5001) is None


def test_kernel_threads_and_ended_processes_are_not_unknown(tmp_path: Path) -> None:
    fake_process(tmp_path, 2, state="S", flags=processes.KERNEL_THREAD)
    fake_process(tmp_path, 3, state="Z", threads=1)
    assert processes.scan(str(tmp_path)) == Scan({}, [])


def test_a_process_whose_stat_cannot_be_read_counts_against_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_process(tmp_path, 4242)

    def denied(pid: int, proc_dir: str) -> None:
        raise PermissionError

    monkeypatch.setattr(processes, "read_stat", denied)
    now = processes.ticks_now()
    seen = processes.scan(str(tmp_path))
    assert processes.sign_of_life(GUEST, seen, since=now) is not None
    assert processes.alive(4242, 5000, str(tmp_path))


def test_a_living_process_is_a_sign_of_life(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    seen = processes.scan(table(host))
    assert f"process {qemu.pid}" in (processes.sign_of_life(GUEST.upper(), seen) or "")
    assert processes.sign_of_life(str(uuids.uuid4()), seen) is None


def test_a_table_that_cannot_be_read_is_an_error_not_an_empty_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        processes.scan(str(tmp_path / "absent"))


def test_what_is_not_to_be_read_is_unknown(host: HostProcesses) -> None:
    qemu, other = host.start(GUEST), host.start(str(uuids.uuid4()))
    seen = processes.scan(table(host), progress=lambda pid: pid != qemu.pid)
    assert [pid for pid, _, _ in seen.unknown] == [qemu.pid]
    assert [pid for keys in seen.guests.values() for pid, _ in keys] == [other.pid]


# ------------------------------------------------------------------ the rest


@pytest.mark.parametrize(
    ("content", "pid"),
    [(b"123\n", 123), (b"123", 123), (b"", None), (b"0\n", None), (b"-5", None), (b"1a", None)],
)
def test_a_pid_file_has_a_pid_or_nothing(tmp_path: Path, content: bytes, pid: int | None) -> None:
    path = tmp_path / "demo.pid"
    path.write_bytes(content)
    assert processes.read_pid_file(str(path)) == pid


def test_an_absent_pid_file_has_no_pid(tmp_path: Path) -> None:
    assert processes.read_pid_file(str(tmp_path / "demo.pid")) is None


def test_a_signal_to_a_process_that_is_gone_is_no_error(host: HostProcesses) -> None:
    qemu = host.start(GUEST)
    process = processes.open_process(qemu.pid, proc_dir=table(host))
    assert process.send(signal.SIGKILL)
    qemu.wait()
    assert not process.send(signal.SIGKILL)
    process.close()


def test_the_boot_id_is_a_uuid() -> None:
    assert str(uuids.UUID(processes.boot_id())) == processes.boot_id()


def test_stand_ins_end_with_whoever_started_them(tmp_path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from tests.standin import HostProcesses\n"
        f"print(HostProcesses(Path(sys.argv[1])).start({GUEST!r}, ignore_sigterm=True).pid, flush=True)\n"
        "os.read(0, 1); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    parent.stdin.close()
    parent.wait()
    wait_gone(pidfd)
    os.close(pidfd)
    parent.stdout.close()
