# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person sees: a command run on a terminal of 100 columns, and its output as a picture (SVG)."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

COLUMNS, ROWS = 100, 50
_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER = re.compile(r"\x1b\[[0-9;?]*[A-HJKSTfhl]|\x1b[78=>]|\r")
_COLOURS = {"31": "#ff6b68", "32": "#5fd38d", "33": "#e8c268", "90": "#8b949e"}
_CELL, _LINE, _MARGIN, _SIZE = 8.0, 18, 14, 13


def on_terminal(command: Sequence[str], environment: Mapping[str, str], columns: int = COLUMNS) -> tuple[str, int]:
    """(all that the command wrote, with its colours; exit status)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = subprocess.Popen(
        command, env={**environment, "TERM": "xterm-256color"}, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the last writer has closed it
            break
        if not data:
            break
        parts.append(data)
    os.close(ours)
    return b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n"), process.wait()


def plain(text: str) -> str:
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    return _OTHER.sub("", _SGR.sub("", "\n".join(lines)))


def picture(text: str, path: Path) -> None:
    """`text` as a terminal shows it, written to `path`. Bytes depend on the text alone."""
    # What a carriage return writes over is not seen.
    lines = [line.rsplit("\r", 1)[-1] for line in text.rstrip("\n").split("\n")]
    lines = [_OTHER.sub("", line) for line in lines]
    width = max(COLUMNS, *(len(plain(line)) for line in lines)) * _CELL + 2 * _MARGIN
    height = len(lines) * _LINE + 2 * _MARGIN
    out = [
        "<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" '
        f'font-size="{_SIZE}" fill="#d7dce2">',
        f'<rect width="{width:.0f}" height="{height}" rx="6" fill="#171b21"/>',
    ]
    style = ""
    for number, line in enumerate(lines):
        base = _MARGIN + number * _LINE + 13
        column = 0
        for i, part in enumerate(_SGR.split(line)):
            if i % 2:
                style = _style(style, part)
            elif part:
                # textLength keeps the columns, whatever font there is.
                where = f'x="{_MARGIN + column * _CELL:.0f}" y="{base}" textLength="{len(part) * _CELL:.0f}"'
                out.append(f'<text xml:space="preserve" {where}{style}>{escape(part)}</text>')
                column += len(part)
    path.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")


def _style(style: str, codes: str) -> str:
    for code in codes.split(";"):
        if code in ("", "0", "39"):
            style = ""
        elif code in _COLOURS:
            style = f' fill="{_COLOURS[code]}"'
        elif code == "1":
            style += ' font-weight="bold"'
    return style
