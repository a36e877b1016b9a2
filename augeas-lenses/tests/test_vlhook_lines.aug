(* SPDX-License-Identifier: LGPL-2.1-or-later *)

module Test_vlhook_lines =

(* What libvirt writes, and what people make of it. *)
let conf = "# Master configuration file
#
#lock_manager = \"lockd\"
lock_manager = \"lockd\"

  # indented
max_files=32768	# enough
vnc_password = \"it's # secret\"
spice_password = 'say \"hi\"'
user = \"100\"
engine = native
empty = \"\"
cgroup_device_acl = [
    \"/dev/null\", \"/dev/full\",
    \"/dev/vfio/vfio\",
]
namespaces = [ ] # none
"

test Vlhook_lines.any get conf =
  { "#comment" = "Master configuration file" }
  { "#comment" = "" }
  { "#comment" = "lock_manager = \"lockd\"" }
  { "lock_manager" = "lockd" }
  { "#empty" }
  { "#comment" = "indented" }
  { "max_files" = "32768" { "#comment" = "enough" } }
  { "vnc_password" = "it's # secret" }
  { "spice_password" = "say \"hi\"" }
  { "user" = "100" }
  { "engine" = "native" }
  { "empty" }
  { "cgroup_device_acl" { "1" = "/dev/null" } { "2" = "/dev/full" } { "3" = "/dev/vfio/vfio" } }
  { "namespaces" { "#comment" = "none" } }

(* A change keeps quotes, blanks and comments of its line, and touches no other. *)
test Vlhook_lines.any put "  a  =  'x'  # why\n#b\nc=1\n" after set "/a" "y z" = "  a  =  'y z'  # why\n#b\nc=1\n"
test Vlhook_lines.any put "acl = [\n \"a\",\n \"b\"\n]\n" after set "/max_files" "1" =
"acl = [\n \"a\",\n \"b\"\n]\nmax_files = 1\n"
test Vlhook_lines.any put "a = 1\nb = 2\n" after rm "/a" = "b = 2\n"

(* What is new is written as libvirt reads it. *)
test Vlhook_lines.any put "" after set "/lock_manager" "sanlock" = "lock_manager = \"sanlock\"\n"
test Vlhook_lines.any put "" after set "/user" "107" = "user = \"107\"\n"
test Vlhook_lines.any put "" after set "/host_id" "7" = "host_id = 7\n"
test Vlhook_lines.any put "" after set "/disk_lease_dir" "/srv/my leases" = "disk_lease_dir = \"/srv/my leases\"\n"
test Vlhook_lines.any put "" after set "/a" "it's" = "a = \"it's\"\n"
test Vlhook_lines.any put "" after set "/a" "say \"hi\"" = "a = 'say \"hi\"'\n"

(* No settings. *)
test Vlhook_lines.any get "a\n" = *
test Vlhook_lines.any get "a = \n" = *
test Vlhook_lines.any get "a = 1\r\n" = *
test Vlhook_lines.any get "a = \"1\n" = *
test Vlhook_lines.any get "a = 1 2\n" = *
test Vlhook_lines.any get "1a = 1\n" = *
