# SPDX-License-Identifier: LGPL-2.1-or-later
"""fsync of a guest's images by helpers that may hang or be refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlhook.keeper import syncer as module
from vlhook.keeper.drain import Drain, Syncer


def test_files_that_exist_are_synced_and_missing_ones_have_nothing_to_sync(tmp_path: Path) -> None:
    image = tmp_path / "an image"
    image.write_bytes(b"x")
    assert Drain([str(image), str(tmp_path / "gone"), str(image / "below a file")], {}).run(10) == []


def test_a_failing_sync_is_reported_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    script = tmp_path / "sync"
    script.write_text("#!/bin/sh\necho 'sync: error syncing: Input/output error' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(module, "SYNC", str(script))
    (failed,) = Drain([str(image)], {}).run(10)
    assert failed.path == str(image)
    assert "Input/output error" in failed.why


def test_a_hanging_sync_counts_as_not_drained_and_is_waited_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"x")
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    os.mkfifo(gate)
    script = tmp_path / "sync"
    script.write_text(f"#!/bin/sh\necho run >> {runs}\nread -r go < {gate}\n")
    script.chmod(0o755)
    monkeypatch.setattr(module, "SYNC", str(script))
    drain = Drain([str(image)], {})
    for _ in range(3):
        (failed,) = drain.run(0.3)
        assert "not ended" in failed.why
    gate.write_text("go\n")
    assert drain.run(30) == []
    assert runs.read_text() == "run\n", "one process for all of this"


def test_a_child_started_ahead_of_need_does_the_same_and_is_done_without_when_it_dies(tmp_path: Path) -> None:
    image, directory = tmp_path / "image", tmp_path / "loop"
    image.write_bytes(b"x")
    directory.symlink_to(directory)
    syncer = Syncer()
    syncer.start()
    assert Drain([str(image)], {}, syncer).run(30) == []
    (failed,) = Drain([str(image), str(directory)], {}, syncer).run(30)
    assert failed.path == str(directory)
    child = syncer._process
    assert child
    child.kill()
    child.wait()
    assert Drain([str(image)], {}, syncer).run(30) == []
    syncer.start()
    assert syncer._process is not child
    syncer.stop()
