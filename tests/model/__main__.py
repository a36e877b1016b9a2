# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m tests.model`: the checker with bounds of one's own.

python -m tests.model --scripts xx,x --abandons 1            all of it
python -m tests.model --scripts xs,x,x --crashes 1 --states 5000000
"""

from __future__ import annotations

import argparse
import sys

from .runs import Setup
from .search import by_switches, complete, without_collector


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--scripts", default="", help="one for each host, e.g. xs,x (letters: see program.py)")
    parser.add_argument("--hosts", type=int, default=2, help="without --scripts: so many hosts, each xs")
    parser.add_argument("--states", type=int, default=0, help="stop after so many states")
    parser.add_argument("--breadth", action="store_true", help="breadth first also for three hosts")
    for budget in ("crashes", "restarts", "abandons", "errors", "repeats"):
        parser.add_argument(f"--{budget}", type=int, default=0)
    parser.add_argument("--pauses", type=int, default=2)
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--ticking", action="store_true")
    parser.add_argument("--brief", action="store_true", help="acquires of free leases do not read the whole area first")
    args = vars(parser.parse_args())
    scripts = tuple(args.pop("scripts").split(",")) if args["scripts"] else ("xs",) * args["hosts"]
    states, breadth = args.pop("states"), args.pop("breadth")
    del args["hosts"]
    args.pop("scripts", None)
    setup = Setup(scripts, **args)
    with without_collector():
        if states and not breadth and setup.hosts > 2:
            outcome = by_switches(setup, states)
        else:
            outcome = complete(setup, states)
    print(outcome)
    return 1 if outcome.wrong else 0


sys.exit(main())
