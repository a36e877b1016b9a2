(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* /etc/libvirt/qemu-vlhook.conf, with the ranges of its values.
   Made from vlhook/config/settings.py by python3 -m vlhook.config.documents: change it there. *)

module Vlhook =
autoload xfm

let setting =
      Vlhook_lines.free_text /engine/ /native|sanlock|auto/
    | Vlhook_lines.free_number /hook_deadline/ /0*([1-9]|[1-9][0-9]|1[0-1][0-9]|120)/
    | Vlhook_lines.free_text /watchdog/ /required|automatic|off/
    | Vlhook_lines.free_text /on_lockfailure/ /poweroff|pause/
    | Vlhook_lines.free_number /identity_leases/ /0|1|no|yes/
    | Vlhook_lines.free_number /chain_leases/ /0|1|no|yes/
    | Vlhook_lines.free_number /nvram_leases/ /0|1|no|yes/
    | Vlhook_lines.free_number /tpm_leases/ /0|1|no|yes/
    | Vlhook_lines.free_text /refused_disk/ /detach|pause|alarm/
    | Vlhook_lines.free_number /lockfailure_grace/ /0*([0-9]|[1-3][0-9]|40)/
    | Vlhook_lines.free_number /claim_foreign/ /0|1|no|yes/

let lns = ( setting | Vlhook_lines.comment | Vlhook_lines.empty )*
let filter = incl "/etc/libvirt/qemu-vlhook.conf" . Util.stdexcl
let xfm = transform lns filter
