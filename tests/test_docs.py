# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents say exists: commands and options, message codes, links, fields of JSON."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from lxml import etree

from tests import needs
from vlhook.catalogue import CATALOGUE
from vlhook.cli import COMMANDS, cli
from vlhook.cli.checks import CHECKS
from vlhook.domain import parse_guest
from vlhook.leases.directory import Ownership, create_lease, create_lockspace
from vlhook.leases.geometry import FILE

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
CODE_SPAN = re.compile(r"`([^`\n]+)`")
CODE = re.compile(r"\bVLH-[A-Z][0-9]{3}[A-Z]?\b")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DOMAIN = ROOT / "tests/data/domain-xml/file-backing-configured.prepare.xml"
UNITS = {path.name for path in (ROOT / "packaging/systemd").iterdir()}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def invocations(text: str) -> Iterator[str]:
    """Every `vlhook …` in code spans, indented lines and quoted next steps."""
    for span in CODE_SPAN.findall(text):
        if re.match(r"(.* \| )?vlhook [a-z]", span):
            yield span[span.index("vlhook ") :]
    for line in text.splitlines():
        found = re.match(r" {4}(.*\| )?(vlhook [a-z].*)", line)
        if found:
            yield found[2]
    yield from re.findall(r"'(vlhook [a-z][^'\n]*)'", text)


def check(invocation: str) -> None:
    """Every word of it is a command, an option or an argument of vlhook's."""
    try:
        words = shlex.split(invocation.split("   ", maxsplit=1)[0])[1:]
    except ValueError:
        words = invocation.split()[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0].rstrip(",;:."))
        assert found is not None, f"{invocation!r}: there is no command {words[0]!r}"
        command = found
        words = words[1:]
    if "--" in words:
        words = words[: words.index("--")]
    options = {name for parameter in command.params for name in parameter.opts} | {"-h", "--help"}
    for word in words:
        if word.startswith("-") and word != "-":
            name = word.split("=")[0].rstrip(",;:.")
            assert name in options, f"{invocation!r}: {command.name} has no option {name}"
    if invocation.startswith("vlhook doctor"):
        assert {word for word in words if not word.startswith("-")} <= {one.name for one in CHECKS}, invocation


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_command_and_option_in_the_documents_exists(path: Path) -> None:
    for invocation in invocations(path.read_text("utf-8")):
        check(invocation)


def test_every_command_in_the_next_steps_of_messages_exists() -> None:
    for entry in CATALOGUE.values():
        for invocation in invocations(f"{entry.cause} {entry.step}"):
            check(invocation)


def test_every_command_in_the_texts_of_errors_exists() -> None:
    for path in (ROOT / "vlhook").rglob("*.py"):
        for quoted in re.findall(r"'(vlhook [a-z][a-z-]*(?: --?[a-z-]+)*)[ ']", path.read_text("utf-8")):
            check(quoted)


@pytest.mark.parametrize(
    "wrong", ["vlhook frobnicate", "vlhook status --colour", "vlhook config frobnicate", "vlhook doctor weather"]
)
def test_the_check_would_find_what_does_not_exist(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert {name for name in COMMANDS if f"`vlhook {name}" not in text} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_code_in_the_documents_is_in_the_catalogue(path: Path) -> None:
    unknown = set(CODE.findall(path.read_text("utf-8"))) - set(CATALOGUE)
    assert {code for code in unknown if not re.fullmatch("VLH-L[0-9]{3}S", code)} == set(), "but sanlock's numbers"


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text("utf-8")):
        if re.match(r"[a-z]+://|mailto:", link):
            continue
        target, _, fragment = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        if fragment:
            assert fragment in {anchor(one) for one in HEADING.findall(file.read_text("utf-8"))}, link


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_unit_in_the_documents_is_shipped(path: Path) -> None:
    text = path.read_text("utf-8")
    assert set(re.findall(r"\bvlhook[a-z-]*\.(?:service|timer)\b", text)) <= UNITS


