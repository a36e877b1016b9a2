# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hosts themselves: separate, and gone with whoever made them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .host import ROOT
from .waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.libvirt]
MAKER = """
import signal, sys, time
from pathlib import Path
from tests.guests.lab import Lab
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
base = Path(sys.argv[1])
[host] = Lab(base, base / "none", count=1).hosts
host.boot()
host.daemon("sleeper", "sleep 1000")
print(host._init, flush=True)
time.sleep(1000)
"""


def members(namespace: str) -> list[str]:
    """The processes of a pid namespace."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            link = (process / "ns/pid").readlink()
        except OSError:
            continue
        if str(link) == namespace:
            found.append(process.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_host_ends_with_the_process_that_made_it_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout
        try:
            init = maker.stdout.readline().strip()
            namespace = str(Path(f"/proc/{init}/ns/pid").readlink())
            assert namespace != str(Path("/proc/self/ns/pid").readlink())
            assert len(members(namespace)) >= 2
        finally:
            maker.send_signal(number)
    wait_for("the end of the host", lambda: not members(namespace))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
