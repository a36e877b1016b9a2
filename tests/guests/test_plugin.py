# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts run vlhook, a third libvirt's sanlock plugin with its daemon; all have real libvirtds and QEMUs.

With each engine: that of vlhook's two hosts.

The plugin takes its leases when a guest's CPUs are started, after its QEMU has opened the images. So QEMU's own locks
of images are turned off here, or they would answer before the plugin does; and a guest has its disks from the end
of 'virsh start' on.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.interop.fight.section import Record, faults

from .domains import Guest, UnlockedGuest, make_image, unused_name
from .host import SHARED, Host
from .lab import Lab
from .pluginhost import PluginHost
from .waiting import wait_for

GROUP = pytest.mark.xdist_group("guests-plugin")
pytestmark = [pytest.mark.root, pytest.mark.libvirt, pytest.mark.sanlock, pytest.mark.slow, GROUP]
IO_TIMEOUT = 2
SECONDS = 25.0


@pytest.fixture(scope="module")
def two_kinds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Lab, Host, Host]]:
    """The lab, its first host with vlhook, and the one with the plugin."""
    needs.require_programs("ip", "nsenter", "unshare", "pgrep")
    base = tmp_path_factory.mktemp("kinds")
    capabilities = tmp_path_factory.getbasetemp() / "capabilities"
    lab = Lab(base, capabilities, 2, IO_TIMEOUT, engines=[request.param] * 2)
    try:
        lab.up()  # vlhook makes the lockspace
        plugin = PluginHost(base, 3, lab.shared, capabilities, IO_TIMEOUT)
        lab.add(plugin)
        yield lab, lab.hosts[0], plugin
    finally:
        lab.down()


def guests_on(lab: Lab, disk: str, *hosts: Host) -> list[Guest]:
    """A guest of its own for each host, all with that disk."""
    made = []
    for host in hosts:
        guest = UnlockedGuest(unused_name("web"), [disk])
        host.define(guest)
        made.append(guest)
    return made


def image(lab: Lab) -> str:
    name = unused_name("disk")
    make_image(lab.shared / "images" / name)
    return f"{SHARED}/images/{name}"


def destroy(host: Host, guest: Guest) -> None:
    host.virsh("destroy", guest.name, check=False)
    wait_for("the end of QEMU", lambda: not host.qemu(guest))


def wait_free(lab: Lab) -> None:
    wait_for("all leases to be free", lambda: not any(lab.on_disk().values()))


def test_either_keeps_the_other_out_and_lets_it_in_afterwards(two_kinds: tuple[Lab, Host, Host]) -> None:
    lab, ours, plugin = two_kinds
    mine, theirs = guests_on(lab, image(lab), ours, plugin)
    ours.start(mine)
    said = plugin.refused(theirs)
    assert 'Failed to get "write" lock' not in said, "QEMU's own lock answered, so no lease was asked for"
    assert "lock" in said
    destroy(ours, mine)
    wait_for("the plugin to get it", lambda: plugin.virsh("start", theirs.name, check=False).returncode == 0)
    said = ours.refused(mine)
    assert "is in use by host 3 (plugin-host)" in said
    destroy(plugin, theirs)
    wait_for("vlhook to get it", lambda: ours.virsh("start", mine.name, check=False).returncode == 0)
    destroy(ours, mine)
    wait_free(lab)


def test_a_keeper_that_was_killed_and_a_guest_that_was_killed_change_nothing(
    two_kinds: tuple[Lab, Host, Host],
) -> None:
    lab, ours, plugin = two_kinds
    mine, theirs = guests_on(lab, image(lab), ours, plugin)
    ours.start(mine)
    ours.kill_keeper()
    plugin.refused(theirs)
    ours.start_keeper()
    ours.wait_joined()
    plugin.refused(theirs)
    ours.kill_qemu(mine)
    wait_for("the plugin to get it", lambda: plugin.virsh("start", theirs.name, check=False).returncode == 0)
    plugin.kill_qemu(theirs)
    wait_for("vlhook to get it", lambda: ours.virsh("start", mine.name, check=False).returncode == 0)
    destroy(ours, mine)
    wait_free(lab)


# ------------------------------------------------------------------------------------------------ live migration

P2P = ("migrate", "--live", "--unsafe", "--p2p")
TRY_ON = """\
cd /run/test; tried=0
while [ ! -e over ] || [ $tried -lt 2 ]; do
    tried=$((tried + 1))
    virsh -q start {name} 2>> said && echo GOT IT
done
echo tried $tried
"""


