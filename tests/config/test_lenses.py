# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lenses: their own tests, and the documented augtool commands on hosts with and without libvirt's lenses.

A host is a root directory and a tree of lenses laid out as packages lay it out: libvirt's lenses and ours in
`lenses`, those of Augeas and our fallbacks in `lenses/dist`, searched in this order.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import needs
from vlhook.config.settings import load, read_lock_manager

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "augeas-lenses"
STOCK = Path("/usr/share/augeas/lenses")
NO_ERRORS = "(no errors)"
LIBVIRTS = ("libvirt_sanlock.aug", "libvirtd_qemu.aug")
SANLOCK_CONF, QEMU_CONF, OWN_CONF = (
    f"etc/libvirt/{name}" for name in ("qemu-sanlock.conf", "qemu.conf", "qemu-vlhook.conf")
)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


class Host:
    """A root directory, and the lenses that are installed on it. `libvirt`: those of libvirt among them."""

    def __init__(self, folder: Path, libvirt: Sequence[str], ours: bool = True) -> None:
        self.root = folder / "root"
        (self.root / "etc/libvirt").mkdir(parents=True)
        self.lenses = folder / "lenses"
        dist = self.lenses / "dist"
        dist.mkdir(parents=True)
        (dist / "util.aug").symlink_to(STOCK / "dist" / "util.aug")  # all that these lenses need of Augeas's
        if ours:
            for path in OURS.glob("*.aug"):
                (self.lenses / path.name).symlink_to(path)
            for path in (OURS / "fallback").glob("*.aug"):
                (dist / path.name).symlink_to(path)
        for name in libvirt:
            if not (STOCK / name).is_file():
                needs.lacking(f"needs libvirt's lens {STOCK / name}")
            (self.lenses / name).symlink_to(STOCK / name)

    def augtool(self, *words: str) -> subprocess.CompletedProcess[str]:
        [program] = needs.require_programs("augtool")
        where = ("-S", "-I", self.lenses, "-I", self.lenses / "dist", "-r", self.root)
        return run(program, *where, *words)

    def set(self, path: str, value: str) -> subprocess.CompletedProcess[str]:
        """As the documentation says: `augtool -s set /files/etc/libvirt/… VALUE`."""
        return self.augtool("-s", "set", f"/files/{path}", value)

    def text(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")


@pytest.fixture(
    params=[LIBVIRTS, (), LIBVIRTS[:1], LIBVIRTS[1:]],
    ids=["with libvirt's lenses", "without", "with the one of sanlock", "with the one of qemu"],
)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, request.param)


@pytest.mark.parametrize("test", sorted((OURS / "tests").glob("test_*.aug")), ids=lambda path: path.stem)
def test_augparse(test: Path) -> None:
    [program] = needs.require_programs("augparse")
    ran = run(program, "-I", OURS, test)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_every_lens_has_a_test() -> None:
    tested = {path.name for path in (OURS / "tests").glob("*.aug")}
    assert {f"test_{path.name}" for path in OURS.glob("*.aug")} == tested


def test_the_documented_commands_work_where_the_files_do_not_exist_yet(host: Host) -> None:
    for path, value in ((f"{SANLOCK_CONF}/host_id", "1"), (f"{QEMU_CONF}/lock_manager", "sanlock")):
        ran = host.set(path, value)
        assert (ran.returncode, ran.stderr) == (0, "")
    assert host.text(SANLOCK_CONF) == "host_id = 1\n"
    assert host.text(QEMU_CONF) == 'lock_manager = "sanlock"\n'
    assert load(host.root / "etc/libvirt").host_id == 1
    assert read_lock_manager(host.root / "etc/libvirt") == "sanlock"