@pytest.mark.parametrize("kind", ["storagepool", "domain"])
def test_the_xml_in_the_documents_is_what_libvirt_accepts(kind: str) -> None:
    schema = Path(f"/usr/share/libvirt/schemas/{kind}.rng")
    if not schema.exists():
        needs.lacking(f"needs libvirt's {schema.name}")
    text = (ROOT / "docs/storage.md").read_text("utf-8")
    pool, disk = (
        re.search(rf"^    <{name} type.*?^    </{name}>", text, re.MULTILINE | re.DOTALL)[0]  # type: ignore[index]
        for name in ("pool", "disk")
    )
    head = "<domain type='kvm'><name>g</name><uuid>6d1f2c9e-1b0a-4a53-9a6e-0d2a4c1c7f10</uuid><memory>1</memory>"
    guest = f"{head}<os><type>hvm</type></os><devices>{disk}</devices></domain>"
    etree.RelaxNG(etree.parse(str(schema))).assertValid(etree.fromstring(pool if kind == "storagepool" else guest))
    if kind == "domain":
        assert [lease.source for lease in parse_guest(guest.encode()).leases] == re.findall("dev='(/dev/.*)'", disk)


# ------------------------------------------------------------------------------ the fields of JSON


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for one in value.values() for key in keys(one)}
    if isinstance(value, list):
        return {key for one in value for key in keys(one)}
    return set()


def section(command: str) -> str:
    parts = re.split(r"^## ", (ROOT / "docs/json.md").read_text("utf-8"), flags=re.MULTILINE)
    return next(part for part in parts if f"vlhook {command}" in part.splitlines()[0].split(", "))


def undocumented(command: str, report: object) -> set[str]:
    """Fields of the JSON that docs/json.md does not name in the command's section."""
    return keys(report) - set(re.findall(r"`([a-z_0-9]+)`", section(command))) - {"schema"}


def with_json(command: click.Command, path: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below
            yield from with_json(below, f"{path} {name}".strip())
    elif any("--json" in parameter.opts for parameter in command.params):
        yield path


@pytest.mark.parametrize("command", list(with_json(cli, "")))
def test_the_json_of_every_command_that_has_it_is_documented(command: str) -> None:
    assert section(command)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("hosts", ["hosts"]),
        ("leases", ["leases"]),
        ("size", ["size"]),
        ("explain", ["explain", "VLH-L262"]),
        ("cleanup", ["cleanup", "--dry-run"]),
        ("calibrate", ["calibrate", "--seconds", "0.5", "--load", "0"]),
        ("doctor", ["doctor", "settings"]),
        ("names", ["names", str(DOMAIN)]),
        ("config show", ["config", "show"]),
        ("host-id show", ["host-id", "show"]),
    ],
)
def test_every_field_of_the_json_is_documented(command: str, words: list[str], tmp_path: Path) -> None:
    create_lockspace(str(tmp_path), FILE, 10, Ownership())
    name = "0" * 32
    create_lease(str(tmp_path / name), FILE, b"__LIBVIRT__DISKS__", name.encode(), Ownership())
    places = {"VLHOOK_RUN_DIR": str(tmp_path / "run"), "VLHOOK_CONFIG_DIR": str(tmp_path / "etc")}
    folder = ["--dir", str(tmp_path)] if command in ("hosts", "leases", "size", "cleanup", "calibrate") else []
    result = CliRunner().invoke(cli, [*words, *folder, "--json"], env=places)
    report = json.loads(result.output)
    assert report["schema"] == 1
    assert undocumented(command, report) == set()


def test_every_field_of_a_dump_is_documented(tmp_path: Path) -> None:
    """But for those of the records, which are named as on disk."""
    create_lockspace(str(tmp_path), FILE, 10, Ownership())
    result = CliRunner().invoke(cli, ["dump", str(tmp_path / "__LIBVIRT__DISKS__"), "--json"])
    report = json.loads(result.output)
    assert report.pop("schema") == 1
    for records in ("leader", "request", "hosts"):
        report[records] = None
    assert undocumented("dump", report) == set()
