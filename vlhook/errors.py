# SPDX-License-Identifier: LGPL-2.1-or-later
"""The base of every error outside `vlhook.leases`: one line that an administrator can act on."""

from __future__ import annotations

from typing import ClassVar

# A path may have 4096 bytes and a hostile name any number; a line in a log should stay a line.
FIELD_LIMIT = 500


def printable(text: str, limit: int = FIELD_LIMIT) -> str:
    """`text` without line breaks, control or other invisible characters, cut at `limit` characters."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return cut + "…" if len(text) > limit else cut


class VlhookError(Exception):
    """`msg` is a template over the error's own fields; `hint` is the next step; `code` never changes."""

    msg: ClassVar[str] = "vlhook failed"
    hint: ClassVar[str] = ""
    code: ClassVar[str] = "VLH-E000"

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self.__dict__.update(fields)

    def what_and_why(self) -> str:
        """What happened and why, without the next step."""
        return self._filled(self.msg)

    def __str__(self) -> str:
        text = self.what_and_why()
        if self.hint:
            text += "; " + self._filled(self.hint)
        return text

    def _filled(self, template: str) -> str:
        """Fields may come from hostile input; the template is ours."""
        fields = {name: _shown(value) for name, value in vars(self).items()}
        return template.format(**fields)


def _shown(value: object) -> object:
    """Text made printable; anything else as it is, for templates that format it."""
    if isinstance(value, BaseException):
        value = str(value)
    return printable(value) if isinstance(value, str) else value


class DomainError(VlhookError):
    """A guest's XML, or what it refers to, does not tell for certain which leases the guest needs."""

    msg = "the domain XML is refused: {why}"
    code = "VLH-D100"
