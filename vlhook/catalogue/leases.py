# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages about lease files, the lockspace and the sanlock daemon."""

from __future__ import annotations

from .entry import Entry

_LOOK = (
    "Nothing was changed. Look at the file with 'vlhook dump FILE'; if it was overwritten, stop its guest everywhere, "
)
_REMAKE = _LOOK + "then remove it: it is made anew at the next start."
_STORAGE = "Check the storage under the lease directory: network, server, mount options, kernel log."

LEASES = {
    "VLH-L200": Entry(
        "Somebody else has the lease, or may have it.", "Try again later; 'vlhook who DISK' shows the holder."
    ),
    "VLH-L201": Entry("A lease operation failed; the message tells what.", "Follow the message."),
    "VLH-L201A": Entry(
        "The attempt on the lease was given up, by its deadline or because libvirt hung up. What it left was "
        "given back.",
        "Start the guest again; if the storage is slow, see 'vlhook status'.",
    ),
    "VLH-L202": Entry("The storage failed to open, read or write a file of the lease directory.", _STORAGE),
    "VLH-L202T": Entry(
        "The storage did not answer before the deadline of the start (hook_deadline).",
        _STORAGE + " Then start the guest again.",
    ),
    "VLH-L002": Entry(
        "The lease file or the lockspace file does not exist.",
        "See that the lease directory is mounted. A <lease> in the guest's XML must name a file that exists.",
    ),
    "VLH-L090": Entry(
        "The file is shorter than a lease: a host is just making it, died while it made it, or it was truncated.",
        "Wait some seconds. If it stays so, stop its guest everywhere and remove the file.",
    ),
    "VLH-L223": Entry(
        "There is no lease where one should be: the file is something else, half made, or was overwritten.", _REMAKE
    ),
    "VLH-L223C": Entry(
        "A clean-up has just removed this lease, because nobody used it.",
        "Start the guest again: a new lease file is made. If it stays so, run 'vlhook cleanup': it removes what a "
        "clean-up that was broken off left behind.",
    ),
    "VLH-L224": Entry("The record has a version that vlhook does not know.", "Update vlhook on this host."),
    "VLH-L224F": Entry(
        "The record carries flags of a newer sanlock, whose meaning vlhook does not guess at.",
        "Update vlhook, or make the lease without those options.",
    ),
    "VLH-L225": Entry("The record states a sector size that does not exist: it is damaged.", _REMAKE),
    "VLH-L226": Entry(
        "The file belongs to another lockspace than the one this host has joined.",
        "See that disk_lease_dir is the same directory on all hosts, and was not copied from elsewhere.",
    ),
    "VLH-L227": Entry(
        "The file is the lease of another disk: files of the lease directory were renamed or swapped.",
        "Put the files back under their own names; 'vlhook dump FILE' tells them.",
    ),
    "VLH-L228": Entry(
        "The lease was made for fewer hosts than this host's id.",
        "Use a smaller host_id, or stop its guest everywhere and remove the file: it is made anew for 2000 hosts.",
    ),
    "VLH-L229": Entry("The checksum of the record is wrong: it is damaged.", _REMAKE),
    "VLH-L230": Entry("Sector and area size of the record do not fit each other: it is damaged.", _REMAKE),
    "VLH-L231": Entry(
        "The host id is larger than the lockspace has room for (250 with 4 KiB sectors and 1 MiB).",
        "Give this host a smaller id: 'vlhook host-id --auto'.",
    ),
    "VLH-L214": Entry("What a host wrote in its own sector of the lease is damaged.", _REMAKE),
    "VLH-L243": Entry("A live host holds the lease.", "Stop the guest there. 'vlhook who DISK' shows host and guest."),
    "VLH-L247": Entry(
        "The host that holds the lease is silent, but not for long enough to be sure that it is dead.",
        "Try again after 8 io_timeouts and 60 seconds of silence; 'vlhook hosts' counts them.",
    ),
    "VLH-L011": Entry(
        "Hosts that live hold the lease shared, and the guest wants it for itself.",
        "Stop the guests there, or mark the disk <shareable/> in this guest as well.",
    ),
    "VLH-L011C": Entry(
        "A guest with this disk is just migrating to another host.", "Wait until the migration has ended."
    ),
    "VLH-L011D": Entry(
        "The guest's live migration to this host was refused: its lease is not held where it comes from, or for another"
        " guest.",
        "Nothing has happened to the guest. See 'vlhook status' on the host where it runs, then migrate it again.",
    ),
    "VLH-L011E": Entry(
        "This host lost its claim on a lease of a guest that came in by live migration: it was silent for too long.",
        "The guest was ended here. See where it runs ('vlhook who GUEST'), then start it again.",
    ),
    "VLH-L246": Entry(
        "Many hosts took the same shared lease in the same moment.", "Start the guest again after a moment."
    ),
    "VLH-L017": Entry(
        "Another guest of this host holds the lease.", "Stop that guest, or take the disk from one of them."
    ),
    "VLH-L016": Entry(
        "An earlier operation of this host on the same lease has not been answered by the storage yet.", _STORAGE
    ),
    "VLH-L028": Entry(
        "A <lease> of the guest names another lockspace than libvirt's, which this host has not joined.",
        "Use the lockspace __LIBVIRT__DISKS__ in <lease>.",
    ),
    "VLH-L204": Entry(
        "The lease file was replaced by another one while it was used: somebody removes lease files by hand or by a "
        "script that does not take the lease first.",
        "Find who does so and use 'vlhook cleanup' instead.",
    ),
    "VLH-L240": Entry(
        "Somebody had the lease since the version that was asked for.", "Nothing; it tells that the lease was not kept."
    ),
    "VLH-L251": Entry(
        "The lease that was to be given back is not as this host left it; it was not touched.",
        "See 'vlhook dump FILE', and whether another machine uses this host_id: 'vlhook hosts'.",
    ),
    "VLH-L260": Entry(
        "This host's own lease has run out or was lost; it writes nothing any more, and its guests are stopped.",
        _STORAGE + " The host joins again by itself.",
    ),
    "VLH-L267": Entry(
        "A host is not declared dead: it is alive, it is this host itself, it holds nothing, or it has another name.",
        "See 'vlhook hosts'; free only a host of which you know that it is off.",
    ),
    "VLH-L261": Entry(
        "Another machine overwrote this host's record: it uses the same host_id, or the file was restored.",
        "Compare host_id on all hosts ('vlhook hosts'), and give each its own: 'vlhook host-id --auto'.",
    ),
    "VLH-L262": Entry(
        "Another host lives under this host_id.", "Give this host an id of its own: 'vlhook host-id --auto'."
    ),
    "VLH-L262N": Entry(
        "Another machine lives under this host's own name: one of the two is a clone of the other.",
        "On the clone: stop vlhookd, remove /var/lib/vlhook/host-identity, run 'vlhook host-id --auto', start vlhookd.",
    ),
    "VLH-L263": Entry(
        "The lease directory says that this host id belongs to another machine.",
        "Use 'vlhook host-id --auto'. If it was this machine before it was installed anew, or the other is gone for "
        "good: 'vlhook host-id set --force N'.",
    ),
    "VLH-L264": Entry(
        "Every host id of the lease directory has been used at some time.",
        "Take that of a host which is gone for good: 'vlhook host-id set --force N'.",
    ),
    "VLH-L265": Entry(
        "The lease was not removed, because another host is about to take it, asks for it, or has claimed it.",
        "Nothing: it is in use. A later clean-up looks again.",
    ),
    "VLH-L266": Entry(
        "The lease was cleared, so that nobody can take it, but its file could not be removed.",
        "Make the lease directory writable for vlhookd and run 'vlhook cleanup' again: it removes the file.",
    ),
    "VLH-L301": Entry(
        "The file is no protocol log, or of another version of vlhook.",
        "Give a file that 'vlhookd --protocol-log' wrote, to the vlhook of the same version.",
    ),
    "VLH-L201S": Entry(
        "The sanlock daemon refused a command; the message says why. Codes of the form VLH-LnnnS carry sanlock's own "
        "number: 'vlhook explain VLH-L243S'.",
        "See 'sanlock client status' and the log of sanlock.",
    ),
    "VLH-L111S": Entry(
        "Nobody answers on the sanlock daemon's socket.", "Start it: 'systemctl start sanlock'; then restart vlhookd."
    ),
    "VLH-L110S": Entry(
        "The sanlock daemon did not answer in time; what it was asked for may still happen.",
        "See 'sanlock client status' and the storage under the lease directory.",
    ),
    "VLH-L104S": Entry(
        "The sanlock daemon ended, or refuses this connection.", "See 'journalctl -u sanlock', and start it again."
    ),
    "VLH-L104U": Entry(
        "A connection to the sanlock daemon is out of step with it and is given up.", "Nothing; a new one is made."
    ),
    "VLH-L071S": Entry(
        "The sanlock daemon's answer is not what its protocol says: it may be of another version.",
        "Compare the version ('sanlock version') with those that vlhook supports.",
    ),
    "VLH-L036S": Entry(
        "A name or path is too long for sanlock, or has characters that it does not take.", "Use another name."
    ),
    "VLH-L117N": Entry(
        "sanlock no longer has the lease of a guest that ran when vlhookd was last stopped.",
        "The guest is stopped; start it again.",
    ),
    "VLH-L311": Entry(
        "The sanlock daemon has joined the lockspace, but not as the settings of this host say: host_id, io_timeout or "
        "disk_lease_dir were changed since.",
        "When no guest of this host runs, restart sanlock, then vlhookd.",
    ),
    "VLH-L312": Entry(
        "The lockspace failed, or is being removed, and somebody still holds leases in it; only when that is over can "
        "this host join again.",
        "Nothing, vlhookd joins as soon as it can. 'sanlock client status' shows who still holds leases.",
    ),
    "VLH-L313": Entry(
        "The sanlock daemon ended while this host was in the lockspace: nobody renews this host's leases any more, so "
        "its guests are ended.",
        "See 'journalctl -u sanlock', start sanlock again, then start the guests again.",
    ),
    "VLH-L314": Entry(
        "The sanlock daemon has given up the lockspace, or has it as another generation: this host's leases are lost.",
        "See the log of sanlock and the storage under the lease directory; vlhookd joins again by itself.",
    ),
    "VLH-L315": Entry(
        "The sanlock daemon uses the watchdog, which would reset a healthy host with an io_timeout of 1.",
        "Set io_timeout to 2 or more in qemu-sanlock.conf, the same on all hosts.",
    ),
}
