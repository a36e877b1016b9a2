# SPDX-License-Identifier: LGPL-2.1-or-later
"""What protection adds to the start and to the end of a guest in a real libvirtd, by number of disks."""

from __future__ import annotations

from ..lab import NOTHING, VLHOOK, BenchHost, EngineHost, LockdHost, PathsHost, PluginHost, lab
from ..measure import Act, alternate
from ..processes import compile_all
from ..report import Row, Table

ROUNDS = 12
COUNTS = (1, 2, 8, 9, 64)
PLUGIN, LOCKD, PATHS, ENGINE = "sanlock plugin", "lockd", "vlhook, paths alone", "vlhook over sanlock"
PLUGINS_MOST = 8
TARGETS = {1: 4.5, 8: 0.7}


def measure(rounds: int) -> Table:
    table = Table("starts", "what is added to a guest's start and end in libvirtd", rounds=rounds)
    compile_all()
    with lab([BenchHost, PluginHost, LockdHost, PathsHost, EngineHost]) as (ours, plugin, lockd, paths, engine):
        hosts = {NOTHING: ours, PLUGIN: plugin, LOCKD: lockd, VLHOOK: ours, PATHS: paths, ENGINE: engine}
        for count in COUNTS:
            _measure(table, count, rounds, dict(hosts))
    table.rows.sort(key=lambda row: row.what.split(",")[0], reverse=True)
    table.remarks += [
        f"{NOTHING}: the whole time, QEMU's in it. The others: what is added to that. Lease files are there already.",
        f"{VLHOOK}: two leases a disk, by its path and by what it is to this host; {PATHS}: identity_leases = no.",
        "lockd locks the images themselves and has no leases: no other host knows of a lock after its host died.",
    ]
    return table


def _measure(table: Table, count: int, rounds: int, hosts: dict[str, BenchHost]) -> None:
    name, ends = f"guest{count}", {}
    acts: dict[str, Act] = {}
    for host in set(hosts.values()):
        host.guest_with(name, count)
    notes = {}
    if count > PLUGINS_MOST:
        notes[PLUGIN] = _refusal(hosts.pop(PLUGIN), name)
    for party, host in hosts.items():
        acts[party] = _act(host, party, name, ends.setdefault(party, []))
    starts = alternate(acts, rounds, warm=2)
    for verb, figures in (("start", starts), ("end", {party: values[-rounds:] for party, values in ends.items()})):
        what = f"{verb}, {count} disk{'s' if count > 1 else ''}"
        target = TARGETS.get(count) if verb == "start" else None
        row = Row(what, figures, peer=PLUGIN, base=NOTHING, target=target, x=count, curve=verb, notes=notes)
        table.rows.append(row)


def _act(host: BenchHost, party: str, guest: str, ends: list[float]) -> Act:
    def act() -> float:
        if party in (NOTHING, VLHOOK):
            host.use(party)
        took = host.timed("start", guest)
        ends.append(host.timed("destroy", guest))
        return took

    return act


def _refusal(host: BenchHost, guest: str) -> str:
    try:
        host.timed("start", guest)
    except RuntimeError:
        return "refused"
    host.timed("destroy", guest)
    raise RuntimeError(f"libvirt's sanlock plugin started {guest}, which has more than {PLUGINS_MOST} disks")
