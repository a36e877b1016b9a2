# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook dump`: decodes any lockspace or lease file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..leases.inspect import (
    CAME_BACK,
    CLEARED,
    LEFT,
    LOCKSPACE,
    MEMBER,
    UNKNOWN,
    Holder,
    Report,
    inspect,
    with_lockspace,
)
from ..leases.names import LOCKSPACE_NAME
from .common import folded, screen_width

MAX_AREA = 8 << 20
MAX_OFFSET = 1 << 62
_MEMBERSHIP = {
    MEMBER: "a member of the lockspace under this generation; 'vlhook status' tells whether it lives",
    LEFT: "it has left the lockspace: the lease is free for others",
    CAME_BACK: "it came back under a later generation: the lease is free for others",
}


class Unreadable(VlhookError):
    msg = "{path}: cannot be read: {why}"
    hint = "give the path of a lease file, a lockspace file or a block device, and run as a user who may read it"
    code = "VLH-C201"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--offset",
    type=click.IntRange(0, MAX_OFFSET),
    default=0,
    metavar="BYTE",
    help="Where in FILE the area begins; else at its start.",
)
@click.option(
    "--lockspace",
    type=click.Path(path_type=Path),
    help="Lockspace file that tells the names of a lease's holders and whether they are still members.  "
    f"[default: {LOCKSPACE_NAME} beside FILE, if it is there]",
)
@click.option("--all", "everything", is_flag=True, help="Also every field of every record, as named on disk.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape.")
@click.pass_context
def dump_command(
    ctx: click.Context, file: Path, offset: int, lockspace: Optional[Path], everything: bool, as_json: bool
) -> None:
    """Decode FILE, a lockspace or a lease, and say what is wrong in it.

    Works on the files of vlhook, of sanlock and of libvirt's sanlock plugin, on
    any host, whether the keeper runs or not. It takes no lock and only reads.

    \b
    Of a lockspace (__LIBVIRT__DISKS__) it shows each host id that was ever used:
      generation   how often that id was taken; a later one frees what an earlier one held
      timestamp    the host's own clock at its last renewal; 'free' if it left
    Of a lease (a file named by an MD5) it shows:
      who holds    one host exclusively, or hosts that share; with guest and disk where vlhook wrote them
      version      lver, one more with each decision who holds
      ballots      what each host wrote when it last tried to take the lease

    That a host holds a lease does not say that it lives. FAULT lines name the
    byte in FILE of what is damaged; nothing is ever repaired here.

    \b
    Exit status: 0 all records check out, 1 something is wrong or FILE is
    neither a lockspace nor a lease, 2 FILE cannot be read.
    \b
    Examples:
      vlhook dump /var/lib/libvirt/sanlock/__LIBVIRT__DISKS__
      vlhook dump /var/lib/libvirt/sanlock/bfa0240911bc17753e0b473688822159
      vlhook dump /dev/vg/leases --offset 1048576 --json
    """
    data, size = _read(file, offset)
    report = inspect(data, offset)
    space = _lockspace_of(report, file, lockspace)
    if space:
        report = with_lockspace(report, space)
    end = offset + report.area_size
    if report.area_size and size > end:
        report.notes.append(f"the file goes on after this area: there may be another one at --offset {end}")
    if as_json:
        click.echo(json.dumps({"file": str(file), "offset": offset, **report.as_dict()}, indent=1))
    else:
        for line in folded(_lines(report, file, everything), screen_width()):
            click.echo(line)
    ctx.exit(0 if report.ok else 1)


