# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs sync(1) for the keeper: `python -m vlhook.keeper.syncer`, a child that is started ahead of need.

A process that is started while the storage hangs may hang itself before it
begins: it inherits the keeper's open lease files, and closing them waits for
the storage on some file systems. This one was started before they were opened.

Standard input, a line of JSON a request: `{"number": 1, "path": …, "owner": [uid, gid] or null}`.
Standard output: `{"number": 1, "error": ""}` when it has ended, the error empty if it went well.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Optional

SYNC = "/usr/bin/sync"
_lock = threading.Lock()


def sync(path: str, owner: Optional[tuple[int, int]]) -> str:
    """fsync one file in a process of its own, as its owner if one is given; why it failed, "" if it did not."""
    try:
        done = subprocess.run(
            [SYNC, "--", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C"},
            close_fds=False,
            user=owner[0] if owner else None,
            group=owner[1] if owner else None,
            extra_groups=[] if owner else None,
            check=False,
        )
    except OSError as error:
        return f"sync was not started: {error.strerror}"
    if done.returncode == 0:
        return ""
    text = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return text[-1] if text else f"sync ended with status {done.returncode}"


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        threading.Thread(target=_answer, args=(json.loads(line),), daemon=True).start()
    os._exit(0)


def _answer(request: dict[str, Any]) -> None:
    owner = request["owner"]
    error = sync(request["path"], (owner[0], owner[1]) if owner else None)
    with _lock:
        os.write(1, json.dumps({"number": request["number"], "error": error}).encode() + b"\n")


if __name__ == "__main__":
    raise SystemExit(main())
