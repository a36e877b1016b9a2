# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are made from the table of settings: `python3 -m vlhook.config.documents`.

The shipped qemu-vlhook.conf, the lenses with their ranges and the lenses' tests,
and the manual page. A test compares what is in the source tree with what is
made here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

from .kinds import Account, Choice, Directory, Flag, Number
from .settings import LOCK_MANAGERS, OWN_FILE, QEMU_FILE, SHARED_FILE, SPECS, Spec

_LICENSE = "SPDX-License-Identifier: LGPL-2.1-or-later"
_MADE = "Made from vlhook/config/settings.py by python3 -m vlhook.config.documents: change it there."
_LIBVIRT_ALSO = ("ignore_readonly_and_shared_disks", "0|1")


def documents() -> dict[str, str]:
    """Path in the source tree → text."""
    return {
        f"config/{OWN_FILE}": shipped_file(),
        "augeas-lenses/vlhook.aug": own_lens(),
        "augeas-lenses/vlhook_sanlock.aug": shared_lens(),
        "augeas-lenses/tests/test_vlhook.aug": lens_test("Vlhook", OWN_FILE),
        "augeas-lenses/tests/test_vlhook_sanlock.aug": lens_test("Vlhook_sanlock", SHARED_FILE),
        f"docs/{OWN_FILE}.5.md": manual(),
    }


def main(root: Path) -> None:
    for name, text in documents().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def specs_of(file: str) -> list[Spec]:
    return [spec for spec in SPECS.values() if spec.file == file]


def as_written(spec: Spec, value: object) -> str:
    """A value as it stands in the file."""
    text = spec.kind.show(value)
    return f'"{text}"' if spec.kind.text else text


def _plain(text: str) -> str:
    return " ".join(text.split())


def _unset(spec: Spec) -> str:
    return spec.unset or as_written(spec, spec.default)


_IDLE = "A change takes effect when vlhookd is restarted while no guest of this host holds leases."


# ------------------------------------------------------------------------------- the shipped file


def shipped_file() -> str:
    head = f"""Settings of vlhook on this host. vlhookd reads them when it starts: after a change
        run 'systemctl restart vlhookd'. 'vlhook config set NAME VALUE' checks a value before it writes it,
        'vlhook config show' lists what is in force; qemu-vlhook.conf(5) is the manual. host_id and
        everything else that libvirt's sanlock plugin knows too is set in {SHARED_FILE}."""
    blocks = [_comment(_LICENSE), _comment(head)]
    for spec in specs_of(OWN_FILE):
        facts = f"Allowed: {spec.allowed}. Default: {_unset(spec)}."
        parts = [spec.brief, spec.text, facts] + ([_IDLE] if spec.idle else [])
        text = "#\n".join(_comment(part) for part in parts)
        blocks.append(f"{text}#{spec.name} = {as_written(spec, spec.default)}\n")
    return "\n".join(blocks)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in wrap(_plain(text), 92))


# ------------------------------------------------------------------------------------ the lenses


def pattern(spec: Spec) -> str:
    """The regular expression, in Augeas's notation, of the values that are allowed."""
    kind = spec.kind
    if isinstance(kind, Number):
        zero = "|0" if kind.zero is not None else ""
        return f"0*({number_pattern(kind.low, kind.high)}{zero})"
    if isinstance(kind, Flag):
        return "0|1|no|yes" if kind.words else "0|1"
    if isinstance(kind, Choice):
        return "|".join(kind.words)
    return r"""\/[^"'\n]*""" if isinstance(kind, Directory) else r"""[^"' \t\n]+"""


def number_pattern(low: int, high: int) -> str:
    """A regular expression of the decimal numbers from `low` to `high`."""
    parts: list[str] = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        parts += _same_length(str(first), str(min(high, 10**length - 1)))
    return "|".join(parts)


