# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network of hosts in one process: the shipped protocol code on simulated storage, clocks and accidents.

Nothing here runs in a keeper. `vlhook simulate` shows it to whoever wants to see
the leases at work under crashes, stopped processes, drifting clocks and storage
that delays, repeats, tears, loses or never answers, and the tests run it many
thousands of times. The host side is `vlhook.leases` itself: each operation is
the generator that a keeper runs, driven here instead of by `leases/driver.py`.

    plan.py     what is to happen, drawn from a seed: starts of guests, accidents, calm phases
    world.py    the event loop, the accidents, and what must hold after every step
    host.py     one host: its process, its lease on its id, its guests, its guard
    storage.py  the way of an I/O from a host to the disk and back
    disk.py     the disk: sectors, and which owner each version was decided for
    history.py  holdings as a history, and the checker of histories
    load.py, site.py  the load of a whole site on its storage; a model of its own, see there
    run.py      one run, many runs on several processors, and the shrinking of a failed one

What is assumed, here and in `docs/safety.md`, is where it is made true: the rates
of clocks (plan.py, DRIFT), bounded survival (host.py, `Host.watchdog`) and whole
sectors (disk.py).
"""
