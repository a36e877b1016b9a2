(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* Made from vlhook/config/settings.py by python3 -m vlhook.config.documents: change it there. *)

module Test_vlhook =

(* The shipped file as it is, and with every setting in use. *)
test Vlhook.lns get "# SPDX-License-Identifier: LGPL-2.1-or-later

# Settings of vlhook on this host. vlhookd reads them when it starts: after a change run
# 'systemctl restart vlhookd'. 'vlhook config set NAME VALUE' checks a value before it writes
# it, 'vlhook config show' lists what is in force; qemu-vlhook.conf(5) is the manual. host_id
# and everything else that libvirt's sanlock plugin knows too is set in qemu-sanlock.conf.

# Who takes the leases.
#
# native: vlhookd itself, by Disk Paxos on the lease directory. sanlock: the sanlock daemon of
# this host, which vlhookd drives; no guest gets leases while it does not run. auto: sanlock
# if it runs when this host joins, otherwise native. Hosts of either kind exclude each other.
#
# Allowed: native, sanlock or auto. Default: \"native\".
#
# A change takes effect when vlhookd is restarted while no guest of this host holds leases.
#engine = \"native\"

# How long the start of a guest may wait for its leases.
#
# When it is over, the start is refused and all leases that it had already are given back.
# libvirt holds the guest's job for that long, so it should stay below the 30 seconds for
# which other commands wait for it.
#
# Allowed: a whole number from 1 to 120 (seconds). Default: 20.
#hook_deadline = 20

# Whether a watchdog resets this host if its guests cannot be stopped in time.
#
# required: no guest gets leases unless a watchdog is armed. automatic: the watchdog daemon
# wdmd or a watchdog device is used where there is one, and 'vlhook status' says if there is
# none. off: none is used; then a host that hangs, and comes back after others took its disks,
# can destroy them.
#
# Allowed: required, automatic or off. Default: \"automatic\".
#watchdog = \"automatic\"

# What is done to a guest that lost its leases.
#
# For guests whose XML has no <on_lockfailure>. poweroff: it is ended. pause: it is paused if
# that is known to be safe, that is if nothing can let it run again without its leases;
# otherwise it is ended, and the log says so.
#
# Allowed: poweroff or pause. Default: \"poweroff\".
#on_lockfailure = \"poweroff\"

# Whether one disk under two names is found out.
#
# Each disk whose identity is certain (WWID, LVM or NFS file id) has a second lease on that
# identity: two guests that reach it by different paths exclude each other.
#
# Allowed: yes or no, 1 or 0. Default: 1.
#identity_leases = 1

# Whether the images below a qcow2 overlay have leases.
#
# Each has a shared lease: guests may use one base together, and no guest that writes it can
# start. Only declared formats are followed. A commit into a base is not held up: stop its
# other guests first.
#
# Allowed: yes or no, 1 or 0. Default: 0.
#chain_leases = 0

# Whether a guest's NVRAM has a lease.
#
# Files in libvirt's own directory for NVRAM, which no other host sees, have none.
#
# Allowed: yes or no, 1 or 0. Default: 1.
#nvram_leases = 1

# Whether the state of an emulated TPM has a lease.
#
# It lies below a directory that is named by the guest's UUID, and so is its lease.
#
# Allowed: yes or no, 1 or 0. Default: 1.
#tpm_leases = 1

# What is done when a running guest uses a disk whose lease is refused.
#
# Disks that are attached to a running guest, and images that a snapshot or block job adds,
# get their lease just after the fact, from vlhook-watch. If somebody else holds it: detach
# takes the disk away from the guest, and pauses a guest that does not let go of it within a
# second; pause pauses it at once; alarm only says so. 'vlhook attach-disk' takes the lease
# before the disk is attached.
#
# Allowed: detach, pause or alarm. Default: \"detach\".
#refused_disk = \"detach\"

# How long a guest that lost its leases may take to end by itself.
#
# Counted from 8 io_timeouts after the last renewal. Then it is killed. Other hosts may take
# its disks 60 seconds after the same moment; the rest of that time is left for the kill and
# the watchdog.
#
# Allowed: a whole number from 0 to 40 (seconds). Default: 20.
#lockfailure_grace = 20

