# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of the lease directory: mounted, shared, direct I/O, rights, space, speed, other hosts."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ...leases import overview
from ...leases.directory import lockspace_path
from ...leases.errors import LeaseError, NotCreated, one_line
from ...leases.geometry import FILE, MIB
from ...leases.inspect import inspect
from ...leases.owner import fail_seconds
from ...mounts import Mount, missing_mount, mount_of
from .check import FAIL, GOOD, NOTE, WARN, Check, Finding, Host
from .guests import defined

SHARED_TYPES = {
    "nfs", "nfs4", "gfs2", "ocfs2", "ceph", "fuse.ceph", "glusterfs", "fuse.glusterfs", "lustre", "gpfs", "beegfs",
    "9p", "afs", "smb3", "cifs", "virtiofs",
}  # fmt: skip
VOLATILE_TYPES = {"tmpfs", "ramfs", "overlay"}
GRACE_SECONDS = 90
"""After a restart an NFS server lets nobody write for that long."""
ROUNDS = 8
SLOW_PART = 0.1
"""Of io_timeout, in calm times; under load it becomes many times as much."""
CLOCKS_APART = 30.0


def mounted(host: Host) -> Iterator[Finding]:
    directory = host.lease_dir
    if not directory.is_dir():
        yield Finding(FAIL, f"the lease directory {directory} does not exist", f"mkdir -p -m 0770 {directory}")
        return
    mount = mount_of(directory, Path(host.proc_dir) / "self/mountinfo")
    if mount is None:
        yield Finding(WARN, f"on which file system {directory} is cannot be told")
        return
    where = f"{directory} is on {mount.kind} ({mount.source}, mounted at {mount.point})"
    if mount.kind in SHARED_TYPES:
        yield Finding(GOOD, where)
    elif mount.kind in VOLATILE_TYPES:
        yield Finding(FAIL, f"{where}: it is gone at the next boot", _fstab(directory))
    else:
        yield from _local(host, where, directory)
    yield from _options(mount)


def _local(host: Host, where: str, directory: Path) -> Iterator[Finding]:
    missing = missing_mount(str(directory), host.path("/etc/fstab"), Path(host.proc_dir) / "self/mountinfo")
    if missing:
        what = f"{where}: /etc/fstab names {missing.source} for {missing.point}, which is not mounted"
        yield Finding(FAIL, what, f"mount {missing.point}")
    else:
        text = f"{where}: a local disk protects this host against itself only; other hosts need a shared one"
        yield Finding(WARN, text, _fstab(directory))


def _fstab(directory: Path) -> str:
    return f"echo '{fstab_line(directory, 'SERVER:/EXPORT')}' >> /etc/fstab && mount {directory}"


def fstab_line(directory: Path, export: str) -> str:
    """`nofail`: a host without its lease directory boots, and starts no guest."""
    return f"{export} {directory} nfs hard,nofail,_netdev 0 0"


def _options(mount: Mount) -> Iterator[Finding]:
    if "ro" in mount.options:
        yield Finding(FAIL, f"{mount.point} is mounted read-only", f"mount -o remount,rw {mount.point}")
    if mount.kind.startswith("nfs") and ("soft" in mount.options or "softerr" in mount.options):
        what = (
            f"{mount.point} is soft-mounted: an I/O that failed may still land on the server, and two guests may write"
        )
        yield Finding(
            FAIL, what, f"replace soft by hard in /etc/fstab, then: umount {mount.point} && mount {mount.point}"
        )


def direct_io(host: Host) -> Iterator[Finding]:
    directory = host.lease_dir
    path = directory / f".vlhook-doctor.{secrets.token_hex(8)}"
    if not directory.is_dir():
        return
    try:
        path.write_bytes(bytes(8192))
        yield from _tried(host, path)
    except OSError as error:
        who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            mend = "export it with no_root_squash, or set user and group in qemu-sanlock.conf" if who == "root" else ""
            yield Finding(FAIL, f"{who} may not write in {directory}: {error.strerror}", mend or "run this as root")
        else:
            yield Finding(FAIL, f"a file in {directory} cannot be written: {error.strerror}")
    finally:
        path.unlink(missing_ok=True)


def _tried(host: Host, path: Path) -> Iterator[Finding]:
    stat = path.stat()
    if os.geteuid() == 0 and stat.st_uid != 0:
        what = f"the server makes root's files those of uid {stat.st_uid} (root_squash): others' leases cannot be read"
        yield Finding(FAIL, what, "export it with no_root_squash: exportfs -ra on the server")
    if abs(stat.st_mtime - time.time()) > CLOCKS_APART:
        yield Finding(WARN, f"the file server's clock is {stat.st_mtime - time.time():+.0f} s from this host's",
                      "chronyc makestep   (on the one that is wrong)")  # fmt: skip
    times, why = latencies(path, 512), ""
    if not times:
        why = "writes of 512 bytes" if latencies(path, 4096) else "direct I/O"
        yield Finding(FAIL, f"{why} do not work in {path.parent}: the leases of libvirt and vlhook need them",
                      "use a file system on disks with 512-byte sectors")  # fmt: skip
        return
    median, worst, limit = statistics.median(times), max(times), host.settings.io_timeout
    text = f"direct I/O works; read and write take {median * 1000:.1f} ms, {worst * 1000:.1f} ms at worst"
    if worst > limit * SLOW_PART:
        text += f", of {limit} s (io_timeout) that each may take"
        yield Finding(WARN, text, "vlhook calibrate")
    else:
        yield Finding(GOOD, text)


