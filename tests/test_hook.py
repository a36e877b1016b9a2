# SPDX-License-Identifier: LGPL-2.1-or-later
"""hooks/qemu as a process: what it imports, and what it does without the package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vlhook import hook

HOOK = Path(__file__).resolve().parent.parent / "hooks/qemu"


def test_the_hook_imports_next_to_nothing() -> None:
    """Each import is paid at each event of each guest (performance document)."""
    code = f"import sys; sys.path.insert(0, {str(HOOK.parent.parent)!r}); import vlhook.hook; print(*sys.modules)"
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"socket", "json", "re", "struct", "subprocess", "typing", "lxml", "click", "dataclasses", "os"}
    assert not loaded & heavy


def test_a_hook_whose_package_is_gone_lets_nothing_start(tmp_path: Path) -> None:
    alone = tmp_path / "hooks" / "qemu"
    alone.parent.mkdir()
    alone.write_text(HOOK.read_text())
    alone.chmod(0o755)
    for operation, expected in (("prepare", 1), ("start", 1), ("release", 0), ("started", 0)):
        done = subprocess.run([alone, "g", operation, "begin", "-"], input=b"", capture_output=True, check=False)
        assert done.returncode == expected
        assert done.stdout == b""
        if expected:
            assert done.stderr.count(b"\n") == 1
            assert b"not installed completely" in done.stderr


def test_the_hook_is_found_through_a_symbolic_link(tmp_path: Path) -> None:
    link = tmp_path / "10-vlhook"
    link.symlink_to(HOOK)
    done = subprocess.run([link, "g", "started", "begin", "-"], input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("defers", [False, True])
def test_the_shell_leaves_only_at_events_that_need_nothing(tmp_path: Path, defers: bool) -> None:
    """Whatever it does not leave at is for Python to judge, known or not."""
    script = HOOK.read_text()
    line = 'exec /usr/bin/python3 -IS "$0" "$@"\n'
    assert script.count(line) == 1
    shell = tmp_path / "hook"
    shell.write_text(script.replace(line, "exit 99\n"))
    shell.chmod(0o755)
    if defers:
        (tmp_path / "defers").touch()
    events = [(operation, sub) for operation in (*hook.KNOWN, "new", "") for sub in ("begin", "end", "")]
    left = set()
    for event in events:
        environment = {"VLHOOK_RUN_DIR": str(tmp_path)}
        done = subprocess.run([shell, "g", *event, "-"], env=environment, capture_output=True, check=False)
        assert done.returncode in (0, 99)
        assert done.stdout + done.stderr == b""
        if done.returncode == 0:
            left.add(event)
    assert left == ({("stopped", "end")} if defers else {("stopped", "end"), ("started", "begin")})


def test_a_call_without_an_event_is_told_so() -> None:
    done = subprocess.run([HOOK, "g"], capture_output=True, check=False)
    assert done.returncode == hook.EX_USAGE
    assert b"usage" in done.stderr
