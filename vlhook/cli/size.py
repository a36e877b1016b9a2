# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook size`: the space that the leases of a network of hosts need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Optional

import click

from ..leases.geometry import FILE, MIB, geometry
from .common import Place, directory_options, json_option, show

SCHEMA = 1
FOUR_K = tuple(geometry(4096, size * MIB) for size in (1, 2, 4, 8))
EXTRAS = ("nvram", "tpm", "chain")


@click.command()
@click.option("--hosts", type=click.IntRange(1, 2000), default=20, show_default=True, help="Hosts of the network.")
@click.option("--guests", type=click.IntRange(0), default=50, show_default=True, help="Guests a host.")
@click.option("--disks", type=click.IntRange(0), default=2, show_default=True, help="Writable disks a guest.")
@click.option("--chain", type=click.IntRange(0), default=1, show_default=True, help="Backing files a disk.")
@directory_options
@json_option
@click.pass_context
def size_command(
    ctx: click.Context, hosts: int, guests: int, disks: int, chain: int, place: Place, as_json: bool
) -> None:
    """Compute the space for the leases of HOSTS x GUESTS x DISKS, and compare it with what is free.

    Each disk that a guest may write has a lease file, once and for all, whether
    the guest runs or not: 1 MiB with 512-byte sectors, which is what files
    always get; on block devices with 4 KiB sectors 1 to 8 MiB, by the highest
    host id. The lockspace takes as much as one lease.

    What other kinds of leases would add is shown apart: one for a second name
    of each disk (its identity), one a guest for its NVRAM, one for its TPM
    state, and one for each backing file.

    Exit status: 0 it fits into the lease directory, 1 it does not, 2 the
    directory is not there (the figures are shown all the same).
    """
    report = show(lambda: sizes(hosts, guests, disks, chain, place.directory), lines, as_json, None)
    free = report["free"]
    ctx.exit(2 if free is None else 0 if free + report["used"] >= report["needed"] else 1)


def sizes(hosts: int, guests: int, disks: int, chain: int, directory: str) -> dict[str, Any]:
    """The JSON of `vlhook size --json`; sizes in bytes."""
    count = hosts * guests * disks
    four_k = next(geo for geo in FOUR_K if geo.max_hosts >= hosts)
    more = {"identity": count, "nvram": hosts * guests, "tpm": hosts * guests, "chain": count * chain}
    free, used = _space(directory)
    return {
        "schema": SCHEMA,
        "hosts": hosts,
        "guests": guests,
        "disks": disks,
        "leases": count,
        "needed": (count + 1) * FILE.area,
        "disks_512": count * FILE.area,
        "disks_4096": count * four_k.area,
        "area_4096": four_k.area,
        "disks_4096_default": count * FOUR_K[-1].area,
        "lockspace": FILE.area,
        "more": {name: number * FILE.area for name, number in more.items()},
        "lease_directory": directory,
        "free": free,
        "used": used,
    }


def _space(directory: str) -> tuple[Optional[int], int]:
    """(bytes free for new files, bytes that lease files take already)."""
    try:
        space = os.statvfs(directory)
        used = sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(directory) if entry.is_file())
    except OSError:
        return None, 0
    return space.f_bavail * space.f_frsize, used


def lines(report: dict[str, Any]) -> Iterator[str]:
    product = f"{report['hosts']} hosts x {report['guests']} guests x {report['disks']} disks"
    yield f"{product} = {report['leases']} leases"
    yield f"  512-byte sectors (all files)    {_mb(report['disks_512'])}, {_mb(report['lockspace'])} for the lockspace"
    small, large = _mb(report["disks_4096"]), _mb(report["disks_4096_default"])
    yield f"  4 KiB sectors (block devices)   {small} with {_mb(report['area_4096'])} each, which serves these hosts;"
    yield f"                                  {large} with 8 MB each, sanlock's default, which serves 2000"
    yield "what other kinds of leases would add, at 512-byte sectors:"
    texts = {
        "identity": "a second name of each disk", "nvram": "NVRAM of each guest",
        "tpm": "TPM state of each guest", "chain": "backing files",
    }  # fmt: skip
    for name, size in report["more"].items():
        yield f"  {name:<9} {_mb(size):>9}  {texts[name]}"
    directory = report["lease_directory"]
    if report["free"] is None:
        yield f"{directory} cannot be read: free space not compared"
        return
    verdict = "it fits" if report["free"] + report["used"] >= report["needed"] else "IT DOES NOT FIT"
    there = f"lease files there take {_mb(report['used'])} already"
    yield f"{directory}: {_mb(report['free'])} free, {there}: {verdict}"


def _mb(size: int) -> str:
    return f"{size // MIB} MB"
