# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong between vlhook and the sanlock daemon, as typed errors.

A negative answer of the daemon is a `SanlockResult` with the number (`result`),
the name under which sanlock's own programs know it (`symbol`) and what it says
for the command that was sent (`meaning`). Some numbers are errno values of
which the text book meaning would mislead: -28 (ENOSPC) says that the lockspace
is not joined or has failed, and never that a disk is full (sanlock companion,
4.2; format document, 13).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar

from .errors import Busy, LeaseError

if TYPE_CHECKING:
    from .sanlockwire import Resource


class SanlockError(LeaseError):
    """Base of all errors of this module. `result` is 0 where the daemon gave no answer.

    For commands that take several leases: `batch`, those of the call that
    failed, and `kept`, all that this host may hold after it nevertheless.
    """

    msg = "sanlock error"
    code = "VLH-L201S"
    result: ClassVar[int] = 0
    batch: tuple[Resource, ...] = ()
    kept: tuple[Resource, ...] = ()


class SanlockUnreachable(SanlockError):
    """Nobody accepts connections. Nothing was sent."""

    msg = "the sanlock daemon cannot be reached at {path}: {why}"
    hint = "is sanlock.service running, and may this user open the socket?"
    code = "VLH-L111S"


class SanlockNoAnswer(SanlockError):
    """No answer by the deadline; the daemon may still do what it was asked for."""

    msg = "the sanlock daemon at {path} did not answer '{command}{subject}' in time: {why}"
    hint = "the daemon or its storage may hang; look at 'sanlock client status'"
    code = "VLH-L110S"


class SanlockHungUp(SanlockError):
    """The daemon closed the connection: it ended, or refuses to talk to us."""

    msg = "the sanlock daemon at {path} hung up on '{command}{subject}'"
    hint = "if sanlock ended, this host's leases are no longer renewed; see its log"
    code = "VLH-L104S"


class SanlockUnusable(SanlockError):
    """The connection still waits for an answer, or what was sent or received on it is out of step."""

    msg = "the connection to the sanlock daemon at {path} cannot be used: {why}"
    code = "VLH-L104U"


class WireError(SanlockError):
    """What was received is not what the protocol says. Fields: `what`, `why`."""

    msg = "the sanlock daemon sent something that is no {what}: {why}"
    hint = "this sanlock may be of a version that vlhook does not know"
    code = "VLH-L071S"


class CannotSend(SanlockError):
    """A value does not fit the protocol; nothing was sent. Fields: `what`, `value`, `why`."""

    msg = "{what} {value} cannot be given to sanlock: {why}"
    code = "VLH-L036S"


# ------------------------------------------------------------------- negative answers


class SanlockResult(SanlockError):
    """The daemon answered with an error: fields `command`, `subject`, `result`, `symbol`, `meaning`."""

    msg = "sanlock: {command}{subject}: {meaning} (result {result}{symbol_shown})"


class SanlockBusy(SanlockResult, Busy):
    """Somebody has the lease, or it is just changing hands; later it may be had."""


class SanlockHeldHere(SanlockBusy):
    """Another connection on this host, or this one already, holds the lease (-17)."""


class SanlockOrphaned(SanlockResult):
    """An orphan of this host holds the lease (-117): to be adopted or released as such."""

    hint = "it belongs to a guest of this host whose keeper ended"


class SanlockNotJoined(SanlockResult):
    """The lockspace is not joined here, or has failed (-28, and -2 where only a name was given)."""

    hint = "see 'sanlock client status' and the log of sanlock; a lockspace that failed must be joined anew"


class SanlockNotFound(SanlockResult):
    """A file does not exist or cannot be opened by the daemon's user (-2, -13, -19)."""

    hint = "sanlock's user must be able to read and write the file"


class SanlockNotHeld(SanlockResult):
    """This connection does not hold the lease; of a release of several (-1) the others were released."""