def _read(path: Path, offset: int) -> tuple[bytes, int]:
    """The bytes of the area, and the size of the file (0 for devices)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            data = b""
            while len(data) < MAX_AREA:
                more = os.pread(fd, MAX_AREA - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data, os.fstat(fd).st_size
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise Unreadable(path=path, why=getattr(error, "strerror", None) or error) from error


def _lockspace_of(report: Report, file: Path, given: Optional[Path]) -> Optional[Report]:
    if given is not None:
        return inspect(_read(given, 0)[0])
    beside = file.with_name(LOCKSPACE_NAME) if file.name else file
    if report.space != LOCKSPACE_NAME or report.kind == LOCKSPACE:
        return None
    try:
        return inspect(_read(beside, 0)[0])
    except Unreadable:
        return None


# --------------------------------------------------------------------------------------------- text


def _lines(report: Report, file: Path, everything: bool) -> Iterator[str]:
    yield f"{_printable(str(file))}: {_title(report)}"
    if report.kind == LOCKSPACE:
        yield from _hosts(report)
    elif report.leader:
        yield from _lease(report)
    if everything:
        yield from _everything(report)
    for note in report.notes:
        yield f"note: {note}"
    for offset, what in report.faults:
        yield f"FAULT at byte {offset}: {what}"


def _title(report: Report) -> str:
    if report.kind == UNKNOWN:
        return "neither a lockspace nor a lease"
    name = f"{report.name} of lockspace {report.space}" if report.name else report.space
    if not report.area_size:
        return f"{report.kind} {name}"
    sizes = f"{report.sector_size}-byte sectors, {report.area_size >> 20} MiB, host ids up to {report.max_hosts}"
    return f"{report.kind} {name} ({sizes})"


def _hosts(report: Report) -> Iterator[str]:
    if not report.hosts:
        yield "no host id was ever used"
        return
    yield f"{'id':>6} {'generation':>10} {'timestamp':>12} {'io_timeout':>10}  name"
    for host in report.hosts:
        record = host["record"]
        stamp = record["timestamp"] if host["in_use"] else "free"
        line = f"{host['host_id']:>6} {record['owner_generation']:>10} {stamp:>12} {record['io_timeout']:>10}"
        line += f"  {record['resource_name']}"
        if host["notices"]:
            line += f"  [notice to host {', '.join(map(str, host['notices']))}]"
        yield line + ("" if host["ok"] else "  DAMAGED")


def _lease(report: Report) -> Iterator[str]:
    leader = report.leader or {}
    if report.kind == CLEARED:
        return
    if not report.holders_known:
        yield "who holds it exclusively cannot be told: the leader is damaged"
    elif not report.holders:
        last = f"; host {leader['owner_id']} was the last owner" if leader["owner_id"] else ", never taken"
        yield f"free at version {leader['lver']}{last}"
    for holder in report.holders:
        yield from _holder(report, holder)
    if not report.hosts:
        return
    yield f"{'host':>6} {'ballot':>10} {'version':>8}  accepted owner"
    for host in report.hosts:
        yield _ballot(host)


def _holder(report: Report, holder: Holder) -> Iterator[str]:
    how = {"exclusive": "held exclusively", "shared": "held shared", "claimed": "claimed for an incoming migration"}
    name = f" ({holder.host_name})" if holder.host_name else ""
    at = f", version {(report.leader or {})['lver']}" if holder.mode == "exclusive" else ""
    yield f"{how[holder.mode]} by host {holder.host_id}{name}, generation {holder.generation}{at}"
    record = next((h["holder"] for h in report.hosts if h["host_id"] == holder.host_id), None)
    if record and record["generation"] == holder.generation:
        since = _clock(record["since"])
        yield f"    for guest {record['guest']} (UUID {record['uuid']}) since {since}, disk {record['disk']}"
    if holder.membership in _MEMBERSHIP:
        yield f"    host {holder.host_id}: {_MEMBERSHIP[holder.membership]}"


def _ballot(host: dict[str, Any]) -> str:
    block, mode = host["dblock"], host["mode"]
    flags = "".join(f" {name}" for name, on in (("SHARED", mode["shared"]), ("CLAIM", mode["claim"])) if on)
    if block is None:
        return f"{host['host_id']:>6} {'DAMAGED':>10}{flags}"
    value = f"{block['inp']}:{block['inp2']} in ballot {block['bal']}" if block["inp"] else "-"
    flags = (" RELEASED" if block["released"] else "") + flags
    return f"{host['host_id']:>6} {block['mbal']:>10} {block['lver']:>8}  {value}{flags}"


def _everything(report: Report) -> Iterator[str]:
    for title, record in (("leader", report.leader), ("request", report.request)):
        if record:
            yield f"{title}:"
            yield from (f"    {key} {_raw(key, value)}" for key, value in record.items())
    for host in report.hosts:
        yield f"host {host['host_id']} at byte {host['offset']}:"
        for key in ("record", "dblock", "mode", "holder"):
            for name, value in (host.get(key) or {}).items():
                yield f"    {key}.{name} {_raw(name, value)}"


def _raw(name: str, value: object) -> object:
    return f"{value:#x}" if name in ("magic", "version", "flags", "checksum") else value


def _clock(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"second {seconds} of the epoch"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
