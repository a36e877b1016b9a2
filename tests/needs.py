# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test needs of the machine.

On a developer's machine a test whose need is not met is skipped, with the reason. Where VLHOOK_CI or CI is
set it fails: there `scripts/bootstrap test` has installed everything, so what is missing is a fault.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def in_ci() -> bool:
    said = (os.environ.get(name, "").lower() for name in ("VLHOOK_CI", "CI"))
    return any(value not in ("", "0", "no", "false") for value in said)


def lacking(reason: str) -> None:
    """Skip the running test, or fail it in CI."""
    if in_ci():
        pytest.fail(f"{reason} (in CI every need must be met)", pytrace=False)
    pytest.skip(reason)


def require_root() -> None:
    if os.geteuid() != 0:
        lacking("needs root")


def require_program(name: str) -> str:
    """The full path of the program `name`; system directories are searched too, whoever runs the tests."""
    path = shutil.which(name, path=SYSTEM_PATH)
    if path is None:
        lacking(f"needs the program {name}; run: scripts/bootstrap test")
        raise AssertionError("not reached")
    return path


def require_programs(*names: str) -> list[str]:
    return [require_program(name) for name in names]


def require_module(name: str) -> None:
    """For bindings that tests use and no distribution must have, such as pyfuse3 and sanlock."""
    if importlib.util.find_spec(name) is None:
        lacking(f"needs the Python module {name}; run: scripts/bootstrap test")