def test_the_documented_commands_keep_what_is_in_the_files(host: Host) -> None:
    host.write(SANLOCK_CONF, '# libvirt\'s\n\n#host_id = 1\nhost_id = 4\nuser = "sanlock"\n')
    host.write(QEMU_CONF, '# libvirt\'s\nmax_queued = 5\nnvram = [\n  "/a:/b"\n]\n')
    assert host.set(f"{SANLOCK_CONF}/host_id", "1").returncode == 0
    assert host.set(f"{QEMU_CONF}/lock_manager", "lockd").returncode == 0
    assert host.text(SANLOCK_CONF) == '# libvirt\'s\n\n#host_id = 1\nhost_id = 1\nuser = "sanlock"\n'
    assert host.text(QEMU_CONF) == (
        '# libvirt\'s\nmax_queued = 5\nnvram = [\n  "/a:/b"\n]\nlock_manager = "lockd"\n'
    )


def test_every_file_is_loaded_by_exactly_one_lens(host: Host) -> None:
    for name in (SANLOCK_CONF, QEMU_CONF, OWN_CONF):
        host.write(name, "")
        loads = host.augtool("match", f'/augeas/load/*[incl = "/{name}"]').stdout
        assert len(loads.splitlines()) == 1, loads
    assert host.augtool("errors").stdout.strip() == NO_ERRORS


def test_libvirts_lens_is_the_one_that_counts_where_it_is_installed(tmp_path: Path) -> None:
    host = Host(tmp_path, LIBVIRTS)
    host.write(SANLOCK_CONF, "host_id = 1 # libvirt's lens takes no comment here\n")
    assert "parse_failed" in host.augtool("errors").stdout
    alone = Host(tmp_path / "alone", ())
    alone.write(SANLOCK_CONF, "host_id = 1 # ours does\n")
    assert alone.augtool("errors").stdout.strip() == NO_ERRORS


def test_without_our_fallbacks_a_host_without_libvirts_lenses_would_know_neither_file(tmp_path: Path) -> None:
    host = Host(tmp_path, (), ours=False)
    host.set(f"{SANLOCK_CONF}/host_id", "1")
    assert not (host.root / SANLOCK_CONF).exists()


@pytest.mark.parametrize(
    ("name", "value"), [("host_id", "2001"), ("host_id", "0"), ("host_id", "one"), ("hostid", "1")]
)
def test_our_fallback_refuses_what_libvirts_lens_would_write(tmp_path: Path, name: str, value: str) -> None:
    host = Host(tmp_path, ())
    host.write(SANLOCK_CONF, "host_id = 4\n")
    assert host.set(f"{SANLOCK_CONF}/{name}", value).returncode != 0
    assert host.text(SANLOCK_CONF) == "host_id = 4\n"


def test_vlhooks_own_file_is_set_with_augtool_too(host: Host) -> None:
    assert host.set(f"{OWN_CONF}/hook_deadline", "30").returncode == 0
    assert host.set(f"{OWN_CONF}/engine", "sanlock").returncode == 0
    assert host.text(OWN_CONF) == 'hook_deadline = 30\nengine = "sanlock"\n'
    assert host.set(f"{OWN_CONF}/hook_deadline", "121").returncode != 0
    assert load(host.root / "etc/libvirt").hook_deadline == 30


@pytest.mark.parametrize("libvirt", [LIBVIRTS, ()], ids=["with libvirt's lenses", "without"])
def test_lock_manager_in_libvirts_shipped_file_changes_one_line(tmp_path: Path, libvirt: Sequence[str]) -> None:
    shipped = Path("/etc/libvirt/qemu.conf")
    if not shipped.is_file():
        needs.lacking(f"needs libvirt's {shipped}")
    host = Host(tmp_path, libvirt)
    before = shipped.read_text(encoding="utf-8")
    host.write(QEMU_CONF, before)
    assert host.set(f"{QEMU_CONF}/lock_manager", "sanlock").returncode == 0
    assert host.text(QEMU_CONF) == before + 'lock_manager = "sanlock"\n'
    assert host.augtool("-s", "rm", f"/files/{QEMU_CONF}/lock_manager").returncode == 0
    assert host.text(QEMU_CONF) == before
