# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host without vlhook: libvirt's sanlock plugin and its daemon take the leases of its guests."""

from __future__ import annotations

from vlhook.leases.names import LOCKSPACE_NAME

from .host import LEASES, Host
from .waiting import wait_for

CONF = """\
host_id = {number}
auto_disk_leases = 1
disk_lease_dir = "{leases}"
io_timeout = {io_timeout}
user = "root"
group = "root"
"""


class PluginDaemon(Host):
    """"Keeper" is its sanlock daemon, which joins when its libvirtd starts."""

    def start_guard(self) -> None:
        self.run("mkdir -p /run/sanlock")

    def start_keeper(self, program: str = "sanlock") -> None:
        options = "-D -R 1 -w 0 -l 0 -h 0 -L -1 -S -1 -e plugin-host"
        self.daemon("sanlock", f"env SANLOCK_PRIVILEGED=0 sanlock daemon {options}")
        wait_for("the sanlock daemon", lambda: self.run("sanlock client status", check=False).returncode == 0)

    def wait_joined(self) -> None:
        def joined() -> bool:
            return f"s {LOCKSPACE_NAME}:{self.number}:" in self.run("sanlock client status").stdout

        wait_for("the plugin to join the lockspace", joined, 120)


class PluginHost(PluginDaemon):
    """With libvirt's sanlock plugin and without vlhook. Another host has made the lockspace."""

    def _install(self, io_timeout: int) -> None:
        super()._install(io_timeout)
        etc = self.dir / "etc/libvirt"
        (etc / "hooks/qemu.d/10-vlhook").unlink()
        text = CONF.format(number=self.number, leases=LEASES, io_timeout=io_timeout)
        (etc / "qemu-sanlock.conf").write_text(text)
        (etc / "qemu.conf").write_text((etc / "qemu.conf").read_text() + 'lock_manager = "sanlock"\n')
