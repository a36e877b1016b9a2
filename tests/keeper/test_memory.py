# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the keeper keeps of memory: little beside the interpreter, and nothing of a burst."""

from __future__ import annotations

import importlib.util
import subprocess

import pytest

from tests.keeper.hosts import PYTHON, ROOT

BURST = """
import threading
from vlhook.keeper.memory import bound
{bound}()

def kilobytes():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous:"))

meet = threading.Barrier(16)

def work(kept):
    for _ in range(20):
        area = bytes(1 << 20)
        meet.wait()
        kept.append(area[:600] + b"x")
        del area

def burst():
    kept = [[] for _ in range(16)]
    threads = [threading.Thread(target=work, args=(one,)) for one in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return kept

before = kilobytes()
kept = burst()
print(kilobytes() - before)
"""


def run(code: str) -> str:
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_areas_that_many_threads_have_read_leave_no_holes_in_the_heap() -> None:
    assert int(run(BURST.format(bound="bound"))) < 3000


def test_the_keeper_does_without_openssl_where_python_does() -> None:
    code = "import sys, vlhook.keeper.daemon, vlhook.keeper.__main__; print('_hashlib' in sys.modules)"
    if importlib.util.find_spec("_md5") is None:
        pytest.skip("this Python has no MD5 but OpenSSL's")
    assert run(code) == "False\n"


def test_digests_are_those_of_hashlib() -> None:
    code = """
import hashlib
from vlhook.leases.digests import md5_hex, sha256_hex
for data in (b"", b"/images/demo.img", bytes(range(256)) * 9):
    assert md5_hex(data) == hashlib.md5(data).hexdigest(), data
    assert sha256_hex(data) == hashlib.sha256(data).hexdigest(), data
"""
    run(code)
