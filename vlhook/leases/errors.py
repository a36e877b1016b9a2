# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that can go wrong with a lease, as typed errors.

Each error formats one line from its own fields (`msg`), may carry the next
step (`hint`), has a stable `code`, and, where the reference knows the case,
the reference's `result` number (format document, 13).
"""

from __future__ import annotations

from typing import ClassVar


class LeaseError(Exception):
    """Base of every error of this package."""

    msg: ClassVar[str] = "lease error"
    hint: ClassVar[str] = ""
    code: ClassVar[str] = "VLH-L201"
    result: ClassVar[int] = -201

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self.__dict__.update(fields)

    def reason(self) -> str:
        """What happened, without the next step."""
        return self.msg.format_map(_Fields(self.__dict__))

    def __str__(self) -> str:
        text = self.reason()
        if self.hint:
            text += "; " + self.hint.format_map(_Fields(self.__dict__))
        return " ".join(text.split())


class _Fields(dict):  # type: ignore[type-arg]
    def __missing__(self, key: str) -> str:
        return f"<{key}?>"


# ------------------------------------------------------------------- storage


class StorageError(LeaseError):
    """An I/O ended without success.

    The contract of every driver: when this is raised the I/O is over. A failed
    write left each of its sectors old or new, and nothing of it lands later.
    """

    msg = "{op} of {where} failed: {why}"
    hint = "check the storage under the lease directory"
    code = "VLH-L202"
    result = -202


class AreaTooShort(LeaseError):
    msg = "{where}: the file ends at byte {size}, the area needs {needed}"
    hint = "the file is half made or truncated; if it stays so, look at it with 'vlhook dump'"
    code = "VLH-L090"
    result = -90


class NotCreated(LeaseError):
    """The lease file or the lockspace file does not exist."""

    msg = "{where}: no such file"
    code = "VLH-L002"
    result = -2


# ------------------------------------------------------- records that do not check out


class RecordError(LeaseError):
    """A record on disk is not what it must be; nothing in it is believed.

    Fields: `where` (file and byte offset), `found`, `expected`.
    """

    msg = "{where}: {what}: found {found}, expected {expected}"
    hint = "nothing was changed; look at the area with 'vlhook dump'"
    what: str = "bad record"
    found: object = "?"
    expected: object = "?"


class BadMagic(RecordError):
    msg = "{where}: no {kind} here: magic {found:#010x}"
    code = "VLH-L223"
    result = -223


class Cleared(BadMagic):
    """The area was cleared by a clean-up: reads as 'no lease here'."""

    msg = "{where}: this lease was cleared by a clean-up"
    hint = "start again: a new lease file is made when the guest starts"
    code = "VLH-L223C"


class BadVersion(RecordError):
    msg = "{where}: {kind} version {found:#010x} is not one vlhook knows ({expected})"
    code = "VLH-L224"
    result = -224


class UnsupportedFlags(RecordError):
    msg = "{where}: the record carries flags {found:#x} ({what}), which vlhook does not implement"
    hint = "this lease was made by a newer sanlock with options vlhook refuses to guess at"
    code = "VLH-L224F"
    result = -224


class BadSectorSize(RecordError):
    msg = "{where}: sector size {found} is neither 512 nor 4096"
    code = "VLH-L225"
    result = -225


class BadSpaceName(RecordError):
    msg = "{where}: belongs to lockspace {found}, not {expected}"
    code = "VLH-L226"
    result = -226


class BadResourceName(RecordError):
    msg = "{where}: is the lease {found}, not {expected}"
    hint = "the lease file was swapped or renamed; nothing was changed; look at it with 'vlhook dump'"
    code = "VLH-L227"
    result = -227


class NumHostsTooSmall(RecordError):
    msg = "{where}: serves host ids up to {found}, this host is {expected}"
    hint = "use a smaller host_id or have the lease made anew for more hosts"
    code = "VLH-L228"
    result = -228


class BadLeaderChecksum(RecordError):
    msg = "{where}: checksum of the {kind} is wrong: stored {found:#010x}, computed {expected:#010x}"
    code = "VLH-L229"
    result = -229


class GeometryInvalid(RecordError):
    msg = "{where}: sector size {found} with area size {expected} is no valid pair"
    code = "VLH-L230"
    result = -230


class HostIdTooLarge(RecordError):
    msg = "{where}: holds host ids up to {expected}, host id {found} does not fit"
    code = "VLH-L231"
    result = -231


class BadDblockChecksum(RecordError):
    msg = "{where}: checksum of the dblock of host {host_id} is wrong"
    code = "VLH-L214"
    result = -214


# --------------------------------------------------------------- leases that are not to be had


class Busy(LeaseError):
    """Somebody else has the lease, or may have it. Trying again later makes sense."""

    code = "VLH-L200"


class HeldByOther(Busy):
    """A live host holds the lease. `holder` is a paxos.Holder."""

    msg = "lease {name} is held by host {owner_id} generation {owner_generation}"
    code = "VLH-L243"
    result = -243


class OwnerMaybeDead(HeldByOther):
    """The owner has been silent, but not for long enough (-247)."""

    msg = "lease {name} is held by host {owner_id} generation {owner_generation}, which may be dead"
    code = "VLH-L247"
    result = -247


class SharedByOthers(Busy):
    """Live hosts hold the lease shared, and exclusive was wanted (-11). `holders`: the holders."""

    msg = "lease {name} is held shared by host {hosts}"
    code = "VLH-L011"
    result = -11


class ClaimedByOther(Busy):
    """A live host has claimed the lease for an incoming migration (safety rules, 19)."""

    msg = "lease {name} is claimed by host {owner_id} for an incoming migration"
    code = "VLH-L011C"
    result = -11


class ClaimRefused(Busy):
    """The lease is not to be claimed for an incoming migration (safety rules, 17 and 18)."""

    msg = "lease {name} cannot be claimed for the incoming guest: {why}"
    hint = "the guest goes on where it runs; see 'vlhook status' there"
    code = "VLH-L011D"
    result = -11


class ClaimDisturbed(ClaimRefused):
    """Somebody else was busy with the lease at the very moment; trying again at once makes sense."""


class NothingToClaim(ClaimRefused):
    """No other host holds the lease exclusively; nothing was written."""


class ClaimLost(LeaseError):
    """Another host took this one for dead and cleared its claim, or the sector was damaged."""

    msg = "{where}: this host's claim on lease {name} is gone: {why}"
    hint = "the guest that came in under it is ended; see where it runs, then start it again"
    code = "VLH-L011E"


class ShortHoldsGoOn(Busy):
    msg = "lease {name}: shared acquire kept meeting short holds of other hosts"
    code = "VLH-L246"
    result = -246


class HeldHere(Busy):
    """Another guest of this host holds the lease; on disk a host owns it as a whole."""

    msg = "lease {name} is held by guest {guest} of this host"
    code = "VLH-L017"
    result = -17


class InDoubtHere(Busy):
    """An earlier attempt or release of this host has not been answered by the storage yet."""

    msg = "lease {name} is still being {doing} for guest {guest} of this host: {why}"
    hint = "it is tried on until the storage answers; check the storage under the lease directory"
    code = "VLH-L016"
    result = -16


class Timeout(Busy):
    """The storage did not answer by the deadline."""

    msg = "lease {name}: no answer within {seconds:.0f} s: {why}"
    hint = "check the storage under the lease directory, then start the guest again"
    code = "VLH-L202T"
    result = -202


class NotOurLockspace(LeaseError):
    msg = "lease {name} belongs to lockspace {found}, and this host has joined only {expected}"
    hint = "with the native engine <lease> elements can only name {expected}"
    code = "VLH-L028"
    result = -28


class FileReplaced(LeaseError):
    msg = "{where}: the lease file was replaced again and again while the lease was taken"
    hint = "find out who removes lease files"
    code = "VLH-L204"
    result = -201


class VersionConditionFailed(LeaseError):
    msg = "lease {name} is at version {found}, the condition was {expected}"
    code = "VLH-L240"
    result = -240


class Abandoned(LeaseError):
    """The caller gave up (deadline, hang-up); what the attempt left was cleaned up."""

    msg = "the attempt on lease {name} was given up: {why}"
    code = "VLH-L201A"


class ReleaseMismatch(LeaseError):
    """The lease that was to be released is not as we left it; nothing was written."""

    msg = "{where}: lease {name} is not as this host left it: {why}"
    hint = "nothing was written; look at it with 'vlhook dump'"
    code = "VLH-L251"
    result = -251


# ----------------------------------------------------------------------- the host's own lease


class NotMember(LeaseError):
    """The host's own lease is lost or has run out: nothing may be written any more."""

    msg = "this host's lease on id {host_id} of lockspace {space} is {why}"
    code = "VLH-L260"
    result = -260


class HostIdInUse(LeaseError):
    msg = "host id {host_id} of {where} is in use by host {other}"
    hint = "give this host an id of its own: augtool -s set /files/etc/libvirt/qemu-sanlock.conf/host_id N"
    code = "VLH-L262"
    result = -262


class NameInUse(LeaseError):
    """Somebody lives under our own host name: a clone (safety rules, 7)."""

    msg = "host id {host_id} of {where} is renewed by another machine under this host's own name {other}"
    hint = "this machine or the other one is a clone: remove host-identity from the clone's state directory"
    code = "VLH-L262N"
    result = -262


class LockspaceLost(LeaseError):
    """Another host took our id or our record was damaged (-260, -261)."""

    msg = "{where}: the record of host id {host_id} is no longer ours: {why}"
    code = "VLH-L261"
    result = -261


class FenceRefused(LeaseError):
    """A host is not declared dead; nothing was written."""

    msg = "host id {host_id} of {where} is not ended: {why}"
    hint = "look at its record with 'vlhook dump' on that file"
    code = "VLH-L267"


def one_line(error: BaseException) -> str:
    """The error as one line without control characters."""
    text = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
