# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook metrics`: this host in the text format of Prometheus, for node_exporter's textfile collector."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from ..errors import VlhookError
from ..keeper.client import call
from .common import run_dir_option

STATES = ("live", "fail", "dead", "free", "unknown")
_LABEL = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class CannotWrite(VlhookError):
    msg = "{path} cannot be written: {why}"
    hint = "give a path in the directory of node_exporter's textfile collector"
    code = "VLH-C157"


@click.command()
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to FILE, whole or not at all.")
@run_dir_option
def metrics_command(output: Optional[Path], run_dir: Path) -> None:
    """Print this host's metrics in the text format of Prometheus.

    With --output they are written to a file, which node_exporter's textfile
    collector picks up (it must end in .prom); vlhook-metrics.timer does so
    every 15 seconds. If the keeper does not answer, vlhook_up is 0 and nothing
    else is told. Alert rules and a dashboard: /usr/share/doc/vlhook/docs/monitoring.

    Exit status: 0, also without a keeper; 2 FILE cannot be written.

    \b
    Example:
      vlhook metrics --output /var/lib/prometheus/node-exporter/vlhook.prom
    """
    text = "".join(f"{line}\n" for line in lines(run_dir))
    if output is None:
        click.echo(text, nl=False)
        return
    new = output.with_name(f".{output.name}.{os.getpid()}.new")
    try:
        new.write_text(text)
        new.chmod(0o644)
        os.replace(new, output)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise CannotWrite(path=output, why=error.strerror or str(error)) from error


def lines(run_dir: Path) -> Iterator[str]:
    try:
        status, hosts, counted = (call(run_dir, name) for name in ("status", "hosts", "metrics"))
    except VlhookError:
        yield from _metric("vlhook_up", "gauge", "Whether the keeper answers.", [({}, 0)])
        return
    yield from _metric("vlhook_up", "gauge", "Whether the keeper answers.", [({}, 1)])
    yield from _host(status)
    yield from _leases(status)
    yield from _others(hosts)
    yield from _counted(counted)


def _host(status: dict[str, Any]) -> Iterator[str]:
    member, fencing = status["membership"], status["fencing"]
    joined = member["state"] == "joined"
    guard = fencing["guard"] == "ready"
    watchdog = fencing["watchdog"] not in ("none", "off")
    mode = fencing["watchdog"] if watchdog else "guard" if guard else "none"
    info = {"fencing": mode, "engine": status["engine"], "version": status["version"], "host_id": status["host_id"]}
    yield from _metric("vlhook_mode_info", "gauge", "How this host is fenced, and by what engine.", [(info, 1)])
    yield from _metric("vlhook_joined", "gauge", "Whether this host is a member of the lockspace.", [({}, int(joined))])
    yield from _metric("vlhook_guard_ready", "gauge", "Whether the guard can end guests in time.", [({}, int(guard))])
    aside = int(member["state"] == "aside")
    text = "Whether this host leaves the leases to libvirt's sanlock plugin."
    yield from _metric("vlhook_aside", "gauge", text, [({}, aside)])
    armed = int(fencing.get("armed", watchdog))
    yield from _metric("vlhook_watchdog_armed", "gauge", "Whether a watchdog resets this host.", [({}, armed)])
    yield from _metric(
        "vlhook_alarms", "gauge", "What is wrong now; see 'vlhook status'.", [({}, len(status["alarms"]))]
    )
    if joined:
        age, limit = member["last_ok_age"], member["limit"]
        yield from _metric("vlhook_renewal_age_seconds", "gauge", "Since the last good renewal.", [({}, age)])
        yield from _metric("vlhook_renewal_limit_seconds", "gauge", "Age at which guests are stopped.", [({}, limit)])
    waits = max((io["seconds"] for io in status["pending_io"]), default=0.0)
    yield from _metric("vlhook_io_pending_seconds", "gauge", "The longest I/O that is not answered.", [({}, waits)])


def _leases(status: dict[str, Any]) -> Iterator[str]:
    held = [
        ({"lease": lease["lease"], "vm": guest["name"]}, 1) for guest in status["guests"] for lease in guest["leases"]
    ]
    yield from _metric("vlhook_lease_held", "gauge", "Leases that this host holds.", held)
    if status["others_unknown"]:
        return
    stray = sum(other["protector"] == "nobody" for other in status["others"])
    yield from _metric("vlhook_vm_without_lease", "gauge", "Guests that nobody protects.", [({}, stray)])


def _others(hosts: dict[str, Any]) -> Iterator[str]:
    counts = Counter(row["state"] for row in hosts["hosts"])
    states = [({"state": state}, counts[state]) for state in STATES]
    yield from _metric("vlhook_hosts", "gauge", "Host ids by state.", states)
    dying = [
        ({"host_id": row["host_id"]}, row["dead_in"]) for row in hosts["hosts"] if row["state"] in ("fail", "dead")
    ]
    yield from _metric("vlhook_host_dead_in_seconds", "gauge", "Until a silent host's disks are free.", dying)


def _counted(counted: dict[str, Any]) -> Iterator[str]:
    for part in ("read", "write"):
        name, text = f"vlhook_renewal_{part}_seconds", f"Time of a renewal's {part}."
        yield from _histogram(name, text, counted[f"renewal_{part}_seconds"])
    failed = counted["renewal_errors"]
    yield from _metric("vlhook_renewal_errors_total", "counter", "Renewals that failed.", [({}, failed)])
    results = [({"result": result}, count) for result, count in counted["acquires"].items()]
    yield from _metric("vlhook_acquire_total", "counter", "Starts of guests that asked for leases.", results)
    yield from _histogram("vlhook_acquire_seconds", "Time of a start's leases.", counted["acquire_seconds"])


def _metric(name: str, kind: str, text: str, samples: Sequence[tuple[dict[str, Any], float]]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        yield f"{name}{_labels(labels)} {value}"


def _histogram(name: str, text: str, data: dict[str, Any]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} histogram"
    for bound, count in [*data["buckets"], ["+Inf", data["count"]]]:
        yield f'{name}_bucket{{le="{bound}"}} {count}'
    yield f"{name}_sum {data['sum']}"
    yield f"{name}_count {data['count']}"


def _labels(labels: dict[str, Any]) -> str:
    pairs = [f'{name}="{str(value).translate(_LABEL)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}" if pairs else ""
