# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recorded runs of real libvirtd 9.0.0 and QEMU 7.2: what libvirt called, and what happened meanwhile.

`tests/data/hook-traces` holds one file a scenario, JSON lines, compressed. Of the recordings only what a replay
needs was kept (`python -m tests.keeper.trace RECORDINGS` makes them anew). Times are seconds, `host` a host's name.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

DATA = Path(__file__).resolve().parents[1] / "data/hook-traces"
LOCKSPACE = "__LIBVIRT__DISKS__"
KEPT = {
    "hook": ("hook", "args", "phase", "pid", "ppid", "rc", "xml"),
    "command": ("cmd", "err"),
    "note": ("note",),
    "libvirt": ("event", "detail", "guest"),
    "qmp": ("event", "details", "guest"),
}
KEPT_EVENTS = ("STARTED", "STOPPED", "SHUTDOWN")


@dataclass(frozen=True)
class Trace:
    name: str
    title: str
    hosts: list[str]
    records: list[dict[str, Any]]

    def pool_is_active(self) -> bool:
        """Where a volume's pool was not, libvirt said so."""
        return not any("pool not found" in (record.get("err") or "") for record in self.records)

    def has_spans(self) -> bool:
        """Did a recorded hook take its time, so that other things happened while it ran?"""
        return any(record.get("phase") for record in self.records)

    def running_at_the_end(self) -> dict[str, set[str]]:
        """Host → the guests that ran there when the recording ended, by libvirt's hooks and events."""
        running: dict[str, set[str]] = {host: set() for host in self.hosts}
        for record in self.records:
            here = running.get(record["host"], set())
            if record.get("event") == "STARTED" or _is_hook(record, "started"):
                here.add(record.get("guest") or record["args"][0])
            elif record.get("event") == "STOPPED" or _is_hook(record, "stopped"):
                here.discard(record.get("guest") or record["args"][0])
            elif "loses power" in record.get("note", ""):
                here.clear()
        return running

    def uuid_of(self, guest: str) -> str:
        """From any XML of that guest; where no hook was recorded for it, one of its name."""
        for record in self.records:
            if record["kind"] == "hook" and record["args"][0] == guest and record.get("xml"):
                return needs(record["xml"]).uuid
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, guest))


def _is_hook(record: dict[str, Any], operation: str) -> bool:
    """Was the hook called for this, and did it not refuse?"""
    return record["kind"] == "hook" and record["args"][1] == operation and not record.get("rc")


@dataclass(frozen=True)
class Needs:
    """What a domain's XML says: its UUID and lease → mode. `impossible`: why it must not start. `volumes`: paths."""

    uuid: str
    leases: dict[str, str]
    impossible: str = ""
    volumes: tuple[str, ...] = ()

    def conflicts(self, other: Needs) -> bool:
        return any(
            name in other.leases and "exclusive" in (mode, other.leases[name]) for name, mode in self.leases.items()
        )


def needs(xml: str, pools: dict[str, str] | None = None) -> Needs:
    """Read by nothing of ours. `pools`: active storage pool → its directory."""
    root = ElementTree.fromstring(xml)
    leases: dict[str, str] = {}
    impossible = ""
    volumes: list[str] = []
    for disk in root.iterfind("devices/disk"):
        source = disk.find("source")
        if source is None or disk.find("readonly") is not None or disk.get("device") == "cdrom":
            continue
        kind = disk.get("type")
        path = source.get({"file": "file", "block": "dev", "dir": "dir"}.get(kind or "", ""))
        if kind == "volume":
            pool = (pools or {}).get(source.get("pool", ""))
            path = f"{pool}/{source.get('volume')}" if pool else None
            impossible = impossible if pool else "its pool is not active"
            volumes += [path] if path else []
        elif kind == "network":
            path = f"{source.get('protocol')}://{source.get('name')}"  # stands for the lease: none of them runs
        if path:
            mode = "shared" if disk.find("shareable") is not None else "exclusive"
            name = hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()
            leases[name] = mode if leases.get(name, mode) == mode else "exclusive"
    for lease in root.iterfind("devices/lease"):
        if lease.findtext("lockspace") != LOCKSPACE:
            impossible = "this host is not in that lockspace"
    return Needs(root.findtext("uuid") or "", leases, impossible, tuple(volumes))


def load(name: str) -> Trace:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        head, *records = (json.loads(line) for line in file)
    records.sort(key=lambda record: record["t"])
    return Trace(head["name"], head["title"], head["hosts"], records)


def names() -> list[str]:
    return sorted(path.name[: -len(".jsonl.gz")] for path in DATA.glob("*.jsonl.gz"))


def _shrunk(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record["kind"] == "scenario":
                yield record
            elif _is_needed(record):
                kept = {key: record[key] for key in KEPT[record["kind"]] if record.get(key) is not None}
                yield {"t": record["t"], "host": record["host"], "kind": record["kind"], **kept}


def _is_needed(record: dict[str, Any]) -> bool:
    kind = record["kind"]
    if kind == "hook":
        return "/hooks/qemu" in record["hook"]
    if kind in ("libvirt", "qmp"):
        return record["event"] in KEPT_EVENTS and record.get("guest") is not None
    if kind == "command":
        return bool(re.search(r"kill -|pool not found", record["cmd"] + (record["err"] or "")))
    return bool(kind == "note")


def main(recordings: Path) -> None:
    for path in sorted(recordings.glob("*.jsonl")):
        text = "".join(json.dumps(record) + "\n" for record in _shrunk(path))
        (DATA / f"{path.name}.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
