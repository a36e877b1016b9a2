# SPDX-License-Identifier: LGPL-2.1-or-later
"""What stands behind 'guest … is not started:', and the alarms of 'vlhook status'."""

from __future__ import annotations

from .entry import Entry

REFUSALS = {
    "VLH-R001": Entry(
        "Another host holds the lease of this disk, and its record shows that it lives. If it runs vlhook, the message "
        "names the guest; of sanlock and libvirt's plugin only the host is known.",
        "Stop the guest on that host, or migrate it, then start this one. 'vlhook who DISK' shows the holder.",
        "is in use by {} which is alive; stop the guest there first",
    ),
    "VLH-R002": Entry(
        "Another host holds the lease of this disk and has not renewed its own lease for a while. It may be dead, or "
        "cut off from the storage and still running the guest; until 8 io_timeouts and 60 seconds of silence are over "
        "it must count as alive.",
        "If that host is dead, try again at the time that the message names. If it is not, stop the guest there. "
        "'vlhook hosts' shows how long each host has been silent.",
        "which is {}; if that host is dead the disk is free at {} at the latest, try again then",
    ),
    "VLH-R003": Entry(
        "Another guest of this same host uses the disk, or one with the same path.",
        "Stop that guest, or give the disk to one of them only. For a disk that both are to use at once, mark it "
        "<shareable/> in both.",
        "is in use by guest {} on this same host",
    ),
    "VLH-R004": Entry(
        "The hook got no answer from vlhookd, and without an answer no guest starts.",
        "See 'systemctl status vlhookd' and 'journalctl -u vlhookd'; start it, wait until 'vlhook status' says joined, "
        "then start the guest again.",
        "no answer from vlhookd ({})",
    ),
    "VLH-R005": Entry(
        "The guest's XML asks that it goes on running when its leases are lost; then two guests could write one disk.",
        "Change <on_lockfailure> in the guest's XML to poweroff or pause.",
        "would let it run on without its leases",
    ),
    "VLH-R006": Entry(
        "libvirt, or the person who started the guest, gave up before the leases were there. All were given back.",
        "If the storage is slow, 'vlhook status' shows what it waits for. Start the guest again.",
        "libvirt gave the start up",
    ),
    "VLH-R007": Entry(
        "libvirt is about to run a guest for which no leases were taken in this start: the keeper was restarted in "
        "between, or the hook was installed while the guest was starting.",
        "Start the guest again.",
        "it holds no leases from a prepare of this start; start it again",
    ),
    "VLH-R008": Entry(
        "Between the two steps of the start another disk came into the guest's XML, perhaps by another hook script.",
        "Start the guest again; if it comes back, see which script below /etc/libvirt/hooks changes the guest.",
        "its disks were changed between prepare and start; start it again",
    ),
    "VLH-R009": Entry(
        "The leases that were taken a moment ago are no longer held: this host's own lease was lost or given up.",
        "See 'vlhook status'; when it says joined, start the guest again.",
        "its leases were lost since prepare; see 'vlhook status', then start it again",
    ),
    "VLH-R010": Entry(
        "The keeper was started a moment ago and is finding the guests that ran before.",
        "Wait until 'vlhook status' no longer says so, then start the guest again.",
        "the keeper was just started and is finding its guests again",
    ),
    "VLH-R011": Entry(
        "libvirt calls its hooks with an event that this version does not know. At a start that refuses the guest.",
        "Update vlhook; report the event if there is no newer version.",
        "unknown event {}; is vlhook too old for this libvirt?",
    ),
    "VLH-R012": Entry(
        "The keeper met a fault of its own while it worked on this request; the start was refused.",
        "Start the guest again, and report what 'journalctl -u vlhookd' says.",
        "a fault in the keeper; see its log",
    ),
    "VLH-R013": Entry(
        "libvirt told the hook about the end or the reconnection of a guest, and vlhookd did not answer. Nothing is "
        "lost: the keeper watches the guest's process itself. What it cannot see is that a start has failed before "
        "there was a process; of that it finds a note in /run/vlhook/released. If the message says that none could be "
        "left, the leases of a start that failed just then are kept, and an alarm tells of it later (VLH-A011).",
        "See that vlhookd runs: 'systemctl status vlhookd'. If no note could be left, check the space of /run.",
        "{}: no answer from vlhookd ({}); it finds out by itself",
    ),
    "VLH-R014": Entry(
        "This host is not a member of the lockspace yet, so it can take no leases. Joining takes 2 io_timeouts, and up "
        "to 8 io_timeouts and 60 seconds after a crash.",
        "Wait, then start the guest again. If it goes on, 'vlhook status' tells what the keeper waits for.",
        "the host is joining the lockspace",
    ),
    "VLH-R015": Entry(
        "The keeper tried to join the lockspace and could not; the message goes on with the reason. It tries on.",
        "Mend the reason; 'vlhook doctor' checks the lease directory and the settings.",
        "the host could not join the lockspace: {}",
    ),
    "VLH-A001": Entry(
        "The storage under the lease directory has not confirmed a renewal for longer than usual. At the limit, 8 "
        "io_timeouts, all guests with leases are stopped.",
        "Check the storage and the way to it now. 'vlhook status' shows the I/O that is not answered.",
        "the storage of {} has confirmed no renewal for {} s of {}",
    ),
    "VLH-A002": Entry(
        "This host's own lease was not renewed in time, or somebody else changed its record. Other hosts may take its "
        "disks, so its guests are stopped.",
        "When the storage answers again the host joins by itself; then start the guests. If its record was changed, "
        "see whether another machine uses the same host_id: 'vlhook hosts'.",
        "this host's lease is lost, its guests are stopped: {}",
    ),
    "VLH-A003": Entry(
        "The keeper was restarted too late, or its record was changed meanwhile: the leases of the guests that ran "
        "could not be continued, so those guests are stopped.",
        "Wait until 'vlhook status' says joined, then start the guests again.",
        "this host's lease could not be resumed, its guests are stopped: {}",
    ),
    "VLH-A004": Entry(
        "host_id, io_timeout or the lease directory were changed while guests hold leases under the old values.",
        "Nothing at once. To have the new values, stop or migrate the guests and restart vlhookd.",
        "changed settings of the host take effect when vlhookd starts without guests",
    ),
    "VLH-A005": Entry(
        "A guest's process did not end although it was killed: it is stuck in the kernel, as a rule on storage. Its "
        "leases are kept.",
        "Mend the storage, or reset this host. As long as the process lives the guest starts nowhere.",
        "guest {}: process {} cannot be ended: {}",
    ),
    "VLH-A006": Entry(
        "The file by which the guard sees the renewals, or the keeper's state in the run directory, cannot be written.",
        "Check the space and the permissions of /run/vlhook; then restart vlhookd.",
        "the shared page cannot be written: {}",
    ),
    "VLH-A007": Entry(
        "After its restart the keeper cannot read this host's record; it tries on until the limit.",
        "Check the storage under the lease directory at once.",
        "the host's lease cannot be resumed yet: {}",
    ),
    "VLH-A008": Entry(
        "A renewal reached the disk but could not be noted in the run directory.",
        "Check the space and the permissions of /run/vlhook.",
        "the renewal cannot be published: {}",
    ),
    "VLH-A011": Entry(
        "libvirt was allowed to start the guest minutes ago, and there is no QEMU. Another hook script may still be at "
        "work; or the start failed while vlhookd was away, and libvirt's hook was killed or could leave no note of it "
        "(/run was full). A host that has lost its own lease does not join anew as long as that is not settled.",
        "See 'virsh domstate GUEST'. If it is shut off, start it on this host again, or restart libvirtd: then its "
        "leases are given back.",
        "guest {} was let through to its start and no QEMU has appeared since; its leases are kept",
    ),
    "VLH-A012": Entry(
        "A volume of a storage pool is not where the state of the pool says, by which vlhook took its lease. The guest "
        "was ended, or was not adopted.",
        "Restart the pool: virsh pool-destroy POOL, then pool-start. If it comes back, name the disk by its path in "
        "the guest's XML.",
        "its QEMU does not use {}, which its storage pool's state says is its volume and whose lease was taken",
    ),
}