# Whether a live migration is accepted from a host that does not run vlhook.
#
# A guest that migrates in claims its leases from the host it comes from, if that host's
# record names the same guest. libvirt's sanlock plugin writes no such record. yes: claim
# without it.
#
# Allowed: yes or no, 1 or 0. Default: 0.
#claim_foreign = 0
" =
{ "#comment" = "SPDX-License-Identifier: LGPL-2.1-or-later" }
{ "#empty" }
{ "#comment" = "Settings of vlhook on this host. vlhookd reads them when it starts: after a change run" }
{ "#comment" = "'systemctl restart vlhookd'. 'vlhook config set NAME VALUE' checks a value before it writes" }
{ "#comment" = "it, 'vlhook config show' lists what is in force; qemu-vlhook.conf(5) is the manual. host_id" }
{ "#comment" = "and everything else that libvirt's sanlock plugin knows too is set in qemu-sanlock.conf." }
{ "#empty" }
{ "#comment" = "Who takes the leases." }
{ "#comment" = "" }
{ "#comment" = "native: vlhookd itself, by Disk Paxos on the lease directory. sanlock: the sanlock daemon of" }
{ "#comment" = "this host, which vlhookd drives; no guest gets leases while it does not run. auto: sanlock" }
{ "#comment" = "if it runs when this host joins, otherwise native. Hosts of either kind exclude each other." }
{ "#comment" = "" }
{ "#comment" = "Allowed: native, sanlock or auto. Default: \"native\"." }
{ "#comment" = "" }
{ "#comment" = "A change takes effect when vlhookd is restarted while no guest of this host holds leases." }
{ "#comment" = "engine = \"native\"" }
{ "#empty" }
{ "#comment" = "How long the start of a guest may wait for its leases." }
{ "#comment" = "" }
{ "#comment" = "When it is over, the start is refused and all leases that it had already are given back." }
{ "#comment" = "libvirt holds the guest's job for that long, so it should stay below the 30 seconds for" }
{ "#comment" = "which other commands wait for it." }
{ "#comment" = "" }
{ "#comment" = "Allowed: a whole number from 1 to 120 (seconds). Default: 20." }
{ "#comment" = "hook_deadline = 20" }
{ "#empty" }
{ "#comment" = "Whether a watchdog resets this host if its guests cannot be stopped in time." }
{ "#comment" = "" }
{ "#comment" = "required: no guest gets leases unless a watchdog is armed. automatic: the watchdog daemon" }
{ "#comment" = "wdmd or a watchdog device is used where there is one, and 'vlhook status' says if there is" }
{ "#comment" = "none. off: none is used; then a host that hangs, and comes back after others took its disks," }
{ "#comment" = "can destroy them." }
{ "#comment" = "" }
{ "#comment" = "Allowed: required, automatic or off. Default: \"automatic\"." }
{ "#comment" = "watchdog = \"automatic\"" }
{ "#empty" }
{ "#comment" = "What is done to a guest that lost its leases." }
{ "#comment" = "" }
{ "#comment" = "For guests whose XML has no <on_lockfailure>. poweroff: it is ended. pause: it is paused if" }
{ "#comment" = "that is known to be safe, that is if nothing can let it run again without its leases;" }
{ "#comment" = "otherwise it is ended, and the log says so." }
{ "#comment" = "" }
{ "#comment" = "Allowed: poweroff or pause. Default: \"poweroff\"." }
{ "#comment" = "on_lockfailure = \"poweroff\"" }
{ "#empty" }
{ "#comment" = "Whether one disk under two names is found out." }
{ "#comment" = "" }
{ "#comment" = "Each disk whose identity is certain (WWID, LVM or NFS file id) has a second lease on that" }
{ "#comment" = "identity: two guests that reach it by different paths exclude each other." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 1." }
{ "#comment" = "identity_leases = 1" }
{ "#empty" }
{ "#comment" = "Whether the images below a qcow2 overlay have leases." }
{ "#comment" = "" }
{ "#comment" = "Each has a shared lease: guests may use one base together, and no guest that writes it can" }
{ "#comment" = "start. Only declared formats are followed. A commit into a base is not held up: stop its" }
{ "#comment" = "other guests first." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 0." }
{ "#comment" = "chain_leases = 0" }
{ "#empty" }
{ "#comment" = "Whether a guest's NVRAM has a lease." }
{ "#comment" = "" }
{ "#comment" = "Files in libvirt's own directory for NVRAM, which no other host sees, have none." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 1." }
{ "#comment" = "nvram_leases = 1" }
{ "#empty" }
{ "#comment" = "Whether the state of an emulated TPM has a lease." }
{ "#comment" = "" }
{ "#comment" = "It lies below a directory that is named by the guest's UUID, and so is its lease." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 1." }
{ "#comment" = "tpm_leases = 1" }
{ "#empty" }
{ "#comment" = "What is done when a running guest uses a disk whose lease is refused." }
{ "#comment" = "" }
{ "#comment" = "Disks that are attached to a running guest, and images that a snapshot or block job adds," }
{ "#comment" = "get their lease just after the fact, from vlhook-watch. If somebody else holds it: detach" }
{ "#comment" = "takes the disk away from the guest, and pauses a guest that does not let go of it within a" }
{ "#comment" = "second; pause pauses it at once; alarm only says so. 'vlhook attach-disk' takes the lease" }
{ "#comment" = "before the disk is attached." }
{ "#comment" = "" }
{ "#comment" = "Allowed: detach, pause or alarm. Default: \"detach\"." }
{ "#comment" = "refused_disk = \"detach\"" }
{ "#empty" }
{ "#comment" = "How long a guest that lost its leases may take to end by itself." }
{ "#comment" = "" }
{ "#comment" = "Counted from 8 io_timeouts after the last renewal. Then it is killed. Other hosts may take" }
{ "#comment" = "its disks 60 seconds after the same moment; the rest of that time is left for the kill and" }
{ "#comment" = "the watchdog." }
{ "#comment" = "" }
{ "#comment" = "Allowed: a whole number from 0 to 40 (seconds). Default: 20." }
{ "#comment" = "lockfailure_grace = 20" }
{ "#empty" }
{ "#comment" = "Whether a live migration is accepted from a host that does not run vlhook." }
{ "#comment" = "" }
{ "#comment" = "A guest that migrates in claims its leases from the host it comes from, if that host's" }
{ "#comment" = "record names the same guest. libvirt's sanlock plugin writes no such record. yes: claim" }
{ "#comment" = "without it." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 0." }
{ "#comment" = "claim_foreign = 0" }

test Vlhook.lns get "# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Settings of vlhook on this host. vlhookd reads them when it starts: after a change run
# 'systemctl restart vlhookd'. 'vlhook config set NAME VALUE' checks a value before it writes
# it, 'vlhook config show' lists what is in force; qemu-vlhook.conf(5) is the manual. host_id
# and everything else that libvirt's sanlock plugin knows too is set in qemu-sanlock.conf.
#
# Who takes the leases.
#
# native: vlhookd itself, by Disk Paxos on the lease directory. sanlock: the sanlock daemon of
# this host, which vlhookd drives; no guest gets leases while it does not run. auto: sanlock
# if it runs when this host joins, otherwise native. Hosts of either kind exclude each other.
#
# Allowed: native, sanlock or auto. Default: \"native\".
#
# A change takes effect when vlhookd is restarted while no guest of this host holds leases.
engine = \"native\"
#
# How long the start of a guest may wait for its leases.
#
# When it is over, the start is refused and all leases that it had already are given back.
# libvirt holds the guest's job for that long, so it should stay below the 30 seconds for
# which other commands wait for it.
#
# Allowed: a whole number from 1 to 120 (seconds). Default: 20.
hook_deadline = 20
#
# Whether a watchdog resets this host if its guests cannot be stopped in time.
#
# required: no guest gets leases unless a watchdog is armed. automatic: the watchdog daemon
# wdmd or a watchdog device is used where there is one, and 'vlhook status' says if there is
# none. off: none is used; then a host that hangs, and comes back after others took its disks,
# can destroy them.
#
# Allowed: required, automatic or off. Default: \"automatic\".
watchdog = \"automatic\"
#
# What is done to a guest that lost its leases.
#
# For guests whose XML has no <on_lockfailure>. poweroff: it is ended. pause: it is paused if
# that is known to be safe, that is if nothing can let it run again without its leases;
# otherwise it is ended, and the log says so.
#
# Allowed: poweroff or pause. Default: \"poweroff\".
on_lockfailure = \"poweroff\"
#
# Whether one disk under two names is found out.
#
# Each disk whose identity is certain (WWID, LVM or NFS file id) has a second lease on that
# identity: two guests that reach it by different paths exclude each other.
#
# Allowed: yes or no, 1 or 0. Default: 1.
identity_leases = 1
#
# Whether the images below a qcow2 overlay have leases.
#
# Each has a shared lease: guests may use one base together, and no guest that writes it can
# start. Only declared formats are followed. A commit into a base is not held up: stop its
# other guests first.
#
# Allowed: yes or no, 1 or 0. Default: 0.
chain_leases = 0
#
# Whether a guest's NVRAM has a lease.
#
# Files in libvirt's own directory for NVRAM, which no other host sees, have none.
#
# Allowed: yes or no, 1 or 0. Default: 1.
nvram_leases = 1
#
# Whether the state of an emulated TPM has a lease.
#
# It lies below a directory that is named by the guest's UUID, and so is its lease.
#
# Allowed: yes or no, 1 or 0. Default: 1.
tpm_leases = 1
#
# What is done when a running guest uses a disk whose lease is refused.
#
# Disks that are attached to a running guest, and images that a snapshot or block job adds,
# get their lease just after the fact, from vlhook-watch. If somebody else holds it: detach
# takes the disk away from the guest, and pauses a guest that does not let go of it within a
# second; pause pauses it at once; alarm only says so. 'vlhook attach-disk' takes the lease
# before the disk is attached.
#
# Allowed: detach, pause or alarm. Default: \"detach\".
refused_disk = \"detach\"
#
# How long a guest that lost its leases may take to end by itself.
#
# Counted from 8 io_timeouts after the last renewal. Then it is killed. Other hosts may take
# its disks 60 seconds after the same moment; the rest of that time is left for the kill and
# the watchdog.
#
# Allowed: a whole number from 0 to 40 (seconds). Default: 20.
lockfailure_grace = 20
#
# Whether a live migration is accepted from a host that does not run vlhook.
#
# A guest that migrates in claims its leases from the host it comes from, if that host's
# record names the same guest. libvirt's sanlock plugin writes no such record. yes: claim
# without it.
#
# Allowed: yes or no, 1 or 0. Default: 0.
claim_foreign = 0
" =
{ "#comment" = "SPDX-License-Identifier: LGPL-2.1-or-later" }
{ "#comment" = "" }
{ "#comment" = "Settings of vlhook on this host. vlhookd reads them when it starts: after a change run" }
{ "#comment" = "'systemctl restart vlhookd'. 'vlhook config set NAME VALUE' checks a value before it writes" }
{ "#comment" = "it, 'vlhook config show' lists what is in force; qemu-vlhook.conf(5) is the manual. host_id" }
{ "#comment" = "and everything else that libvirt's sanlock plugin knows too is set in qemu-sanlock.conf." }
{ "#comment" = "" }
{ "#comment" = "Who takes the leases." }
{ "#comment" = "" }
{ "#comment" = "native: vlhookd itself, by Disk Paxos on the lease directory. sanlock: the sanlock daemon of" }
{ "#comment" = "this host, which vlhookd drives; no guest gets leases while it does not run. auto: sanlock" }
{ "#comment" = "if it runs when this host joins, otherwise native. Hosts of either kind exclude each other." }
{ "#comment" = "" }
{ "#comment" = "Allowed: native, sanlock or auto. Default: \"native\"." }
{ "#comment" = "" }
{ "#comment" = "A change takes effect when vlhookd is restarted while no guest of this host holds leases." }
{ "engine" = "native" }
{ "#comment" = "" }
{ "#comment" = "How long the start of a guest may wait for its leases." }
{ "#comment" = "" }
{ "#comment" = "When it is over, the start is refused and all leases that it had already are given back." }
{ "#comment" = "libvirt holds the guest's job for that long, so it should stay below the 30 seconds for" }
{ "#comment" = "which other commands wait for it." }
{ "#comment" = "" }
{ "#comment" = "Allowed: a whole number from 1 to 120 (seconds). Default: 20." }
{ "hook_deadline" = "20" }
{ "#comment" = "" }
{ "#comment" = "Whether a watchdog resets this host if its guests cannot be stopped in time." }
{ "#comment" = "" }
{ "#comment" = "required: no guest gets leases unless a watchdog is armed. automatic: the watchdog daemon" }
{ "#comment" = "wdmd or a watchdog device is used where there is one, and 'vlhook status' says if there is" }
{ "#comment" = "none. off: none is used; then a host that hangs, and comes back after others took its disks," }
{ "#comment" = "can destroy them." }
{ "#comment" = "" }
{ "#comment" = "Allowed: required, automatic or off. Default: \"automatic\"." }
{ "watchdog" = "automatic" }
{ "#comment" = "" }
{ "#comment" = "What is done to a guest that lost its leases." }
{ "#comment" = "" }
{ "#comment" = "For guests whose XML has no <on_lockfailure>. poweroff: it is ended. pause: it is paused if" }
{ "#comment" = "that is known to be safe, that is if nothing can let it run again without its leases;" }
{ "#comment" = "otherwise it is ended, and the log says so." }
{ "#comment" = "" }
{ "#comment" = "Allowed: poweroff or pause. Default: \"poweroff\"." }
{ "on_lockfailure" = "poweroff" }
{ "#comment" = "" }
{ "#comment" = "Whether one disk under two names is found out." }
{ "#comment" = "" }
{ "#comment" = "Each disk whose identity is certain (WWID, LVM or NFS file id) has a second lease on that" }
{ "#comment" = "identity: two guests that reach it by different paths exclude each other." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 1." }
{ "identity_leases" = "1" }
{ "#comment" = "" }
{ "#comment" = "Whether the images below a qcow2 overlay have leases." }
{ "#comment" = "" }
{ "#comment" = "Each has a shared lease: guests may use one base together, and no guest that writes it can" }
{ "#comment" = "start. Only declared formats are followed. A commit into a base is not held up: stop its" }
{ "#comment" = "other guests first." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 0." }
{ "chain_leases" = "0" }
{ "#comment" = "" }
{ "#comment" = "Whether a guest's NVRAM has a lease." }
{ "#comment" = "" }
{ "#comment" = "Files in libvirt's own directory for NVRAM, which no other host sees, have none." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 1." }
{ "nvram_leases" = "1" }
{ "#comment" = "" }
{ "#comment" = "Whether the state of an emulated TPM has a lease." }
{ "#comment" = "" }
{ "#comment" = "It lies below a directory that is named by the guest's UUID, and so is its lease." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 1." }
{ "tpm_leases" = "1" }
{ "#comment" = "" }
{ "#comment" = "What is done when a running guest uses a disk whose lease is refused." }
{ "#comment" = "" }
{ "#comment" = "Disks that are attached to a running guest, and images that a snapshot or block job adds," }
{ "#comment" = "get their lease just after the fact, from vlhook-watch. If somebody else holds it: detach" }
{ "#comment" = "takes the disk away from the guest, and pauses a guest that does not let go of it within a" }
{ "#comment" = "second; pause pauses it at once; alarm only says so. 'vlhook attach-disk' takes the lease" }
{ "#comment" = "before the disk is attached." }
{ "#comment" = "" }
{ "#comment" = "Allowed: detach, pause or alarm. Default: \"detach\"." }
{ "refused_disk" = "detach" }
{ "#comment" = "" }
{ "#comment" = "How long a guest that lost its leases may take to end by itself." }
{ "#comment" = "" }
{ "#comment" = "Counted from 8 io_timeouts after the last renewal. Then it is killed. Other hosts may take" }
{ "#comment" = "its disks 60 seconds after the same moment; the rest of that time is left for the kill and" }
{ "#comment" = "the watchdog." }
{ "#comment" = "" }
{ "#comment" = "Allowed: a whole number from 0 to 40 (seconds). Default: 20." }
{ "lockfailure_grace" = "20" }
{ "#comment" = "" }
{ "#comment" = "Whether a live migration is accepted from a host that does not run vlhook." }
{ "#comment" = "" }
{ "#comment" = "A guest that migrates in claims its leases from the host it comes from, if that host's" }
{ "#comment" = "record names the same guest. libvirt's sanlock plugin writes no such record. yes: claim" }
{ "#comment" = "without it." }
{ "#comment" = "" }
{ "#comment" = "Allowed: yes or no, 1 or 0. Default: 0." }
{ "claim_foreign" = "0" }

(* engine: native, sanlock or auto *)
test Vlhook.lns get "engine = native\n" = { "engine" = "native" }
test Vlhook.lns get "engine = \"native\"\n" = { "engine" = "native" }
test Vlhook.lns get "engine = 'native'\n" = { "engine" = "native" }
test Vlhook.lns put "" after set "/engine" "native" = "engine = \"native\"\n"
test Vlhook.lns get "engine = sanlock\n" = { "engine" = "sanlock" }
test Vlhook.lns get "engine = \"sanlock\"\n" = { "engine" = "sanlock" }
test Vlhook.lns get "engine = 'sanlock'\n" = { "engine" = "sanlock" }
test Vlhook.lns put "" after set "/engine" "sanlock" = "engine = \"sanlock\"\n"
test Vlhook.lns get "engine = auto\n" = { "engine" = "auto" }
test Vlhook.lns get "engine = \"auto\"\n" = { "engine" = "auto" }
test Vlhook.lns get "engine = 'auto'\n" = { "engine" = "auto" }
test Vlhook.lns put "" after set "/engine" "auto" = "engine = \"auto\"\n"
test Vlhook.lns get "engine = 1\n" = *
test Vlhook.lns get "engine = \"1\"\n" = *
test Vlhook.lns put "" after set "/engine" "1" = *
test Vlhook.lns get "engine = natives\n" = *
test Vlhook.lns get "engine = \"natives\"\n" = *
test Vlhook.lns put "" after set "/engine" "natives" = *
test Vlhook.lns get "engine = NATIVE\n" = *
test Vlhook.lns get "engine = \"NATIVE\"\n" = *
test Vlhook.lns put "" after set "/engine" "NATIVE" = *
test Vlhook.lns get "engine = \n" = *
test Vlhook.lns get "engine = \"\"\n" = *
test Vlhook.lns get "engine = 1 2\n" = *
test Vlhook.lns get "engine = [ 1 ]\n" = *
test Vlhook.lns get "engine = \"1\n" = *
test Vlhook.lns get "  engine=\"auto\"  # why\n" = { "engine" = "auto" { "#comment" = "why" } }
test Vlhook.lns get "engine = \"auto\"\r\n" = *

(* hook_deadline: a whole number from 1 to 120 (seconds) *)
test Vlhook.lns get "hook_deadline = 1\n" = { "hook_deadline" = "1" }
test Vlhook.lns get "hook_deadline = \"1\"\n" = { "hook_deadline" = "1" }
test Vlhook.lns get "hook_deadline = '1'\n" = { "hook_deadline" = "1" }
test Vlhook.lns put "" after set "/hook_deadline" "1" = "hook_deadline = 1\n"
test Vlhook.lns get "hook_deadline = 120\n" = { "hook_deadline" = "120" }
test Vlhook.lns get "hook_deadline = \"120\"\n" = { "hook_deadline" = "120" }
test Vlhook.lns get "hook_deadline = '120'\n" = { "hook_deadline" = "120" }
test Vlhook.lns put "" after set "/hook_deadline" "120" = "hook_deadline = 120\n"
test Vlhook.lns get "hook_deadline = 0\n" = *
test Vlhook.lns get "hook_deadline = \"0\"\n" = *
test Vlhook.lns put "" after set "/hook_deadline" "0" = *
test Vlhook.lns get "hook_deadline = 121\n" = *
test Vlhook.lns get "hook_deadline = \"121\"\n" = *
test Vlhook.lns put "" after set "/hook_deadline" "121" = *
test Vlhook.lns get "hook_deadline = -1\n" = *
test Vlhook.lns get "hook_deadline = \"-1\"\n" = *
test Vlhook.lns put "" after set "/hook_deadline" "-1" = *
test Vlhook.lns get "hook_deadline = one\n" = *
test Vlhook.lns get "hook_deadline = \"one\"\n" = *
test Vlhook.lns put "" after set "/hook_deadline" "one" = *
test Vlhook.lns get "hook_deadline = 1.5\n" = *
test Vlhook.lns get "hook_deadline = \"1.5\"\n" = *
test Vlhook.lns put "" after set "/hook_deadline" "1.5" = *
test Vlhook.lns get "hook_deadline = \n" = *
test Vlhook.lns get "hook_deadline = \"\"\n" = *
test Vlhook.lns get "hook_deadline = 1 2\n" = *
test Vlhook.lns get "hook_deadline = [ 1 ]\n" = *
test Vlhook.lns get "hook_deadline = \"1\n" = *
test Vlhook.lns get "  hook_deadline=1  # why\n" = { "hook_deadline" = "1" { "#comment" = "why" } }
test Vlhook.lns get "hook_deadline = 1\r\n" = *

(* watchdog: required, automatic or off *)
test Vlhook.lns get "watchdog = required\n" = { "watchdog" = "required" }
test Vlhook.lns get "watchdog = \"required\"\n" = { "watchdog" = "required" }
test Vlhook.lns get "watchdog = 'required'\n" = { "watchdog" = "required" }
test Vlhook.lns put "" after set "/watchdog" "required" = "watchdog = \"required\"\n"
test Vlhook.lns get "watchdog = automatic\n" = { "watchdog" = "automatic" }
test Vlhook.lns get "watchdog = \"automatic\"\n" = { "watchdog" = "automatic" }
test Vlhook.lns get "watchdog = 'automatic'\n" = { "watchdog" = "automatic" }
test Vlhook.lns put "" after set "/watchdog" "automatic" = "watchdog = \"automatic\"\n"
test Vlhook.lns get "watchdog = off\n" = { "watchdog" = "off" }
test Vlhook.lns get "watchdog = \"off\"\n" = { "watchdog" = "off" }
test Vlhook.lns get "watchdog = 'off'\n" = { "watchdog" = "off" }
test Vlhook.lns put "" after set "/watchdog" "off" = "watchdog = \"off\"\n"
test Vlhook.lns get "watchdog = 1\n" = *
test Vlhook.lns get "watchdog = \"1\"\n" = *
test Vlhook.lns put "" after set "/watchdog" "1" = *
test Vlhook.lns get "watchdog = requireds\n" = *
test Vlhook.lns get "watchdog = \"requireds\"\n" = *
test Vlhook.lns put "" after set "/watchdog" "requireds" = *
test Vlhook.lns get "watchdog = REQUIRED\n" = *
test Vlhook.lns get "watchdog = \"REQUIRED\"\n" = *
test Vlhook.lns put "" after set "/watchdog" "REQUIRED" = *
test Vlhook.lns get "watchdog = \n" = *
test Vlhook.lns get "watchdog = \"\"\n" = *
test Vlhook.lns get "watchdog = 1 2\n" = *
test Vlhook.lns get "watchdog = [ 1 ]\n" = *
test Vlhook.lns get "watchdog = \"1\n" = *
test Vlhook.lns get "  watchdog=\"off\"  # why\n" = { "watchdog" = "off" { "#comment" = "why" } }
test Vlhook.lns get "watchdog = \"off\"\r\n" = *

(* on_lockfailure: poweroff or pause *)
test Vlhook.lns get "on_lockfailure = poweroff\n" = { "on_lockfailure" = "poweroff" }
test Vlhook.lns get "on_lockfailure = \"poweroff\"\n" = { "on_lockfailure" = "poweroff" }
test Vlhook.lns get "on_lockfailure = 'poweroff'\n" = { "on_lockfailure" = "poweroff" }
test Vlhook.lns put "" after set "/on_lockfailure" "poweroff" = "on_lockfailure = \"poweroff\"\n"
test Vlhook.lns get "on_lockfailure = pause\n" = { "on_lockfailure" = "pause" }
test Vlhook.lns get "on_lockfailure = \"pause\"\n" = { "on_lockfailure" = "pause" }
test Vlhook.lns get "on_lockfailure = 'pause'\n" = { "on_lockfailure" = "pause" }
test Vlhook.lns put "" after set "/on_lockfailure" "pause" = "on_lockfailure = \"pause\"\n"
test Vlhook.lns get "on_lockfailure = 1\n" = *
test Vlhook.lns get "on_lockfailure = \"1\"\n" = *
test Vlhook.lns put "" after set "/on_lockfailure" "1" = *
test Vlhook.lns get "on_lockfailure = poweroffs\n" = *
test Vlhook.lns get "on_lockfailure = \"poweroffs\"\n" = *
test Vlhook.lns put "" after set "/on_lockfailure" "poweroffs" = *
test Vlhook.lns get "on_lockfailure = POWEROFF\n" = *
test Vlhook.lns get "on_lockfailure = \"POWEROFF\"\n" = *
test Vlhook.lns put "" after set "/on_lockfailure" "POWEROFF" = *
test Vlhook.lns get "on_lockfailure = \n" = *
test Vlhook.lns get "on_lockfailure = \"\"\n" = *
test Vlhook.lns get "on_lockfailure = 1 2\n" = *
test Vlhook.lns get "on_lockfailure = [ 1 ]\n" = *
test Vlhook.lns get "on_lockfailure = \"1\n" = *
test Vlhook.lns get "  on_lockfailure=\"pause\"  # why\n" = { "on_lockfailure" = "pause" { "#comment" = "why" } }
test Vlhook.lns get "on_lockfailure = \"pause\"\r\n" = *

(* identity_leases: yes or no, 1 or 0 *)
test Vlhook.lns get "identity_leases = 0\n" = { "identity_leases" = "0" }
test Vlhook.lns get "identity_leases = \"0\"\n" = { "identity_leases" = "0" }
test Vlhook.lns get "identity_leases = '0'\n" = { "identity_leases" = "0" }
test Vlhook.lns put "" after set "/identity_leases" "0" = "identity_leases = 0\n"
test Vlhook.lns get "identity_leases = 1\n" = { "identity_leases" = "1" }
test Vlhook.lns get "identity_leases = \"1\"\n" = { "identity_leases" = "1" }
test Vlhook.lns get "identity_leases = '1'\n" = { "identity_leases" = "1" }
test Vlhook.lns put "" after set "/identity_leases" "1" = "identity_leases = 1\n"
test Vlhook.lns get "identity_leases = no\n" = { "identity_leases" = "no" }
test Vlhook.lns get "identity_leases = \"no\"\n" = { "identity_leases" = "no" }
test Vlhook.lns get "identity_leases = 'no'\n" = { "identity_leases" = "no" }
test Vlhook.lns get "identity_leases = yes\n" = { "identity_leases" = "yes" }
test Vlhook.lns get "identity_leases = \"yes\"\n" = { "identity_leases" = "yes" }
test Vlhook.lns get "identity_leases = 'yes'\n" = { "identity_leases" = "yes" }
test Vlhook.lns get "identity_leases = 2\n" = *
test Vlhook.lns get "identity_leases = \"2\"\n" = *
test Vlhook.lns put "" after set "/identity_leases" "2" = *
test Vlhook.lns get "identity_leases = on\n" = *
test Vlhook.lns get "identity_leases = \"on\"\n" = *
test Vlhook.lns put "" after set "/identity_leases" "on" = *
test Vlhook.lns get "identity_leases = true\n" = *
test Vlhook.lns get "identity_leases = \"true\"\n" = *
test Vlhook.lns put "" after set "/identity_leases" "true" = *
test Vlhook.lns get "identity_leases = \n" = *
test Vlhook.lns get "identity_leases = \"\"\n" = *
test Vlhook.lns get "identity_leases = 1 2\n" = *
test Vlhook.lns get "identity_leases = [ 1 ]\n" = *
test Vlhook.lns get "identity_leases = \"1\n" = *
test Vlhook.lns get "  identity_leases=0  # why\n" = { "identity_leases" = "0" { "#comment" = "why" } }
test Vlhook.lns get "identity_leases = 0\r\n" = *

(* chain_leases: yes or no, 1 or 0 *)
test Vlhook.lns get "chain_leases = 0\n" = { "chain_leases" = "0" }
test Vlhook.lns get "chain_leases = \"0\"\n" = { "chain_leases" = "0" }
test Vlhook.lns get "chain_leases = '0'\n" = { "chain_leases" = "0" }
test Vlhook.lns put "" after set "/chain_leases" "0" = "chain_leases = 0\n"
test Vlhook.lns get "chain_leases = 1\n" = { "chain_leases" = "1" }
test Vlhook.lns get "chain_leases = \"1\"\n" = { "chain_leases" = "1" }
test Vlhook.lns get "chain_leases = '1'\n" = { "chain_leases" = "1" }
test Vlhook.lns put "" after set "/chain_leases" "1" = "chain_leases = 1\n"
test Vlhook.lns get "chain_leases = no\n" = { "chain_leases" = "no" }
test Vlhook.lns get "chain_leases = \"no\"\n" = { "chain_leases" = "no" }
test Vlhook.lns get "chain_leases = 'no'\n" = { "chain_leases" = "no" }
test Vlhook.lns get "chain_leases = yes\n" = { "chain_leases" = "yes" }
test Vlhook.lns get "chain_leases = \"yes\"\n" = { "chain_leases" = "yes" }
test Vlhook.lns get "chain_leases = 'yes'\n" = { "chain_leases" = "yes" }
test Vlhook.lns get "chain_leases = 2\n" = *
test Vlhook.lns get "chain_leases = \"2\"\n" = *
test Vlhook.lns put "" after set "/chain_leases" "2" = *
test Vlhook.lns get "chain_leases = on\n" = *
test Vlhook.lns get "chain_leases = \"on\"\n" = *
test Vlhook.lns put "" after set "/chain_leases" "on" = *
test Vlhook.lns get "chain_leases = true\n" = *
test Vlhook.lns get "chain_leases = \"true\"\n" = *
test Vlhook.lns put "" after set "/chain_leases" "true" = *
test Vlhook.lns get "chain_leases = \n" = *
test Vlhook.lns get "chain_leases = \"\"\n" = *
test Vlhook.lns get "chain_leases = 1 2\n" = *
test Vlhook.lns get "chain_leases = [ 1 ]\n" = *
test Vlhook.lns get "chain_leases = \"1\n" = *
test Vlhook.lns get "  chain_leases=0  # why\n" = { "chain_leases" = "0" { "#comment" = "why" } }
test Vlhook.lns get "chain_leases = 0\r\n" = *

(* nvram_leases: yes or no, 1 or 0 *)
test Vlhook.lns get "nvram_leases = 0\n" = { "nvram_leases" = "0" }
test Vlhook.lns get "nvram_leases = \"0\"\n" = { "nvram_leases" = "0" }
test Vlhook.lns get "nvram_leases = '0'\n" = { "nvram_leases" = "0" }
test Vlhook.lns put "" after set "/nvram_leases" "0" = "nvram_leases = 0\n"
test Vlhook.lns get "nvram_leases = 1\n" = { "nvram_leases" = "1" }
test Vlhook.lns get "nvram_leases = \"1\"\n" = { "nvram_leases" = "1" }
test Vlhook.lns get "nvram_leases = '1'\n" = { "nvram_leases" = "1" }
test Vlhook.lns put "" after set "/nvram_leases" "1" = "nvram_leases = 1\n"
test Vlhook.lns get "nvram_leases = no\n" = { "nvram_leases" = "no" }
test Vlhook.lns get "nvram_leases = \"no\"\n" = { "nvram_leases" = "no" }
test Vlhook.lns get "nvram_leases = 'no'\n" = { "nvram_leases" = "no" }
test Vlhook.lns get "nvram_leases = yes\n" = { "nvram_leases" = "yes" }
test Vlhook.lns get "nvram_leases = \"yes\"\n" = { "nvram_leases" = "yes" }
test Vlhook.lns get "nvram_leases = 'yes'\n" = { "nvram_leases" = "yes" }
test Vlhook.lns get "nvram_leases = 2\n" = *
test Vlhook.lns get "nvram_leases = \"2\"\n" = *
test Vlhook.lns put "" after set "/nvram_leases" "2" = *
test Vlhook.lns get "nvram_leases = on\n" = *
test Vlhook.lns get "nvram_leases = \"on\"\n" = *
test Vlhook.lns put "" after set "/nvram_leases" "on" = *
test Vlhook.lns get "nvram_leases = true\n" = *
test Vlhook.lns get "nvram_leases = \"true\"\n" = *
test Vlhook.lns put "" after set "/nvram_leases" "true" = *
test Vlhook.lns get "nvram_leases = \n" = *
test Vlhook.lns get "nvram_leases = \"\"\n" = *
test Vlhook.lns get "nvram_leases = 1 2\n" = *
test Vlhook.lns get "nvram_leases = [ 1 ]\n" = *
test Vlhook.lns get "nvram_leases = \"1\n" = *
test Vlhook.lns get "  nvram_leases=0  # why\n" = { "nvram_leases" = "0" { "#comment" = "why" } }
test Vlhook.lns get "nvram_leases = 0\r\n" = *

(* tpm_leases: yes or no, 1 or 0 *)
test Vlhook.lns get "tpm_leases = 0\n" = { "tpm_leases" = "0" }
test Vlhook.lns get "tpm_leases = \"0\"\n" = { "tpm_leases" = "0" }
test Vlhook.lns get "tpm_leases = '0'\n" = { "tpm_leases" = "0" }
test Vlhook.lns put "" after set "/tpm_leases" "0" = "tpm_leases = 0\n"
test Vlhook.lns get "tpm_leases = 1\n" = { "tpm_leases" = "1" }
test Vlhook.lns get "tpm_leases = \"1\"\n" = { "tpm_leases" = "1" }
test Vlhook.lns get "tpm_leases = '1'\n" = { "tpm_leases" = "1" }
test Vlhook.lns put "" after set "/tpm_leases" "1" = "tpm_leases = 1\n"
test Vlhook.lns get "tpm_leases = no\n" = { "tpm_leases" = "no" }
test Vlhook.lns get "tpm_leases = \"no\"\n" = { "tpm_leases" = "no" }
test Vlhook.lns get "tpm_leases = 'no'\n" = { "tpm_leases" = "no" }
test Vlhook.lns get "tpm_leases = yes\n" = { "tpm_leases" = "yes" }
test Vlhook.lns get "tpm_leases = \"yes\"\n" = { "tpm_leases" = "yes" }
test Vlhook.lns get "tpm_leases = 'yes'\n" = { "tpm_leases" = "yes" }
test Vlhook.lns get "tpm_leases = 2\n" = *
test Vlhook.lns get "tpm_leases = \"2\"\n" = *
test Vlhook.lns put "" after set "/tpm_leases" "2" = *
test Vlhook.lns get "tpm_leases = on\n" = *
test Vlhook.lns get "tpm_leases = \"on\"\n" = *
test Vlhook.lns put "" after set "/tpm_leases" "on" = *
test Vlhook.lns get "tpm_leases = true\n" = *
test Vlhook.lns get "tpm_leases = \"true\"\n" = *
test Vlhook.lns put "" after set "/tpm_leases" "true" = *
test Vlhook.lns get "tpm_leases = \n" = *
test Vlhook.lns get "tpm_leases = \"\"\n" = *
test Vlhook.lns get "tpm_leases = 1 2\n" = *
test Vlhook.lns get "tpm_leases = [ 1 ]\n" = *
test Vlhook.lns get "tpm_leases = \"1\n" = *
test Vlhook.lns get "  tpm_leases=0  # why\n" = { "tpm_leases" = "0" { "#comment" = "why" } }
test Vlhook.lns get "tpm_leases = 0\r\n" = *

(* refused_disk: detach, pause or alarm *)
test Vlhook.lns get "refused_disk = detach\n" = { "refused_disk" = "detach" }
test Vlhook.lns get "refused_disk = \"detach\"\n" = { "refused_disk" = "detach" }
test Vlhook.lns get "refused_disk = 'detach'\n" = { "refused_disk" = "detach" }
test Vlhook.lns put "" after set "/refused_disk" "detach" = "refused_disk = \"detach\"\n"
test Vlhook.lns get "refused_disk = pause\n" = { "refused_disk" = "pause" }
test Vlhook.lns get "refused_disk = \"pause\"\n" = { "refused_disk" = "pause" }
test Vlhook.lns get "refused_disk = 'pause'\n" = { "refused_disk" = "pause" }
test Vlhook.lns put "" after set "/refused_disk" "pause" = "refused_disk = \"pause\"\n"
test Vlhook.lns get "refused_disk = alarm\n" = { "refused_disk" = "alarm" }
test Vlhook.lns get "refused_disk = \"alarm\"\n" = { "refused_disk" = "alarm" }
test Vlhook.lns get "refused_disk = 'alarm'\n" = { "refused_disk" = "alarm" }
test Vlhook.lns put "" after set "/refused_disk" "alarm" = "refused_disk = \"alarm\"\n"
test Vlhook.lns get "refused_disk = 1\n" = *
test Vlhook.lns get "refused_disk = \"1\"\n" = *
test Vlhook.lns put "" after set "/refused_disk" "1" = *
test Vlhook.lns get "refused_disk = detachs\n" = *
test Vlhook.lns get "refused_disk = \"detachs\"\n" = *
test Vlhook.lns put "" after set "/refused_disk" "detachs" = *
test Vlhook.lns get "refused_disk = DETACH\n" = *
test Vlhook.lns get "refused_disk = \"DETACH\"\n" = *
test Vlhook.lns put "" after set "/refused_disk" "DETACH" = *
test Vlhook.lns get "refused_disk = \n" = *
test Vlhook.lns get "refused_disk = \"\"\n" = *
test Vlhook.lns get "refused_disk = 1 2\n" = *
test Vlhook.lns get "refused_disk = [ 1 ]\n" = *
test Vlhook.lns get "refused_disk = \"1\n" = *
test Vlhook.lns get "  refused_disk=\"alarm\"  # why\n" = { "refused_disk" = "alarm" { "#comment" = "why" } }
test Vlhook.lns get "refused_disk = \"alarm\"\r\n" = *

(* lockfailure_grace: a whole number from 0 to 40 (seconds) *)
test Vlhook.lns get "lockfailure_grace = 0\n" = { "lockfailure_grace" = "0" }
test Vlhook.lns get "lockfailure_grace = \"0\"\n" = { "lockfailure_grace" = "0" }
test Vlhook.lns get "lockfailure_grace = '0'\n" = { "lockfailure_grace" = "0" }
test Vlhook.lns put "" after set "/lockfailure_grace" "0" = "lockfailure_grace = 0\n"
test Vlhook.lns get "lockfailure_grace = 40\n" = { "lockfailure_grace" = "40" }
test Vlhook.lns get "lockfailure_grace = \"40\"\n" = { "lockfailure_grace" = "40" }
test Vlhook.lns get "lockfailure_grace = '40'\n" = { "lockfailure_grace" = "40" }
test Vlhook.lns put "" after set "/lockfailure_grace" "40" = "lockfailure_grace = 40\n"
test Vlhook.lns get "lockfailure_grace = 41\n" = *
test Vlhook.lns get "lockfailure_grace = \"41\"\n" = *
test Vlhook.lns put "" after set "/lockfailure_grace" "41" = *
test Vlhook.lns get "lockfailure_grace = -1\n" = *
test Vlhook.lns get "lockfailure_grace = \"-1\"\n" = *
test Vlhook.lns put "" after set "/lockfailure_grace" "-1" = *
test Vlhook.lns get "lockfailure_grace = one\n" = *
test Vlhook.lns get "lockfailure_grace = \"one\"\n" = *
test Vlhook.lns put "" after set "/lockfailure_grace" "one" = *
test Vlhook.lns get "lockfailure_grace = 1.5\n" = *
test Vlhook.lns get "lockfailure_grace = \"1.5\"\n" = *
test Vlhook.lns put "" after set "/lockfailure_grace" "1.5" = *
test Vlhook.lns get "lockfailure_grace = \n" = *
test Vlhook.lns get "lockfailure_grace = \"\"\n" = *
test Vlhook.lns get "lockfailure_grace = 1 2\n" = *
test Vlhook.lns get "lockfailure_grace = [ 1 ]\n" = *
test Vlhook.lns get "lockfailure_grace = \"1\n" = *
test Vlhook.lns get "  lockfailure_grace=0  # why\n" = { "lockfailure_grace" = "0" { "#comment" = "why" } }
test Vlhook.lns get "lockfailure_grace = 0\r\n" = *

(* claim_foreign: yes or no, 1 or 0 *)
test Vlhook.lns get "claim_foreign = 0\n" = { "claim_foreign" = "0" }
test Vlhook.lns get "claim_foreign = \"0\"\n" = { "claim_foreign" = "0" }
test Vlhook.lns get "claim_foreign = '0'\n" = { "claim_foreign" = "0" }
test Vlhook.lns put "" after set "/claim_foreign" "0" = "claim_foreign = 0\n"
test Vlhook.lns get "claim_foreign = 1\n" = { "claim_foreign" = "1" }
test Vlhook.lns get "claim_foreign = \"1\"\n" = { "claim_foreign" = "1" }
test Vlhook.lns get "claim_foreign = '1'\n" = { "claim_foreign" = "1" }
test Vlhook.lns put "" after set "/claim_foreign" "1" = "claim_foreign = 1\n"
test Vlhook.lns get "claim_foreign = no\n" = { "claim_foreign" = "no" }
test Vlhook.lns get "claim_foreign = \"no\"\n" = { "claim_foreign" = "no" }
test Vlhook.lns get "claim_foreign = 'no'\n" = { "claim_foreign" = "no" }
test Vlhook.lns get "claim_foreign = yes\n" = { "claim_foreign" = "yes" }
test Vlhook.lns get "claim_foreign = \"yes\"\n" = { "claim_foreign" = "yes" }
test Vlhook.lns get "claim_foreign = 'yes'\n" = { "claim_foreign" = "yes" }
test Vlhook.lns get "claim_foreign = 2\n" = *
test Vlhook.lns get "claim_foreign = \"2\"\n" = *
test Vlhook.lns put "" after set "/claim_foreign" "2" = *
test Vlhook.lns get "claim_foreign = on\n" = *
test Vlhook.lns get "claim_foreign = \"on\"\n" = *
test Vlhook.lns put "" after set "/claim_foreign" "on" = *
test Vlhook.lns get "claim_foreign = true\n" = *
test Vlhook.lns get "claim_foreign = \"true\"\n" = *
test Vlhook.lns put "" after set "/claim_foreign" "true" = *
test Vlhook.lns get "claim_foreign = \n" = *
test Vlhook.lns get "claim_foreign = \"\"\n" = *
test Vlhook.lns get "claim_foreign = 1 2\n" = *
test Vlhook.lns get "claim_foreign = [ 1 ]\n" = *
test Vlhook.lns get "claim_foreign = \"1\n" = *
test Vlhook.lns get "  claim_foreign=0  # why\n" = { "claim_foreign" = "0" { "#comment" = "why" } }
test Vlhook.lns get "claim_foreign = 0\r\n" = *
