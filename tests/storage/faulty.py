# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file system that shows a directory and misbehaves when told to, for real programs and direct I/O.

    with FaultyMount(tmp_path / "behind", tmp_path / "mounted") as storage:
        storage.rule("write", name="__LIBVIRT__DISKS__", hang=True)
        ...
        storage.calm()          # what hung goes on now, and is performed

Its server is a process of its own (this file), so that it can hang without the tests. It is told by lines of JSON on
its standard input and answers each with one. A rule counts for the operation, the name of the file ("" for all) and
the `count` next matching I/Os (0: all); the first rule that fits is applied. `seen` waits until an I/O has met a rule.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import needs

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 60.0


class FaultyMount:
    """`behind` is the real directory, `mounted` where it appears. Skips, or fails in CI, where FUSE is missing."""

    def __init__(self, behind: Path, mounted: Path) -> None:
        self.behind, self.mounted = behind, mounted
        behind.mkdir(exist_ok=True)
        mounted.mkdir(exist_ok=True)
        self._lock = threading.Lock()

    def __enter__(self) -> FaultyMount:
        needs.require_root()
        needs.require_program("fusermount3")
        needs.require_module("pyfuse3")
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            needs.lacking("needs /dev/fuse")
        command = [sys.executable, "-m", "tests.storage.faulty", str(self.behind), str(self.mounted)]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        assert self._server.stdout
        ready = self._server.stdout.readline()
        assert ready, "the server of the faulty file system did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(AssertionError, OSError, ValueError):
            self.calm()
        # Lazily: somebody who still has a file open must not keep the tests from ending.
        subprocess.run(["fusermount3", "-u", "-z", str(self.mounted)], check=False, capture_output=True)
        assert self._server.stdin
        assert self._server.stdout
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()

    @property
    def pid(self) -> int:
        return self._server.pid

    def _tell(self, **words: Any) -> Any:
        assert self._server.stdin
        assert self._server.stdout
        with self._lock:
            self._server.stdin.write(json.dumps(words) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        assert answer, "the server of the faulty file system has ended"
        return json.loads(answer)

    def rule(self, op: str, **words: Any) -> int:
        """`op`: read, write, open or create. Words: name, offset, least (bytes of a write), count, and what happens:
        delay (seconds), hang, error (errno name), keep (bytes of a write that land before it). Returns its number."""
        return int(self._tell(do="rule", op=op, **words))

    def calm(self) -> None:
        """No more rules; everything that hangs goes on."""
        self._tell(do="calm")

    def drop(self, number: int) -> None:
        """That rule is over; what hangs by it goes on."""
        self._tell(do="drop", number=number)

    def met(self, number: int) -> int:
        """How many I/Os have met the rule."""
        return int(self._tell(do="met", number=number))

    def wait_met(self, number: int, times: int = 1) -> None:
        until = time.monotonic() + PATIENCE
        while self.met(number) < times:
            assert time.monotonic() < until, f"rule {number} was met {self.met(number)} times, not {times}"
            time.sleep(0.02)


# ------------------------------------------------------------------------------------------------ the server


def serve(behind: str, mounted: str) -> None:
    import pyfuse3
    import trio

    class Rule:
        def __init__(self, words: dict[str, Any]) -> None:
            self.op: str = words["op"]
            self.name: str = words.get("name", "")
            self.offset: int | None = words.get("offset")
            self.least: int = words.get("least", 0)
            self.left: int = words.get("count", 0) or -1
            self.delay: float = words.get("delay", 0)
            self.hang: bool = words.get("hang", False)
            self.error: str = words.get("error", "")
            self.keep: int = words.get("keep", 0)
            self.met = 0
            self.over = trio.Event()

        def fits(self, op: str, name: str, offset: int, size: int) -> bool:
            here = (self.offset is None or self.offset == offset) and size >= self.least
            return bool(self.left) and self.op == op and self.name in ("", name) and here and not self.over.is_set()

    class FileSystem(pyfuse3.Operations):  # type: ignore[misc]
        """Inodes are those of the files behind. Nothing is cached, so that changes behind are seen at once."""

        def __init__(self) -> None:
            super().__init__()
            self.paths: dict[int, str] = {pyfuse3.ROOT_INODE: behind}
            self.names: dict[int, str] = {}
            self.rules: list[Rule] = []

        # -- rules

        async def meet(self, op: str, name: str, offset: int = 0, size: int = 0) -> Rule | None:
            rule = next((r for r in self.rules if r.fits(op, name, offset, size)), None)
            if rule is None:
                return None
            rule.met += 1
            rule.left -= 1
            if rule.delay:
                await trio.sleep(rule.delay)
            if rule.hang:
                await rule.over.wait()
            return rule

        async def refuse(self, op: str, name: str, offset: int = 0) -> None:
            rule = await self.meet(op, name, offset)
            if rule and rule.error:
                raise pyfuse3.FUSEError(getattr(errno, rule.error))

        # -- names

        def attributes(self, path: str = "", fd: int = -1) -> pyfuse3.EntryAttributes:
            try:
                found = os.fstat(fd) if fd >= 0 else os.lstat(path)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            entry = pyfuse3.EntryAttributes()
            for name in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks",
                         "st_atime_ns", "st_mtime_ns", "st_ctime_ns"):  # fmt: skip
                setattr(entry, name, getattr(found, name))
            is_root = path == behind
            entry.st_ino = pyfuse3.ROOT_INODE if is_root else found.st_ino
            entry.generation, entry.entry_timeout, entry.attr_timeout = 0, 0, 0
            if path:
                self.paths[entry.st_ino] = path
            return entry

        def child(self, parent: int, name: bytes) -> str:
            return os.path.join(self.paths[parent], os.fsdecode(name))

        async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
            return self.attributes(self.child(parent, name))

        async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
            fd = next((fd for fd in self.names if os.fstat(fd).st_ino == inode), -1)
            return self.attributes(fd=fd) if fd >= 0 else self.attributes(self.paths[inode])

        async def setattr(self, inode: int, attr: Any, what: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
            path = self.paths[inode]
            try:
                if what.update_size:
                    os.truncate(path, attr.st_size)
                if what.update_mode:
                    os.chmod(path, stat.S_IMODE(attr.st_mode))
                if what.update_uid or what.update_gid:
                    uid = attr.st_uid if what.update_uid else -1
                    os.chown(path, uid, attr.st_gid if what.update_gid else -1)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            return self.attributes(path)

        async def opendir(self, inode: int, ctx: Any) -> int:
            return inode

        async def readdir(self, inode: int, start: int, token: Any) -> None:
            for number, name in enumerate(sorted(os.listdir(self.paths[inode])), 1):
                if number > start:
                    entry = self.attributes(os.path.join(self.paths[inode], name))
                    if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number):
                        return

        async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
            found, told = os.statvfs(behind), pyfuse3.StatvfsData()
            for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
                setattr(told, name, getattr(found, name))
            return told

        async def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
            path = self.child(parent, name)
            try:
                os.link(self.paths[inode], path)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            return self.attributes(path)

        async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
            path = self.child(parent, name)
            try:
                inode = os.lstat(path).st_ino
                os.unlink(path)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            if self.paths.get(inode) == path:
                for other in os.scandir(os.path.dirname(path)):
                    if other.inode() == inode:
                        self.paths[inode] = other.path

        async def rename(self, parent: int, name: bytes, to: int, new: bytes, flags: int, ctx: Any) -> None:
            try:
                os.rename(self.child(parent, name), self.child(to, new))
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            self.attributes(self.child(to, new))

        # -- files

        async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
            path = self.paths[inode]
            await self.refuse("open", os.path.basename(path))
            try:
                fd = os.open(path, flags & ~os.O_DIRECT)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            self.names[fd] = os.path.basename(path)
            return pyfuse3.FileInfo(fh=fd, direct_io=True)

        async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
            path = self.child(parent, name)
            await self.refuse("create", os.path.basename(path))
            try:
                fd = os.open(path, (flags & ~os.O_DIRECT) | os.O_CREAT, mode)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            self.names[fd] = os.path.basename(path)
            return pyfuse3.FileInfo(fh=fd, direct_io=True), self.attributes(path)

        async def read(self, fh: int, offset: int, size: int) -> bytes:
            await self.refuse("read", self.names[fh], offset)
            return os.pread(fh, size, offset)

        async def write(self, fh: int, offset: int, data: bytes) -> int:
            rule = await self.meet("write", self.names[fh], offset, len(data))
            if rule and rule.error:
                if rule.keep:
                    os.pwrite(fh, data[: rule.keep], offset)
                raise pyfuse3.FUSEError(getattr(errno, rule.error))
            try:
                return os.pwrite(fh, data, offset)
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None

        async def fsync(self, fh: int, datasync: bool) -> None:
            os.fsync(fh)

        async def fsyncdir(self, fh: int, datasync: bool) -> None:
            pass

        async def release(self, fh: int) -> None:
            del self.names[fh]
            os.close(fh)

    system = FileSystem()

    def obey(words: dict[str, Any]) -> object:
        if words["do"] == "rule":
            system.rules.append(Rule(words))
            return len(system.rules) - 1
        if words["do"] == "met":
            return system.rules[words["number"]].met
        for number, rule in enumerate(system.rules):
            if words["do"] == "calm" or number == words["number"]:
                rule.over.set()
        return 0

    async def listen() -> None:
        stream = trio.lowlevel.FdStream(os.dup(0))
        data = b""
        async for chunk in stream:
            data += chunk
            while b"\n" in data:
                line, _, data = data.partition(b"\n")
                os.write(1, json.dumps(obey(json.loads(line))).encode() + b"\n")
        pyfuse3.terminate()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            os.write(1, b"ready\n")
            await pyfuse3.main(min_tasks=1, max_tasks=400)
            nursery.cancel_scope.cancel()

    options = {*pyfuse3.default_options, "fsname=vlhook-faulty", "allow_other"}
    options.discard("default_permissions")
    pyfuse3.init(system, mounted, options)
    try:
        trio.run(main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