def latencies(path: Path, size: int, rounds: int = ROUNDS) -> list[float]:
    """Seconds of a direct, synchronous read and write of `size` bytes, each round; [] if they are refused."""
    buffer = mmap.mmap(-1, mmap.PAGESIZE)
    view = memoryview(buffer)[:size]
    times = []
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_SYNC | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        for _ in range(rounds):
            begun = time.monotonic()
            os.preadv(fd, [view], 0)
            os.pwritev(fd, [view], 0)
            times.append(time.monotonic() - begun)
    except OSError:
        return []
    finally:
        os.close(fd)
    return times


def rights(host: Host) -> Iterator[Finding]:
    directory = host.lease_dir
    if not directory.is_dir():
        return
    mode = directory.stat().st_mode
    if mode & 0o002:
        yield Finding(FAIL, f"everybody may write in {directory}", f"chmod o-rwx {directory}")
    lockspace = lockspace_path(str(directory))
    try:
        os.close(os.open(lockspace, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Finding(NOTE, f"{lockspace} is not there yet; the first vlhookd makes it")
        return
    except OSError as error:
        yield Finding(FAIL, f"{lockspace} cannot be opened for writing: {error.strerror}", f"ls -l {lockspace}")
        return
    unreadable = [
        name for name in overview.lease_names(str(directory)) if not os.access(directory / name, os.R_OK | os.W_OK)
    ]
    if unreadable:
        what = f"{len(unreadable)} lease files may not be read and written here, such as {unreadable[0]}"
        yield Finding(FAIL, what, "set the same user and group in qemu-sanlock.conf on all hosts")
    elif not mode & 0o002:
        yield Finding(GOOD, f"the rights of {directory} and its files are right")


def space(host: Host) -> Iterator[Finding]:
    directory = host.lease_dir
    if not directory.is_dir():
        return
    free, files = free_space(directory)
    if files is not None and files < 100:
        yield Finding(FAIL, f"{directory} has room for {files} more files only", "vlhook cleanup")
    there = set(os.listdir(directory))
    planned = {one.name for _, guest in defined(host) for one in guest.leases if not one.path} - there
    # Each disk may have a second lease, on its identity.
    least, enough = max(8, len(planned)), max(100, 2 * len(planned))
    verdict = FAIL if free < least * FILE.area else WARN if free < enough * FILE.area else GOOD
    text = f"{directory}: {free // MIB} MB free, room for as many new leases"
    if planned:
        text += f"; the guests defined here need {len(planned)} new ones, or up to twice that"
    yield Finding(verdict, text, "" if verdict == GOOD else "vlhook cleanup; vlhook size")


def free_space(directory: Path) -> tuple[int, Optional[int]]:
    """(bytes, files) that can still be made; None where the file system does not count files."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None


def other_hosts(host: Host) -> Iterator[Finding]:
    directory = str(host.lease_dir)
    try:
        seen = overview.lockspace(directory)
        report = inspect(Path(lockspace_path(directory)).read_bytes())
    except NotCreated:
        return
    except (LeaseError, OSError) as error:
        yield Finding(
            FAIL, f"the lockspace cannot be read: {one_line(error)}", f"vlhook dump {lockspace_path(directory)}"
        )
        return
    for offset, what in report.faults:
        yield Finding(FAIL, f"{lockspace_path(directory)}, byte {offset}: {what}",
                      f"vlhook dump {lockspace_path(directory)}")  # fmt: skip
    joined = {h: record for h, record in seen.hosts.items() if record.joined}
    own = host.settings.io_timeout
    for host_id, record in joined.items():
        if record.ok and record.io_timeout != own:
            text = f"host {host_id} ({record.name}) uses io_timeout {record.io_timeout}, this host {own}"
            yield Finding(WARN, text, f"vlhook config set io_timeout {own}   (the same on all hosts)")
    if not report.faults:
        yield Finding(GOOD, f"{len(joined)} hosts have joined the lockspace, all records check out")


def grace(host: Host) -> Iterator[Finding]:
    """Guests are stopped at 8N; a server that is restarted does not answer for longer than that with N = 10."""
    mount = mount_of(host.lease_dir, Path(host.proc_dir) / "self/mountinfo") if host.lease_dir.is_dir() else None
    limit = fail_seconds(host.settings.io_timeout)
    if mount is None or not mount.kind.startswith("nfs"):
        return
    if limit < GRACE_SECONDS + 30:
        wanted = -(-(GRACE_SECONDS + 30) // 8)
        what = f"guests are stopped after {limit} s without storage, and a restarted NFS server refuses writes for "
        what += f"{GRACE_SECONDS} s: a restart of the server kills every guest"
        mend = f"vlhook config set io_timeout {wanted}   (on all hosts), or a shorter grace time on the server"
        yield Finding(WARN, what, mend)
    else:
        yield Finding(GOOD, f"a restart of the NFS server is outlived: guests are stopped after {limit} s")


STORAGE = (
    Check("lease-directory", mounted),
    Check("direct-io", direct_io),
    Check("rights", rights),
    Check("space", space),
    Check("other-hosts", other_hosts),
    Check("server-restart", grace),
)
