#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Manual pages and shell completions for the packages: `packaging/documents.py DIRECTORY`.

    DIRECTORY/man/vlhook.8, vlhook-COMMAND.8    from the commands themselves: what --help says
    DIRECTORY/man/NAME.N                        from docs/NAME.N.md
    DIRECTORY/completions/vlhook.bash, _vlhook, vlhook.fish

A new command or a new docs/NAME.N.md needs no change here. The output depends on nothing but the source tree
and the version of click.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True

import click  # noqa: E402
from click.shell_completion import get_completion_class  # noqa: E402

from vlhook import __version__  # noqa: E402
from vlhook.cli import cli  # noqa: E402

FONTS = (("`", "\\fB"), ("**", "\\fB"), ("*", "\\fI"))
INLINE = re.compile(r"(`[^`]+`|\*\*[^*]+\*\*|(?<![\w*])\*[^*\s][^*]*\*(?![\w*]))")
LINK = re.compile(r"\[([^]]+)\]\(([^)]+)\)")
COMPLETIONS = {"bash": "vlhook.bash", "zsh": "_vlhook", "fish": "vlhook.fish"}


# ------------------------------------------------------------------------------------ roff


def escaped(text: str) -> str:
    """Text as roff prints it: hyphens stay hyphens, so that options can be copied and searched for."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def inline(text: str) -> str:
    """One paragraph of Markdown with its `code`, **strong** and *emphasis*."""
    parts = []
    for part in INLINE.split(LINK.sub(r"\1", text)):
        for mark, font in FONTS:
            if len(part) > 2 * len(mark) and part.startswith(mark) and part.endswith(mark):
                parts.append(f"{font}{escaped(part[len(mark):-len(mark)])}\\fR")
                break
        else:
            parts.append(escaped(part) if not parts else escaped(part).replace("\\&", "", 1))
    line = "".join(parts)
    return "\\&" + line if line[:1] in (".", "'") else line


def title(name: str, section: str) -> str:
    # No hyphenation and a ragged edge: names, options and commands stay as they are to be typed.
    return f'.TH "{name.upper()}" "{section}" "" "vlhook {__version__}" "vlhook"\n.nh\n.ad l'


def verbatim(lines: list[str]) -> list[str]:
    return [".PP", ".RS 4", ".nf", *(escaped(line) or "\\&" for line in lines), ".fi", ".RE"]


# ------------------------------------------------------------------------------ from Markdown


def page_from_markdown(text: str) -> str:
    """A manual page written as Markdown: `# name(8)`, `## SECTION`, `### entry`, paragraphs, lists, code, tables."""
    text = re.sub(r"<!--.*?-->\n*", "", text, flags=re.DOTALL)
    lines = ['.\\" SPDX-License-Identifier: LGPL-2.1-or-later']
    for block in blocks(text):
        lines += list(roff(block))
    return "\n".join(lines) + "\n"


def blocks(text: str) -> Iterator[list[str]]:
    """Paragraphs, and fenced code as a whole."""
    current: list[str] = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            if fenced:
                yield [*current, line]
                current = []
            else:
                if current:
                    yield current
                current = [line]
            fenced = not fenced
        elif line.strip() or fenced:
            current.append(line)
        elif current:
            yield current
            current = []
    if current:
        yield current


def roff(block: list[str]) -> Iterator[str]:
    first = block[0]
    heading = re.fullmatch(r"# (\S+)\((\d)\)", first)
    if heading:
        yield title(*heading.groups())
    elif first.startswith("## "):
        yield f".SH {escaped(first[3:])}"
    elif first.startswith("### "):
        yield f".SS {escaped(first[4:].strip('`'))}"
    elif first.startswith("```"):
        yield from verbatim(block[1:-1])
    elif all(line.startswith("    ") for line in block):
        yield from verbatim([line[4:] for line in block])
    elif first.startswith("|"):
        yield from table(block)
    elif first.startswith("- "):
        for item in re.split(r"\n- ", "\n".join(block)[2:]):
            yield from (".IP \\(bu 2", inline(" ".join(item.split())))
    else:
        yield from (".PP", inline(" ".join(" ".join(block).split())))


def table(rows: list[str]) -> Iterator[str]:
    for row in rows[2:]:
        first, *rest = (cell.strip() for cell in row.strip().strip("|").split("|"))
        yield from (".TP", inline(first), inline("; ".join(cell for cell in rest if cell)))


# ------------------------------------------------------------------------------- from commands


def command_pages() -> Iterator[tuple[str, str]]:
    """(file name, text) of vlhook(8) and of a page for each of its commands."""
    context = click.Context(cli, info_name="vlhook", **cli.context_settings)
    commands = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    visible = [(name, command) for name, command in commands if command and not command.hidden]
    yield "vlhook.8", "\n".join([*head("vlhook", cli), *body(cli, context), *overview(visible), *tail(visible)]) + "\n"
    for name, command in visible:
        below = click.Context(command, info_name=name, parent=context)
        page = [*head(f"vlhook-{name}", command), *body(command, below), *subcommands(command, below)]
        yield f"vlhook-{name}.8", "\n".join([*page, ".SH SEE ALSO", "vlhook(8)"]) + "\n"


def head(name: str, command: click.Command) -> Iterator[str]:
    yield '.\\" SPDX-License-Identifier: LGPL-2.1-or-later'
    yield title(name, "8")
    yield ".SH NAME"
    yield f"{escaped(name)} \\- {escaped(command.get_short_help_str(limit=200).rstrip('.'))}"


def body(command: click.Command, context: click.Context) -> Iterator[str]:
    pieces = " ".join(command.collect_usage_pieces(context))
    yield from (".SH SYNOPSIS", f"\\fB{escaped(context.command_path)}\\fR {escaped(pieces)}")
    yield from (".SH DESCRIPTION", *described(command))
    yield from (".SH OPTIONS", *options(command, context))


def described(command: click.Command) -> Iterator[str]:
    """The help text; a paragraph that begins with \\b stays as it is, as in click."""
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("\b"):
            yield from verbatim(paragraph.splitlines()[1:])
        elif paragraph:
            yield from (".PP", escaped(" ".join(paragraph.split())))


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record:
            yield from (".TP", f"\\fB{escaped(record[0])}\\fR", escaped(" ".join(record[1].split())))


def overview(commands: list[tuple[str, click.Command]]) -> Iterator[str]:
    yield ".SH COMMANDS"
    for name, command in commands:
        yield from (".TP", f"\\fB{escaped(name)}\\fR", escaped(command.get_short_help_str(limit=200)))


def subcommands(command: click.Command, context: click.Context) -> Iterator[str]:
    """The commands of a group, in full, on the group's page."""
    if not isinstance(command, click.Group):
        return
    yield ".SH COMMANDS"
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is None or inner.hidden:
            continue
        below = click.Context(inner, info_name=name, parent=context)
        yield f".SS {escaped(name)} {escaped(' '.join(inner.collect_usage_pieces(below)))}".rstrip()
        yield from described(inner)
        yield from options(inner, below)
        for line in subcommands(inner, below):
            yield line.replace(".SH COMMANDS", ".PP")


def tail(commands: list[tuple[str, click.Command]]) -> Iterator[str]:
    others = sorted(path.stem.rpartition(".")[::2] for path in (ROOT / "docs").glob("*.[1-8].md"))
    pages = [(f"vlhook-{name}", "8") for name, _ in commands] + others
    yield from (".SH SEE ALSO", escaped(", ".join(f"{name}({section})" for name, section in pages)))


# ---------------------------------------------------------------------------------- completions


def completions() -> Iterator[tuple[str, str]]:
    for shell, file in COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        # Not source(): it looks for the shell on the machine that builds.
        made = kind(cli, {}, "vlhook", "_VLHOOK_COMPLETE")
        yield file, (made.source_template % made.source_vars()).strip() + "\n"


def main(target: Path) -> None:
    manuals, shells = target / "man", target / "completions"
    for folder in (manuals, shells):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in command_pages():
        (manuals / name).write_text(text, encoding="utf-8")
    for path in sorted((ROOT / "docs").glob("*.[1-8].md")):
        (manuals / path.stem).write_text(page_from_markdown(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name, text in completions():
        (shells / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: packaging/documents.py DIRECTORY")
    main(Path(sys.argv[1]))
