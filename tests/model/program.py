# SPDX-License-Identifier: LGPL-2.1-or-later
"""One host of the model: the shipped generators as an automaton that is built as it is needed.

A generator cannot be copied, so a point in it is named by the answers that led there: a `Node` keeps
its trail of answers, and a successor is made once, by feeding one answer more (to the generator itself
while it still stands at this point, else to a new one that is fed the whole trail). From then on taking
that step is one look-up.

What a host does is its script, one letter a step:

    x  acquire exclusive, and if that worked release     X  acquire exclusive and keep it
    s  acquire shared, and if that worked release        S  acquire shared and keep it
    l  leave the lockspace and join it again under the next generation
    m  as x, for a guest that may move to a host that claims it, and then be given back
    M  as m, and has taken the lease before the others begin
    c  claim the lease for that guest, and convert the claim; withdraw, or release once converted, at any time
    C  the same, but the claim is not withdrawn, and what was converted is kept
    d  as x, and D as C, on a host with the sanlock daemon (daemon.py); it tries until it fails, has it, or crashes
    T  as D, but the daemon acquires while the lease is only claimed: never to be done
    U  as D, but the daemon acquires at once when the claim is converted: neither
    k  remove the lease as unused

What must be had by a host that is alone and by a claim whose source is gone is probed with X, S and a look.

What the sectors contain: see `sectors.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vlhook.leases import claims, cleanup, paxos, release
from vlhook.leases.area import Identity, Lease
from vlhook.leases.claims import Claimed
from vlhook.leases.effects import Read, Remove, Seen, Steps, Write
from vlhook.leases.errors import Abandoned, Busy, Cleared, StorageError
from vlhook.leases.records import CLEARED_MAGIC, Leader
from vlhook.leases.release import Held

from . import daemon
from .localstate import local_state
from .nodes import (
    CLAIMED,
    CRASHED,
    CURRENT,
    DEAD,
    DONE,
    EXCLUSIVE,
    HOLDS,
    LEFT,
    NOTHING,
    READ,
    REMOVE,
    RUNS,
    SEEN,
    SHARED,
    WAITS,
    WRITE,
    Node,
    Op,
)
from .runs import (
    CLEANER,
    GUEST,
    TINY,
    Current,
    Run,
    Setup,
    find,
    give_back,
    leave,
    look,
    refind,
    take,
)
from .sectors import NAME, SPACE, Sectors

ALONE = 6
"""Pauses, and attempts, in which a host that is alone must have taken the lease."""
KINDS = {"l": "leave", "c": "claim", "C": "claim", "D": "claim", "T": "claim", "U": "claim", "k": "clean"}
FIRST_TRIES = ("acquire", "probe", "claim", "clean")
"""May end without the lease."""
DECIDE = (*FIRST_TRIES, "look", "hand over")


class Programs:
    """All nodes of all hosts of one setup, and the sector contents that they read and write."""

    def __init__(self, setup: Setup, merge: bool = True) -> None:
        self.setup, self.merge = setup, merge
        self.lease = Lease(SPACE, NAME, "lease", "lockspace", TINY)
        self.sectors = Sectors(setup.hosts)
        self.nodes: list[Node] = []
        self._known: dict[Any, int] = {}
        self.cleaned = any("k" in script for script in setup.scripts)

    # ------------------------------------------------------------------ nodes

    def start(self, host: int, generation: int, script: str) -> int:
        """The node at which a host begins with `script`."""
        if not script:
            return self._plain(DONE, host, generation, "")
        letter, then = script[0], script[1:]
        return self._begin(Op(KINDS.get(letter, "acquire"), host, generation, letter, then))

    def probe(self, host: int, generation: int, letter: str) -> int:
        """The node at which a host that is alone begins to take the lease; not bounded as the others are."""
        return self._begin(Op("probe", host, generation, letter, ""))

    def crashed(self, node: Node) -> int:
        return self._plain(CRASHED, node.host, node.generation, node.then, node.belief, node.lver)

    def dead(self, node: Node) -> int:
        return self._plain(DEAD, node.host, node.generation, node.then)

    def restarted(self, node: Node) -> int:
        """The process died; the next one looks for what is held, settles what was under way, and goes on."""
        op = node.op
        assert op
        if not node.belief:
            return self._begin(Op("settle", op.host, op.generation, op.letter, op.then))
        if op.held:
            return self._begin(replace(op, kind="find", belief=node.belief))
        return self._begin(replace(op, kind="refind", belief=node.belief, marked=False))

    def restarted_unaware(self, node: Node) -> int:
        """As `restarted`, but its state still says that the lease is only claimed."""
        assert node.op
        return self._begin(replace(node.op, kind="refind", belief=node.belief))

    def looks(self, node: Node) -> int:
        """The thread that has the claim looks whether the lease can be had now."""
        assert node.op
        return self._begin(replace(node.op, kind="look"))

    def withdraws(self, node: Node) -> int:
        """The guest does not come, or has ended here: its claim is withdrawn."""
        op = node.op
        assert op
        return self._begin(Op("withdraw", op.host, op.generation, op.letter, op.then))

    def believes(self, node: Node, belief: int) -> int:
        """The same point, after the guest's CPUs have passed from one host to the other."""
        base, op = node.base or node, node.op
        assert op
        if node.kind in (HOLDS, WAITS):
            after = replace(op, belief=belief, told=belief == RUNS)
            return self._plain(node.kind, op.host, op.generation, op.then, belief, node.lver, after)
        ident = self._stand(replace(op, belief=belief), self._replay(base), base.trail or (), base.fresh)
        return self.look(self.nodes[ident], node.got) if node.got else ident

    def _plain(
        self,
        kind: int,
        host: int,
        generation: int,
        then: str,
        belief: int = NOTHING,
        lver: int = 0,
        op: Op | None = None,
    ) -> int:
        key = (kind, host, generation, then, belief, lver, op)
        if key not in self._known:
            self._known[key] = self._add(Node(-1, kind, host, generation, then, op, belief=belief, lver=lver))
        return self._known[key]

    def _add(self, node: Node) -> int:
        node.ident = len(self.nodes)
        self.nodes.append(node)
        return node.ident

    def _begin(self, op: Op) -> int:
        if op not in self._known:
            run = self._new_run(op)
            run.feed()
            self._known[op] = self._stand(op, run, (), fresh=True)
        return self._known[op]

    def _new_run(self, op: Op) -> Run:
        me = Identity(op.host, op.generation)
        steps: Steps[Any]
        bounds = (0, 0)
        if op.kind in ("acquire", "clean"):
            # A clean-up reads the whole area once before, and once after what it takes.
            bounds = (self.setup.pauses, self.setup.attempts + 2 * (op.kind == "clean"))
        if op.kind == "acquire" and op.letter == "d":
            steps = daemon.acquire(self.lease, me)
        elif op.kind in ("acquire", "probe"):
            bounds = bounds if op.kind == "acquire" else (ALONE, ALONE)
            record = GUEST if op.letter in "mM" else None
            shared, brief = op.letter in "sS", self.setup.brief
            steps = paxos.acquire(self.lease, me, shared=shared, guess=TINY, record=record, brief=brief)
            if self.cleaned and op.kind == "acquire":
                steps = take(steps, self.lease, me)
        elif op.kind == "claim":
            steps = claims.claim(self.lease, me, GUEST, guess=TINY)
        elif op.kind == "look":
            assert op.claimed
            trapped = op.letter == "T"
            steps = daemon.trap(self.lease, me) if trapped else look(self.lease, me, op.claimed, op.told, op.marked)
        elif op.kind == "refind":
            steps = refind(self.lease, me)
        elif op.kind == "hand over":
            assert op.held
            steps = daemon.hand_over(self.lease, me, op.held)
        elif op.kind == "clean":
            steps = cleanup.clean(self.lease, me, CLEANER, TINY)
        elif op.kind == "release":
            assert op.held
            steps = give_back(self.lease, me, op.held)
        elif op.kind == "find":
            assert op.held
            steps = find(self.lease, me, op.held)
        elif op.kind in ("settle", "withdraw"):
            steps = release.settle(self.lease, me, TINY)
        else:
            disk = self.sectors
            records = [disk.delta(op.host, g, f) for g, f in ((op.generation, True), (op.generation + 1, False))]
            steps = leave(TINY.delta(op.host), *(disk.contents[r] for r in records))
        return Run(steps, bounds, self.setup.ticking)

    def _stand(self, op: Op, run: Run, trail: tuple[Any, ...], fresh: bool) -> int:
        """The node for a run that has just been fed."""
        if op.letter == "d" and op.kind == "acquire" and run.told:
            # The daemon cannot be told to give up. It would try on; here that ends, as by a power failure.
            return self._plain(CRASHED, op.host, op.generation, "")
        if run.finished:
            return self._end(op, run)
        effect = run.effect
        state = local_state(run.steps) if self.merge else trail
        key = (op, effect, run.told, run.pauses, run.starts, run.looks, state, fresh, not trail)
        if key in self._known:
            # The same point, reached otherwise: this generator does for the one that stood there.
            same = self.nodes[self._known[key]]
            if self.merge and same.run is None:
                same.run = run
            return same.ident
        node = Node(-1, READ, op.host, op.generation, op.then, op, trail=trail, run=run, told=run.told)
        node.fresh = fresh
        if not run.told and op.belief:
            node.belief, node.lver = op.belief, self._version(op)
        if isinstance(effect, Read):
            node.wants = self.sectors.slots(effect, run.asks_in("read_beginning"))
        elif isinstance(effect, Write):
            node.kind = WRITE
            (node.slot,) = self.sectors.slots(effect)
            node.content = self.sectors.content(effect.data)
            if node.slot == 0 and op.kind in DECIDE:
                leader = Leader.decode(effect.data)
                node.clears = leader.magic == CLEARED_MAGIC
                if leader.timestamp:
                    owner = (leader.owner_id, leader.owner_generation, leader.timestamp)
                    node.decides = leader.lver, owner
        elif isinstance(effect, (Remove, Current)):
            node.kind = REMOVE if isinstance(effect, Remove) else CURRENT
        else:
            assert isinstance(effect, Seen), effect
            node.kind, node.about = SEEN, effect.host_id
        self._known[key] = self._add(node)
        return self._known[key]

    def _end(self, op: Op, run: Run) -> int:
        error, held = run.error, run.value
        expected = (Busy, Abandoned, StorageError, cleanup.NotRemoved) if op.kind in FIRST_TRIES else ()
        if isinstance(error, Cleared) and self.cleaned:
            return self.start(op.host, op.generation, op.then)
        if op.kind in ("look", "refind", "hand over"):
            return self._end_claim(op, run)
        if error is not None and not isinstance(error, expected):
            return self._failed(op, f"{op.kind} ended with {type(error).__name__}: {error}")
        if op.kind == "leave":
            return self.start(op.host, op.generation + 1, op.then)
        if op.kind == "find" and held is None:
            return self._failed(op, "its restarted keeper does not find the lease that it holds")
        if isinstance(held, Claimed):
            return self._waits(op, held, CLAIMED)
        if not isinstance(held, Held):
            return self.start(op.host, op.generation, op.then)
        return self._holds(op, held, LEFT if op.belief == LEFT else SHARED if held.shared else EXCLUSIVE)

    def _end_claim(self, op: Op, run: Run) -> int:
        """After a look, a look for what became of a claim, or the daemon's acquire of what was converted."""
        error, found = run.error, run.value
        if run.told or (isinstance(error, Abandoned) and op.kind == "look"):
            return self._begin(Op("withdraw", op.host, op.generation, op.letter, op.then))
        if op.kind == "look" and (isinstance(error, StorageError) or (error is None and found is None)):
            assert op.claimed
            marked = replace(op, marked=op.marked or (op.told and error is None))
            return self._waits(marked, op.claimed, op.belief)
        if error is not None:
            return self._failed(op, f"{op.kind} ended with {type(error).__name__}: {error}")
        if isinstance(found, Claimed):
            return self._waits(op, found, op.belief)
        assert isinstance(found, Held)
        return self._holds(op, found, EXCLUSIVE)

    def hands_over(self, node: Node) -> int:
        """The daemon acquires what its host owns."""
        assert node.op
        return self._begin(replace(node.op, kind="hand over", since=()))

    def awaits(self, node: Node, since: tuple[Op | None, ...]) -> int:
        """The same point, knowing what others are about."""
        op = node.op
        assert op
        return self._plain(HOLDS, op.host, op.generation, op.then, node.belief, node.lver, replace(op, since=since))

    def _waits(self, op: Op, claimed: Claimed, belief: int) -> int:
        after = replace(op, kind="wait", claimed=claimed, belief=belief, told=belief == RUNS)
        return self._plain(WAITS, op.host, op.generation, op.then, belief, claimed.lver, after)

    def _holds(self, op: Op, held: Held, belief: int) -> int:
        if op.letter in "DU" and op.kind != "hand over":
            owned = replace(op, kind="await", held=held, claimed=None, belief=EXCLUSIVE, told=False, marked=False)
            return self._plain(HOLDS, op.host, op.generation, op.then, belief, held.lver, owned)
        kind = "keep" if op.letter in "XSCDTU" else "release"
        moves = op.letter in "mM"
        after = Op(kind, op.host, op.generation, op.letter, op.then, held, belief=belief if moves else NOTHING)
        return self._plain(HOLDS, op.host, op.generation, op.then, belief, held.lver, after)

    def _version(self, op: Op) -> int:
        found = op.held or op.claimed
        return found.lver if found else 0

    def _failed(self, op: Op, wrong: str) -> int:
        key = ("wrong", op, wrong)
        if key not in self._known:
            self._known[key] = self._add(Node(-1, DONE, op.host, op.generation, op.then, wrong=wrong))
        return self._known[key]

    def give_up(self, node: Node) -> int:
        """The guest has ended; its lease is released."""
        assert node.op
        return self._begin(replace(node.op, belief=NOTHING))

    # ------------------------------------------------------------------ steps

    def look(self, node: Node, got: tuple[int, ...]) -> int:
        """The variant of a read's node that has looked at some of its sectors; -1: not at this one."""
        base = node.base or node
        known = base.looks.get(got)
        if known is None:
            variant = Node(
                -1, READ, base.host, base.generation, base.then, base.op, base.belief, base.lver,
                wants=base.wants, got=got, told=base.told, trail=base.trail, base=base,
            )  # fmt: skip
            known = base.looks[got] = self._add(variant)
        return known

    def take(self, node: Node, key: Any) -> int:
        """The node after `node` is answered. Keys: ('read', contents), 'done', 'eio', 'abandon', ('view', ..)."""
        base = node.base or node
        known = base.edges.get(key)
        if known is None:
            assert base.op
            assert base.trail is not None
            run, base.run = base.run or self._replay(base), None
            self._answer(run, key)
            known = base.edges[key] = self._stand(base.op, run, (*base.trail, key), fresh=base.kind == WRITE)
        return known

    def _replay(self, node: Node) -> Run:
        assert node.op
        assert node.trail is not None
        run = self._new_run(node.op)
        run.feed()
        for key in node.trail:
            self._answer(run, key)
        return run

    def _answer(self, run: Run, key: Any) -> None:
        if key == "done":
            run.feed()
        elif key == "eio":
            run.feed(error=StorageError(op="I/O", where="model", why="injected"))
        elif key == "abandon":
            run.told = True
            run.feed(error=Abandoned(name="lease", why="injected"))
        elif key in ("removed", "current", "gone"):
            run.feed(key != "gone")
        elif key[0] == "read":
            run.feed(self.sectors.assemble(run.effect, key[1], run.asks_in("read_beginning")))
        else:
            run.feed(self.sectors.view(key))