def _same_length(low: str, high: str) -> list[str]:
    rest = len(low) - 1
    if low == high:
        return [low]
    if low[0] == high[0]:
        return [low[0] + tail for tail in _same_length(low[1:], high[1:])]
    first, last = int(low[0]), int(high[0])
    below: list[str] = []
    above: list[str] = []
    if rest and low[1:] != "0" * rest:
        below = [low[0] + tail for tail in _same_length(low[1:], "9" * rest)]
        first += 1
    if rest and high[1:] != "9" * rest:
        above = [high[0] + tail for tail in _same_length("0" * rest, high[1:])]
        last -= 1
    digit = f"[{first}-{last}]" if first < last else str(first)
    between = [digit + "[0-9]" * rest] if first <= last else []
    return below + between + above


def own_lens() -> str:
    entries = [_entry("free_text" if spec.kind.text else "free_number", spec) for spec in specs_of(OWN_FILE)]
    return _lens("Vlhook", OWN_FILE, entries, autoload=True)


def shared_lens() -> str:
    entries = [_entry("text" if spec.kind.text else "number", spec) for spec in specs_of(SHARED_FILE)]
    name, values = _LIBVIRT_ALSO
    return _lens("Vlhook_sanlock", SHARED_FILE, [*entries, f"number /{name}/ /{values}/"], autoload=False)


def _entry(kind: str, spec: Spec) -> str:
    return f"{kind} /{spec.name}/ /{pattern(spec)}/"


def _lens(module: str, file: str, entries: list[str], autoload: bool) -> str:
    parts = [f"(* {_LICENSE} *)", f"(* /etc/libvirt/{file}, with the ranges of its values.", f"   {_MADE}"]
    if not autoload:
        parts.append("   Not autoloaded: libvirt's own lens reads the file where it is installed (see fallback/).")
    parts[-1] += " *)"
    parts += ["", f"module {module} ="]
    parts += ["autoload xfm", ""] if autoload else [""]
    joined = "\n    | ".join(f"Vlhook_lines.{entry}" for entry in entries)
    parts += ["let setting =", f"      {joined}", ""]
    parts.append("let lns = ( setting | Vlhook_lines.comment | Vlhook_lines.empty )*")
    if autoload:
        parts.append(f'let filter = incl "/etc/libvirt/{file}" . Util.stdexcl')
        parts.append("let xfm = transform lns filter")
    return "\n".join(parts) + "\n"


# ------------------------------------------------------------------------------ the lenses' tests


def good_values(spec: Spec) -> list[str]:
    """Values that are allowed, the ends of ranges among them."""
    kind = spec.kind
    if isinstance(kind, Number):
        return [str(n) for n in ([0] if kind.zero is not None else []) + [kind.low, kind.high]]
    if isinstance(kind, Flag):
        return ["0", "1", "no", "yes"] if kind.words else ["0", "1"]
    if isinstance(kind, Choice):
        return list(kind.words)
    if isinstance(kind, Account):
        return ["sanlock", "+107", "100"]
    return ["/var/lib/libvirt/sanlock", "/a b#c"]


def bad_values(spec: Spec) -> list[str]:
    """Values that are not, the nearest to the ends of ranges among them."""
    kind = spec.kind
    if isinstance(kind, Number):
        below = [] if kind.low == 0 or kind.zero is not None else [str(kind.low - 1)]
        return [*below, str(kind.high + 1), "-1", "one", "1.5"]
    if isinstance(kind, Flag):
        return ["2", "on", "true"]
    if isinstance(kind, Choice):
        return ["1", kind.words[0] + "s", kind.words[0].upper()]
    return ["a b"] if isinstance(kind, Account) else ["relative/path"]


