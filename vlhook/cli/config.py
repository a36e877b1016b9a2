# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vlhook config`: what is set, where it comes from, and setting it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import click

from ..config import augeas, settings
from ..config.lines import Line, read_lines, shown
from ..config.settings import LOCK_MANAGERS, QEMU_FILE, SHARED_FILE, SPECS, Settings, SettingsError
from ..errors import VlhookError

LOCK_MANAGER = "lock_manager"
_VLHOOKD = "systemctl restart vlhookd"
_LIBVIRT = "systemctl try-restart virtqemud libvirtd"
_NOT_SET = "not set"


class NoSuchSetting(VlhookError):
    msg = "there is no setting {name}{nearest}"
    hint = "'vlhook config show' lists them all"
    code = "VLH-C131"


class ValueNotAllowed(VlhookError):
    msg = "{name} cannot be {value}: it must be {allowed}"
    hint = "nothing was changed"
    code = "VLH-C132"


class NotSet(VlhookError):
    msg = "{name} is not set"
    hint = "set it: vlhook config set {name} VALUE"
    code = "VLH-C133"


config_dir_option = click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    default=Path("/etc/libvirt"),
    envvar="VLHOOK_CONFIG_DIR",
    show_default=True,
    help="Where qemu-sanlock.conf, qemu-vlhook.conf and qemu.conf are.",
)


@click.group()
def config_group() -> None:
    """Show and change the settings of this host.

    Settings that libvirt's sanlock plugin has as well (host_id, disk_lease_dir,
    io_timeout and so on) are in qemu-sanlock.conf, vlhook's own in
    qemu-vlhook.conf, lock_manager in libvirt's qemu.conf. A file need not exist:
    then it sets nothing.
    """


# ------------------------------------------------------------------------------------ looking


@config_group.command("show")
@config_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object; its field 'schema' numbers the shape.")
@click.pass_context
def show(ctx: click.Context, config_dir: Path, as_json: bool) -> None:
    """List every setting, its value and where it comes from: file and line, or the default.

    Whatever is wrong in the files is listed below. Exit status: 0 nothing is
    wrong, 1 vlhookd would not start with these files.
    """
    found, problems = settings.examine(config_dir)
    manager: Optional[str] = None
    try:
        manager = settings.read_lock_manager(config_dir)
    except SettingsError as error:
        problems.append(error)
    rows = [*(_row(found, name) for name in SPECS), _manager_row(manager, config_dir)]
    if as_json:
        report = {"schema": 1, "settings": rows, "problems": [str(problem) for problem in problems]}
        click.echo(json.dumps(report, indent=1))
    else:
        _print_table(rows)
        for problem in problems:
            click.echo(f"WRONG: {problem}")
    ctx.exit(1 if problems else 0)


@config_group.command("get")
@config_dir_option
@click.argument("name")
def get(config_dir: Path, name: str) -> None:
    """Print the value of the setting NAME that is in force, whether set or by default."""
    if name == LOCK_MANAGER:
        click.echo(settings.read_lock_manager(config_dir) or "nop")
        return
    known(name)
    value = getattr(settings.load(config_dir), name)
    if value in (0, "") and not isinstance(value, bool) and SPECS[name].unset:
        raise NotSet(name=name)
    click.echo(SPECS[name].kind.show(value))


def _row(found: Settings, name: str) -> dict[str, Any]:
    spec, origin = SPECS[name], found.origin(name)
    value = getattr(found, name)
    is_set = origin.file is not None or not spec.unset or isinstance(value, bool)
    return {
        "name": name,
        "value": value if is_set else None,
        "origin": "file" if origin.file else "default",
        "file": str(origin.file) if origin.file else None,
        "line": origin.line or None,
        "default": None if spec.unset and not isinstance(spec.default, bool) else spec.default,
    }


def _manager_row(manager: Optional[str], config_dir: Path) -> dict[str, Any]:
    origin = {"origin": "file", "file": str(config_dir / QEMU_FILE)} if manager else {"origin": "default", "file": None}
    return {"name": LOCK_MANAGER, "value": manager or "nop", **origin, "line": None, "default": "nop"}


