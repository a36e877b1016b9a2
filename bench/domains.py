# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML: as libvirt takes it to define a guest, and as it gives it to a hook."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DEFINITION = """\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disks}
<controller type='usb' model='none'/><controller type='scsi' index='0' model='virtio-scsi'/>
<memballoon model='none'/></devices></domain>
"""
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>"
    "<target dev='{target}' bus='scsi'/></disk>\n"
)
PADDING = """\
    <controller type='pci' index='{n}' model='pcie-root-port'>
      <model name='pcie-root-port'/>
      <target chassis='{n}' port='0x{n:x}'/>
      <alias name='pci.{n}'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x{n:x}'/>
    </controller>
"""
LIVE = """\
<domain type='kvm' id='{number}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>4194304</memory>
  <currentMemory unit='KiB'>4194304</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{disks}{padding}  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+64055:+64055</label>
    <imagelabel>+64055:+64055</imagelabel>
  </seclabel>
</domain>
"""
SIZE = 6400
"""Bytes of the XML of an ordinary guest."""


def target(number: int) -> str:
    """sda to sdz, sdaa, … as libvirt counts."""
    name = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        name = LETTERS[letter] + name
    return f"sd{name}"


def definition(name: str, uuid: str, paths: Sequence[str]) -> str:
    return DEFINITION.format(name=name, uuid=uuid, disks=_disks(paths))


def live(name: str, uuid: str, number: int, paths: Sequence[str] = ()) -> str:
    """Of the size of an ordinary guest's, or more if it has many disks."""
    padding = ""
    for n in range(1, 64):
        text = LIVE.format(name=name, uuid=uuid, number=number, disks=_disks(paths), padding=padding)
        if len(text) >= SIZE:
            break
        padding += PADDING.format(n=n)
    return text


def _disks(paths: Sequence[str]) -> str:
    return "".join(DISK.format(path=path, target=target(i)) for i, path in enumerate(paths))