def lens_test(module: str, file: str) -> str:
    lines = [f"(* {_LICENSE} *)", f"(* {_MADE} *)", "", f"module Test_{module.lower()} =", ""]
    lns = f"{module}.lns"
    if file == OWN_FILE:
        shipped = shipped_file()
        used = shipped.replace("\n#", "\n").replace("\n ", "\n# ").replace("\n\n", "\n#\n")
        lines += ["(* The shipped file as it is, and with every setting in use. *)"]
        lines += [f"test {lns} get {_aug(shipped)} =\n{_tree(shipped)}", ""]
        lines += [f"test {lns} get {_aug(used)} =\n{_tree(used)}", ""]
    for spec in specs_of(file):
        lines += [f"(* {spec.name}: {spec.allowed} *)", *_value_tests(lns, spec), ""]
    return "\n".join(lines)


def _value_tests(lns: str, spec: Spec) -> Iterator[str]:
    own, text, name = spec.file == OWN_FILE, spec.kind.text, spec.name
    for value in good_values(spec):
        forms = ([] if text and not own else [value]) + ([f'"{value}"', f"'{value}'"] if text or own else [])
        for form in forms:
            yield f'test {lns} get {_aug(f"{name} = {form}")} = {{ "{name}" = "{value}" }}'
        written = f'"{value}"' if text or not value.isdigit() else value
        if not own or text or value.isdigit():
            yield f'test {lns} put "" after set "/{name}" "{value}" = {_aug(f"{name} = {written}")}'
    for value in bad_values(spec):
        for form in (value, f'"{value}"'):
            yield f"test {lns} get {_aug(f'{name} = {form}')} = *"
        yield f'test {lns} put "" after set "/{name}" "{value}" = *'
    wrong = [] if own else [good_values(spec)[0] if text else f'"{good_values(spec)[0]}"']
    for form in [*wrong, "", '""', "1 2", "[ 1 ]", '"1']:
        yield f"test {lns} get {_aug(f'{name} = {form}')} = *"
    good = as_written(spec, good_values(spec)[-1]) if text else good_values(spec)[0]
    value = good.strip('"')
    yield f'test {lns} get {_aug(f"  {name}={good}  # why")} = {{ "{name}" = "{value}" {{ "#comment" = "why" }} }}'
    yield f"test {lns} get {_aug(f'{name} = {good}' + chr(13))} = *"


def _aug(text: str) -> str:
    """A string of Augeas, one line of text a line."""
    ended = text if text.endswith("\n") else text + "\n"
    escaped = ended.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r")
    body = escaped if ended.count("\n") > 1 else escaped.replace("\n", "\\n")
    return f'"{body}"'


def _tree(text: str) -> str:
    nodes = []
    for line in text.splitlines():
        name, _, value = line.partition(" = ")
        if not line:
            nodes.append('{ "#empty" }')
        elif line.startswith("#"):
            comment = line[1:].strip().replace('"', '\\"')
            nodes.append(f'{{ "#comment" = "{comment}" }}')
        else:
            bare = value.strip('"')
            nodes.append(f'{{ "{name}" = "{bare}" }}')
    return "\n".join(nodes)


# ------------------------------------------------------------------------------ the manual page


def manual() -> str:
    parts = [
        f"<!-- {_LICENSE}. {_MADE} -->",
        "# qemu-vlhook.conf(5)",
        "## NAME",
        f"{OWN_FILE}, {SHARED_FILE} - settings of vlhook",
        "## DESCRIPTION",
        *map(_plain, _DESCRIPTION),
        f"## SETTINGS IN {OWN_FILE}",
        *(_manual_entry(spec) for spec in specs_of(OWN_FILE)),
        f"## SETTINGS IN {SHARED_FILE}",
        _plain(_SHARED_NOTE),
        *(_manual_entry(spec) for spec in specs_of(SHARED_FILE)),
        f"## lock_manager IN {QEMU_FILE}",
        *map(_plain, _LOCK_MANAGER_NOTES),
        "## SYNTAX",
        *map(_plain, _SYNTAX),
        "## SEE ALSO",
        "vlhook(8), vlhookd(8), augtool(1)",
    ]
    return "\n\n".join("\n".join(wrap(part, 110)) if "\n" not in part else part for part in parts) + "\n"


