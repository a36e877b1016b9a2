# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the code imports is what the packages ask for, whoever adds an import."""

from __future__ import annotations

import ast
import configparser
import re
import sys

import pytest

from .building import ROOT

# module: its project for pip, and the distribution's package, which has one name in all of them
KNOWN = {
    "augeas": ("python-augeas", "python3-augeas"),
    "click": ("click", "python3-click"),
    "libvirt": ("libvirt-python", "python3-libvirt"),
    "lxml": ("lxml", "python3-lxml"),
}


def imported() -> set[str]:
    """The modules of others that anything in vlhook/ imports, at any time."""
    names: set[str] = set()
    for path in (ROOT / "vlhook").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    names.discard("_sha2")  # of the library from 3.12 on only
    # 3.9 does not list the modules of its library.
    own = getattr(sys, "stdlib_module_names", None)
    return {name for name in names if name not in own and name != "vlhook"} if own else names & set(KNOWN)


@pytest.mark.parametrize("module", sorted(imported()))
def test_a_module_is_asked_for_by_pip_rpm_and_dpkg(module: str) -> None:
    project, package = KNOWN[module]
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = parser["options"]["install_requires"] + "".join(parser["options.extras_require"].values())
    assert re.search(rf"^{project}\b", wanted, re.MULTILINE)
    spec = (ROOT / "packaging/rpm/vlhook.spec").read_text(encoding="utf-8")
    assert re.search(rf"^(Requires|Recommends): +{package}$", spec, re.MULTILINE)
    control = (ROOT / "packaging/debian/control").read_text(encoding="utf-8")
    # dh_python3 adds what pip is told without an extra.
    assert module in ("click", "lxml") or re.search(rf"^(Depends|Recommends| +).*{package}\b", control, re.MULTILINE)


def test_every_version_is_the_same() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    version = parser["metadata"]["version"]
    spec = (ROOT / "packaging/rpm/vlhook.spec").read_text(encoding="utf-8")
    assert re.search(rf"^Version: +{re.escape(version)}$", spec, re.MULTILINE)
    assert re.search(rf"^\* .* - {re.escape(version)}-1$", spec, re.MULTILINE)
    changelog = (ROOT / "packaging/debian/changelog").read_text(encoding="utf-8")
    assert changelog.startswith(f"vlhook ({version}) ")
