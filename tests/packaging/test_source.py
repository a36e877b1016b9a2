# SPDX-License-Identifier: LGPL-2.1-or-later
"""sdist and wheel: what is in them, that two builds are the same, and that what pip installs works."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import needs

from .building import PYTHON, ROOT, VERSION, build, run

pytestmark = pytest.mark.xdist_group("packages of source")
NAME = f"vlhook-{VERSION}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    build("sdist", target)
    build("wheel", target)
    return target


def test_two_builds_are_the_same(made: Path, tmp_path: Path) -> None:
    build("sdist", tmp_path)
    for path in build("wheel", tmp_path):
        assert path.read_bytes() == (made / path.name).read_bytes(), path.name


def test_the_sdist_has_every_file_of_the_source(made: Path) -> None:
    with tarfile.open(made / f"{NAME}.tar.gz") as archive:
        members = {name.partition("/")[2]: archive.getmember(name) for name in archive.getnames()}
    git = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False)
    if git.returncode:
        pytest.skip("no git here that knows the files of the source")
    files = [name for name in git.stdout.split("\n") if name and (ROOT / name).exists()]
    assert set(files) - set(members) == set()
    assert {member.uname or member.uid for member in members.values()} == {0}
    for name in ("hooks/qemu", "packaging/build", "scripts/bootstrap"):
        assert members[name].mode & 0o777 == 0o755


def test_packages_are_built_from_an_sdist_as_from_a_checkout(made: Path, tmp_path: Path) -> None:
    with tarfile.open(made / f"{NAME}.tar.gz") as archive:
        archive.extractall(tmp_path)
    run(tmp_path / NAME / "packaging/build", "sdist", tmp_path / "again")
    assert (tmp_path / "again" / f"{NAME}.tar.gz").read_bytes() == (made / f"{NAME}.tar.gz").read_bytes()


def test_the_wheel_has_every_module_and_what_belongs_to_them(made: Path) -> None:
    [path] = made.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        modules = {str(file.relative_to(ROOT)) for file in (ROOT / "vlhook").rglob("*.py")}
        assert {name for name in names if name.endswith(".py")} == modules
        data = f"{NAME}.data/data/share"
        hook = wheel.getinfo(f"{data}/vlhook/hooks/qemu")
        assert hook.external_attr >> 16 & 0o111, "the hook must stay executable"
        assert wheel.read(hook) == (ROOT / "hooks/qemu").read_bytes()
        lenses = {lens.name for lens in (ROOT / "augeas-lenses").glob("*.aug")}
        assert {name.rpartition("/")[2] for name in names if "/augeas/lenses/" in name} == lenses
        assert not [name for name in names if name.startswith("tests")]


def test_what_pip_installs_sets_settings_and_plays_the_demo(made: Path, tmp_path: Path) -> None:
    missing = run(PYTHON, "-c", "import augeas, click, lxml", check=False)
    if missing.returncode:
        needs.lacking(f"needs modules for {PYTHON}: {missing.stderr.strip()}")
    home = tmp_path / "venv"
    run(PYTHON, "-m", "venv", "--system-site-packages", "--without-pip", home)
    [wheel] = made.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "--no-index", wheel)

    (tmp_path / "etc").mkdir()
    run(home / "bin/vlhook", "config", "set", "host_id", "7", "--config-dir", tmp_path / "etc")
    assert "host_id = 7" in (tmp_path / "etc/qemu-sanlock.conf").read_text()
    assert run(home / "bin/vlhookd", "--check", "--config-dir", tmp_path / "etc").stdout == ""

    played = run(home / "bin/vlhook", "demo", "--dir", tmp_path / "demo")
    assert "is in use by guest demo" in played.stdout
    hook = (tmp_path / "demo/host1/hook").read_text()
    assert str(home / "lib") in hook, "the demo must run what was installed"
