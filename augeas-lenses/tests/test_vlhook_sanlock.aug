(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* Made from vlhook/config/settings.py by python3 -m vlhook.config.documents: change it there. *)

module Test_vlhook_sanlock =

(* host_id: a whole number from 1 to 2000, without quotes *)
test Vlhook_sanlock.lns get "host_id = 1\n" = { "host_id" = "1" }
test Vlhook_sanlock.lns put "" after set "/host_id" "1" = "host_id = 1\n"
test Vlhook_sanlock.lns get "host_id = 2000\n" = { "host_id" = "2000" }
test Vlhook_sanlock.lns put "" after set "/host_id" "2000" = "host_id = 2000\n"
test Vlhook_sanlock.lns get "host_id = 0\n" = *
test Vlhook_sanlock.lns get "host_id = \"0\"\n" = *
test Vlhook_sanlock.lns put "" after set "/host_id" "0" = *
test Vlhook_sanlock.lns get "host_id = 2001\n" = *
test Vlhook_sanlock.lns get "host_id = \"2001\"\n" = *
test Vlhook_sanlock.lns put "" after set "/host_id" "2001" = *
test Vlhook_sanlock.lns get "host_id = -1\n" = *
test Vlhook_sanlock.lns get "host_id = \"-1\"\n" = *
test Vlhook_sanlock.lns put "" after set "/host_id" "-1" = *
test Vlhook_sanlock.lns get "host_id = one\n" = *
test Vlhook_sanlock.lns get "host_id = \"one\"\n" = *
test Vlhook_sanlock.lns put "" after set "/host_id" "one" = *
test Vlhook_sanlock.lns get "host_id = 1.5\n" = *
test Vlhook_sanlock.lns get "host_id = \"1.5\"\n" = *
test Vlhook_sanlock.lns put "" after set "/host_id" "1.5" = *
test Vlhook_sanlock.lns get "host_id = \"1\"\n" = *
test Vlhook_sanlock.lns get "host_id = \n" = *
test Vlhook_sanlock.lns get "host_id = \"\"\n" = *
test Vlhook_sanlock.lns get "host_id = 1 2\n" = *
test Vlhook_sanlock.lns get "host_id = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "host_id = \"1\n" = *
test Vlhook_sanlock.lns get "  host_id=1  # why\n" = { "host_id" = "1" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "host_id = 1\r\n" = *

(* auto_disk_leases: 1 or 0, without quotes *)
test Vlhook_sanlock.lns get "auto_disk_leases = 0\n" = { "auto_disk_leases" = "0" }
test Vlhook_sanlock.lns put "" after set "/auto_disk_leases" "0" = "auto_disk_leases = 0\n"
test Vlhook_sanlock.lns get "auto_disk_leases = 1\n" = { "auto_disk_leases" = "1" }
test Vlhook_sanlock.lns put "" after set "/auto_disk_leases" "1" = "auto_disk_leases = 1\n"
test Vlhook_sanlock.lns get "auto_disk_leases = 2\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \"2\"\n" = *
test Vlhook_sanlock.lns put "" after set "/auto_disk_leases" "2" = *
test Vlhook_sanlock.lns get "auto_disk_leases = on\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \"on\"\n" = *
test Vlhook_sanlock.lns put "" after set "/auto_disk_leases" "on" = *
test Vlhook_sanlock.lns get "auto_disk_leases = true\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \"true\"\n" = *
test Vlhook_sanlock.lns put "" after set "/auto_disk_leases" "true" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \"0\"\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \"\"\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = 1 2\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "auto_disk_leases = \"1\n" = *
test Vlhook_sanlock.lns get "  auto_disk_leases=0  # why\n" = { "auto_disk_leases" = "0" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "auto_disk_leases = 0\r\n" = *

(* disk_lease_dir: an absolute path of at most 960 bytes, in "quotes" *)
test Vlhook_sanlock.lns get "disk_lease_dir = \"/var/lib/libvirt/sanlock\"\n" = { "disk_lease_dir" = "/var/lib/libvirt/sanlock" }
test Vlhook_sanlock.lns get "disk_lease_dir = '/var/lib/libvirt/sanlock'\n" = { "disk_lease_dir" = "/var/lib/libvirt/sanlock" }
test Vlhook_sanlock.lns put "" after set "/disk_lease_dir" "/var/lib/libvirt/sanlock" = "disk_lease_dir = \"/var/lib/libvirt/sanlock\"\n"
test Vlhook_sanlock.lns get "disk_lease_dir = \"/a b#c\"\n" = { "disk_lease_dir" = "/a b#c" }
test Vlhook_sanlock.lns get "disk_lease_dir = '/a b#c'\n" = { "disk_lease_dir" = "/a b#c" }
test Vlhook_sanlock.lns put "" after set "/disk_lease_dir" "/a b#c" = "disk_lease_dir = \"/a b#c\"\n"
test Vlhook_sanlock.lns get "disk_lease_dir = relative/path\n" = *
test Vlhook_sanlock.lns get "disk_lease_dir = \"relative/path\"\n" = *
test Vlhook_sanlock.lns put "" after set "/disk_lease_dir" "relative/path" = *
test Vlhook_sanlock.lns get "disk_lease_dir = /var/lib/libvirt/sanlock\n" = *
test Vlhook_sanlock.lns get "disk_lease_dir = \n" = *
test Vlhook_sanlock.lns get "disk_lease_dir = \"\"\n" = *
test Vlhook_sanlock.lns get "disk_lease_dir = 1 2\n" = *
test Vlhook_sanlock.lns get "disk_lease_dir = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "disk_lease_dir = \"1\n" = *
test Vlhook_sanlock.lns get "  disk_lease_dir=\"/a b#c\"  # why\n" = { "disk_lease_dir" = "/a b#c" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "disk_lease_dir = \"/a b#c\"\r\n" = *

(* require_lease_for_disks: 1 or 0, without quotes *)
test Vlhook_sanlock.lns get "require_lease_for_disks = 0\n" = { "require_lease_for_disks" = "0" }
test Vlhook_sanlock.lns put "" after set "/require_lease_for_disks" "0" = "require_lease_for_disks = 0\n"
test Vlhook_sanlock.lns get "require_lease_for_disks = 1\n" = { "require_lease_for_disks" = "1" }
test Vlhook_sanlock.lns put "" after set "/require_lease_for_disks" "1" = "require_lease_for_disks = 1\n"
test Vlhook_sanlock.lns get "require_lease_for_disks = 2\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \"2\"\n" = *
test Vlhook_sanlock.lns put "" after set "/require_lease_for_disks" "2" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = on\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \"on\"\n" = *
test Vlhook_sanlock.lns put "" after set "/require_lease_for_disks" "on" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = true\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \"true\"\n" = *
test Vlhook_sanlock.lns put "" after set "/require_lease_for_disks" "true" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \"0\"\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \"\"\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = 1 2\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "require_lease_for_disks = \"1\n" = *
test Vlhook_sanlock.lns get "  require_lease_for_disks=0  # why\n" = { "require_lease_for_disks" = "0" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "require_lease_for_disks = 0\r\n" = *

(* io_timeout: a whole number from 1 to 120 (seconds), or 0 for the default 10, without quotes *)
test Vlhook_sanlock.lns get "io_timeout = 0\n" = { "io_timeout" = "0" }
test Vlhook_sanlock.lns put "" after set "/io_timeout" "0" = "io_timeout = 0\n"
test Vlhook_sanlock.lns get "io_timeout = 1\n" = { "io_timeout" = "1" }
test Vlhook_sanlock.lns put "" after set "/io_timeout" "1" = "io_timeout = 1\n"
test Vlhook_sanlock.lns get "io_timeout = 120\n" = { "io_timeout" = "120" }
test Vlhook_sanlock.lns put "" after set "/io_timeout" "120" = "io_timeout = 120\n"
test Vlhook_sanlock.lns get "io_timeout = 121\n" = *
test Vlhook_sanlock.lns get "io_timeout = \"121\"\n" = *
test Vlhook_sanlock.lns put "" after set "/io_timeout" "121" = *
test Vlhook_sanlock.lns get "io_timeout = -1\n" = *
test Vlhook_sanlock.lns get "io_timeout = \"-1\"\n" = *
test Vlhook_sanlock.lns put "" after set "/io_timeout" "-1" = *
test Vlhook_sanlock.lns get "io_timeout = one\n" = *
test Vlhook_sanlock.lns get "io_timeout = \"one\"\n" = *
test Vlhook_sanlock.lns put "" after set "/io_timeout" "one" = *
test Vlhook_sanlock.lns get "io_timeout = 1.5\n" = *
test Vlhook_sanlock.lns get "io_timeout = \"1.5\"\n" = *
test Vlhook_sanlock.lns put "" after set "/io_timeout" "1.5" = *
test Vlhook_sanlock.lns get "io_timeout = \"0\"\n" = *
test Vlhook_sanlock.lns get "io_timeout = \n" = *
test Vlhook_sanlock.lns get "io_timeout = \"\"\n" = *
test Vlhook_sanlock.lns get "io_timeout = 1 2\n" = *
test Vlhook_sanlock.lns get "io_timeout = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "io_timeout = \"1\n" = *
test Vlhook_sanlock.lns get "  io_timeout=0  # why\n" = { "io_timeout" = "0" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "io_timeout = 0\r\n" = *

(* user: the name of an account, or its number, in "quotes" *)
test Vlhook_sanlock.lns get "user = \"sanlock\"\n" = { "user" = "sanlock" }
test Vlhook_sanlock.lns get "user = 'sanlock'\n" = { "user" = "sanlock" }
test Vlhook_sanlock.lns put "" after set "/user" "sanlock" = "user = \"sanlock\"\n"
test Vlhook_sanlock.lns get "user = \"+107\"\n" = { "user" = "+107" }
test Vlhook_sanlock.lns get "user = '+107'\n" = { "user" = "+107" }
test Vlhook_sanlock.lns put "" after set "/user" "+107" = "user = \"+107\"\n"
test Vlhook_sanlock.lns get "user = \"100\"\n" = { "user" = "100" }
test Vlhook_sanlock.lns get "user = '100'\n" = { "user" = "100" }
test Vlhook_sanlock.lns put "" after set "/user" "100" = "user = \"100\"\n"
test Vlhook_sanlock.lns get "user = a b\n" = *
test Vlhook_sanlock.lns get "user = \"a b\"\n" = *
test Vlhook_sanlock.lns put "" after set "/user" "a b" = *
test Vlhook_sanlock.lns get "user = sanlock\n" = *
test Vlhook_sanlock.lns get "user = \n" = *
test Vlhook_sanlock.lns get "user = \"\"\n" = *
test Vlhook_sanlock.lns get "user = 1 2\n" = *
test Vlhook_sanlock.lns get "user = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "user = \"1\n" = *
test Vlhook_sanlock.lns get "  user=\"100\"  # why\n" = { "user" = "100" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "user = \"100\"\r\n" = *

(* group: the name of an account, or its number, in "quotes" *)
test Vlhook_sanlock.lns get "group = \"sanlock\"\n" = { "group" = "sanlock" }
test Vlhook_sanlock.lns get "group = 'sanlock'\n" = { "group" = "sanlock" }
test Vlhook_sanlock.lns put "" after set "/group" "sanlock" = "group = \"sanlock\"\n"
test Vlhook_sanlock.lns get "group = \"+107\"\n" = { "group" = "+107" }
test Vlhook_sanlock.lns get "group = '+107'\n" = { "group" = "+107" }
test Vlhook_sanlock.lns put "" after set "/group" "+107" = "group = \"+107\"\n"
test Vlhook_sanlock.lns get "group = \"100\"\n" = { "group" = "100" }
test Vlhook_sanlock.lns get "group = '100'\n" = { "group" = "100" }
test Vlhook_sanlock.lns put "" after set "/group" "100" = "group = \"100\"\n"
test Vlhook_sanlock.lns get "group = a b\n" = *
test Vlhook_sanlock.lns get "group = \"a b\"\n" = *
test Vlhook_sanlock.lns put "" after set "/group" "a b" = *
test Vlhook_sanlock.lns get "group = sanlock\n" = *
test Vlhook_sanlock.lns get "group = \n" = *
test Vlhook_sanlock.lns get "group = \"\"\n" = *
test Vlhook_sanlock.lns get "group = 1 2\n" = *
test Vlhook_sanlock.lns get "group = [ 1 ]\n" = *
test Vlhook_sanlock.lns get "group = \"1\n" = *
test Vlhook_sanlock.lns get "  group=\"100\"  # why\n" = { "group" = "100" { "#comment" = "why" } }
test Vlhook_sanlock.lns get "group = \"100\"\r\n" = *