def _manual_entry(spec: Spec) -> str:
    paragraphs = [f"### {spec.name}", spec.brief, spec.text]
    facts = f"Allowed: {spec.allowed}. Default: {_unset(spec)}."
    paragraphs += [facts + (f" {_IDLE}" if spec.idle else "")]
    return "\n\n".join("\n".join(wrap(_plain(text), 110)) for text in paragraphs)


_DESCRIPTION = (
    f"""vlhook reads two files in /etc/libvirt. {SHARED_FILE} is that of libvirt's sanlock plugin, so that the
    plugin, its documentation and vlhook mean the same settings. {OWN_FILE} has what only vlhook knows. A file
    that does not exist sets nothing. vlhookd reads both when it starts: after a change run `systemctl restart
    vlhookd`.""",
    """`vlhook config set NAME VALUE` checks a value before it writes it, keeps comments and layout, and says what is
    to be restarted; `vlhook config show` lists every setting, its value and where it comes from. augtool sets the
    same: `augtool -s set /files/etc/libvirt/qemu-sanlock.conf/host_id 1`.""",
    """A setting that does not exist, one that is set twice and a value that is not allowed are errors: vlhookd does
    not start, and names file, line, value and what is allowed.""",
)
_SHARED_NOTE = """These keep the meaning that libvirt gives them, with one difference: auto_disk_leases is on unless
    it is set to 0."""
_LOCK_MANAGER_NOTES = (
    f"""Says who protects the disks: {LOCK_MANAGERS.allowed}. nop, or not set: vlhook. sanlock: libvirt's sanlock
    plugin, for the leases that it takes. lockd: libvirt's virtlockd, and vlhook beside it. It is libvirt's setting;
    `vlhook config set lock_manager VALUE` writes it there.""",
    """With sanlock, each lease of a guest has one protector. The plugin takes the disks that have a path on this host
    if auto_disk_leases is set to 1, and every <lease>; vlhook takes the rest. A start is refused, with the reason, if
    the running libvirtd has not loaded the plugin, if the sanlock daemon has not joined the lockspace, or if the
    plugin does not take a lease that vlhook cannot take. When QEMU runs, it is checked that its process holds what
    was left to the plugin. A host can be in the lockspace only once: while auto_disk_leases is 1 and lock_manager is
    sanlock, vlhookd stands aside, and a network disk, of which the plugin takes no lease, refuses the start.""",
    """Leases that the plugin does not know (on identities, NVRAM and TPM state) are not taken for its guests while
    vlhookd stands aside.""",
    """A change counts for each guest from its next start; until then it keeps its protector, and `vlhook status`
    lists who that is. To sanlock: set auto_disk_leases to 1, restart vlhookd, set lock_manager; no guest starts
    until the last one that vlhook protects has ended (vlhookd then leaves the lockspace) and libvirtd was restarted,
    whose plugin joins it. To nop: set it and restart libvirtd; no guest starts until the last one that the plugin
    protects has ended, when vlhookd has the sanlock daemon leave the lockspace and joins it. With engine = sanlock
    guests of both run side by side instead: either way, restart libvirtd at any time, and guests start from then on
    with the new protector. The plugin holds no lease while a guest is suspended: resume such a guest before libvirtd
    is restarted without the plugin, or run `vlhook adopt` before it is resumed.""",
)
_SYNTAX = (
    """One setting a line, `name = value`, with blanks wherever they please; `#` starts a comment, also after a
    value. Values are numbers, and texts on one line in double or single quotes, without escapes. Lines end with a
    newline; a carriage return before it is an error.""",
    f"""In {OWN_FILE} quotes may be left out or used with any value. In {SHARED_FILE} numbers stand without quotes
    and texts in quotes, as libvirt requires.""",
)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
