# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lease by its file: opened, made if absent, taken, given back, found again.

The glue between the protocol generators and one file of the lease directory;
it blocks, and is called from threads that may hang.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from . import cleanup, paxos, release
from .area import Identity, Lease, read_geometry, read_host_sector
from .blockio import BlockFile, await_io
from .directory import Ownership, create_lease
from .driver import Cancel, drive
from .effects import LOCKSPACE, RESOURCE, Steps
from .engine import Owned, Tenant, Want
from .errors import (
    Abandoned,
    AreaTooShort,
    BadMagic,
    Cleared,
    FileReplaced,
    HeldByOther,
    LeaseError,
    NotCreated,
    NotMember,
    StorageError,
)
from .geometry import FILE, Geometry
from .holder import CLEANING, RUNNING, HolderRecord
from .membership import HostLease
from .names import lease_path
from .release import Held

UNFINISHED_SECONDS = 5.0
"""How long a half-made or just cleared file of somebody else is waited for."""
POLL_SECONDS = 0.1
MAX_REPLACED = 20
BRIEF = True
"""A free lease is taken without a first read of its whole area; why that is safe: paxos.py. False: it is read."""
T = TypeVar("T")


class LeaseFiles:
    """The lease directory of one lockspace, used under one host lease."""

    def __init__(self, directory: str, space: str, lockspace: str, owner: Ownership) -> None:
        self.directory = directory
        self.space = space
        self._lockspace = lockspace
        self.owner = owner

    def path_of(self, want: Want) -> str:
        return want.path if want.path is not None else lease_path(self.directory, want.name)

    def take(self, host: HostLease, want: Want, tenant: Tenant, cancel: Cancel) -> tuple[Held, Owned]:
        """Acquire `want`. Raises LeaseError; then nothing of this attempt is left that holds it."""
        path = self.path_of(want)
        record = record_of(tenant, want)
        patience = time.monotonic() + UNFINISHED_SECONDS
        replaced = 0
        while replaced < MAX_REPLACED:
            if cancel.given_up:
                raise Abandoned(name=want.name, why=cancel.why)
            try:
                done = self._take_once(host, want, path, record, cancel)
            except NotCreated as error:
                if want.path is not None or getattr(error, "where", None) != path:
                    raise
                replaced += 1
                host.check()
                create_lease(path, FILE, want.space.encode(), want.name.encode(), self.owner)
                continue
            except (AreaTooShort, BadMagic) as error:
                if not _may_be_unfinished(error) or time.monotonic() >= patience:
                    raise
                cancel.wait(POLL_SECONDS)
                continue
            except HeldByOther as error:
                if not _is_cleaned_up(error) or time.monotonic() >= patience:
                    raise
                cancel.wait(POLL_SECONDS)
                continue
            if done:
                return done
            replaced += 1
        raise FileReplaced(where=path)

    def _take_once(
        self, host: HostLease, want: Want, path: str, record: HolderRecord, cancel: Cancel
    ) -> tuple[Held, Owned] | None:
        """None: the file was replaced while we waited; what we won in the old one is given back."""
        with BlockFile(path, want.offset) as file:
            me = host.identity
            lease = self.lease_of(host, want, path)
            # Whether the file is whole yet only a look at its end tells, and the brief way in takes none.
            brief = BRIEF and file.reaches(FILE.area)
            steps = paxos.acquire(lease, me, shared=want.shared, record=record, brief=brief)
            held = self.drive(host, steps, file, cancel, want.name)
            if file.is_current():
                return held, Owned(want, path, held.lver, file.identity()[1])
            self.drive(host, release.release(lease, me, held), file)
            return None

    def give_back(self, host: HostLease, owned: Owned, held: Held, tenant: Tenant) -> None:
        """Release. Raises LeaseError; after a StorageError it may be called again."""
        try:
            file = BlockFile(owned.path, owned.want.offset)
        except NotCreated:
            # Whoever removed the file removed the lease with it; a new file starts anew.
            self._check_there()
            return
        with file:
            if file.identity()[1] != owned.inode:
                raise FileReplaced(where=owned.path)
            lease = self.lease_of(host, owned.want, owned.path)
            # A new file may have got the inode number of one that was removed; our block, which
            # nobody else writes, tells. (The leader does not: a late commit may have put it back.)
            own = drive(read_host_sector(lease, held.geometry, host.identity.host_id), {RESOURCE: file})
            if own.dblock.with_released() != held.dblock.with_released():
                raise FileReplaced(where=owned.path)
            record = record_of(tenant, owned.want)
            self.drive(host, release.release(lease, host.identity, held, record), file)

    def find(self, host: HostLease, owned: Owned) -> Held:
        """What the disk says of a lease that a former keeper held. Raises LeaseError if it is lost."""
        await_io(owned.path, owned.want.offset)
        with BlockFile(owned.path, owned.want.offset) as file:
            if file.identity()[1] != owned.inode:
                raise FileReplaced(where=owned.path)
            me, lease = host.identity, self.lease_of(host, owned.want, owned.path)
            geo = self.geometry(file, lease)
            steps = release.still_held(lease, me, geo, owned.lver, owned.want.shared)
            held = self.drive(host, steps, file)
        if held is None:
            raise NotMember(
                space=self.space, host_id=me.host_id, why=f"not the owner of {owned.path} any more"
            )
        return held

    def settle(self, host: HostLease, want: Want) -> None:
        """Clean up what an unfinished acquire of this generation left (format document, 7.5)."""
        path = self.path_of(want)
        await_io(path, want.offset)
        try:
            file = BlockFile(path, want.offset)
        except NotCreated:
            self._check_there()
            return
        with file:
            lease = self.lease_of(host, want, path)
            try:
                geo = self.geometry(file, lease)
            except (AreaTooShort, BadMagic):
                return
            try:
                self.drive(host, release.settle(lease, host.identity, geo), file)
            except AreaTooShort:
                return  # half made: it ends before our sector

    def _check_there(self) -> None:
        """That a file is missing says something only if the lease directory is mounted. Raises StorageError."""
        try:
            BlockFile(self._lockspace, writable=False).close()
        except NotCreated as error:
            raise StorageError(op="open", where=self._lockspace, why="it is missing; is it mounted?") from error

    def clean(self, host: HostLease, want: Want) -> bool:
        """Remove the lease if nobody uses it; False: its file is gone already. See `cleanup`, which raises."""
        path = self.path_of(want)
        try:
            file = BlockFile(path, want.offset)
        except NotCreated:
            return False
        with file:
            lease, me = self.lease_of(host, want, path), host.identity
            record = HolderRecord(0, 0, 0, int(time.time()), bytes(16), CLEANING, "", "")
            try:
                return self.drive(host, cleanup.clean(lease, me, record), file)
            except Cleared:
                return self.drive(host, cleanup.remove_cleared(lease, me), file)

    def geometry(self, file: BlockFile, lease: Lease) -> Geometry:
        return drive(read_geometry(lease), {RESOURCE: file})

    def lease_of(self, host: HostLease, want: Want, path: str) -> Lease:
        where = f"{path}:{want.offset}" if want.offset else path
        geo = host.member.geometry
        return Lease(want.space.encode(), want.name.encode(), where, self._lockspace, geo)

    def drive(
        self,
        host: HostLease,
        steps: Steps[T],
        file: BlockFile,
        cancel: Cancel | None = None,
        name: str = "",
    ) -> T:
        """Run protocol steps on the open lease `file` under the present generation of `host`."""
        with BlockFile(self._lockspace, writable=False) as lockspace:
            if not host.same_file(lockspace):
                me, why = host.identity, "its record is in another file than the lockspace has now"
                raise NotMember(space=self.space, host_id=me.host_id, why=why)
            files = {RESOURCE: file, LOCKSPACE: lockspace}
            member = _same_generation(host, host.identity)
            return drive(steps, files, member=member, seen=host.seen, cancel=cancel, name=name)


def _same_generation(host: HostLease, me: Identity) -> Callable[[], None]:
    """The check before each write: the lease of the host is good and still of that generation."""

    def check() -> None:
        host.check()
        if host.identity != me:
            raise NotMember(space="", host_id=me.host_id, why="held under another generation now")

    return check


def _may_be_unfinished(error: LeaseError) -> bool:
    return isinstance(error, (AreaTooShort, Cleared)) or getattr(error, "found", None) == 0


def _is_cleaned_up(error: HeldByOther) -> bool:
    """Held for a moment only, by a host that removes unused leases."""
    record = getattr(vars(error).get("holder"), "record", None)
    return record is not None and record.state == CLEANING


def record_of(tenant: Tenant, want: Want) -> HolderRecord:
    """What is said of this guest in our own sector; the protocol tags it with its version."""
    try:
        uuid = bytes.fromhex(tenant.uuid.replace("-", ""))
    except ValueError:
        uuid = b""
    uuid = uuid if len(uuid) == 16 else bytes(16)
    return HolderRecord(0, 0, 0, int(time.time()), uuid, RUNNING, tenant.guest, want.source)
