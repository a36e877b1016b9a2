# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the source tree as a whole keeps to: metadata, license lines, sizes, directions of imports."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import vlhook

ROOT = Path(__file__).resolve().parent.parent
SPDX = "SPDX-License-Identifier: LGPL-2.1-or-later"
LONGEST_MODULE = 400

# The bindings of C libraries and the command line's toolkit: never in a process that must not fail.
BINDINGS = {"augeas", "click", "libvirt", "lxml"}
# What a process that does little has no use for, and what costs milliseconds to import: the hook runs several
# times for every guest.
LARGE = BINDINGS | {"asyncio", "concurrent", "email", "http", "logging", "multiprocessing", "xml"}
SLOW = {"argparse", "dataclasses", "enum", "inspect", "json", "pathlib", "re", "socket"}
SLOW |= {"subprocess", "typing"}
# Small modules that both the keeper and the guard use.
SHARED = ("vlhook.errors", "vlhook.lastok", "vlhook.notify", "vlhook.processes")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "vlhook").rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def import_nodes(node: ast.AST, at_start_only: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports below `node`; at_start_only leaves out those for type checkers and those in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif at_start_only and (
            is_type_checking(child) or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        ):
            continue
        else:
            yield from import_nodes(child, at_start_only)


@cache
def imports(name: str, at_start_only: bool = False) -> frozenset[str]:
    """The full names of the modules that the module `name` of ours imports."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in import_nodes(ast.parse(path.read_text(encoding="utf-8")), at_start_only):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
            continue
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{source}.{alias.name}"
            found.add(inner if inner in MODULES else source)
    return frozenset(found)


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


def ours(names: frozenset[str]) -> set[str]:
    return {name for name in names if within(name, "vlhook")}


def strangers(name: str, *rooms: str) -> set[str]:
    """The modules of ours that `name` imports from outside those rooms; the version is anybody's."""
    return {other for other in ours(imports(name)) if other != "vlhook" and not within(other, *rooms)}


def loaded_with(name: str) -> set[str]:
    """Everything that `import name` runs: our modules transitively, others by their top-level name."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in MODULES:
            seen.add(current.partition(".")[0])
        elif current not in seen:
            seen.add(current)
            todo.extend(imports(current, at_start_only=True))
            todo.append(current.rpartition(".")[0] or current)
    return seen


def room(*names: str) -> list[str]:
    return [name for name in MODULES if within(name, *names)]


def sources() -> list[Path]:
    found = [ROOT / name for name in (".ci/run", "Makefile", "pyproject.toml", "ruff.toml", "setup.cfg")]
    for folder in ("augeas-lenses", "bench", "hooks", "packaging", "scripts", "tests", "vlhook"):
        for path in sorted((ROOT / folder).rglob("*")):
            if "__pycache__" in path.parts or not path.is_file():
                continue
            if path.suffix in (".py", ".sh", ".aug", ".spec") or os.access(path, os.X_OK):
                found.append(path)
    return found


def test_the_version_is_the_same_in_metadata_and_code() -> None:
    assert setup_cfg()["metadata"]["version"] == vlhook.__version__


def test_every_declared_command_exists() -> None:
    for line in setup_cfg()["options.entry_points"]["console_scripts"].split("\n"):
        if not line:
            continue
        module, _, function = line.partition("=")[2].strip().partition(":")
        assert module in MODULES, line
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names.update(alias.asname or alias.name for alias in node.names)
        assert function in names, line


def test_the_license_is_there_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "GNU LESSER GENERAL PUBLIC LICENSE" in text
    assert "Version 2.1, February 1999" in text
    assert text.rstrip().endswith("That's all there is to it!")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_source_file_starts_with_its_license(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert SPDX in first


@pytest.mark.parametrize("name", MODULES)
def test_each_module_can_be_read_in_one_sitting(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("name", room("vlhook.leases"))
def test_leases_imports_nothing_of_ours_outside_leases(name: str) -> None:
    assert ours(imports(name)) == {other for other in imports(name) if within(other, "vlhook.leases")}


@pytest.mark.parametrize("name", [name for name in MODULES if not within(name, "vlhook.cli")])
def test_nothing_outside_the_command_line_imports_it(name: str) -> None:
    assert {other for other in ours(imports(name)) if within(other, "vlhook.cli")} == set()


@pytest.mark.parametrize("name", [name for name in SHARED if name in MODULES])
def test_what_keeper_and_guard_share_stands_on_its_own(name: str) -> None:
    assert ours(imports(name)) <= {"vlhook.errors"}


@pytest.mark.parametrize("name", room("vlhook.keeper"))
def test_the_keeper_imports_only_the_rooms_it_stands_on(name: str) -> None:
    allowed = ["vlhook.keeper", "vlhook.leases", "vlhook.config.settings", "vlhook.guardclient", "vlhook.mounts"]
    allowed += SHARED
    if name == "vlhook.keeper.reader":
        allowed += ["vlhook.domain", "vlhook.metadata", "vlhook.qcow2"]
    if name == "vlhook.keeper.prober":
        allowed += ["vlhook.diskidentity", "vlhook.qcow2"]
    assert strangers(name, *allowed) == set()


@pytest.mark.parametrize("name", room("vlhook.guard"))
def test_the_guard_imports_only_itself_and_what_it_shares(name: str) -> None:
    allowed = ["vlhook.guard", "vlhook.keeper.wire", *SHARED]
    assert strangers(name, *allowed) == set()


@pytest.mark.parametrize("name", [name for name in room("vlhook.keeper") if name != "vlhook.keeper.reader"])
def test_the_keeper_never_loads_xml_libvirt_augeas_or_click(name: str) -> None:
    sometime = {other.partition(".")[0] for other in imports(name)}
    assert (sometime | loaded_with(name)) & BINDINGS == set()


@pytest.mark.parametrize("name", room("vlhook.guard"))
def test_the_guard_loads_no_library_that_is_large(name: str) -> None:
    assert loaded_with(name) & LARGE == set()


def test_the_hook_loads_next_to_nothing() -> None:
    script = f"import sys; sys.path.append({str(ROOT)!r}); import vlhook.hook; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {loaded.partition(".")[0] for loaded in ran.stdout.split()} & (LARGE | SLOW) == set()


@pytest.mark.parametrize("name", MODULES)
def test_only_one_room_talks_to_augeas(name: str) -> None:
    top = {other.partition(".")[0] for other in imports(name)}
    assert "augeas" not in top or name == "vlhook.config.augeas"
