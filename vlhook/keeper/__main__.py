# SPDX-License-Identifier: LGPL-2.1-or-later
"""vlhookd: `python -m vlhook.keeper`, or the command of that name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import VlhookError
from ..leases.errors import LeaseError
from .daemon import run
from .memory import bound
from .options import Options, check
from .watchdog import Places

EX_CONFIG = 78


def options_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlhookd",
        description="The keeper: holds the leases of this host's guests and keeps its host id alive.",
        epilog="Settings are read from qemu-sanlock.conf and qemu-vlhook.conf in the configuration directory.",
    )
    add = parser.add_argument
    add("--config-dir", type=Path, default=Path("/etc/libvirt"), metavar="DIR", help="settings [%(default)s]")
    add(
        "--run-dir",
        type=Path,
        default=Path("/run/vlhook"),
        metavar="DIR",
        help="socket, state of this boot [%(default)s]",
    )
    add(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/vlhook"),
        metavar="DIR",
        help="identity of this host [%(default)s]",
    )
    add(
        "--libvirt-run-dir",
        type=Path,
        default=Path("/run/libvirt"),
        metavar="DIR",
        help="libvirt's run directory [%(default)s]",
    )
    add("--proc-dir", default="/proc", metavar="DIR", help="the host's process table [%(default)s]")
    add("--libvirt-uri", default="qemu:///system", metavar="URI", help="asked to shut guests down [%(default)s]")
    places = Places()
    add("--wdmd-socket", default=places.wdmd_socket, metavar="PATH", help="the watchdog daemon's socket [%(default)s]")
    add("--watchdog-device", default=places.device, metavar="PATH", help="used without that daemon [%(default)s]")
    add("--check", action="store_true", help="only tell whether it could start with these settings")
    add(
        "--protocol-log",
        metavar="FILE",
        help="log every protocol step to FILE and FILE.1, on a local disk; for 'vlhook replay' [off]",
    )
    add(
        "--protocol-log-mib",
        type=int,
        default=64,
        metavar="N",
        help="the most that both files of the protocol log take together [%(default)s]",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the keeper, or only check its settings; exit status 0 if all went well, 78 for bad settings, 1 otherwise."""
    parsed = vars(options_parser().parse_args(argv))
    only_check = parsed.pop("check")
    places = Places(parsed.pop("wdmd_socket"), parsed.pop("watchdog_device"))
    options = Options(**parsed, watchdogs=places)
    try:
        if only_check:
            check(options)
            return 0
        bound()
        return run(options)
    except OSError as error:
        sys.stderr.write(f"<3>vlhookd: {error.filename or options.run_dir}: {error.strerror}\n")
        return 1
    except (VlhookError, LeaseError) as error:
        sys.stderr.write(f"<3>vlhookd: {error}\n")
        return EX_CONFIG if error.code.startswith(("VLH-S", "VLH-K20")) else 1


if __name__ == "__main__":
    raise SystemExit(main())
