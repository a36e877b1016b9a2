# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the figures of docs/performance.md come from: `python -m bench TABLE`, or `make bench` for all of them.

A table measures vlhook against its peers, the real programs of the distribution, in one run: the parties
take turns on the same storage, and what counts is the quotient of each round. Absolute figures move with
the machine and with what else runs on it; quotients much less.
"""
