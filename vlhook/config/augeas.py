# SPDX-License-Identifier: LGPL-2.1-or-later
"""Setting one value in one configuration file through Augeas, or not at all.

The only module that talks to Augeas, and only the command line uses it. Augeas
loads no lens but ours and no file but the one in question. It writes the new text
beside the file; that text is checked, made durable and only then renamed over
the file, so that a crash, a full disk or a refusal leaves the old file whole.
Works with python-augeas from 0.5 (whose errors are IOError, RuntimeError and
ValueError) to 1.2 (whose errors derive from these).
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from ..errors import VlhookError

LENS = "Vlhook_lines.any"
_ERRORS = (OSError, RuntimeError, ValueError)
_PRIVATE = {"qemu.conf": 0o600}
"""Modes of files that are made; libvirt keeps its qemu.conf, which may hold passwords, to root."""


class AugeasError(VlhookError):
    """Base of what can go wrong here. Nothing was changed. Fields: `file`."""

    msg = "{file}: Augeas failed: {why}"
    hint = "nothing was changed"
    code = "VLH-A100"


class NoAugeas(AugeasError):
    msg = "{file} cannot be changed: {why}"
    hint = "install python3-augeas, or change the file with an editor"
    code = "VLH-A101"


class NoLens(AugeasError):
    msg = "{file} cannot be changed: Augeas does not find vlhook's lens: {why}"
    hint = "install vlhook's lenses (package vlhook-augeas), or change the file with an editor"
    code = "VLH-A102"


class NotUnderstood(AugeasError):
    msg = "{file}, line {line}: Augeas cannot read {text}"
    hint = "nothing was changed; write one setting 'name = value' a line, or change the file with an editor"
    code = "VLH-A103"


class NotReadable(AugeasError):
    msg = "{file} cannot be read: {why}"
    hint = "nothing was changed; run this as root"
    code = "VLH-A104"


class NotWritten(AugeasError):
    msg = "{file} cannot be written: {why}"
    hint = "nothing was changed; see that its file system is writable and has room, and run this as root"
    code = "VLH-A105"


class NotAsAsked(AugeasError):
    msg = "{file}: {name} cannot be set in the line where it is: {why}"
    hint = "nothing was changed; run 'vlhook config unset {name}' first"
    code = "VLH-A106"


def change(path: Path, name: str, value: Optional[str], check: Callable[[str], None]) -> bool:
    """Set `name` to `value` in the file, or remove it (None). True if the file was changed.

    The setting goes to the line where it is; a new one follows the comment that
    shows it (`#name = …`), or the end of the file, which is made if it does not exist. All
    else stays as it is. `check` gets the new text and raises if it is not what
    was wanted. Raises AugeasError, and what `check` raises.
    """
    real = Path(os.path.realpath(path))
    with _locked(real):
        tree = _Tree(path, real)
        try:
            if not (tree.remove(name) if value is None else tree.set(name, value)):
                if value is not None:
                    check(_read(path, real))
                return False
            with tree.saved() as new:
                check(_read(path, new))
                _publish(path, new, real)
            return True
        finally:
            tree.close()


def values(path: Path) -> list[tuple[str, Optional[str]]]:
    """Every setting of the file as Augeas sees it, in order; None for lists and empty texts. Raises AugeasError."""
    tree = _Tree(path, Path(os.path.realpath(path)))
    try:
        return list(tree.values())
    finally:
        tree.close()


class _Tree:
    """One file in an Augeas of its own, whose root is the file's directory."""

    def __init__(self, path: Path, real: Path) -> None:
        self.path = path
        self._real = real
        self._node = f"/files/{real.name}"
        self._augeas = self._open()
        self._raise_errors("load", self._augeas.load)

    def _open(self) -> Any:
        try:
            from augeas import Augeas
        except ImportError as error:
            raise NoAugeas(file=self.path, why=str(error)) from error
        flags = Augeas.NO_LOAD | Augeas.NO_MODL_AUTOLOAD | Augeas.SAVE_NEWFILE
        try:
            opened = Augeas(root=str(self._real.parent), loadpath=lens_path(), flags=flags)
            opened.add_transform(LENS, f"/{self._real.name}")
        except _ERRORS as error:
            raise AugeasError(file=self.path, why=str(error)) from error
        return opened

    def close(self) -> None:
        self._augeas.close()

    def values(self) -> Iterator[tuple[str, Optional[str]]]:
        for node in self._augeas.match(f"{self._node}/*"):
            name = node.rsplit("/", 1)[1].partition("[")[0]
            if not name.startswith("#"):
                yield name, self._augeas.get(node)

    def remove(self, name: str) -> bool:
        return bool(self._augeas.remove(f"{self._node}/{name}"))

    def set(self, name: str, value: str) -> bool:
        nodes = self._augeas.match(f"{self._node}/{name}")
        if len(nodes) > 1:
            raise NotAsAsked(file=self.path, name=name, why=f"it is set {len(nodes)} times")
        if nodes and self._augeas.get(nodes[0]) == value:
            return False
        examples = self._augeas.match(f"{self._node}/#comment[. =~ regexp('{name}[ \\t]*=.*')]")
        if examples and not nodes:
            self._augeas.insert(examples[-1], name, before=False)
        self._augeas.set(f"{self._node}/{name}", value)
        return True

    @contextmanager
    def saved(self) -> Iterator[Path]:
        """The path of the new text; gone, with what Augeas may have left of it, at the end."""
        folder, start = self._real.parent, f"{self._real.name}.augnew"
        before = set(os.listdir(folder))
        new = folder / start
        try:
            self._raise_errors("save", self._augeas.save)
            yield new
        finally:
            for left in set(os.listdir(folder)) - before:
                if left.startswith(start):
                    (folder / left).unlink()

    def _raise_errors(self, doing: str, call: Callable[[], None]) -> None:
        """Run load or save, then look at what Augeas noted, which says more than its exception."""
        failure: Optional[BaseException] = None
        try:
            call()
        except _ERRORS as error:
            failure = error
        for node in self._augeas.match("/augeas//error"):
            raise self._error(doing, node)
        if failure:
            raise AugeasError(file=self.path, why=str(failure)) from failure

    def _error(self, doing: str, node: str) -> AugeasError:
        get = self._augeas.get
        why = get(f"{node}/message") or get(node) or "no reason given"
        if node.startswith("/augeas/load/"):
            return NoLens(file=self.path, why=why)
        line = get(f"{node}/line")
        if line and doing == "load":
            return NotUnderstood(file=self.path, line=line, text=self._line(int(line)))
        return (NotReadable if doing == "load" else NotWritten)(file=self.path, why=why)

    def _line(self, number: int) -> str:
        try:
            lines = self._real.read_bytes().split(b"\n")
            return repr(lines[number - 1][:60].decode("utf-8", "replace"))
        except (OSError, IndexError):
            return "it"


def lens_path() -> str:
    """Where our lenses are, if they are not where Augeas looks anyway."""
    tree = Path(__file__).resolve().parents[2] / "augeas-lenses"
    installed = Path(sys.prefix) / "share" / "augeas" / "lenses"
    return ":".join(str(path) for path in (tree, installed) if (path / "vlhook_lines.aug").is_file())


@contextmanager
def _locked(real: Path) -> Iterator[None]:
    """Two commands at once must not undo each other's change."""
    try:
        fd = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotWritten(file=real, why=f"{real.parent}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path, text: Path) -> str:
    try:
        return text.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise NotReadable(file=path, why=str(error)) from error


def _publish(path: Path, new: Path, real: Path) -> None:
    """Durable first, then in place: the rename shows readers the old text or the new one."""
    try:
        if not real.exists():
            new.chmod(_PRIVATE.get(real.name, 0o644))
        _sync(new, os.O_RDONLY)
        new.rename(real)
        _sync(real.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NotWritten(file=path, why=error.strerror or str(error)) from error


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
