# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of this host: settings, host id, keeper and guard, clock, watchdog, lenses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from ...config import settings
from ...errors import VlhookError
from ...leases import hostids
from ...leases.errors import LeaseError, one_line
from ...leases.owner import dead_seconds
from ..hostid import _machine, _own_name
from .check import FAIL, GOOD, NOTE, WARN, Check, Finding, Host, output

EARLIEST_YEAR = 2024
SLEPT_SECONDS = 5.0
UNITS = ("vlhook-guard.service", "vlhookd.service", "vlhook-watch.service", "vlhook-cleanup.timer")
_LENSES = (
    ("vlhook.aug", "qemu-vlhook.conf", "the package vlhook-augeas"),
    ("libvirt_sanlock.aug", "qemu-sanlock.conf", "libvirt's sanlock plugin, or vlhook-augeas-fallback on Fedora, RHEL"),
)


def settings_files(host: Host) -> Iterator[Finding]:
    found, problems = settings.examine(host.config_dir)
    for problem in problems:
        yield Finding(FAIL, str(problem.what_and_why()), "vlhook config show")
    if not problems:
        yield Finding(GOOD, f"settings in {host.config_dir}: io_timeout {found.io_timeout} s, engine {found.engine}")


def host_id(host: Host) -> Iterator[Finding]:
    found = host.settings
    if not found.host_id:
        yield Finding(FAIL, "host_id is not set", "vlhook host-id --auto")
        return
    try:
        who = hostids.look(found.disk_lease_dir).taken_by_other(found.host_id, _machine(), _own_name(host.state_dir))
    except (LeaseError, VlhookError) as error:
        yield Finding(WARN, f"host_id {found.host_id} was not compared with the lease directory: {one_line(error)}")
        return
    if who:
        yield Finding(FAIL, f"host_id {found.host_id} is another machine's, or this one is a clone: {who}",
                      "vlhook host-id --auto")  # fmt: skip
    else:
        yield Finding(GOOD, f"host_id {found.host_id} is this machine's own")


def keeper(host: Host) -> Iterator[Finding]:
    report = host.status()
    if report is None:
        yield Finding(FAIL, host.why_no_status, "systemctl enable --now vlhook-guard vlhookd")
        return
    member = report["membership"]
    if member["state"] == "joined":
        age = f"renewed {member['last_ok_age']:.0f} s ago"
        yield Finding(GOOD, f"vlhookd has joined as host {report['host_id']}, generation {member['generation']}, {age}")
        limit, dead = member["limit"], dead_seconds(report["io_timeout"])
        what = f"without storage guests are stopped after {limit} s, and others may take their disks after {dead} s"
        yield Finding(GOOD, what)
    else:
        yield Finding(FAIL, f"vlhookd has not joined: {member['why']}", "vlhook status")
    if report["fencing"]["guard"] != "ready":
        yield Finding(FAIL, f"the guard is {report['fencing']['guard']}", "systemctl restart vlhook-guard")
    for alarm in report["alarms"]:
        yield Finding(FAIL, f"alarm: {alarm}", "vlhook status")
    if host.settings.disk_lease_dir != report["lease_directory"]:
        what = f"vlhookd uses {report['lease_directory']}, the settings say {host.settings.disk_lease_dir}"
        yield Finding(WARN, what, "systemctl restart vlhookd   (when no guest of this host holds leases)")


def clock(host: Host) -> Iterator[Finding]:
    year = datetime.now().year
    if year < EARLIEST_YEAR:
        yield Finding(WARN, f"the clock says {year}; times shown to people are wrong", "chronyc makestep")
    slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    if slept > SLEPT_SECONDS:
        what = f"this host was suspended for {slept:.0f} s since its boot; a host that sleeps loses its leases"
        yield Finding(WARN, what, "systemctl mask sleep.target suspend.target hibernate.target")
    if year >= EARLIEST_YEAR and slept <= SLEPT_SECONDS:
        yield Finding(GOOD, "the clock is sane, and the host was never suspended")


def watchdog(host: Host) -> Iterator[Finding]:
    report = host.status()
    fencing = report["fencing"] if report else {"watchdog": "none"}
    used = fencing["watchdog"]
    devices = sorted(path.name for path in host.path("/dev").glob("watchdog*"))
    if used not in ("none", "off"):
        yield Finding(GOOD, f"a watchdog resets this host if guests cannot be stopped: {used}")
    elif host.settings.watchdog == "off":
        yield Finding(NOTE, "the watchdog is turned off: nothing resets this host if a guest cannot be stopped")
    else:
        unused = f"/dev/{devices[0]} is there and not used" if devices else "there is no watchdog device"
        there = fencing.get("why") or unused
        yield Finding(WARN, f"nothing resets this host if a guest cannot be stopped: {there}",
                      "" if devices else "modprobe softdog   (a hardware watchdog is better)")  # fmt: skip


def lenses(host: Host) -> Iterator[Finding]:
    places = ("/usr/share/augeas/lenses", "/usr/share/augeas/lenses/dist", "/usr/share/libvirt/augeas")
    lacking = 0
    for lens, file, package in _LENSES:
        if not any((host.path(place) / lens).exists() for place in places):
            lacking += 1
            yield Finding(NOTE, f"Augeas has no lens for {file}: augtool cannot change it", f"install {package}")
    if not lacking:
        yield Finding(GOOD, "Augeas knows qemu-vlhook.conf and qemu-sanlock.conf")


def services(host: Host) -> Iterator[Finding]:
    """After the next boot no guest starts without them."""
    if not host.path("/run/systemd/system").is_dir():
        return
    off = [unit for unit in UNITS if (output("systemctl", "is-enabled", unit) or "").strip() != "enabled"]
    needed = [unit for unit in off if unit.endswith(".service")]
    if needed:
        yield Finding(WARN, f"not started at boot: {', '.join(needed)}", f"systemctl enable --now {' '.join(needed)}")
    for unit in off:
        if unit not in needed:
            what = f"{unit} is off: lease files that no guest uses stay until 'vlhook cleanup'"
            yield Finding(NOTE, what, f"systemctl enable --now {unit}")
    if not off:
        yield Finding(GOOD, "the services are started at boot")


HOST = (
    Check("settings", settings_files),
    Check("host-id", host_id),
    Check("keeper", keeper),
    Check("services", services),
    Check("clock", clock),
    Check("watchdog", watchdog),
    Check("lenses", lenses),
)
