# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages of the commands and about settings."""

from __future__ import annotations

from .entry import Entry

_FILE = "Correct the file: 'vlhook config show' lists all settings and what is wrong. Then restart vlhookd."

COMMANDS = {
    "VLH-E000": Entry("A fault that has no message of its own.", "Report it, with the log."),
    "VLH-S100": Entry("A settings file cannot be used.", _FILE),
    "VLH-S101": Entry("A settings file cannot be read.", "Check what it is, and that root may read it."),
    "VLH-S102": Entry("A line of a settings file is no setting.", _FILE),
    "VLH-S103": Entry("A setting does not exist, or stands in the wrong file.", _FILE),
    "VLH-S104": Entry("A setting is set twice.", _FILE),
    "VLH-S105": Entry("A setting has a value that is not allowed.", _FILE),
    "VLH-A100": Entry("Augeas failed; nothing was changed.", "Change the file with an editor."),
    "VLH-A101": Entry("The Augeas library for Python is not installed.", "Install python3-augeas, or use an editor."),
    "VLH-A102": Entry("vlhook's lenses are not installed.", "Install vlhook-augeas, or use an editor."),
    "VLH-A103": Entry("A line of the file is not what Augeas expects.", "Write one setting 'name = value' a line."),
    "VLH-A104": Entry("The file cannot be read.", "Run the command as root."),
    "VLH-A105": Entry("The file cannot be written.", "Run the command as root; see that the disk is not full."),
    "VLH-A106": Entry(
        "The setting cannot be changed where it stands.", "'vlhook config unset NAME', then set it anew."
    ),
    "VLH-C401": Entry("No host with that id has been seen in the lockspace.", "See 'vlhook hosts' for those in use."),
    "VLH-C101": Entry(
        "The keeper of this host does not answer: it does not run, is starting, or hangs.",
        "'systemctl start vlhookd'; its log is in 'journalctl -u vlhookd'.",
    ),
    "VLH-C102": Entry("The keeper refused the command; the message is its own.", "Follow the message."),
    "VLH-C111": Entry(
        "The machine has neither a machine-id nor a DMI UUID by which it could be told from its clones.",
        "'systemd-machine-id-setup', then try again.",
    ),
    "VLH-C112": Entry(
        "A host id is chosen by what the lease directory says, and that cannot be read or written.",
        "Mount the lease directory, or choose an id yourself: 'vlhook host-id set N'.",
    ),
    "VLH-C141": Entry(
        "The lease directory holds no lockspace: no host has ever joined, or it is not mounted here.",
        "Check the mount with 'findmnt'; start vlhookd.",
    ),
    "VLH-C142": Entry(
        "No lease of that name exists, and no holder is of that name.",
        "Give the path exactly as in the domain XML; 'vlhook leases' lists all.",
    ),
    "VLH-C143": Entry("No message has that code or text.", "Give a code as VLH-L243, or the message's own words."),
    "VLH-C144": Entry(
        "Leases are removed by the keeper of this host, and it serves another lease directory.",
        "Run the command on a host that uses that directory.",
    ),
    "VLH-C121": Entry(
        "libvirt did not do what was asked for with this guest.", "See 'virsh dominfo GUEST' and libvirt's own message."
    ),
    "VLH-C122": Entry(
        "The lease of the disk to be attached was refused, so the disk was not attached.",
        "'vlhook who DISK' shows who holds it.",
    ),
    "VLH-C123": Entry("The file does not hold one <disk> element.", "Give a file as 'virsh attach-device' takes it."),
    "VLH-C124": Entry(
        "The guest was asked to let go of the disk and has not done so yet; until then it keeps the lease.",
        "Nothing: the lease is given back when the guest lets go. Or shut the guest down.",
    ),
    "VLH-C125": Entry(
        "libvirt does not know the guest here, or did not answer.",
        "See 'virsh list --all'; or give the guest's XML in a file: 'vlhook check-start --xml FILE GUEST'.",
    ),
    "VLH-C126": Entry("The XML that was given describes another guest.", "Give the XML of the guest that you named."),
    "VLH-C127": Entry(
        "A guest that is about to come here is unknown to libvirt on this host, so its XML must be given.",
        "'virsh -c qemu+ssh://SOURCE/system dumpxml GUEST | vlhook check-migrate GUEST HOST --xml -'.",
    ),
    "VLH-C191": Entry(
        "libvirt does not know the guest, or did not answer.",
        "See 'virsh list'; give the name or UUID of a guest that runs on this host.",
    ),
    "VLH-C192": Entry("Only a guest that runs can be adopted.", "Nothing: it gets its leases when it is started."),
    "VLH-C193": Entry(
        "The guest is just moving between two hosts, and it is not certain where it will run.",
        "When the migration is over, run 'vlhook adopt' on the host where the guest runs then.",
    ),
    "VLH-C131": Entry("There is no such setting.", "'vlhook config show' lists them all."),
    "VLH-C132": Entry("The value is not allowed; nothing was changed.", "The message says what is allowed."),
    "VLH-C133": Entry("The setting has no value and no default.", "'vlhook config set NAME VALUE'."),
    "VLH-C151": Entry(
        "A step of the set-up failed; the steps before it are done.", "Mend the reason and run 'vlhook setup' again."
    ),
    "VLH-C152": Entry(
        "Set-up asks before each step, and there is nobody to ask.", "Use 'vlhook setup --yes', or --dry-run."
    ),
    "VLH-C153": Entry(
        "The leases of the images were refused, so the command was not run.",
        "The message names the holder; stop that guest, or wait.",
    ),
    "VLH-C154": Entry("The command cannot be run under the watch of the guard.", "Install it; run this as root."),
    "VLH-C155": Entry(
        "The lease directory cannot be written and read as a renewal does it.",
        "'vlhook doctor lease-directory direct-io' tells why.",
    ),
    "VLH-C156": Entry(
        "Something still lives that could write to a disk, or the keeper runs: removing its state now could let two "
        "guests write one disk.",
        "Do what the message says, then run 'vlhook recover' again.",
    ),
    "VLH-C157": Entry("The file for the metrics cannot be written.", "Make the directory, and run this as root."),
    "VLH-C301": Entry(
        "The file system on which the drill breaks storage on purpose cannot be mounted.",
        "Run it as root, with /dev/fuse, where mounting is allowed.",
    ),
    "VLH-C601": Entry("The protocol log cannot be read.", "Give a file that 'vlhookd --protocol-log' wrote."),
    "VLH-C201": Entry("The file to decode cannot be read.", "Give the path of a lease file, and run as root."),
    "VLH-C205": Entry("The demo did not go as it must.", "See the logs in the directory that the message names."),
    "VLH-C302": Entry(
        "A drill could not even begin, on a machine that is very busy for example.",
        "See the logs in the directory that the message names, then try again.",
    ),
}
