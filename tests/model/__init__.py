# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exhaustive checker: the shipped generators of 2 and 3 hosts, every order of their I/O.

    runs.py        what is explored; the generators under way, and what the engine adds around them
    nodes.py       the points at which a host can stand
    sectors.py     what is on the disk, and what a read of it answers
    program.py     one host as an automaton of such points, built as it is needed
    localstate.py  when two points in a generator are the same
    explore.py     all hosts and the disk: steps; what is reduced and why that is sound
    invariants.py  what must hold after each step
    search.py      the search
    tell.py        a counter-example in words

`python -m tests.model --help` searches with bounds of one's own.
"""
