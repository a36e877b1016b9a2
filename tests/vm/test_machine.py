# SPDX-License-Identifier: LGPL-2.1-or-later
"""What needs a kernel of its own: `VLHOOK_TEST_VM=1` runs this, in machines of QEMU without KVM.

apt fetches Debian's stock kernel once (or VLHOOK_TEST_KERNEL names a directory with it).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .machine import Machine, kernel

ROOT = Path(__file__).resolve().parents[2]
N = 2
LIMIT, DEAD = 8 * N, 8 * N + 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.xdist_group("inner machine"),
    pytest.mark.skipif(not os.environ.get("VLHOOK_TEST_VM"), reason="set VLHOOK_TEST_VM=1 to run this"),
]
SCRIPT = """\
set -e
mkdir /mnt/leases
mount -t ext4 /dev/vda /mnt/leases
cd {root}
PYTHONPATH={root}:{tools} PYTHONDONTWRITEBYTECODE=1 python3 -m tests.vm.inside {what}
"""


def machine(folder: Path, what: str, *modules: str) -> Machine:
    disk = folder / "disk"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    script = SCRIPT.format(root=ROOT, tools=Path(pytest.__file__).parents[1], what=what)
    return Machine(folder, kernel(), script, modules, [disk])


@pytest.mark.parametrize("kind", ["device", "wdmd"])
def test_a_real_watchdog_resets_a_host_whose_keeper_and_guard_died_before_others_take_its_disks(
    tmp_path: Path, kind: str
) -> None:
    with machine(tmp_path, kind, "softdog") as host:
        host.wait_for(r"\[inside\] disarmed")
        at, said = host.wait_for(r"killed, last renewal ([\d.]+) s ago")
        last_ok = at - float(said[1])
        reset = host.wait_end(DEAD + 60)
        print(f"{kind}: reset {reset - last_ok:.1f} s after the last renewal")
        assert "FAILED" not in host.console, host.console
        assert "script ended" not in host.console, host.console
        assert reset - last_ok <= DEAD + 1, "others may have the disk by now"


def test_a_write_of_a_killed_process_on_nfs_is_waited_for_by_its_successor(tmp_path: Path) -> None:
    with machine(tmp_path, "nfs", "nfsd", "nfsv4") as host:
        host.wait_for(r"the writer is gone")
        host.wait_for(r"\[inside\] well")
        host.wait_end()
