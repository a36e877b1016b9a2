# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhook-watch: `python -m vlhook.watch`, or the command of that name."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ..config.settings import load
from ..errors import VlhookError
from ..keeper.log import Log
from ..notify import notify

EX_CONFIG = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; exit status 78 for bad settings."""
    parser = argparse.ArgumentParser(
        prog="vlhook-watch",
        description="Tells vlhookd which disks running guests use: hot-plug, media changes, snapshots, block jobs.",
        epilog="No lease depends on it; without it, disks that are attached to running guests have no lease.",
    )
    add = parser.add_argument
    add("--uri", default="qemu:///system", help="the libvirtd of this host [%(default)s]")
    add("--config-dir", type=Path, default=Path("/etc/libvirt"), metavar="DIR", help="settings [%(default)s]")
    add("--run-dir", type=Path, default=Path("/run/vlhook"), metavar="DIR", help="of the keeper [%(default)s]")
    add("--interval", type=float, default=5.0, metavar="SECONDS", help="between looks at all guests [%(default)s]")
    options = parser.parse_args(argv)
    log = Log("vlhook-watch")
    try:
        settings = load(options.config_dir)
    except VlhookError as error:
        sys.stderr.write(f"<3>vlhook-watch: {error}\n")
        return EX_CONFIG
    from .events import Watch, run_event_loop
    from .guests import Guests

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_event_loop()
    guests = Guests(options.run_dir, settings.refused_disk, log)
    watch = Watch(options.uri, options.interval, guests, log)
    worker = threading.Thread(target=watch.run, args=(stop,), name="watch", daemon=True)
    worker.start()
    notify("READY=1")
    stop.wait()
    notify("STOPPING=1")
    worker.join(2.0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