class SanlockStorage(SanlockResult):
    """The storage failed or was too slow; whether a write reached the disk is not known."""

    hint = "check the storage under the lease directory"


class SanlockNotOrphan(SanlockError):
    """To be adopted, but the daemon does not list it as an orphan: it would be acquired afresh."""

    msg = "lease{lease} cannot be taken back: sanlock does not list it as left behind on this host"
    code = "VLH-L117N"


_MEANINGS = {
    -1: ("", "it is not permitted"),
    -2: ("", "no such file or lockspace"),
    -3: ("", "the connection is not registered with the daemon"),
    -5: ("", "input or output on the lease's storage failed"),
    -7: ("", "more leases in one call than sanlock takes"),
    -11: ("", "live hosts hold the lease shared, or it is just being released"),
    -12: ("", "the daemon has no memory or no room in its tables"),
    -13: ("", "the daemon's user may not open the file"),
    -16: ("", "it is in use or just being changed"),
    -17: ("", "this host has it already"),
    -19: ("", "the file does not exist or the daemon cannot open it"),
    -22: ("", "the daemon does not accept what was asked for"),
    -28: ("", "the lockspace is not joined on this host or has failed"),
    -90: ("", "the file is shorter than a lease area"),
    -115: ("", "the lockspace is just being joined or left"),
    -117: ("", "a former holder on this host left the lease behind as an orphan"),
    -201: ("SANLK_ERROR", "a fault that sanlock does not explain"),
    -202: ("SANLK_AIO_TIMEOUT", "the storage did not answer in time and may still carry out what was sent"),
    -203: ("SANLK_WD_ERROR", "the watchdog daemon does not work"),
    -210: ("SANLK_DBLOCK_READ", "a ballot could not be read from the storage"),
    -211: ("SANLK_DBLOCK_WRITE", "a ballot could not be written to the storage"),
    -212: ("SANLK_DBLOCK_LVER", "another host is ahead in the ballot"),
    -213: ("SANLK_DBLOCK_MBAL", "another host is ahead in the ballot"),
    -214: ("SANLK_DBLOCK_CHECKSUM", "the checksum of a host's ballot is wrong"),
    -220: ("SANLK_LEADER_READ", "the lease could not be read from the storage"),
    -221: ("SANLK_LEADER_WRITE", "the lease could not be written to the storage"),
    -222: ("SANLK_LEADER_DIFF", "the copies of the lease differ"),
    -223: ("SANLK_LEADER_MAGIC", "there is no lease in the file, or it was cleared"),
    -224: ("SANLK_LEADER_VERSION", "the lease has a format that this sanlock does not know"),
    -225: ("SANLK_LEADER_SECTORSIZE", "the lease has another sector size"),
    -226: ("SANLK_LEADER_LOCKSPACE", "the file belongs to another lockspace"),
    -227: ("SANLK_LEADER_RESOURCE", "the file holds a lease of another name"),
    -228: ("SANLK_LEADER_NUMHOSTS", "the lease serves fewer hosts than this host's id"),
    -229: ("SANLK_LEADER_CHECKSUM", "the checksum of the lease is wrong"),
    -230: ("", "sector and area size do not fit each other"),
    -231: ("", "the host id is larger than the lockspace allows"),
    -240: ("SANLK_ACQUIRE_LVER", "somebody had the lease in between: its version is another"),
    -241: ("SANLK_ACQUIRE_LOCKSPACE", "the owner's lockspace is not known here"),
    -242: ("SANLK_ACQUIRE_IDDISK", "the owner's host record cannot be read"),
    -243: ("SANLK_ACQUIRE_IDLIVE", "a live host holds the lease"),
    -244: ("SANLK_ACQUIRE_OWNED", "another host won the lease"),
    -245: ("SANLK_ACQUIRE_OTHER", "another host's earlier ballot was completed; the next try may succeed"),
    -246: ("SANLK_ACQUIRE_SHRETRY", "other hosts kept taking the lease shared at the same moment"),
    -247: ("SANLK_ACQUIRE_OWNED_RETRY", "the owner is silent and may be dead, but not for long enough yet"),
    -250: ("SANLK_RELEASE_LVER", "the lease on disk has another version than the one to release"),
    -251: ("SANLK_RELEASE_OWNER", "the lease on disk is not the one to release"),
    -260: ("SANLK_RENEW_OWNER", "another host took this host's id"),
    -261: ("SANLK_RENEW_DIFF", "somebody else wrote this host's record"),
    -262: ("SANLK_HOSTID_BUSY", "the host id is in use by another host"),
    -270: ("SANLK_REQUEST_MAGIC", "there is no request record in the file"),
    -271: ("SANLK_REQUEST_VERSION", "the request record has an unknown format"),
    -272: ("SANLK_REQUEST_OLD", "the version asked for is not newer than the lease's"),
    -273: ("SANLK_REQUEST_LVER", "a newer version has already been asked for"),
}  # fmt: skip

