# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook-guard: ends the guests whose leases ran out, whether the keeper lives, hangs or is dead.

It reads when the host's lease was last good from a page that the keeper shares
(`vlhook.lastok`), holds the guests' processes by pidfd, and does nothing else.
From 8N seconds after last_ok no lease may be used, and 60 seconds later others
take it (format document, 5). So, for each guest that is registered at 8N:

- While the keeper is alive and beats, it acts first, by the guest's policy.
- If it is not, the guard sends SIGTERM, and SIGKILL 5 seconds later. In any
  case SIGKILL comes a second after the grace, which is at most 40 s in all: everything is
  dead before a watchdog fires, and that is before anybody else writes.
- What was begun is completed, also if a renewal comes late: the lease may be
  somebody else's by then. The guest stays registered until the keeper forgets
  it, and that is accepted only when no process of it is left.
- A keeper that stopped beating is killed itself at 8N: when it is continued it
  must not finish an old write (format document, 8, 13).

Leases are tagged with the host id's generation. If the page shows another
generation than the one under which a guest was registered, its leases are free
for others already, and it is killed without any grace.

Memory is locked, and nothing is read or written outside the run directory and
/proc. Whatever may block (the log, the command line of a process that is stuck
in the kernel) is done in threads that nothing waits for.

SIGTERM ends the guard when no registered guest has a process any more, not
before. A guard that was killed and is started again goes on where it was.
"""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """The command `vlhook-guard`. Returns its exit status."""
    from .process import main as run

    return run(argv)
