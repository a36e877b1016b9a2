# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests and their disk images: domain XML, and the guest of guest.S in an image's boot sector."""

from __future__ import annotations

import itertools
import struct
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

BOOT_SECTOR = (Path(__file__).parent / "guest.bin").read_bytes()
FLAGS_AT = 0x1A0
ACPI, OFF, RESET, DIRTY, WRITE, PANIC = 1, 2, 4, 8, 16, 32
"""What the guest does, as guest.S tells: power off when asked, or something else after SECS seconds."""
TICKS_PER_SECOND = 18.2
MIB = 1 << 20
_numbers = itertools.count(1)


def make_image(path: Path, does: int = ACPI, seconds: float = 3600, qcow2: bool = False) -> None:
    """A disk image of 1 MiB whose boot sector is the guest."""
    sector = bytearray(BOOT_SECTOR)
    struct.pack_into("<BBH", sector, FLAGS_AT, does, 0, min(0xFFFF, int(seconds * TICKS_PER_SECOND)))
    raw = path.with_suffix(".raw") if qcow2 else path
    raw.write_bytes(bytes(sector) + bytes(MIB - len(sector)))
    if qcow2:
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, path], check=True)
        raw.unlink()


class Guest:
    """A guest with these disks: paths as the host sees them. `shared` are those that are shareable."""

    def __init__(
        self,
        name: str,
        disks: Sequence[str] = (),
        shared: Sequence[str] = (),
        kind: str = "raw",
        more: str = "",
        outside: str = "",
        devices: str = "",
    ) -> None:
        """`kind`: format of the disks. XML is added before <devices> (`outside`), in it and after it (`more`)."""
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.disks = list(disks)
        self.shared = list(shared)
        self._kind, self._more, self._outside, self._devices = kind, more, outside, devices

    def leases(self) -> set[tuple[str, str]]:
        """(disk, mode) of every lease that the guest must hold while it runs."""
        return {(disk, "exclusive") for disk in self.disks} | {(disk, "shared") for disk in self.shared}

    def xml(self) -> str:
        disks = "".join(self._disk(i, path) for i, path in enumerate([*self.disks, *self.shared]))
        return f"""\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{self.name}</name><uuid>{self.uuid}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os><features><acpi/></features>
{self._outside}
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>
{self._devices}<panic model='isa'/><memballoon model='none'/></devices>{self._more}</domain>
"""

    def _disk(self, number: int, path: str) -> str:
        kind, flag = ("raw", "<shareable/>") if path in self.shared else (self._kind, "")
        return (
            f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{path}'/>"
            f"<target dev='vd{chr(97 + number)}' bus='virtio'/>{flag}</disk>"
        )


EMULATOR = """\
#!/usr/bin/python3 -IS
import os, sys
words = [word.replace('{"driver":"file",', '{"driver":"file","locking":"off",') for word in sys.argv[1:]]
os.execv("/usr/bin/qemu-system-x86_64", ["/usr/bin/qemu-system-x86_64", *words])
"""
"""QEMU without its own locks of images, at the path that `UnlockedGuest` names: see `Lab`."""
UNLOCKED = "/srv/shared/qemu"


class UnlockedGuest(Guest):
    def xml(self) -> str:
        return super().xml().replace("/usr/bin/qemu-system-x86_64", UNLOCKED)


BAD_OPTION = "<qemu:commandline><qemu:arg value='-no-such-option'/></qemu:commandline>"


def unused_name(stem: str) -> str:
    """A name that no other guest, image or file of this test process has."""
    return f"{stem}{next(_numbers)}"
