# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory passed through, with faults at will: `python -m vlhook.drill.faults SOURCE MOUNTPOINT`.

On standard input one command a line, each answered by one line of JSON:

    ok              back to normal; what was held is carried out now, late, as real storage does
    hang            take requests and do not answer them
    eio             every read and write fails with EIO, all else too
    readonly        what would change something fails with EROFS
    delay SECONDS   every request is answered so much later
    cut             the host is reset: nothing that was held or comes later reaches the directory
    writes NAME     when the file NAME was last written beneath (CLOCK_MONOTONIC), and how often

It ends with its standard input.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import struct
import sys
import threading
import time
from typing import Optional

from . import fuse
from .fuse import Request, Server

ROOT = 1
CHANGES = frozenset((
    fuse.SETATTR, fuse.MKDIR, fuse.UNLINK, fuse.RMDIR, fuse.RENAME, fuse.RENAME2,
    fuse.LINK, fuse.WRITE, fuse.CREATE, fuse.FSYNC,
))  # fmt: skip
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE = 1, 2, 4, 8


class PassThrough:
    """The operations on the directory `source`; names are paths relative to it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._paths = {ROOT: ""}
        self._nodes = {"": ROOT}
        self._next = ROOT
        self._open: dict[int, str] = {}
        self.written: dict[str, tuple[float, int]] = {}

    def handlers(self) -> dict[int, fuse.Handler]:
        return {
            fuse.LOOKUP: lambda r: self._entry(self._child(r.node, r.names(0)[0])),
            fuse.GETATTR: self._getattr,
            fuse.SETATTR: self._setattr,
            fuse.OPEN: self._do_open,
            fuse.OPENDIR: lambda r: fuse.OPEN_OUT.pack(0, 0, 0),
            fuse.CREATE: self._create,
            fuse.READ: self._read,
            fuse.WRITE: self._write,
            fuse.READDIR: self._readdir,
            fuse.RELEASE: self._release,
            fuse.RELEASEDIR: lambda r: b"",
            fuse.FLUSH: lambda r: b"",
            fuse.FSYNC: self._fsync,
            fuse.FSYNCDIR: lambda r: b"",
            fuse.LINK: self._link,
            fuse.UNLINK: lambda r: self._remove(os.unlink, r),
            fuse.RMDIR: lambda r: self._remove(os.rmdir, r),
            fuse.MKDIR: self._mkdir,
            fuse.RENAME: lambda r: self._rename(r, 8),
            fuse.RENAME2: lambda r: self._rename(r, 16),
            fuse.STATFS: self._statfs,
            fuse.DESTROY: lambda r: b"",
        }

    # -- names

    def _child(self, node: int, name: str) -> str:
        parent = self._paths[node]
        return f"{parent}/{name}" if parent else name

    def _real(self, path: str) -> str:
        return os.path.join(self._source, path)

    def _entry(self, path: str) -> bytes:
        found = os.lstat(self._real(path))
        node = self._nodes.get(path)
        if node is None:
            self._next += 1
            node = self._nodes[path] = self._next
            self._paths[node] = path
        return fuse.entry(node, found)

    def _forget(self, path: str) -> None:
        """The name is free; its node stays for whoever has it open."""
        self._nodes.pop(path, None)

    # -- operations

    def _stat(self, request: Request) -> os.stat_result:
        """By an open file of that node if the name is gone."""
        path = self._paths[request.node]
        if self._nodes.get(path) == request.node:
            return os.lstat(self._real(path))
        for handle, name in self._open.items():
            if name == path:
                return os.fstat(handle)
        raise OSError(errno.ESTALE, path)

    def _attributes(self, request: Request) -> bytes:
        return fuse.ATTR_HEAD.pack(0, 0, 0) + fuse.attributes(self._stat(request))

    def _getattr(self, request: Request) -> bytes:
        return self._attributes(request)

    def _setattr(self, request: Request) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", request.body)
        mode, _, uid, gid = struct.unpack_from("<IIII", request.body, 68)
        real = self._real(self._paths[request.node])
        if valid & _SET_SIZE:
            os.truncate(real, size)
        if valid & _SET_MODE:
            os.chmod(real, stat.S_IMODE(mode))
        if valid & (_SET_UID | _SET_GID):
            os.chown(real, uid if valid & _SET_UID else -1, gid if valid & _SET_GID else -1)
        return self._attributes(request)

    def _opened(self, path: str, flags: int, mode: int = 0) -> bytes:
        # Our own buffers are not aligned; the page cache beneath is one for all hosts.
        fd = os.open(self._real(path), flags & ~(os.O_DIRECT | os.O_NOFOLLOW), stat.S_IMODE(mode))
        self._open[fd] = path
        return fuse.OPEN_OUT.pack(fd, fuse.DIRECT_IO, 0)

    def _do_open(self, request: Request) -> bytes:
        (flags,) = struct.unpack_from("<I", request.body)
        return self._opened(self._paths[request.node], flags)

    def _create(self, request: Request) -> bytes:
        flags, mode = struct.unpack_from("<II", request.body)
        path = self._child(request.node, request.names(16)[0])
        opened = self._opened(path, flags | os.O_CREAT, mode)
        return self._entry(path) + opened

    def _read(self, request: Request) -> bytes:
        fd, offset, size = struct.unpack_from("<QQI", request.body)
        return os.pread(fd, size, offset)

    def _write(self, request: Request) -> bytes:
        fd, offset, size = struct.unpack_from("<QQI", request.body)
        done = os.pwrite(fd, request.body[40 : 40 + size], offset)
        path = self._open[fd]
        self.written[path] = time.monotonic(), self.written.get(path, (0.0, 0))[1] + 1
        return struct.pack("<II", done, 0)

    def _fsync(self, request: Request) -> bytes:
        os.fdatasync(struct.unpack_from("<Q", request.body)[0])
        return b""

    def _release(self, request: Request) -> bytes:
        (fd,) = struct.unpack_from("<Q", request.body)
        del self._open[fd]
        os.close(fd)
        return b""

    def _readdir(self, request: Request) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", request.body)
        out = b""
        with os.scandir(self._real(self._paths[request.node])) as found:
            names = sorted((item.name, item.inode()) for item in found)
        for number, (name, inode) in enumerate(names[offset:], offset + 1):
            raw = os.fsencode(name)
            item = struct.pack("<QQII", inode, number, len(raw), 0) + raw
            item += bytes(-len(item) % 8)
            if len(out) + len(item) > size:
                break
            out += item
        return out

    def _link(self, request: Request) -> bytes:
        (old,) = struct.unpack_from("<Q", request.body)
        path = self._child(request.node, request.names(8)[0])
        os.link(self._real(self._paths[old]), self._real(path), follow_symlinks=False)
        return self._entry(path)

    def _remove(self, how: object, request: Request) -> bytes:
        path = self._child(request.node, request.names(0)[0])
        how(self._real(path))  # type: ignore[operator]
        self._forget(path)
        return b""

    def _mkdir(self, request: Request) -> bytes:
        (mode,) = struct.unpack_from("<I", request.body)
        path = self._child(request.node, request.names(8)[0])
        os.mkdir(self._real(path), stat.S_IMODE(mode))
        return self._entry(path)

    def _rename(self, request: Request, offset: int) -> bytes:
        (directory,) = struct.unpack_from("<Q", request.body)
        old_name, new_name = request.names(offset)
        old, new = self._child(request.node, old_name), self._child(directory, new_name)
        os.rename(self._real(old), self._real(new))
        self._forget(new)
        node = self._nodes.pop(old, None)
        if node is not None:
            self._nodes[new], self._paths[node] = node, new
            for fd, path in self._open.items():
                self._open[fd] = new if path == old else path
        return b""

    def _statfs(self, request: Request) -> bytes:
        found = os.statvfs(self._source)
        return struct.pack(
            "<QQQQQIIII24x", found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
            found.f_bsize, found.f_namemax, found.f_frsize, 0,
        )  # fmt: skip


class Faults:
    """The mode, and what it does to a request."""

    def __init__(self, server: Server, files: PassThrough) -> None:
        self._server = server
        self._files = files
        self._mode = "ok"
        self._delay = 0.0
        self._held: list[Request] = []

    def take(self, request: Request) -> None:
        if request.opcode in (fuse.INIT, fuse.DESTROY, fuse.RELEASE, *fuse.UNANSWERED):
            self._server.serve(request)
        elif self._mode == "hang":
            self._held.append(request)
        elif self._mode in ("eio", "cut") and request.opcode != fuse.FLUSH:
            self._server.refuse(request, errno.EIO)
        elif self._mode == "readonly" and _changes(request):
            self._server.refuse(request, errno.EROFS)
        elif self._mode == "delay":
            threading.Timer(self._delay, self._server.serve, (request,)).start()
        else:
            self._server.serve(request)

    def command(self, line: str) -> dict[str, object]:
        word, _, argument = line.partition(" ")
        if word == "writes":
            at, count = self._files.written.get(argument, (0.0, 0))
            return {"at": at, "count": count}
        if word not in ("ok", "hang", "eio", "readonly", "delay", "cut"):
            return {"error": f"unknown command {word}"}
        if self._mode == "cut":
            return {"error": "this host was reset"}
        self._mode = word
        self._delay = float(argument or 0)
        held, self._held = (self._held, []) if word in ("ok", "eio", "cut") else ([], self._held)
        for request in held:
            self.take(request)
        return {"mode": word, "held": len(held)}


def _changes(request: Request) -> bool:
    if request.opcode == fuse.OPEN:
        return bool(struct.unpack_from("<I", request.body)[0] & os.O_ACCMODE)
    return request.opcode in CHANGES


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(arguments: Optional[list[str]] = None) -> int:
    source, mountpoint = arguments or sys.argv[1:]
    files = PassThrough(source)
    server = Server(files.handlers())
    server.mount(mountpoint)
    faults = Faults(server, files)
    _say({"mounted": mountpoint})
    pending = b""
    try:
        while True:
            ready, _, _ = select.select([server, 0], [], [])
            if server in ready:
                request = server.receive()
                if request is None:
                    return 0
                faults.take(request)
            if 0 in ready:
                data = os.read(0, 4096)
                if not data:
                    return 0
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _say(faults.command(line.decode()))
    finally:
        server.close()


if __name__ == "__main__":
    raise SystemExit(main())