def _print_table(rows: list[dict[str, Any]]) -> None:
    texts = [(row["name"], _shown_value(row), _shown_origin(row)) for row in rows]
    first, second = (max(len(text[column]) for text in texts) for column in (0, 1))
    for name, value, origin in texts:
        click.echo(f"{name:<{first}}  {value:<{second}}  {origin}")


def _shown_value(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return _NOT_SET
    return SPECS[row["name"]].kind.show(row["value"]) if row["name"] in SPECS else str(row["value"])


def _shown_origin(row: dict[str, Any]) -> str:
    return f"{row['file']}:{row['line']}" if row["line"] else row["file"] or "default"


# ------------------------------------------------------------------------------------ changing


@config_group.command("set")
@config_dir_option
@click.argument("name")
@click.argument("value")
def set_(config_dir: Path, name: str, value: str) -> None:
    """Set NAME to VALUE, checked first.

    Comments and layout of the file stay as they are, and the file is replaced as
    a whole or not at all. Nothing takes effect before the services named in the
    answer are restarted.
    """
    if name == "host_id":
        from .hostid import assign

        assign(config_dir, new_value(name, value), force=False)
    else:
        write(config_dir, name, new_value(name, value))


@config_group.command("unset")
@config_dir_option
@click.argument("name")
def unset(config_dir: Path, name: str) -> None:
    """Remove the setting NAME from its file, so that its default is in force.

    A name that is no setting is removed too, from whichever file it is in.
    """
    paths = [config_dir / file for file in _files_of(name)]
    holding = [path for path in paths if _is_in(path, name)]
    if not holding:
        if name not in SPECS and name != LOCK_MANAGER:
            known(name)
        click.echo(f"{name} is not set")
        return
    for path in holding:
        _change(path, name, None, lambda text: None)
        click.echo(f"{name} removed from {path}")
    _say_consequences(config_dir, name)


def _files_of(name: str) -> tuple[str, ...]:
    if name == LOCK_MANAGER:
        return (QEMU_FILE,)
    return (SHARED_FILE, settings.OWN_FILE)


def _is_in(path: Path, name: str) -> bool:
    return path.exists() and any(found == name for found, _ in augeas.values(path))


def known(name: str) -> None:
    """Raises NoSuchSetting."""
    if name in SPECS or name == LOCK_MANAGER:
        return
    import difflib

    close = difflib.get_close_matches(name, [*SPECS, LOCK_MANAGER], 1)
    raise NoSuchSetting(name=shown(name, ""), nearest=f"; the nearest is {close[0]}" if close else "")


def new_value(name: str, value: str) -> str:
    """The value as it is to be written. Raises NoSuchSetting, ValueNotAllowed."""
    known(name)
    kind = LOCK_MANAGERS if name == LOCK_MANAGER else SPECS[name].kind
    try:
        parsed = kind.parse(value)
    except ValueError:
        raise ValueNotAllowed(name=name, value=shown(value, '"'), allowed=kind.allowed) from None
    if "'" in value and '"' in value:
        allowed = "free of one of the two kinds of quotes: these files know no escapes"
        raise ValueNotAllowed(name=name, value=shown(value, ""), allowed=allowed)
    # 0 for "the default" is written as it was asked for.
    return "0" if value.strip("0") == "" else kind.show(parsed)


def write(config_dir: Path, name: str, value: str, consequences: bool = True) -> None:
    """Set and say so, and what it takes to have effect. `value` comes from `new_value`. Raises VlhookError."""
    path = config_dir / (QEMU_FILE if name == LOCK_MANAGER else SPECS[name].file)
    if _change(path, name, value, _checker(path, name, value)):
        click.echo(f"{name} is {value} now, in {path}")
        if consequences:
            _say_consequences(config_dir, name)
    else:
        click.echo(f"{name} is {value} already, in {path}")


def _change(path: Path, name: str, value: Optional[str], check: Callable[[str], None]) -> bool:
    """As `augeas.change`; what Augeas will not read is named in our words where we have some."""
    try:
        return augeas.change(path, name, value, check)
    except augeas.NotUnderstood:
        text = settings.read_text(path)
        if path.name == QEMU_FILE:
            settings.parse_lock_manager(text, path)
        for line in read_lines(text) if path.name != QEMU_FILE else ():
            if not isinstance(line, Line):
                raise settings.NotASetting(file=path, line=line.number, why=line.why) from None
        raise


def _checker(path: Path, name: str, value: str) -> Callable[[str], None]:
    """Refuses a new text in which the setting is not what was asked for, as vlhookd and libvirt would read it."""

    def check(text: str) -> None:
        try:
            if name == LOCK_MANAGER:
                same = settings.parse_lock_manager(text, path) == value
            else:
                spec = SPECS[name]
                lines = [item for item in read_lines(text) if isinstance(item, Line) and item.name == name]
                same = [settings.read_value(spec.file, path, item) for item in lines] == [spec.kind.parse(value)]
        except settings.BadValue as error:
            why = "it would be {value}, it must be {allowed}".format(**vars(error))
            raise augeas.NotAsAsked(file=path, name=name, why=why) from error
        if not same:
            raise augeas.NotAsAsked(file=path, name=name, why="the file would say something else")

    return check


def _say_consequences(config_dir: Path, name: str) -> None:
    """Which service is to be restarted, and what is still wrong."""
    if name == LOCK_MANAGER:
        _warn_without_plugin(config_dir)
        click.echo(f"to take effect: {_LIBVIRT}   (whichever of them runs here)")
        click.echo("it counts for each guest from its next start; until then it keeps its protector ('vlhook status')")
        _say_switch(config_dir)
    else:
        click.echo(f"to take effect: {_VLHOOKD}")
        if name in SPECS and SPECS[name].idle:
            click.echo("do that while no guest of this host holds leases ('vlhook status'): stop or migrate them first")
        if name not in SPECS or SPECS[name].file == SHARED_FILE:
            _say_plugin(config_dir)
    for problem in settings.examine(config_dir)[1]:
        click.echo(f"still wrong: {problem}", err=True)


def _say_switch(config_dir: Path) -> None:
    """A host is in the lockspace once: by itself, or by the daemon, which both protectors can use at a time."""
    manager, found = settings.read_lock_manager(config_dir), settings.examine(config_dir)[0]
    if manager != "sanlock":
        return
    if not (found.auto_disk_leases and found.origin("auto_disk_leases").file):
        click.echo("libvirt's plugin takes only <lease> elements, because auto_disk_leases is not set to 1;")
        click.echo("vlhook goes on to take the disks (set require_lease_for_disks to 0, or the plugin refuses guests)")
        return
    if found.engine == "sanlock":
        click.echo("the sanlock daemon can have the leases of both: restart libvirtd at any time, after vlhookd has")
        click.echo("been restarted with auto_disk_leases = 1; until then no guest starts")
        return
    click.echo("libvirt's plugin joins the lockspace when vlhook has left it: restart libvirtd when no guest")
    click.echo("of vlhook runs here any more ('vlhook status' then says 'stands aside'); no guest starts before that")


def _warn_without_plugin(config_dir: Path) -> None:
    """libvirt does not start with a lock manager that it cannot load."""
    manager = settings.read_lock_manager(config_dir) or "nop"
    places = [Path("/usr").glob(f"{place}/libvirt/lock-driver/{manager}.so") for place in ("lib", "lib64", "lib/*")]
    if manager != "nop" and not any(True for place in places for _ in place):
        click.echo(f"libvirt's {manager} plugin was not found on this host: install it before libvirt is restarted")


def _say_plugin(config_dir: Path) -> None:
    try:
        manager = settings.read_lock_manager(config_dir)
    except SettingsError:
        return
    if manager == "sanlock":
        click.echo(f"and for libvirt's sanlock plugin: {_LIBVIRT}   (whichever of them runs here)")
