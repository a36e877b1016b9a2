# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose the lease files are: the settings `user` and `group`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from ..config.settings import Settings
from ..errors import VlhookError
from ..leases.directory import Ownership


def ownership(settings: Settings) -> Ownership:
    """Numeric ids of the configured user and group. Raises VlhookError for names that do not exist."""
    import grp
    import pwd

    try:
        uid = _number(settings.user, lambda name: pwd.getpwnam(name).pw_uid)
        gid = _number(settings.group, lambda name: grp.getgrnam(name).gr_gid)
    except KeyError as error:
        raise NoSuchAccount(name=error.args[0]) from error
    return Ownership(uid, gid)


def _number(account: Optional[str], look_up: Callable[[str], int]) -> int:
    """As libvirt reads it: a name, or a number with or without a plus; -1 if it is not set."""
    if not account:
        return -1
    digits = account[1:] if account.startswith("+") else account
    return int(digits) if digits.isascii() and digits.isdigit() else look_up(account)


class NoSuchAccount(VlhookError):
    msg = "qemu-sanlock.conf names an account that does not exist: {name}"
    hint = "create it, or correct user and group in that file"
    code = "VLH-K202"
