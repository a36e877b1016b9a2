# SPDX-License-Identifier: LGPL-2.1-or-later
"""Aligned direct I/O on lease files, and what is under way (format document, 9).

A read or write here blocks its thread for as long as the storage takes. No
I/O is ever abandoned: a caller that cannot wait gives up waiting for the
thread, and the thread, its buffer and the area it works on stay bound to the
I/O until the kernel has answered. So a decision can never overtake a write
that may still land (safety rules, 12). `pending` tells what hangs, since when.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from .errors import AreaTooShort, NotCreated, StorageError

_PAGE = mmap.PAGESIZE
_SPARE_AT_REST = 1
PIECE = 32 << 10
_ZEROS = bytes(PIECE)


@dataclass(frozen=True)
class Pending:
    """An I/O that the storage has not answered yet. `since`: CLOCK_MONOTONIC seconds."""

    op: str
    where: str
    offset: int
    length: int
    since: float


_pending: dict[int, Pending] = {}
_spare: list[mmap.mmap] = []
"""Page-aligned buffers that no I/O uses, the latest last."""


def busy(thread: int) -> bool:
    """Whether the thread of this ident waits for an I/O."""
    return thread in _pending


@contextmanager
def waiting(op: str, where: str) -> Iterator[None]:
    """Count what this thread asks of the storage by other means than a BlockFile among what is pending."""
    key = threading.get_ident()
    _pending[key] = Pending(op, where, 0, 0, time.monotonic())
    try:
        yield
    finally:
        del _pending[key]


def pending() -> list[Pending]:
    """All I/O of this process that is under way, the oldest first."""
    return sorted(_pending.values(), key=lambda p: p.since)


def await_io(path: str, offset: int = 0) -> None:
    """Wait until no direct I/O of this machine on the file is under way, that of a process that is gone included.

    A killed process ends with its I/O, except on NFS: there what it has sent is sent again and again, and
    may land whenever the server is back (format document, 9). NFS's client lets no read through the page cache pass
    direct I/O; so such a read is made. A file that is not there has none. Raises StorageError.
    """
    try:
        with waiting("read", path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.pread(fd, 1, offset)
                os.posix_fadvise(fd, offset, _PAGE, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(op="read", where=path, why=_why(error)) from error


class BlockFile:
    """An open lease file or block device. Only positioned I/O; safe to use from several threads.

    Raises NotCreated (no such file) and StorageError.
    """

    def __init__(self, path: str, base: int = 0, writable: bool = True) -> None:
        self.path = path
        self.base = base
        flags = (os.O_RDWR | os.O_SYNC) if writable else os.O_RDONLY
        try:
            self._fd = os.open(path, flags | os.O_DIRECT | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotCreated(where=path) from None
        except OSError as error:
            raise StorageError(op="open", where=path, why=_why(error)) from error

    def __enter__(self) -> BlockFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def read(self, offset: int, length: int, sparse: bool = False) -> bytes:
        """Exactly `length` bytes. Raises AreaTooShort (-90) when the file ends before.

        `sparse`: pieces of PIECE bytes at the end that are zeros, as most of an area is, are left out, but for the
        first piece. To copy a whole area takes ten times as long as to read it: memory of that size is fresh each
        time (keeper.memory).
        """
        buffer = _take_buffer(length)
        try:
            view = memoryview(buffer)[:length]
            got = self._io("read", os.preadv, offset, view)
            if got != length:
                self._raise_short(self.base + offset + got, self.base + offset + length)
            return bytes(view[: _used(view)] if sparse else view)
        finally:
            _spare.append(buffer)

    def _raise_short(self, end: int, needed: int) -> None:
        if os.fstat(self._fd).st_size >= needed:
            raise StorageError(op="read", where=self.path, why=f"it ended at byte {end}, within the file")
        raise AreaTooShort(where=self.path, size=end, needed=needed)

    def write(self, offset: int, data: bytes) -> None:
        buffer = _take_buffer(len(data))
        try:
            buffer[: len(data)] = data
            put = self._io("write", os.pwritev, offset, memoryview(buffer)[: len(data)])
        finally:
            _spare.append(buffer)
        if put != len(data):
            raise StorageError(
                op="write", where=self.path, why=f"only {put} of {len(data)} bytes were written"
            )

    def identity(self) -> tuple[int, int, int]:
        """(device, inode, link count) of the open file."""
        stat = os.fstat(self._fd)
        return stat.st_dev, stat.st_ino, stat.st_nlink

    def reaches(self, length: int) -> bool:
        """Is this a regular file that has `length` bytes from `base` on?"""
        return os.fstat(self._fd).st_size >= self.base + length

    def is_current(self) -> bool:
        """Does the path still name the file that is open here?"""
        device, inode, links = self.identity()
        try:
            named = os.stat(self.path)
        except OSError:
            return False
        return links > 0 and (named.st_dev, named.st_ino) == (device, inode)

    def remove(self) -> bool:
        """Unlink the file that is open here; False if the path names another one. Raises StorageError."""
        key = threading.get_ident()
        _pending[key] = Pending("removal", self.path, 0, 0, time.monotonic())
        try:
            if not self.is_current():
                return False
            os.unlink(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(op="removal", where=self.path, why=_why(error)) from error
        finally:
            del _pending[key]
        return True

    def _io(self, op: str, call: object, offset: int, view: memoryview) -> int:
        key = threading.get_ident()
        at = self.base + offset
        _pending[key] = Pending(op, self.path, at, len(view), time.monotonic())
        try:
            done: int = call(self._fd, [view], at)  # type: ignore[operator]
            return done
        except OSError as error:
            where = f"{self.path} at byte {at}"
            raise StorageError(op=op, where=where, why=_why(error)) from error
        finally:
            del _pending[key]


def _used(view: memoryview) -> int:
    """The length without the zeros at its end, in whole pieces but for the last, and one at least."""
    end = len(view)
    while end > PIECE:
        begin = (end - 1) // PIECE * PIECE
        if not _ZEROS.startswith(bytes(view[begin:end])):
            break
        end = begin
    return end


def _take_buffer(length: int) -> mmap.mmap:
    """A page-aligned buffer, for one I/O to the end of it: it is never freed or changed beneath an I/O."""
    try:
        buffer = _spare.pop()
    except IndexError:
        buffer = None
    if buffer is None or len(buffer) < length:
        buffer = mmap.mmap(-1, -(-length // _PAGE) * _PAGE)
    return buffer


def trim_buffers() -> None:
    """Give back to the system what a burst of I/O left behind; one stays, for the next renewal."""
    del _spare[:-_SPARE_AT_REST]


def _why(error: OSError) -> str:
    if error.errno == errno.EINVAL:
        return "direct I/O was refused (EINVAL): the file system does not support it, or wants 4 KiB sectors"
    return error.strerror or str(error)
