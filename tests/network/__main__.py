# SPDX-License-Identifier: LGPL-2.1-or-later
"""Three hosts with 200 disks, of which one lives, one is dead and one loses its storage; every command on them.

    python -m tests.network DIRECTORY [--io-timeout N] [--shell]

Run as root. Writes DIRECTORY/NAME.txt, a command and what it printed into a pipe, and DIRECTORY/NAME.svg, what
a terminal shows. docs/tour.md and docs/pictures are made of these. With --shell it then opens a shell on the
first host. Takes 8 io_timeouts and 60 seconds, and a few minutes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.guests import domains
from tests.guests.domains import Guest
from tests.guests.host import ENVIRONMENT, INSTALLED, LEASES, PYTHON, SHARED, Host
from tests.guests.lab import Lab
from tests.guests.waiting import wait_for
from vlhook.drill.layer import Layer
from vlhook.leases.owner import dead_seconds, fail_seconds

from .monitoring import Monitoring
from .terminal import on_terminal, picture, plain

COMMAND = f'#!/bin/sh\nPYTHONPATH={INSTALLED} exec {PYTHON} -m vlhook.cli "$@"\n'


class Network:
    """The hosts, and what is written of them."""

    def __init__(self, base: Path, out: Path, io_timeout: int) -> None:
        self.out, self.io_timeout = out, io_timeout
        self.lab = Lab(base, base / "capabilities", count=3, io_timeout=io_timeout)
        self.one, self.two, self.three = self.lab.hosts
        # The third host sees the shared directory through a layer that can be told to hang.
        self.layer = Layer(self.lab.shared, base / "seen by h3")
        self.three.shared = self.layer.mountpoint
        for host in self.lab.hosts:
            host.name = f"kvm{host.number}"
            command = host.dir / "etc/vlhook-bin/vlhook"
            command.parent.mkdir()
            command.write_text(COMMAND)
            command.chmod(0o755)
        self.guests: dict[str, Guest] = {}
        self.base = base
        self.monitoring: Monitoring | None = None

    # -- guests

    def add(self, host: Host, name: str, disks: int, *also: Host) -> Guest:
        paths = []
        for number in range(1, disks + 1):
            path = self.lab.shared / "images" / f"{name}-{number}.img"
            domains.make_image(path)
            paths.append(f"{SHARED}/images/{path.name}")
        guest = self.guests[name] = Guest(name, paths)
        for where in (host, *also):
            where.define(guest)
        return guest

    def populate(self) -> None:
        """200 disks: 116 in use on host 1, 60 on host 2, 4 on host 3, and 20 that no guest uses now."""
        for host, names, disks in (
            (self.one, ("web1",), 2),
            (self.one, ("mail", "dns", "files", "git", "wiki", "backup"), 19),
            (self.two, ("db1", "db2", "db3"), 20),
            (self.three, ("build1", "build2"), 2),
        ):
            for name in names:
                also = (self.one,) if host is not self.one else ()
                host.start(self.add(host, name, disks, *also))
        old = self.add(self.one, "old", 20)
        self.one.start(old)
        self.one.virsh("destroy", "old")
        wait_for("the leases of old", lambda: not self.one.told(old))

    # -- what is written

    def show(self, host: Host, name: str, command: str, columns: int = 100, note: str = "") -> str:
        """Run it on a terminal of so many columns."""
        words = host._command(f"PATH=/etc/vlhook-bin:$PATH; {command}")
        screen, status = on_terminal(words, ENVIRONMENT, columns)
        prompt = f"\x1b[90mroot@{host.name}:~#\x1b[0m {command}"
        picture(f"{prompt}\n{screen}", self.out / f"{name}.svg")
        text = f"# {host.name}{note}\n$ {command}\n{plain(screen)}[exit status {status}]\n"
        (self.out / f"{name}.txt").write_text(text)
        too_long = [line for line in plain(screen).splitlines() if len(line) > columns]
        print(f"{name}: exit status {status}" + "".join(f"\n    too long: {line}" for line in too_long), flush=True)
        return plain(screen)

    def piped(self, host: Host, name: str, command: str) -> None:
        """Into a pipe: no colour, nothing cut."""
        ran = host.run(f"PATH=/etc/vlhook-bin:$PATH; {command} 2>&1", check=False)
        assert "\x1b" not in ran.stdout, "colours are for terminals"
        (self.out / f"{name}.txt").write_text(
            f"# {host.name}\n$ {command}\n{ran.stdout}[exit status {ran.returncode}]\n"
        )
        print(f"{name}: exit status {ran.returncode}", flush=True)

    def metrics(self, host: Host) -> str | None:
        try:
            ran = host.run(["/etc/vlhook-bin/vlhook", "metrics"], check=False)
        except AssertionError:  # it has no power
            return None
        return ran.stdout if ran.returncode == 0 else None

    def draw(self, name: str) -> None:
        if self.monitoring:
            empty = self.monitoring.draw(self.out / f"{name}.svg")
            fired = "".join(f"{line}\n" for line in self.monitoring.fired())
            (self.out / "alerts.txt").write_text(fired)
            print(f"{name}: panels without data: {', '.join(empty) or 'none'}; fired until now:\n{fired}", flush=True)

    # -- the story

    def run(self) -> None:
        self.lab.up()
        if shutil.which("prometheus"):
            self.monitoring = Monitoring(self.base, {host.name: partial(self.metrics, host) for host in self.lab.hosts})
        else:
            print("no program prometheus here (Debian: apt-get install prometheus): the dashboard is not drawn")
        self.populate()
        self.all_is_well()
        self.host_two_dies()
        self.host_three_loses_its_storage()
        self.repair()

    def all_is_well(self) -> None:
        one = self.one
        wait_for("all hosts seen alive", lambda: one.vlhook("hosts", check=False).returncode == 0)
        self.show(self.three, "status", "vlhook status")
        self.show(one, "status-many", "vlhook status")
        self.piped(one, "status-json", "vlhook status --json")
        self.show(one, "hosts", "vlhook hosts")
        self.show(one, "leases-free", "vlhook leases --state free")
        self.piped(one, "leases-piped", "vlhook leases")
        self.show(one, "who-disk", f"vlhook who {SHARED}/images/db1-1.img")
        self.show(one, "who-guest", "vlhook who web1 | head -12")
        self.show(one, "doctor", "vlhook doctor")
        self.show(one, "size", "vlhook size --hosts 20 --guests 50 --disks 2")
        self.show(one, "calibrate", "vlhook calibrate --seconds 3")
        self.show(one, "setup-dry-run", "vlhook setup --dry-run --nfs filer:/export/leases")
        self.show(one, "refused", "virsh start db1")
        self.show(one, "explain-refused", "virsh start db1 2>&1 | vlhook explain -")
        self.show(one, "explain-code", "vlhook explain VLH-L262")
        self.show(
            one, "run-refused", f"vlhook run {SHARED}/images/web1-1.img -- qemu-img info {SHARED}/images/web1-1.img"
        )
        self.show(
            one, "run", f"vlhook run {SHARED}/images/old-1.img -- qemu-img resize -f raw {SHARED}/images/old-1.img 2M"
        )
        self.show(one, "names", f"vlhook names {SHARED}/web1-kvm1.xml | head -8")
        self.show(one, "watch", "timeout -s INT 3 vlhook hosts --watch 1")

    def host_two_dies(self) -> None:
        self.two.end()
        died = time.monotonic()
        self.wait_state("2", "fail", fail_seconds(self.io_timeout) + 60)
        self.show(
            self.one,
            "hosts-silent",
            "vlhook hosts",
            note=f", {time.monotonic() - died:.0f} s after kvm2 lost its power",
        )
        self.show(self.one, "refused-silent", "virsh start db1")
        self.draw("dashboard-silent")
        self.wait_state("2", "dead", dead_seconds(self.io_timeout) + 60)

    def wait_state(self, host_id: str, state: str, seconds: float) -> None:
        def seen() -> bool:
            lines = self.one.vlhook("hosts", check=False).stdout.splitlines()
            return any(line.split()[0] == host_id and state in line.split() for line in lines if line.split())

        wait_for(f"host {host_id} to be {state}", seen, seconds, every=0.5)

    def host_three_loses_its_storage(self) -> None:
        one, three = self.one, self.three
        self.layer.set("hang")

        def late() -> bool:
            report = three.status()
            return bool(report and report["membership"].get("last_ok_age", 0) > 5 * self.io_timeout)

        wait_for("renewals to be late", late, 10 * self.io_timeout, every=0.2)
        self.show(
            three, "status-failing", "vlhook status", note=f", {5 * self.io_timeout} s after its storage went away"
        )
        self.piped(three, "metrics-failing", "vlhook metrics")
        self.show(three, "doctor-failing", "timeout 60 vlhook doctor keeper")
        self.wait_state("3", "fail", 20 * self.io_timeout)
        self.show(three, "status-lost", "vlhook status", note=", after its guests were stopped")
        self.show(one, "hosts-dead-and-failing", "vlhook hosts")
        self.show(one, "status-beside", "vlhook status | head -8")
        self.show(one, "leases", "vlhook leases | sed -n '1,6p;62,66p;80,84p;165,175p;$p'")
        self.show(one, "leases-of-dead", "vlhook leases --host 2 | tail -8")
        self.show(one, "who-dead", f"vlhook who {SHARED}/images/db1-1.img")
        self.show(one, "who-failing", f"vlhook who {SHARED}/images/build1-1.img")
        self.show(one, "refused-failing", "virsh start build1")
        self.piped(one, "metrics", "vlhook metrics")
        self.draw("dashboard")
        self.show(one, "start-of-dead", f"virsh start db1 && vlhook who {SHARED}/images/db1-1.img")

    def repair(self) -> None:
        one, three = self.one, self.three
        self.layer.set("ok")
        wait_for("kvm3 to join again", lambda: three.vlhook("status", check=False).returncode == 0, 400, every=0.5)
        self.show(three, "status-again", "vlhook status")
        self.show(three, "recover-nothing", "vlhook recover --dry-run")
        self.show(one, "cleanup-dry-run", "vlhook cleanup --dry-run | tail -4")
        self.show(one, "cleanup", "vlhook cleanup --older-than 1s")
        self.show(one, "dump", f"vlhook dump {LEASES}/__LIBVIRT__DISKS__")
        three.kill_keeper()
        three.run("for file in /run/vlhook/membership; do echo damaged > $file; done")
        self.show(three, "recover", "vlhook recover --yes --no-services")
        three.start_keeper()
        three.wait_joined()
        self.show(three, "status-recovered", "vlhook status")
        self.draw("dashboard-at-the-end")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.network", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--io-timeout", type=int, default=10)
    parser.add_argument("--shell", action="store_true", help="open a shell on the first host at the end")
    wishes = parser.parse_args()
    wishes.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vlhook-network-") as folder:
        network = Network(Path(folder), wishes.directory.resolve(), wishes.io_timeout)
        try:
            network.run()
            if wishes.shell:
                subprocess.run(network.one._command(["bash"]), env=ENVIRONMENT, check=False)
        finally:
            if network.monitoring:
                network.monitoring.close()
            network.layer.set("ok")
            network.lab.down()
            network.layer.close()


if __name__ == "__main__":
    main()