def test_a_host_with_the_plugin_does_not_get_between_the_hosts_of_a_migration(
    two_kinds: tuple[Lab, Host, Host],
) -> None:
    lab, one, plugin = two_kinds
    two = lab.hosts[1]
    mine, theirs = guests_on(lab, image(lab), one, plugin)
    one.start(mine)
    rival = plugin.spawn(["sh", "-c", TRY_ON.format(name=theirs.name)])
    try:
        wait_for("its first attempt", lambda: plugin.run("cat /run/test/said", check=False).stdout)
        for source, target in ((one, two), (two, one), (one, two)):
            source.virsh(*P2P, mine.name, f"qemu+tcp://{target.name}/system")
            lab.wait_held(target, mine.leases())
            lab.wait_held(source, set())
    finally:
        plugin.run(": > /run/test/over")
        output, _ = rival.communicate(timeout=60)
        plugin.run("rm /run/test/over /run/test/said")
    print(f"\nthe plugin's host tried {output.split()[-1]} times")
    assert "GOT IT" not in output
    assert two.state(mine) == "running"
    destroy(two, mine)
    wait_free(lab)


def test_a_guest_does_not_migrate_to_a_host_with_the_plugin(two_kinds: tuple[Lab, Host, Host]) -> None:
    """The plugin wants the lease before the source has given it up."""
    lab, one, plugin = two_kinds
    [mine] = guests_on(lab, image(lab), one)
    one.start(mine)
    ran = one.virsh(*P2P, mine.name, "qemu+tcp://h3/system", check=False)
    assert ran.returncode
    assert "Failed to acquire lock" in ran.stderr
    assert (one.state(mine), plugin.qemu(mine)) == ("running", 0)
    lab.assert_held(one, mine.leases())
    destroy(one, mine)
    wait_free(lab)


def test_a_guest_of_the_plugin_is_taken_in_only_where_claim_foreign_is_set(
    two_kinds: tuple[Lab, Host, Host],
) -> None:
    lab, one, plugin = two_kinds
    [theirs] = guests_on(lab, image(lab), plugin)
    plugin.start(theirs)
    ran = plugin.virsh(*P2P, theirs.name, "qemu+tcp://h1/system", check=False)
    assert ran.returncode
    assert "does not say for which guest (see claim_foreign in qemu-vlhook.conf)" in ran.stderr
    assert (plugin.state(theirs), one.qemu(theirs)) == ("running", 0)
    one.vlhook("config", "set", "claim_foreign", "yes")
    one.restart_keeper()
    one.wait_joined()
    try:
        ran = plugin.virsh(*P2P, theirs.name, "qemu+tcp://h1/system", check=False)
        assert ran.returncode == 0, ran.stderr
        lab.wait_held(one, theirs.leases())
        assert (one.state(theirs), plugin.qemu(theirs)) == ("running", 0)
    finally:
        one.vlhook("config", "unset", "claim_foreign")
        one.restart_keeper()
        one.wait_joined()
    destroy(one, theirs)
    destroy(plugin, theirs)
    wait_free(lab)


def test_in_contention_with_kills_and_stops_no_two_guests_run_on_one_image(
    two_kinds: tuple[Lab, Host, Host], tmp_path: Path
) -> None:
    lab, ours, plugin = two_kinds
    disks = [image(lab) for _ in range(2)]
    until, counts, record = time.monotonic() + SECONDS, Counter[str](), Record(tmp_path / "record")

    def contend(host: Host, guests: list[Guest], key: str) -> None:
        chance = random.Random(key)
        while time.monotonic() < until:
            guest = chance.choice(guests)
            ran = host.virsh("start", guest.name, check=False)
            counts[f"{key} {'started' if ran.returncode == 0 else 'refused'}"] += 1
            if ran.returncode == 0:
                record.put("enter", who=guest.name, disk=guest.disks[0], shared=False)
                time.sleep(chance.random() * 0.5)
                record.put("leave", who=guest.name, disk=guest.disks[0])
                if chance.random() < 0.3 and host.qemu(guest):
                    host.run(["pkill", "-KILL", "-f", "--", f"-uuid {guest.uuid}"], check=False)
                else:
                    host.virsh("destroy", guest.name, check=False)

    def harass() -> None:
        blows = [restart_keeper, lambda: pause(ours, "vlhookd"), lambda: pause(plugin, "sanlock")]
        if ours.engine == "sanlock":
            blows.append(lambda: pause(ours, "sanlock"))
        for blow in itertools.cycle(blows):
            time.sleep(2)
            if time.monotonic() > until - 6:
                return
            blow()

    def restart_keeper() -> None:
        ours.kill_keeper()
        ours.start_keeper()
        ours.wait_joined()

    def pause(host: Host, name: str) -> None:
        host.signal(name, signal.SIGSTOP)
        time.sleep(3)
        host.signal(name, signal.SIGCONT)

    guests = [guests_on(lab, disk, ours, plugin) for disk in disks]
    errors: list[BaseException] = []

    def run(work: Callable[..., None], *words: object) -> None:
        try:
            work(*words)
        except BaseException as error:  # told below, in the test's own thread
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(contend, ours, [pair[0] for pair in guests], "vlhook")),
        threading.Thread(target=run, args=(contend, plugin, [pair[1] for pair in guests], "plugin")),
        threading.Thread(target=run, args=(harass,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(dict(counts))
    assert not errors, errors
    assert faults(record) == []
    assert counts["vlhook started"] >= 2, counts
    assert counts["plugin started"] >= 2, counts
    for host in (ours, plugin):
        host.remove_guests()
    wait_free(lab)