# Where a number says something else for one command. Commands by the names of sanlockwire.Command.
_SPECIAL = {
    ("convert", -2): "this connection does not hold the lease",
    ("release", -1): "this connection does not hold the lease",
    ("acquire", -2): "the lease file does not exist",
    ("acquire", -16): "it is just being acquired, or this connection is being ended as a lockspace failed",
    ("acquire", -17): "this host holds the lease already",
    ("add lockspace", -17): "the lockspace is joined already",
    ("add lockspace", -22): "a lockspace of that name is joined with another host id or file",
    ("add lockspace", -115): "the lockspace is just being joined",
    ("inquire", -81): "a lease has a space in its name or path, which sanlock cannot list",
    ("remove lockspace", -16): "the lockspace is in use",
    ("get hosts", -11): "the lockspace has not been renewed yet",
    **{(c, -2): "the lockspace is not joined" for c in ("remove lockspace", "get hosts", "set config")},
}

_STORAGE = frozenset({-5, -202, -210, -211, -220, -221})
_BUSY = frozenset({-11, -16, *range(-247, -242)})
_BY_NUMBER: dict[int, type[SanlockResult]] = {
    -13: SanlockNotFound,
    -19: SanlockNotFound,
    -28: SanlockNotJoined,
    -117: SanlockOrphaned,
    **dict.fromkeys(_BUSY, SanlockBusy),
    **dict.fromkeys(_STORAGE, SanlockStorage),
}
_BY_COMMAND: dict[tuple[str, int], type[SanlockResult]] = {
    ("acquire", -17): SanlockHeldHere,
    ("convert", -2): SanlockNotHeld,
    ("release", -1): SanlockNotHeld,
    **{(c, -2): SanlockNotJoined for c in ("remove lockspace", "get hosts", "set config")},
}


def refusal(command: str, result: int, subject: str = "") -> SanlockResult:
    """The error for the negative `result` of `command`; `subject`: the lease or lockspace, for people."""
    symbol, meaning = _MEANINGS.get(result, ("", "a result that vlhook does not know"))
    meaning = _SPECIAL.get((command, result), meaning)
    kind = _BY_COMMAND.get((command, result)) or _BY_NUMBER.get(result)
    if kind is None:
        kind = SanlockNotFound if result == -2 else SanlockResult
    # An errno's own name misleads for what the daemon means otherwise, so it is not shown.
    return kind(
        command=command,
        subject=shown(subject),
        result=result,
        symbol=symbol or errno.errorcode.get(-result, ""),
        symbol_shown=f" {symbol}" if symbol else "",
        meaning=meaning,
        code=f"VLH-L{-result:03d}S",
    )


def shown(subject: str) -> str:
    """` SUBJECT` for a message, hostile characters replaced; empty for no subject."""
    text = "".join(c if c.isprintable() else "?" for c in subject)
    return f" {text}" if text else ""
