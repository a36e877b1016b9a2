# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook calibrate`: how fast is the lease directory at its worst, and which io_timeout follows."""

from __future__ import annotations

import os
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ..config import settings
from ..errors import VlhookError
from ..leases.blockio import BlockFile
from ..leases.errors import LeaseError
from ..leases.geometry import FILE, MIB
from ..leases.owner import dead_seconds, fail_seconds
from ..mounts import mount_of
from .checks.storage import GRACE_SECONDS, SHARED_TYPES
from .common import Place, directory_options, json_option, show

SCHEMA = 1
DEFAULT = 10
LARGEST = 120
RESERVE = 20
"""What no measurement shows, such as the failover of a disk path, takes many times as long as what it shows."""
SERVER_SECONDS = 30
"""For a file server to start again, before its grace time."""
PAUSE_SECONDS = 0.1


class CannotMeasure(VlhookError):
    msg = "{directory} cannot be measured: {why}"
    hint = "see 'vlhook doctor lease-directory direct-io'"
    code = "VLH-C155"


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(0.5, 3600), default=30.0, show_default=True, help="How long to measure."
)
@click.option("--load", type=click.IntRange(0, 64), default=4, show_default=True,
              help="Starts of guests at the same time, whose I/O is the load.")  # fmt: skip
@directory_options
@json_option
@click.pass_context
def calibrate_command(ctx: click.Context, seconds: float, load: int, place: Place, as_json: bool) -> None:
    """Measure the lease directory under load, and propose an io_timeout with its reasons.

    Does what a host's renewal does (reads 1 MiB, writes a sector), again and
    again, while LOAD threads do what starts of guests do. Works on files of its
    own in the lease directory, which it removes; leases are not touched, but
    the storage is busy meanwhile. Measure when the storage has its worst time:
    a backup, a rebuild, a failover of its paths.

    Exit status: 0 the io_timeout that is set is long enough, 1 it is not,
    2 the directory cannot be measured.
    """
    report = show(lambda: measure(place, seconds, load), _lines, as_json, None)
    ctx.exit(0 if report["io_timeout"] >= report["proposed"] else 1)


def measure(place: Place, seconds: float, load: int) -> dict[str, Any]:
    """The JSON of `vlhook calibrate --json`; times in seconds. Raises CannotMeasure."""
    directory = place.directory
    stop = threading.Event()
    paths = [os.path.join(directory, f".vlhook-calibrate.{secrets.token_hex(8)}") for _ in range(load + 1)]
    threads = []
    try:
        for path in paths:
            _make(path)
        threads = [threading.Thread(target=_load, args=(path, stop), daemon=True) for path in paths[1:]]
        for thread in threads:
            thread.start()
        times = list(_renewals(paths[0], seconds))
    except (OSError, LeaseError) as error:
        raise CannotMeasure(directory=directory, why=getattr(error, "strerror", None) or str(error)) from error
    finally:
        stop.set()
        for thread in threads:
            thread.join(LARGEST)
        for path in paths:
            Path(path).unlink(missing_ok=True)
    mount = mount_of(Path(directory), Path("/proc/self/mountinfo"))
    return proposal(times, mount.kind if mount else "", settings.examine(place.config_dir)[0].io_timeout, directory)


def proposal(times: list[float], kind: str, io_timeout: int, directory: str) -> dict[str, Any]:
    """What follows from the times of renewals on a file system of that kind."""
    worst = max(times)
    by_latency = max(1, -(-int(worst * RESERVE * 1000) // 1000))
    reasons = [
        f"{RESERVE} times the slowest renewal ({worst * 1000:.0f} ms) is {by_latency} s; "
        f"less than the default of {DEFAULT} s is never proposed"
    ]
    proposed = max(DEFAULT, by_latency)
    if kind.startswith("nfs"):
        outage = GRACE_SECONDS + SERVER_SECONDS
        by_restart = -(-outage // 8)
        reasons.append(
            f"a restart of an NFS server takes up to {outage} s; guests are stopped after 8 io_timeouts: {by_restart} s"
        )
        proposed = max(proposed, by_restart)
    elif kind not in SHARED_TYPES:
        reasons.append(f"the directory is on {kind or 'an unknown file system'}, which other hosts do not share")
    if proposed > LARGEST:
        reasons.append(f"more than {LARGEST} s is not possible: this storage is too slow for leases")
        proposed = LARGEST
    ordered = sorted(times)
    return {
        "schema": SCHEMA,
        "lease_directory": directory,
        "file_system": kind,
        "renewals": len(times),
        "median": statistics.median(times),
        "percentile_99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "worst": worst,
        "io_timeout": io_timeout,
        "proposed": proposed,
        "guests_stopped_after": fail_seconds(proposed),
        "disks_free_after": dead_seconds(proposed),
        "reasons": reasons,
    }


def _make(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, bytes(MIB))
        os.fsync(fd)
    finally:
        os.close(fd)


def _renewals(path: str, seconds: float) -> Iterator[float]:
    until = time.monotonic() + seconds
    with BlockFile(path) as file:
        while True:
            begun = time.monotonic()
            file.read(0, FILE.area)
            file.write(0, bytes(FILE.sector))
            yield time.monotonic() - begun
            if time.monotonic() >= until:
                return
            time.sleep(PAUSE_SECONDS)


def _load(path: str, stop: threading.Event) -> None:
    """As starts of guests: whole areas read and sectors written, one after another."""
    try:
        with BlockFile(path) as file:
            while not stop.is_set():
                for sector in (3, 3, 0):
                    file.read(0, FILE.area)
                    file.write(sector * FILE.sector, bytes(FILE.sector))
    except LeaseError:
        return  # the renewals meet the same, and tell


def _lines(report: dict[str, Any]) -> Iterator[str]:
    times = ", ".join(f"{name} {report[key] * 1000:.1f} ms" for name, key in _NAMES.items())
    yield f"{report['lease_directory']} ({report['file_system']}): {report['renewals']} renewals, {times}"
    for reason in report["reasons"]:
        yield f"  {reason}"
    yield f"io_timeout should be {report['proposed']} s at least, the same on all hosts; it is {report['io_timeout']} s"
    stopped, free = report["guests_stopped_after"], report["disks_free_after"]
    yield f"  with {report['proposed']} s guests are stopped after {stopped} s without storage, and a dead host's disks"
    yield f"  are free after {free} s"
    if report["io_timeout"] < report["proposed"]:
        yield f"  -> vlhook config set io_timeout {report['proposed']}"


_NAMES = {"median": "median", "99 %": "percentile_99", "worst": "worst"}
