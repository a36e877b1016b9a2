# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs in the inner machine: `python3 -m tests.vm.inside device|wdmd|nfs`. Tells the outer one by lines."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.keeper.hosts import Guest, Host, wait_for
from vlhook.lastok import FILE_NAME, Page
from vlhook.leases.blockio import await_io

PATIENCE = 120


def say(what: str) -> None:
    os.write(1, f"[inside] {what}\n".encode())


def last_ok_age(host: Host) -> float:
    page = Page.open(str(host.run_dir / FILE_NAME))
    snapshot = page.load()
    assert snapshot
    return snapshot.elapsed()


def watchdog(kind: str) -> None:
    """Arm, disarm, arm again; then keeper and guard die, nobody starts them again, and the guest goes on."""
    host = Host(Path("/run/hosts"), 1, Path("/mnt/leases"), io_timeout=2)
    if kind == "wdmd":
        os.mkdir("/run/wdmd")
        subprocess.Popen(["wdmd", "-D", "-G", "root"], stdin=subprocess.DEVNULL)
        (host.dir / "wdmd").symlink_to("/run/wdmd")
        wait_for("wdmd", Path("/run/wdmd/wdmd.sock").exists, PATIENCE)
    else:
        (host.dir / "watchdog").symlink_to("/dev/watchdog")
    host.settings("watchdog = required\n")
    host.start_daemons().wait_joined(PATIENCE)
    guest = Guest("g", ["/mnt/leases/disk"])
    state = Path("/sys/class/watchdog/watchdog0/state")
    for number in (1, 2):
        status, line = host.start(guest)
        assert status == 0, line
        wait_for("QEMU to be found", lambda: host.phases() == {"g": "running"}, PATIENCE)
        assert state.read_text().strip() == "active"
        told = host.status()["fencing"]
        assert (told["watchdog"], told["armed"]) == (kind, True)
        say(f"armed {number}")
        if number == 1:
            host.stop(guest)
            host.wait_empty(PATIENCE)
            if kind == "device":
                wait_for("it to be disarmed", lambda: state.read_text().strip() == "inactive", PATIENCE)
            say("disarmed")
    assert host.keeper
    assert host.guard
    for process in (host.guard, host.keeper):
        process.kill()
        process.wait()
    say(f"killed, last renewal {last_ok_age(host):.1f} s ago")
    while True:
        time.sleep(1)
        assert host.qemus[guest.uuid].poll() is None


def serve_nfs(path: str) -> None:
    """The kernel's server, one export, version 4.2, without its daemons in user space."""
    proc = Path("/proc/fs/nfsd")
    mount("nfsd", str(proc), "nfsd", "")
    far = int(time.time()) + 1_000_000
    rpc = Path("/proc/net/rpc")
    (rpc / "auth.unix.ip/channel").write_text(f"nfsd 127.0.0.1 {far} test\n")
    # NOSUBTREECHECK, FSID, INSECURE_PORT
    (rpc / "nfsd.export/channel").write_text(f"test {path} {far} {0x2402} 65534 65534 0\n")
    (rpc / "nfsd.fh/channel").write_text(f"test 1 \\x00000000 {far} {path}\n")
    for name in ("nfsv4gracetime", "nfsv4leasetime"):
        (proc / name).write_text("10\n")
    (proc / "versions").write_text("-2 -3 +4 +4.1 +4.2\n")
    (proc / "threads").write_text("2\n")


def mount(source: str, target: str, kind: str, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {source}")


# One sector, directly, as an engine writes; then for ever something to be killed at.
_WRITER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT | os.O_SYNC)
page = mmap.mmap(-1, 4096)
page[:3] = b"new"
os.write(1, b"ready")
os.read(0, 1)
os.pwritev(fd, [memoryview(page)[:512]], 0)
"""


def nfs() -> None:
    """A process is killed in the middle of a write; the write lands after its end, and `await_io` waits for it."""
    export, seen = Path("/mnt/leases"), Path("/run/nfs")
    seen.mkdir()
    serve_nfs(str(export))
    mount("127.0.0.1:/", str(seen), "nfs4", "vers=4.2,proto=tcp,addr=127.0.0.1,clientaddr=127.0.0.1,sec=sys,hard")
    say("mounted")
    (export / "file").write_bytes(b"old" + bytes(8189))
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(seen / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdin
    assert writer.stdout
    assert writer.stdout.read(5) == b"ready"
    network("down")
    writer.stdin.close()
    wait_for("its write to wait", lambda: "nfs" in Path(f"/proc/{writer.pid}/stack").read_text(), PATIENCE)
    writer.kill()
    writer.wait()
    say("the writer is gone")
    assert (export / "file").read_bytes()[:3] == b"old"
    waiter = os.fork()
    if not waiter:
        await_io(str(seen / "file"))
        os._exit(0)
    wait_for("it to wait", lambda: "nfs" in Path(f"/proc/{waiter}/stack").read_text(), PATIENCE)
    time.sleep(2)
    assert os.waitpid(waiter, os.WNOHANG) == (0, 0), "it must wait for a write that may still land"
    say("await_io waits")
    network("up")
    assert os.waitpid(waiter, 0)[1] == 0
    landed = (export / "file").read_bytes()[:3]
    say(f"await_io is over, the file says {landed.decode()}")
    assert landed == b"new"
    say("well")


def network(state: str) -> None:
    subprocess.run(["/run/busybox", "ifconfig", "lo", "127.0.0.1", state], check=True)


if __name__ == "__main__":
    try:
        nfs() if sys.argv[1] == "nfs" else watchdog(sys.argv[1])
    except BaseException as failure:
        say(f"FAILED {failure!r}")
        for log in Path("/run/hosts").glob("*/log"):
            say(log.read_text())
        raise
