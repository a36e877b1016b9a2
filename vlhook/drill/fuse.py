# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file system in this process: the kernel's FUSE protocol on /dev/fuse, without any library.

`Server` takes one request after another and answers it, or does not, which is
the point: a request that is held leaves its caller waiting in the kernel,
where no signal reaches it, as with storage that went away. Needs root and
/dev/fuse. Layouts are those of the kernel's linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Optional

from ..errors import VlhookError

IN_HEADER = struct.Struct("<IIQQIIII")
"""length, opcode, unique, node, uid, gid, pid, padding"""
OUT_HEADER = struct.Struct("<IiQ")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")
ATTR_HEAD = struct.Struct("<QII")
OPEN_OUT = struct.Struct("<QIi")

LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR = 1, 2, 3, 4, 9, 10, 11
RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 12, 13, 14, 15, 16, 17, 18, 20
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE = 25, 26, 27, 28, 29, 30, 35
INTERRUPT, DESTROY, IOCTL, BATCH_FORGET, RENAME2 = 36, 38, 39, 42, 45
UNANSWERED = (FORGET, INTERRUPT, BATCH_FORGET)

DIRECT_IO = 1
"""No page cache: what is written is asked of us at once."""
MAX_IO = 1 << 20
_INIT_FLAGS = 1 | 1 << 3 | 1 << 5 | 1 << 15 | 1 << 22  # async read, O_TRUNC, big writes, async DIO, max pages
_MNT_DETACH = 2
_NOSUID_NODEV = 2 | 4

_libc = ctypes.CDLL(None, use_errno=True)


class CannotMount(VlhookError):
    msg = "{path}: the file system of the drill cannot be mounted: {why}"
    hint = "it needs root, /dev/fuse and the right to mount"
    code = "VLH-C301"


class Request:
    """One request of the kernel. `body` is what follows its header."""

    def __init__(self, data: bytes) -> None:
        _, self.opcode, self.unique, self.node, self.uid, self.gid, self.pid, _ = IN_HEADER.unpack_from(data)
        self.body = data[IN_HEADER.size :]

    def names(self, offset: int) -> list[str]:
        return [os.fsdecode(name) for name in self.body[offset:].split(b"\0")[:-1]]


Handler = Callable[[Request], bytes]
"""Returns the body of the answer. Raises OSError, which is the answer."""


class Server:
    """`handlers` by opcode; what has none is answered with ENOSYS."""

    def __init__(self, handlers: dict[int, Handler]) -> None:
        self._handlers = handlers
        self._fd = -1
        self.path = ""

    def mount(self, path: str, *, directory: bool = True) -> None:
        """Mount on a directory, or on a file that then is the whole file system. Raises CannotMount."""
        try:
            self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CannotMount(path=path, why=f"/dev/fuse: {error.strerror}") from error
        mode = "40000" if directory else "100000"
        options = f"fd={self._fd},rootmode={mode},user_id=0,group_id=0,allow_other"
        done = _libc.mount(b"vlhook-drill", os.fsencode(path), b"fuse", _NOSUID_NODEV, options.encode())
        if done != 0:
            os.close(self._fd)
            raise CannotMount(path=path, why=os.strerror(ctypes.get_errno()))
        self.path = path

    def fileno(self) -> int:
        return self._fd

    def receive(self) -> Optional[Request]:
        """The next request; None when the file system was unmounted."""
        while True:
            try:
                return Request(os.read(self._fd, MAX_IO + 4096 + IN_HEADER.size))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # interrupted before we saw it
                if error.errno == errno.ENODEV:
                    return None
                raise

    def serve(self, request: Request) -> None:
        """Carry a request out and answer it."""
        if request.opcode in UNANSWERED:
            return
        if request.opcode == INIT:
            self.answer(request, _initial(request))
            return
        handler = self._handlers.get(request.opcode)
        try:
            body = handler(request) if handler else None
        except OSError as error:
            self.refuse(request, error.errno or errno.EIO)
            return
        if body is None:
            self.refuse(request, errno.ENOSYS)
        else:
            self.answer(request, body)

    def answer(self, request: Request, body: bytes, error: int = 0) -> None:
        head = OUT_HEADER.pack(OUT_HEADER.size + len(body), -error, request.unique)
        try:
            os.write(self._fd, head + body)
        except OSError as failure:
            if failure.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise  # it was interrupted, or the file system is gone

    def refuse(self, request: Request, number: int) -> None:
        if request.opcode not in UNANSWERED:
            self.answer(request, b"", number)

    def close(self) -> None:
        """Whoever waits gets an error; nothing that was held is carried out any more."""
        unmount(self.path)
        os.close(self._fd)


def unmount(path: str) -> None:
    """Take a mount away, also one that is in use or whose server is dead."""
    _libc.umount2(os.fsencode(path), _MNT_DETACH)


def _initial(request: Request) -> bytes:
    major, minor, readahead, flags = struct.unpack_from("<IIII", request.body)
    if major != 7 or minor < 31:
        raise OSError(errno.EPROTO, "the kernel speaks an older FUSE")
    return INIT_OUT.pack(7, 31, readahead, flags & _INIT_FLAGS, 16, 12, MAX_IO, 1, MAX_IO >> 12, 0, 0)


def attributes(stat: os.stat_result) -> bytes:
    times = [divmod(ns, 1_000_000_000) for ns in (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)]
    return ATTR.pack(
        stat.st_ino, stat.st_size, stat.st_blocks, *(t[0] for t in times), *(t[1] for t in times),
        stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, 0, 4096, 0,
    )  # fmt: skip


def entry(node: int, stat: os.stat_result) -> bytes:
    """A name's node, to be asked for anew each time."""
    return ENTRY.pack(node, 0, 0, 0, 0, 0) + attributes(stat)
