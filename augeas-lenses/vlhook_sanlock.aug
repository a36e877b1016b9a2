(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* /etc/libvirt/qemu-sanlock.conf, with the ranges of its values.
   Made from vlhook/config/settings.py by python3 -m vlhook.config.documents: change it there.
   Not autoloaded: libvirt's own lens reads the file where it is installed (see fallback/). *)

module Vlhook_sanlock =

let setting =
      Vlhook_lines.number /host_id/ /0*([1-9]|[1-9][0-9]|[1-9][0-9][0-9]|1[0-9][0-9][0-9]|2000)/
    | Vlhook_lines.number /auto_disk_leases/ /0|1/
    | Vlhook_lines.text /disk_lease_dir/ /\/[^"'\n]*/
    | Vlhook_lines.number /require_lease_for_disks/ /0|1/
    | Vlhook_lines.number /io_timeout/ /0*([1-9]|[1-9][0-9]|1[0-1][0-9]|120|0)/
    | Vlhook_lines.text /user/ /[^"' \t\n]+/
    | Vlhook_lines.text /group/ /[^"' \t\n]+/
    | Vlhook_lines.number /ignore_readonly_and_shared_disks/ /0|1/

let lns = ( setting | Vlhook_lines.comment | Vlhook_lines.empty )*
