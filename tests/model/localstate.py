# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a suspended generator will do next depends on this, and on nothing else.

Two hosts' histories that leave a generator in the same local state need not be explored twice. The local
state is read off the chain of suspended frames (a generator and, through `yield from`, those it waits
for): for each the code, the instruction and the values of its live variables. A variable is live if some
path from here reads it before it writes it.

Why that is sound. The protocol generators touch no global and no object that lives outside their frames
(`effects.py`: no I/O, no clock, no randomness), and their values are compared by content: frozen
dataclasses, numbers, bytes; lists and errors are compared by what is in them. Beside variables a frame
only has a value stack. When suspended it can hold (1) the iterator of a `for` loop: in code that has one
every variable counts as live, among them the loop variable and what is looped over, which together are
the iterator's position, since no loop here meets an element twice; (2) the exception being handled: where
there are handlers their variable `error` is kept. No yield of the protocol stands behind an operand that
was evaluated before it. `test_model.py` checks it against a search that compares full histories.

Liveness is computed on the bytecode, on the safe side: every exception handler of a function is taken to
be reachable from each of its instructions, variables shared with inner functions are always live, and an
instruction that is not known to write a variable only is taken to read it.
"""

from __future__ import annotations

import dataclasses
import dis
from collections.abc import Generator
from functools import cache
from types import CodeType
from typing import Any

_NO_NEXT = {"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_ABSOLUTE"}
_NO_NEXT |= {"JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}
_WRITES = {"STORE_FAST", "DELETE_FAST"}


def local_state(steps: Generator[Any, Any, Any]) -> tuple[Any, ...]:
    """A hashable value; equal values mean equal behaviour from here on."""
    chain: list[Any] = []
    inner: Any = steps
    while inner is not None:
        frame = inner.gi_frame
        code = frame.f_code
        live = _live(code).get(frame.f_lasti)
        values = frame.f_locals
        names = sorted(values) if live is None else sorted(live & values.keys())
        chain.append((code, frame.f_lasti, tuple((n, _frozen(values[n])) for n in names)))
        inner = inner.gi_yieldfrom
    return tuple(chain)


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, BaseException):
        return type(value), tuple((k, _frozen(v)) for k, v in sorted(vars(value).items()))
    assert value is None or isinstance(value, (int, float, str, bytes)) or dataclasses.is_dataclass(value), value
    return value


@cache
def _live(code: CodeType) -> dict[int, frozenset[str]]:
    """For each instruction's offset the variables that are live after it; {} if all are everywhere."""
    instructions = list(dis.get_instructions(code))
    if any(i.opname == "FOR_ITER" for i in instructions):
        return {}
    following = _following(code, instructions)
    always = frozenset(code.co_cellvars + code.co_freevars)
    before: dict[int, frozenset[str]] = {i.offset: always for i in instructions}
    after = dict(before)
    changed = True
    while changed:
        changed = False
        for i in reversed(instructions):
            out = always.union(*(before[o] for o in following[i.offset]))
            touched = frozenset(_variables(i))
            new = out - touched if i.opname in _WRITES else out | touched
            after[i.offset] = out
            if new != before[i.offset]:
                before[i.offset], changed = new, True
    # Suspended at a yield, the value sent or the exception thrown goes on from the instruction itself.
    return {offset: after[offset] | before[offset] for offset in before}


def _variables(instruction: dis.Instruction) -> tuple[str, ...]:
    if "_FAST" not in instruction.opname:
        return ()
    value = instruction.argval
    return tuple(value) if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()


def _following(code: CodeType, instructions: list[dis.Instruction]) -> dict[int, set[int]]:
    jumps = set(dis.hasjrel) | set(dis.hasjabs)
    entries = getattr(dis.Bytecode(code), "exception_entries", ())
    handlers = {entry.target for entry in entries}
    handlers |= {i.argval for i in instructions if i.opname.startswith("SETUP_")}
    following: dict[int, set[int]] = {}
    for i, then in zip(instructions, [*instructions[1:], None]):
        targets = set(handlers)
        if i.opcode in jumps:
            targets.add(i.argval)
        if then is not None and i.opname not in _NO_NEXT:
            targets.add(then.offset)
        following[i.offset] = targets
    return following
