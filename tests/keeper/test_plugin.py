# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the system shows of libvirt's sanlock plugin, read without guessing."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlhook.keeper.plugin import DaemonView, MapsUnreadable, daemon_with_plugin, has_plugin, is_paused
from vlhook.leases.engine import Want

SANLOCK = "7f0-7f1 r-xp 00002000 fe:00 559  /usr/lib64/libvirt/lock-driver/sanlock.so"
CLIENT = "7f0-7f1 r-xp 00002000 fe:00 559  /usr/lib64/libsanlock_client.so.1"
LOCKD = SANLOCK.replace("sanlock.so", "lockd.so")


def process(proc: Path, pid: int, name: str, *maps: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(name + "\n")
    (proc / str(pid) / "maps").write_text("".join(line + "\n" for line in maps))


@pytest.mark.parametrize(
    ("maps", "found"),
    [
        ([CLIENT, SANLOCK], True),
        ([SANLOCK + " (deleted)"], True),
        ([CLIENT, LOCKD], False),
        ([SANLOCK + ".old"], False),
        ([], False),
    ],
)
def test_a_plugin_counts_that_is_mapped(tmp_path: Path, maps: list[str], found: bool) -> None:
    process(tmp_path, 7, "libvirtd", *maps)
    assert has_plugin(7, str(tmp_path)) is found


def test_a_process_that_is_gone_has_no_plugin_and_one_that_hides_is_an_error(tmp_path: Path) -> None:
    assert has_plugin(7, str(tmp_path)) is False
    (tmp_path / "8" / "maps").mkdir(parents=True)  # reading it fails
    with pytest.raises(MapsUnreadable, match="libvirtd \\(pid 8\\)"):
        has_plugin(8, str(tmp_path))


def test_the_libvirt_daemon_with_the_plugin_is_found_among_all_processes(tmp_path: Path) -> None:
    process(tmp_path, 7, "libvirtd", LOCKD)
    process(tmp_path, 8, "cat", SANLOCK)
    assert daemon_with_plugin(str(tmp_path)) is None
    process(tmp_path, 9, "virtqemud", SANLOCK)
    assert daemon_with_plugin(str(tmp_path)) == 9


@pytest.mark.parametrize(("state", "paused"), [("paused", True), ("running", False), ("crashed", False), (None, False)])
def test_paused_is_what_libvirt_calls_so(tmp_path: Path, state: str | None, paused: bool) -> None:
    (tmp_path / "qemu").mkdir()
    if state:
        text = f"<!--\nWARNING\n-->\n\n<domstatus state='{state}' reason='user' pid='7'>\n"
        (tmp_path / "qemu" / "g.xml").write_text(text)
    assert is_paused(tmp_path, "g") is paused


def want(name: str, shared: bool = False, path: str | None = None, offset: int = 0) -> Want:
    return Want(name, "space", shared, "/disk", path, offset)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        (want("a"), True),
        (want("b"), False),
        (want("a", shared=True), False),
        (want("a", path="/elsewhere/a"), False),
        (want("a", offset=1 << 20), False),
    ],
)
def test_a_lease_counts_only_for_that_process_in_that_mode_and_file(wanted: Want, held: bool) -> None:
    view = DaemonView({}, {(7, "space", "a", False): ("/leases/a", 0)}, frozenset({7, 8}))
    assert view.missing(7, [wanted], "/leases") == ([] if held else [wanted])
    assert view.missing(8, [wanted], "/leases") == [wanted]
    assert (view.holds_any(7), view.holds_any(8)) == (True, False)
