# SPDX-License-Identifier: LGPL-2.1-or-later
"""A counter-example as a list of steps that a person can follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlhook.leases.records import CLEARED_MAGIC, Leader, decode_host_sector

from .runs import SECTOR

BELIEFS = (
    "holds nothing",
    "HOLDS version {} shared",
    "HOLDS version {} exclusively",
    "has claimed version {}",
    "HOLDS its claim of version {}, and the guest's CPUs run there",
    "has stopped the guest's CPUs, and still owns version {}",
)
WORDS = {
    "crash": "CRASHES",
    "dead": "has been silent for 8N+60: it is dead to others",
    "rejoin": "rejoins under a new generation",
    "restart": "its keeper dies, starts again in the same generation and settles",
    "abandon": "is told to give the attempt up",
    "eio": "gets an I/O error",
    "view": "looks at what its renewals saw of the other",
    "remove": "removes the file",
    "current": "looks whether the file is still there",
    "look": "looks whether what it claims can be had now",
    "withdraw": "withdraws its claim",
    "hand over": "lets its daemon take over",
    "switch": "takes over the guest's CPUs",
    "back": "gives the guest's CPUs back",
}


def show_leader(data: bytes) -> str:
    leader = Leader.decode(data)
    state = "free" if leader.free else "held"
    hold = ", short hold" if leader.short_hold else ""
    if leader.magic == CLEARED_MAGIC:
        return "leader: CLEARED"
    if not leader.lver:
        return "leader: version 0, never held"
    owner = f"{leader.owner_id}:{leader.owner_generation}"
    return f"leader: version {leader.lver} {state}, owner {owner}, written by {leader.write_id}{hold}"


def show_sector(data: bytes, host: int) -> str:
    if data == bytes(SECTOR):
        return "blank"
    sector = decode_host_sector(data, host, "")
    block, mode = sector.dblock, sector.mode
    value = f"accepted {block.inp}:{block.inp2} in ballot {block.bal}" if block.inp else "nothing accepted"
    released = ", RELEASED" if block.released else ""
    what = "CLAIMED" if mode.claim else "SHARED"
    shared = f", {what} by generation {mode.generation}" if mode.shared else ""
    return f"version {block.lver} ballot {block.mbal}, {value}{released}{shared}"


def show_delta(data: bytes) -> str:
    record = Leader.decode(data)
    return f"generation {record.owner_generation}{', free' if record.free else ''}"


def show_slot(model: Any, slot: int, content: int) -> str:
    data, hosts = model.programs.sectors.contents[content], model.hosts
    if slot == 0:
        return show_leader(data)
    if slot <= hosts:
        return f"sector of host {slot}: {show_sector(data, slot)}"
    return f"lockspace record of host {slot - hosts}: {show_delta(data)}"


def story(model: Any, path: list[Any]) -> list[str]:
    """One or two lines for each step from state to state of `path`."""
    return [line for before, after in zip(path, path[1:]) for line in _step(model, before, after)]


def _step(model: Any, before: Any, after: Any) -> Iterator[str]:
    host, label = next((h, label) for h, label, new in model.moves(before) if new == after)
    nodes, at = model.programs.nodes, model.at_node + host
    old, new = nodes[before[at]], nodes[after[at]]
    who = f"host {host}:{new.generation}"
    if label == "read":
        for slot, content in zip(old.wants, model.found(before, old)):
            yield f"{who} reads {show_slot(model, slot, content)}"
    elif label in WORDS:
        yield f"{who} {WORDS[label]}"
    for slot in range(2 * model.hosts + 1):
        if before[slot] != after[slot] and label != "rejoin":
            again = ", and this will land again" if label == "repeat" else ""
            yield f"{who} writes {show_slot(model, slot, after[slot])}{again}"
    if new.belief != old.belief and new.belief:
        yield f"{who} {BELIEFS[new.belief].format(new.lver)}"
    elif label == "ends":
        yield f"{who} its guest has ended, it gives the lease back"
