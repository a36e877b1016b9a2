# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts, a cable from the first to each other one, one shared directory; and their leases as seen from outside."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vlhook.leases.geometry import FILE
from vlhook.leases.names import lease_name
from vlhook.leases.records import PAXOS_MAGIC, Leader, host_sectors

from . import domains
from .domains import Guest, unused_name
from .host import SHARED, Host
from .waiting import wait_for

Held = set[tuple[str, str]]


class Lab:
    def __init__(
        self, base: Path, capabilities: Path, count: int = 2, io_timeout: int = 1, engines: Sequence[str] = ()
    ) -> None:
        """`engines`: of the first hosts; the others' is native."""
        self.shared = base / "shared"
        for sub in ("leases", "images"):
            (self.shared / sub).mkdir(parents=True)
        emulator = self.shared / "qemu"
        emulator.write_text(domains.EMULATOR)
        emulator.chmod(0o755)
        made = enumerate([*engines, *["native"] * (count - len(engines))], 1)
        self.hosts = [Host(base, number, self.shared, capabilities, io_timeout, engine) for number, engine in made]

    def up(self) -> None:
        for host in self.hosts:
            self._boot(host)
        self._connect()
        for host in self.hosts:
            host.start_libvirtd()
            host.keep_capabilities()
        for host in self.hosts:
            host.wait_joined()

    def add(self, host: Host) -> None:
        """One more host, of another kind, to a lab that is up."""
        self.hosts.append(host)
        self._boot(host)
        host.start_libvirtd()
        host.keep_capabilities()
        host.wait_joined()
        self._connect()

    def start_host(self, host: Host) -> None:
        """After a power failure; libvirtd comes last, when the host has joined. It is not connected again."""
        self._boot(host)
        host.wait_joined()
        host.start_libvirtd()

    def connect_again(self) -> None:
        """After `start_host`: the host's cable went with it."""
        self._connect()

    def _boot(self, host: Host) -> None:
        host.boot()
        host.start_guard()
        if host.engine != "native":
            host.start_sanlock()
        host.start_keeper()

    def _connect(self) -> None:
        """A cable from the first host to each of the others that has none: eth0 to h2, eth1 to h3, and so on."""
        one, *others = self.hosts
        for number, other in enumerate(others):
            if one.run(f"ip link show eth{number}", check=False).returncode == 0:
                continue
            make = ["nsenter", "-t", str(one._init), "-n", "ip", "link", "add", f"eth{number}", "type", "veth"]
            subprocess.run([*make, "peer", "name", "eth0", "netns", str(other._init)], check=True)
            for host, name, last in ((one, f"eth{number}", 1), (other, "eth0", 2)):
                host.run(f"ip addr add 10.77.{number}.{last}/24 dev {name}; ip link set {name} up")
            addresses = f"10.77.{number}.1 {one.name}\n10.77.{number}.2 {other.name}\n"
            (other.dir / "etc/hosts").write_text(f"127.0.0.1 localhost\n{addresses}")
        names = "".join(f"10.77.{number}.2 {other.name}\n" for number, other in enumerate(others))
        (one.dir / "etc/hosts").write_text(f"127.0.0.1 localhost\n10.77.0.1 {one.name}\n{names}")

    def down(self) -> None:
        for host in self.hosts:
            host.end()

    def clean(self) -> None:
        """After a test: no guest anywhere, and no lease held."""
        for host in self.hosts:
            host.go_on()
        for host in self.hosts:
            host.forget_second_script()
            host.remove_guests()
        for host in self.hosts:
            self.wait_held(host, set())

    # -- images and guests

    def image(self, does: int = domains.ACPI, seconds: float = 3600, qcow2: bool = False) -> str:
        """A new image; returns its path as the hosts see it."""
        path = self.shared / "images" / unused_name("disk")
        domains.make_image(path, does, seconds, qcow2)
        return f"{SHARED}/images/{path.name}"

    def outside(self, path: str) -> Path:
        """Where the tests see a file that the hosts see as `path`."""
        return self.shared / Path(path).relative_to(SHARED)

    def guest(self, *hosts: Host, **options: object) -> Guest:
        """A guest, defined on these hosts; of one disk unless the options say otherwise."""
        options.setdefault("disks", [self.image(qcow2=options.get("kind") == "qcow2")])
        kind_of_guest: type[Guest] = options.pop("kind_of_guest", Guest)  # type: ignore[assignment]
        guest = kind_of_guest(unused_name("guest"), **options)  # type: ignore[arg-type]
        for host in hosts:
            host.define(guest)
        return guest

    # -- leases

    def on_disk(self) -> dict[str, set[tuple[int, int, str]]]:
        """Lease name → {(host id, generation, mode)} of all who hold it, by the format document, 5 and 7."""
        found: dict[str, set[tuple[int, int, str]]] = {}
        for path in (self.shared / "leases").iterdir():
            if len(path.name) != 32:
                continue
            area = path.read_bytes()
            leader = Leader.decode(area)
            if leader.magic != PAXOS_MAGIC:
                continue
            sectors = {s.host_id: s for s in host_sectors(area, FILE, leader.num_hosts, str(path))}
            owner = sectors.get(leader.owner_id)
            released = owner and owner.dblock.released and owner.dblock.lver == leader.lver
            holders = found.setdefault(path.name, set())
            if not leader.free and not released:
                holders.add((leader.owner_id, leader.owner_generation, "exclusive"))
            for host_id, sector in sectors.items():
                if sector.mode.shared:
                    mode = "claimed" if sector.mode.claim else "shared"
                    holders.add((host_id, sector.mode.generation, mode))
        return found

    def held(self, host: Host) -> Held | None:
        """(disk, mode) of all leases of `host`; None while the keeper and the disk do not agree.

        Where the sanlock daemon is to take over what was claimed, the keeper calls it claimed until then, a
        minute and more after this host has come to own it: the disk says which of the two it is.
        """
        report = host.status()
        if not report or report["membership"]["state"] != "joined":
            return None
        everything = [lease for guest in report["guests"] for lease in guest["leases"]]
        second = {lease["lease"] for lease in everything if lease["kind"] == "identity"}
        leases = [lease for lease in everything if lease["kind"] != "identity"]
        told = {(lease["lease"], lease["mode"]) for lease in leases}
        mine = (host.number, report["membership"]["generation"])
        all_of_it = {(name, h[2]) for name, all_ in self.on_disk().items() for h in all_ if h[:2] == mine}
        seen = {(name, mode) for name, mode in all_of_it if name not in second}
        if host.engine == "sanlock":
            owned = {name for name, mode in seen if mode == "exclusive"}
            told = {(name, "exclusive" if name in owned and mode == "claimed" else mode) for name, mode in told}
        if not second <= {name for name, _ in all_of_it}:
            return None
        assert all(lease["lease"] == lease_name(lease["disk"].encode()) for lease in leases)
        disks = {lease["lease"]: lease["disk"] for lease in leases}
        return {(disks[name], mode) for name, mode in told} if told == seen else None

    def wait_held(self, host: Host, leases: Held, seconds: float = 60) -> None:
        """Until `host` holds exactly these leases, by its keeper's words and on disk."""
        last: Held | None = None

        def holds() -> bool:
            nonlocal last
            last = self.held(host)
            return last == leases

        try:
            wait_for(f"{host.name} to hold {leases}", holds, seconds)
        except AssertionError as error:
            more = f"it holds {last}, on disk {self.on_disk()}\n{host.log('vlhookd')[-3000:]}"
            raise AssertionError(f"{error}; {more}") from None

    def assert_held(self, host: Host, leases: Held) -> None:
        """Exactly these leases are held now."""
        assert self.held(host) == leases


@contextmanager
def running_lab(
    base: Path, capabilities: Path, io_timeout: int, count: int = 2, engine: str = "native"
) -> Iterator[Lab]:
    lab = Lab(base, capabilities, count, io_timeout, [engine] * count)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
