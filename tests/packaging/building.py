# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds packages with packaging/build, as its users do, and says what a machine lacks for it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests import needs

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
SHIM = ROOT / "packaging/rpm/testing/macros"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VERSION = re.search(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)[1]  # type: ignore[index]


DOCUMENTS = {"README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*") if path.is_file())}
"""What a package has in /usr/share/doc/vlhook, in the same places, as the documents link to one another."""


def documents_of(paths: Iterable[str]) -> set[str]:
    """Those of the files of a package that are its documents, below their directory."""
    folder = "/usr/share/doc/vlhook/"
    return {path[len(folder) :] for path in paths if path.startswith(folder) and "." in path.rpartition("/")[2]}


def run(*command: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=500, check=False,
        env={"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C.UTF-8", **environment},
    )  # fmt: skip
    assert not check or ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}"
    return ran


def require_system_modules(*names: str) -> None:
    """Modules of the distribution's Python, which the packages are built with."""
    code = f"import importlib.util as i; print(*[n for n in {names!r} if not i.find_spec(n)])"
    missing = run(PYTHON, "-I", "-c", code).stdout.split()
    if missing:
        needs.lacking(f"needs the modules {', '.join(missing)} for {PYTHON}; run: scripts/bootstrap test")


def build(kind: str, target: Path, **environment: str) -> list[Path]:
    """What packaging/build KIND makes, sorted by name."""
    require_system_modules("setuptools", "wheel")
    target.mkdir(parents=True, exist_ok=True)
    run(ROOT / "packaging/build", kind, target, **environment)
    return sorted(path for path in target.iterdir() if path.suffix in (".gz", ".whl", ".rpm", ".deb"))


def build_rpms(target: Path, dist: str = ".shim") -> dict[str, Path]:
    """Package name → file. Debian's rpm has none of what the spec requires to be installed: --nodeps."""
    needs.require_programs("rpmbuild", "checkmodule", "semodule_package", "augparse")
    require_system_modules("installer", "click", "lxml")
    macros = target.with_name(f"{target.name}.macros")
    macros.write_text(f"%dist {dist}\n")
    made = build("rpm", target, RPMBUILD_OPTIONS=f"--nodeps --load {SHIM} --load {macros}")
    return {re.sub(r"-[^-]+-[^-]+$", "", path.name): path for path in made if "noarch" in path.name}


def build_debs(target: Path) -> dict[str, Path]:
    """Package name → file. Only what is Debian's build-essential, and not used, is not asked for: -d."""
    needs.require_programs("dpkg-buildpackage", "dh", "pybuild", "augparse")
    require_system_modules("build", "installer", "click", "lxml")
    return {path.name.partition("_")[0]: path for path in build("deb", target, DPKG_OPTIONS="-d")}
