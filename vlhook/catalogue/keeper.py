# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages of the keeper and the guard, and about guests and their XML."""

from __future__ import annotations

from .entry import Entry

_XML = (
    "Correct the guest's XML ('virsh edit GUEST'); 'virsh dumpxml GUEST | vlhook names -' shows what vlhook makes "
    "of it."
)

KEEPER = {
    "VLH-D000": Entry("The reader refused the guest's XML; the message says why.", _XML),
    "VLH-D001": Entry(
        "The guest's XML needs more memory than the reader may use.", _XML, "the domain XML takes too much memory"
    ),
    "VLH-D100": Entry("The guest's XML does not tell for certain which leases it needs.", _XML),
    "VLH-D101": Entry("A document is no XML, or has parts that vlhook does not accept, such as a DOCTYPE.", _XML),
    "VLH-D102": Entry("The guest's XML has no name or UUID, or one that cannot be.", _XML),
    "VLH-D103": Entry(
        "A disk has a type, source or attribute that vlhook does not know; it does not guess what to protect.", _XML
    ),
    "VLH-D104": Entry(
        "A disk names a volume of a storage pool, and where that volume is cannot be told.",
        "Start the pool ('virsh pool-start POOL', 'virsh pool-autostart POOL'), or name the disk itself in the guest's "
        "XML with type block or network.",
    ),
    "VLH-D114": Entry(
        "Where a volume of a storage pool is cannot be told.", "Start the pool: 'virsh pool-start POOL'."
    ),
    "VLH-D105": Entry("The source of a network disk is incomplete, or has parts that vlhook does not know.", _XML),
    "VLH-D115": Entry("The source of a network disk cannot be turned into a name.", _XML),
    "VLH-D110": Entry(
        "The header of a qcow2 image is damaged, so its backing files and external data cannot be told.",
        "Check the image with 'qemu-img check' while no guest uses it.",
    ),
    "VLH-D106": Entry("A <lease> of the guest is incomplete.", _XML),
    "VLH-D107": Entry(
        "require_lease_for_disks is on, and the guest has a disk that it can write and no <lease>.",
        "Add a <lease> to the guest, or set auto_disk_leases: 'vlhook config set auto_disk_leases 1'.",
    ),
    "VLH-K101": Entry(
        "Two requests for one guest came at once, and the first is still being worked on.",
        "Start the guest again in a moment. If it goes on, 'vlhook status' shows what is pending.",
    ),
    "VLH-K102": Entry(
        "The name that libvirt gave the hook and the one in the XML differ.", "See the other hook scripts of this host."
    ),
    "VLH-K103": Entry(
        "A QEMU process with this guest's UUID still lives here, perhaps one that libvirt gave up on.",
        "See the process with 'ps'; end it if libvirt does not know it. One that is stuck in the kernel goes when its "
        "storage answers, or with a reset of the host.",
    ),
    "VLH-K104": Entry(
        "Two libvirt daemons of this host start the same guest.", "Run one of libvirtd and virtqemud only."
    ),
    "VLH-K105": Entry(
        "The guest's last run is over, but its data are not all on the disk or its leases not yet given back.",
        "Start it again in a moment. If it goes on, check the storage of its images.",
    ),
    "VLH-K106": Entry(
        "While the guest was starting, this host lost its lease or libvirt gave up.",
        "See 'vlhook status'; then start the guest again.",
    ),
    "VLH-K107": Entry(
        "libvirt says that the guest is over, and a process of it still lives: its leases are kept.",
        "End that process.",
    ),
    "VLH-K108": Entry(
        "What the guest wrote may still be on its way to the storage, so its leases are kept.",
        "Bring the image's storage back, or mount its file system again; the leases are given back by themselves.",
    ),
    "VLH-K109": Entry(
        "Whether the guest runs on another host by now could not be read from its leases.",
        "Check the storage under the lease directory, and where the guest runs before it is resumed.",
    ),
    "VLH-K901": Entry(
        "The keeper did not free the leases of that host. The message says why.",
        "See 'vlhook hosts'. Only a host that is switched off for certain may be declared dead.",
    ),
    "VLH-K201": Entry(
        "This host has no number in the lease directory yet.", "'vlhook host-id --auto', then start vlhookd."
    ),
    "VLH-K202": Entry(
        "user or group in qemu-sanlock.conf do not exist on this host.", "Create the account, or correct the setting."
    ),
    "VLH-K203": Entry("This host is not a member of the lockspace.", "'vlhook status' says why."),
    "VLH-K204": Entry(
        "The sanlock daemon of this host has joined the same lockspace; both would be this host.",
        "Set engine = sanlock or auto ('vlhook config set engine auto'), or stop that daemon.",
    ),
    "VLH-K205": Entry(
        "A write of this host's former membership may still reach the storage; until it is answered it must not join.",
        "Check the storage; the host joins by itself.",
    ),
    "VLH-K207": Entry(
        "This host was in a lockspace of this lease directory before, and it is gone; another would protect nothing.",
        "Mount the lease directory. If the lockspace was removed on purpose, remove the note that the message names.",
    ),
    "VLH-K208": Entry(
        "The file system of the lease directory is in /etc/fstab and not mounted; leases in the directory below it "
        "would keep no other host out.",
        "Mount it; the host joins by itself then.",
    ),
    "VLH-K301": Entry(
        "The keeper's socket cannot be made in the run directory.",
        "Check the permissions of /run/vlhook, and that no second vlhookd runs.",
    ),
    "VLH-K302": Entry(
        "More requests than the keeper takes at once.",
        "Start the guests again in a moment; if it goes on, see what the storage waits for: 'vlhook status'.",
        "the keeper is busy with too many requests",
    ),
    "VLH-K303": Entry(
        "Only root may speak to the keeper.", "Run the command as root.", "uid {} may not speak to the keeper"
    ),
    "VLH-K304": Entry(
        "The keeper was asked something that it does not know: the command or the hook is of another version.",
        "Restart vlhookd after an update: 'systemctl restart vlhookd'; guests go on running.",
        "unknown call",
    ),
    "VLH-K305": Entry(
        "A vlhookd runs already, or one that was killed still waits for the storage.",
        "Stop it first. One that is stuck in the kernel goes when the storage answers.",
    ),
    "VLH-K501": Entry(
        "The process that reads the guests' XML died or took too long; it was started again.",
        "Start the guest again. If it comes back, " + _XML[0].lower() + _XML[1:],
    ),
    "VLH-K601": Entry(
        "A file of the keeper's state was damaged; what it said is not guessed at, and no lease is touched.",
        "'vlhook recover' checks that nothing lives and removes the file.",
    ),
    "VLH-K602": Entry(
        "The keeper cannot write its state, and takes no leases that it could not remember.",
        "Check space and permissions of /run/vlhook and /var/lib/vlhook.",
    ),
    "VLH-K603": Entry(
        "The run directory was emptied while guests ran, so nothing is known of their leases.",
        "End those guests, then restart vlhookd. 'vlhook recover' shows them.",
    ),
    "VLH-K701": Entry(
        "The file with this host's name cannot be read or written.",
        "Check /var/lib/vlhook. Without the file the host gets a new name and waits longer when it joins.",
    ),
    "VLH-K721": Entry(
        "lock_manager was set to sanlock, and libvirtd has not been restarted since; nobody would take the leases.",
        "Restart libvirtd (virtqemud), or set lock_manager to nop.",
    ),
    "VLH-K722": Entry(
        "libvirt's sanlock plugin is to take the leases, and the sanlock daemon does not run or hangs.",
        "Start sanlock; then restart libvirtd, whose plugin joins the lockspace.",
    ),
    "VLH-K723": Entry(
        "vlhookd may not read which files libvirtd has mapped, so it cannot tell who takes the leases.",
        "Run vlhookd as root, as its unit does.",
    ),
    "VLH-K724": Entry(
        "libvirt's sanlock plugin cannot take the lease, because sanlock has not joined its lockspace: libvirtd was"
        " started before sanlock, or while vlhook still held leases here.",
        "When 'vlhook status' says that this host stands aside, restart libvirtd. A lockspace of a <lease> is joined"
        " with 'sanlock client add_lockspace'.",
    ),
    "VLH-K725": Entry(
        "disk_lease_dir was changed after libvirt's sanlock plugin joined the lockspace.",
        "When no guest runs here, restart libvirtd and vlhookd, so that both use the same directory.",
    ),
    "VLH-K726": Entry(
        "libvirt's sanlock plugin takes no lease for this disk (it has no path on this host), and while the sanlock"
        " daemon has the lockspace vlhook takes none.",
        "Use lock_manager = nop on hosts whose guests have such disks.",
    ),
    "VLH-K727": Entry(
        "QEMU runs, but sanlock does not list the leases that libvirt's plugin was to take; so the start was refused.",
        "Restart libvirtd: it may have been started with other settings than those in qemu-sanlock.conf now.",
    ),
    "VLH-K728": Entry(
        "After the start of QEMU nobody could tell whether libvirt's sanlock plugin has the leases.",
        "See 'systemctl status sanlock', then start the guest again.",
    ),
    "VLH-K731": Entry(
        "The guest runs without leases, and they could not be had: the message says why. It was left alone.",
        "If another guest has the disk, stop one of the two at once. Then run 'vlhook adopt' again.",
    ),
    "VLH-K732": Entry(
        "The request to adopt a guest was not understood, or came too late.", "Run 'vlhook adopt GUEST' again."
    ),
    "VLH-K851": Entry(
        "Another host cleans up this lease directory at this moment.",
        "Nothing: one is enough. Try again later.",
    ),
    "VLH-K852": Entry(
        "The keeper was asked to clean up something that is no lease of a disk.", "Update vlhook on this host."
    ),
    "VLH-K853": Entry(
        "This host is not a member of the lockspace, so it may not remove leases.", "'vlhook status' says why."
    ),
    "VLH-K854": Entry(
        "The sanlock daemon takes the leases of this host, and it cannot take one only to mark it as cleared.",
        "Run the clean-up on a host with the native engine. The weekly timer of this host leaves it to those. Where all"
        " hosts have the daemon, give one without guests 'engine = native' for that time.",
    ),
    "VLH-G001": Entry("The guard refused a request of the keeper.", "Restart both: vlhook-guard, then vlhookd."),
    "VLH-G002": Entry("The guard cannot start.", "See 'journalctl -u vlhook-guard'."),
    "VLH-G100": Entry("The guard did not do what the keeper asked it for.", "See 'systemctl status vlhook-guard'."),
    "VLH-G101": Entry(
        "The guard does not answer; without it no guest gets leases.",
        "'systemctl start vlhook-guard', then start the guest again.",
    ),
    "VLH-G102": Entry("The guard refused what the keeper asked it for.", "See 'journalctl -u vlhook-guard'."),
    "VLH-G601": Entry(
        "The guard's list of guests is damaged; until the keeper has named them again it would end every QEMU at the "
        "limit.",
        "Nothing, if vlhookd runs; otherwise start it.",
    ),
    "VLH-P001": Entry("A process cannot be looked at.", "See 'vlhook status'."),
    "VLH-P002": Entry("The process is gone.", "Nothing."),
    "VLH-P003": Entry("The number belongs to another process by now.", "Nothing."),
    "VLH-K902": Entry(
        "The watchdog daemon wdmd cannot be used: it does not answer, its timeout is not 60 s, or io_timeout is 1.",
        "See 'systemctl status wdmd' and docs/fencing.md; or set watchdog with 'vlhook config set watchdog VALUE'.",
    ),
    "VLH-K903": Entry(
        "The watchdog device cannot be used: there is none, something else has it open, or it cannot be set to 50 s.",
        "See who has it open: wdmd, or systemd with RuntimeWatchdogSec. Load its driver if there is none.",
    ),
    "VLH-K904": Entry(
        "The setting watchdog is 'required', and no watchdog could be armed; without one no guest gets leases.",
        "Start wdmd, or load a watchdog driver; or 'vlhook config set watchdog automatic'.",
    ),
}
