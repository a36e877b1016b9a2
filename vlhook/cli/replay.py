# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook replay`: runs the steps of a protocol log again and compares."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path

import click

from ..errors import VlhookError
from ..leases.replay import Outcome, read_lines, replay

_SHOWN = 20


class LogUnreadable(VlhookError):
    msg = "{path}: cannot be read: {why}"
    hint = "give the file that 'vlhookd --protocol-log FILE' writes"
    code = "VLH-C601"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape.")
@click.pass_context
def replay_command(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Run the protocol steps that a keeper logged again, and compare.

    'vlhookd --protocol-log FILE' logs what its leases asked of the storage, the
    clock and the host, and what they were answered. The same code, given the
    same answers, must ask for the same things to the byte. So this shows that
    the log was written by this very protocol, and what a host did and when. FILE.1, the
    older part, is read first if it is there. Nothing is written, and no lease
    directory is needed.

    Exit status: 0 the log agrees, 1 it does not, 2 it cannot be read.
    """
    outcome = _run(file)
    if as_json:
        click.echo(json.dumps({"schema": 1, **asdict(outcome)}, indent=1))
    else:
        _show(outcome)
    ctx.exit(1 if outcome.disagreements else 0)


def _run(file: Path) -> Outcome:
    older = file.with_name(file.name + ".1")
    try:
        parts = [read_lines(str(path)) for path in (older, file) if path == file or path.exists()]
        return replay(itertools.chain.from_iterable(parts), str(file))
    except OSError as error:
        raise LogUnreadable(path=error.filename or file, why=error.strerror or str(error)) from None


def _show(outcome: Outcome) -> None:
    well = "DISAGREES" if outcome.disagreements else "agrees"
    click.echo(f"{well}: {outcome.operations} operations, {outcome.steps} steps")
    if outcome.cut or outcome.open:
        click.echo(f"  {outcome.cut} began before the log, {outcome.open} have no end in it")
    for one in outcome.disagreements[:_SHOWN]:
        click.echo(f"  line {one.line}, {one.operation}: {one.what}")
    for held in outcome.holdings:
        until = f"{held.until:.3f}" if held.until is not None else "the end of the log"
        mode = "shared" if held.shared else "exclusive"
        click.echo(
            f"  host {held.host_id} generation {held.generation}: {held.name} {mode}, version {held.lver}, "
            f"from {held.since:.3f} to {until}"
        )
