# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sanlock daemon with its watchdog: the real wdmd on a device that resets nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.keeper.hosts import Guest, Host, wait_for
from tests.keeper.watchdogs import device, wdmd
from tests.sanlock_daemon import SanlockHost
from vlhook.cli.status import lines

pytestmark = [pytest.mark.root, pytest.mark.sanlock, pytest.mark.xdist_group("sanlock-watchdog")]
KNOWN_TO_LIBVIRT = "6695eb01-f6a4-8304-79aa-97f2502e193f"
"""The one guest of libvirt's test driver, which takes a request to shut it down."""


def test_the_daemons_watchdog_is_the_only_one_and_its_death_leaves_guests_the_grace(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    host = Host(tmp_path, 1, leases, io_timeout=2, engine="sanlock")
    host.libvirt_uri = "test:///default"
    host.settings("lockfailure_grace = 40\n")
    guest, unknown = (Guest(name, [tmp_path / name]) for name in ("g", "unknown"))
    guest.uuid = KNOWN_TO_LIBVIRT
    with device(host.dir / "watchdog") as fake, wdmd(host.dir / "wdmd", fake) as watchdog:
        assert host.sanlock
        daemon = SanlockHost("node1", host.sanlock.run_dir, options=("-w", "1"), inside=watchdog.inside)
        host.sanlock = daemon
        try:
            host.start_daemons().wait_joined()
            status = host.status()
            assert status["membership"]["sanlock"]["use_watchdog"] is True
            assert (status["fencing"]["watchdog"], status["fencing"]["armed"]) == ("sanlock", False)
            for one in (guest, unknown):
                assert host.start(one) == (0, "")
            host.wait_found()
            status = host.status()
            assert (status["fencing"]["watchdog"], status["fencing"]["armed"]) == ("sanlock", True)
            assert "sanlock's watchdog resets this host" in "\n".join(lines(status))
            assert "sanlock" in watchdog.dump()
            assert watchdog.clients() == [], "vlhookd is no client of wdmd"
            assert [event["event"] for event in fake.events].count("opened") == 1, "by wdmd"

            asked, not_known = (host.qemus[one.uuid] for one in (guest, unknown))
            daemon.kill9()
            wait_for("the request", lambda: f'stopped uuid={guest.uuid} how="libvirt was asked' in host.log_text())
            assert not_known.wait(30) == -15
            assert asked.poll() is None, "it has until 5 s before the end of the grace"
            alarms = " ".join(host.status()["alarms"])
            assert "its watchdog resets this host" in alarms
            assert not re.search(r"stopped guest=g .* signal=", host.log_text())
            host.end_qemu(guest)
        finally:
            host.down()
