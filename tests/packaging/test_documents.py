# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manual pages and completions: every command has them, whoever adds it, and they say what --help says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs
from vlhook.cli import COMMANDS

from .building import ROOT

pytestmark = pytest.mark.xdist_group("documents")
DAEMONS = {"vlhookd": "vlhook.keeper", "vlhook-guard": "vlhook.guard", "vlhook-watch": "vlhook.watch"}


def make(target: Path) -> Path:
    subprocess.run([sys.executable, ROOT / "packaging/documents.py", target], check=True)
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("documents"))


def printed(page: Path) -> str:
    """As man prints it; a complaint of its formatter fails the test."""
    [man] = needs.require_programs("man")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MAN_KEEP_FORMATTING": ""}
    ran = subprocess.run([man, "--warnings", "-l", page], capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return re.sub(r".\x08", "", ran.stdout)


def test_the_same_source_gives_the_same_documents(made: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again")
    files = [path.relative_to(made) for path in made.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (again / file).read_bytes() == (made / file).read_bytes(), file


def test_every_command_has_a_page_and_vlhook_8_names_it(made: Path) -> None:
    main = printed(made / "man/vlhook.8")
    for command in COMMANDS:
        assert (made / f"man/vlhook-{command}.8").is_file()
        assert f"vlhook-{command}(8)" in main


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_tells_every_option_and_argument_of_its_command(made: Path, command: str) -> None:
    page = printed(made / f"man/vlhook-{command}.8")
    help_text = subprocess.run(
        [sys.executable, "-m", "vlhook.cli", command, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    words = set(re.findall(r"(?<!\w)--[a-z][a-z-]+", help_text))
    assert "--help" in words
    assert words - set(re.findall(r"--[a-z][a-z-]+", page)) == set()
    usage = re.findall(r"Usage: (.*)", help_text)[0]
    assert usage in " ".join(page.split())


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_page_of_a_daemon_tells_all_its_options_and_no_others(made: Path, daemon: str) -> None:
    page = printed(made / f"man/{daemon}.8")
    help_text = subprocess.run(
        [sys.executable, "-m", DAEMONS[daemon], "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", help_text)) - {"--help"}
    assert set(re.findall(r"--[a-z][a-z-]+", page)) == options


def test_what_is_written_as_markdown_becomes_a_page(made: Path) -> None:
    sources = sorted((ROOT / "docs").glob("*.[1-8].md"))
    assert sources
    for source in sources:
        page = printed(made / "man" / source.stem)
        for heading in re.findall(r"^##+ `?([^`\n]+)`?$", source.read_text(encoding="utf-8"), re.MULTILINE):
            assert heading in page


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment in which `vlhook` is the checkout's."""
    (tmp_path / "vlhook").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m vlhook.cli "$@"\n')
    (tmp_path / "vlhook").chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}


COMPLETED = ((["vlhook", "st"], "status"), (["vlhook", "status", "--js"], "--json"))


def test_bash_completes_commands_and_options(made: Path, command: dict[str, str]) -> None:
    [bash] = needs.require_programs("bash")
    for words, expected in COMPLETED:
        script = f"""
            . {made}/completions/vlhook.bash
            COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1} COMPREPLY=()
            _vlhook_completion vlhook; echo "${{COMPREPLY[@]}}" """
        ran = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True, env=command)
        assert ran.stdout.split() == [expected], ran.stderr


def test_fish_completes_commands_and_options(made: Path, command: dict[str, str]) -> None:
    [fish] = needs.require_programs("fish")
    for words, expected in COMPLETED:
        script = f"source {made}/completions/vlhook.fish; complete -C '{' '.join(words)}'"
        ran = subprocess.run(
            [fish, "--no-config", "-c", script], capture_output=True, text=True, check=True, env=command
        )
        assert ran.stdout.split()[0] == expected, ran.stderr


def test_zsh_has_its_completion_and_can_read_it(made: Path, command: dict[str, str]) -> None:
    [zsh] = needs.require_programs("zsh")
    file = made / "completions/_vlhook"
    assert file.read_text().startswith("#compdef vlhook\n")
    script = f"autoload -Uz compinit; compinit -D; source {file}; whence -w _vlhook_completion"
    ran = subprocess.run([zsh, "-fc", script], capture_output=True, text=True, check=True, env=command)
    assert ran.stdout == "_vlhook_completion: function\n", ran.stderr
