# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asks libvirt to shut guests down: `python -m vlhook.stopguests URI`, a child of the keeper.

The keeper has no connection to libvirt, which may hang; this process makes one
when it is asked. It is started ahead of need: when the storage hangs, a new
process may hang too, because it inherits the keeper's open lease files.

Standard input: `NUMBER UUID...`, a line a request. Standard output: for each
guest `NUMBER UUID asked` or `NUMBER UUID failed REASON`, as soon as it is
known, or never. A guest that was asked may take its time or not listen at all:
the keeper ends it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

Say = Callable[[str, str], None]


def main(arguments: Sequence[str]) -> int:
    (uri,) = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        number, *uuids = line.split()
        threading.Thread(target=_ask_all, args=(uri, uuids, _sayer(number)), daemon=True).start()
    # Whatever hangs in libvirt's library is not waited for.
    os._exit(0)


def _sayer(number: str) -> Say:
    def say(uuid: str, outcome: str) -> None:
        os.write(1, f"{number} {uuid} {outcome}\n".encode())

    return say


def _ask_all(uri: str, uuids: Sequence[str], say: Say) -> None:
    try:
        import libvirt

        libvirt.registerErrorHandler(lambda *_: None, None)
        connection = libvirt.open(uri)
    except Exception as error:  # no libvirt, or none that answers
        for uuid in uuids:
            say(uuid, f"failed {_line(error)}")
        return
    # One each: a guest whose monitor hangs holds nobody else up.
    for uuid in uuids:
        threading.Thread(target=_ask, args=(connection, uuid, say), daemon=True).start()


def _ask(connection: Any, uuid: str, say: Say) -> None:
    try:
        connection.lookupByUUIDString(uuid).shutdown()
    except Exception as error:  # the keeper does it in another way
        say(uuid, f"failed {_line(error)}")
    else:
        say(uuid, "asked")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
