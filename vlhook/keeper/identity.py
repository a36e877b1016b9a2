# SPDX-License-Identifier: LGPL-2.1-or-later
"""The name under which this host joins a lockspace, and how a clone is found out (safety rules, 7).

A random UUID made at first start, a dot, the node name, cut to 47 bytes. It is
kept in the state directory beside what tells this machine from a copy of it:
machine-id and the DMI product UUID. Where those differ from the stored ones
the state came from another machine, and a new name is made: two machines
under one name would take the host id from each other without any wait.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ..errors import VlhookError
from ..leases import hostids
from ..leases.digests import sha256_hex
from ..processes import boot_id

FILE = "host-identity"
_MACHINE_ID = Path("/etc/machine-id")
_DMI_UUID = Path("/sys/class/dmi/id/product_uuid")


class IdentityUnusable(VlhookError):
    msg = "{path}: this host's identity cannot be {doing}: {why}"
    hint = "check the file; without it this host gets a new name and waits 8N+60 s for its own host id"
    code = "VLH-K701"


@dataclass(frozen=True)
class Machine:
    """What a copied disk image does not carry along, as far as the machine tells."""

    machine_id: str
    dmi_uuid: str

    def differs(self, other: Machine) -> bool:
        """What could not be read, now or then, tells nothing."""
        pairs = ((self.machine_id, other.machine_id), (self.dmi_uuid, other.dmi_uuid))
        return any(one and two and one != two for one, two in pairs)


@dataclass(frozen=True)
class HostIdentity:
    name: str
    machine: Machine
    renamed_from: str = ""


def this_machine() -> Machine:
    return Machine(_first_line(_MACHINE_ID), _first_line(_DMI_UUID).lower())


def host_identity(state_dir: Path, machine: Machine) -> HostIdentity:
    """The stored identity, or a new one if there is none or it is another machine's.

    `renamed_from` is the former name in the second case. Raises IdentityUnusable.
    """
    path = state_dir / FILE
    try:
        stored = json.loads(path.read_text("utf-8"))
        found = HostIdentity(str(stored["name"]), Machine(**stored["machine"]))
    except FileNotFoundError:
        return _make(path, machine, "")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IdentityUnusable(path=path, doing="read", why=str(error)) from error
    if found.machine.differs(machine):
        return _make(path, machine, found.name)
    return found


def as_noted(machine: Machine) -> Optional[hostids.Machine]:
    """This machine as notes of host ids tell it; None if the machine tells nothing.

    The marks are hashed: machine-id(5) asks not to show them around. Raises OSError.
    """
    if not (machine.machine_id or machine.dmi_uuid):
        return None
    mark = sha256_hex(f"vlhook host id\0{machine.machine_id}\0{machine.dmi_uuid}".encode())
    return hostids.Machine(mark, os.uname().nodename, boot_id())


def _make(path: Path, machine: Machine, former: str) -> HostIdentity:
    import uuid  # at the very first start only

    name = f"{uuid.uuid4()}.{os.uname().nodename}".encode()[:47].decode("utf-8", "ignore")
    identity = HostIdentity(name, machine, former)
    text = json.dumps({"name": name, "machine": asdict(machine)}, indent=1) + "\n"
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError as error:
        raise IdentityUnusable(path=path, doing="stored", why=error.strerror or str(error)) from error
    return identity


def _first_line(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError):
        return ""
