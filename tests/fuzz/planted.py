# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults for the fuzzer to find; compiled as if they were a file of vlhook's."""

from __future__ import annotations

from typing import Any

_SOURCE = '''
def nested(data):
    if len(data) > 3 and data[0] == 118:
        if data[1] == 108:
            if data[2] == 104:
                raise KeyError("found")

def endless(data):
    while data:
        pass

def greedy(data):
    return len(bytes(int.from_bytes(data[:4], "little")))

def two_lines(data):
    raise LeaseError2()
'''


def _compiled() -> dict[str, Any]:
    from vlhook.leases.errors import LeaseError

    class LeaseError2(LeaseError):
        def __str__(self) -> str:
            return "one\ntwo"

    names: dict[str, Any] = {"LeaseError2": LeaseError2}
    exec(compile(_SOURCE, "/planted/vlhook/planted.py", "exec"), names)
    return names


_names = _compiled()
nested, endless, greedy, two_lines = (_names[name] for name in ("nested", "endless", "greedy", "two_lines"))
