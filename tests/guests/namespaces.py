# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first process of a host: makes its file systems, then buries orphans until the test process is gone.

Run by `Host.boot` as a program, in new mount, uts, net, pid and ipc namespaces:

    namespaces.py DIRECTORY NAME SHARED CHECKOUT

DIRECTORY holds the host's `etc` and `var`; SHARED and CHECKOUT appear as
/srv/shared and /srv/vlhook. Standard input is a pipe from the test process.
When that ends, however it ends, this process does too, and with it, by the
rules of pid namespaces, every other process of the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import uuid
from pathlib import Path

MS_BIND = 0x1000
READY = "ready"
"""In DIRECTORY, when the host is up: the pid of its first process, as seen from outside."""

LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = [text.encode() or None for text in (source, target, kind)]
    if LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() or None):
        error = ctypes.get_errno()
        raise OSError(error, f"mount {source} on {target}: {os.strerror(error)}")


def make_file_systems(directory: str, shared: str, checkout: str) -> None:
    """After this the host sees nothing of the machine's /etc, /var, /run and processes."""
    # /srv, /run and /var may hide what is still to be mounted: held open by descriptors, used by those.
    kept = {path: os.open(path, os.O_PATH) for path in (directory, shared, checkout)}
    pid = os.readlink("/proc/self")

    def at(path: str) -> str:
        return f"/proc/{pid}/fd/{kept[path]}"

    boot_id = Path(directory, "boot_id")
    boot_id.unlink(missing_ok=True)
    boot_id.write_text(f"{uuid.uuid4()}\n")
    boot_fd, ready_fd = os.open(boot_id, os.O_RDONLY), os.open(directory, os.O_DIRECTORY)
    mount("tmpfs", "/run", "tmpfs", data="mode=755")
    for name in ("lock", "libvirt"):
        os.mkdir(f"/run/{name}")
    mount("tmpfs", "/dev/shm", "tmpfs", data="mode=1777")
    mount(f"{at(directory)}/etc", "/etc", flags=MS_BIND)
    mount(f"{at(directory)}/var", "/var", flags=MS_BIND)
    mount("tmpfs", "/srv", "tmpfs", data="mode=755")
    for name, path in (("shared", shared), ("vlhook", checkout)):
        os.mkdir(f"/srv/{name}")
        mount(at(path), f"/srv/{name}", flags=MS_BIND)
    mount("sysfs", "/sys", "sysfs")  # without the machine's cgroups
    mount("proc", "/proc", "proc")
    mount(f"/proc/self/fd/{boot_fd}", "/proc/sys/kernel/random/boot_id", flags=MS_BIND)
    tell(ready_fd, pid)
    for fd in (*kept.values(), boot_fd, ready_fd):
        os.close(fd)


def tell(directory: int, pid: str) -> None:
    fd = os.open(f"{READY}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory)
    os.write(fd, pid.encode())
    os.close(fd)
    os.rename(f"{READY}.new", READY, src_dir_fd=directory, dst_dir_fd=directory)


def bury_orphans() -> None:
    """Until standard input ends."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        readable, _, _ = select.select([0, wake_read], [], [])
        if 0 in readable and not os.read(0, 1):
            return
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, 4096)


def main() -> None:
    directory, name, shared, checkout = sys.argv[1:]
    LIBC.sethostname(name.encode(), len(name))
    make_file_systems(directory, shared, checkout)
    os.chdir("/")
    bury_orphans()


if __name__ == "__main__":
    main()
