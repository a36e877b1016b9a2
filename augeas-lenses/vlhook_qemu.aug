(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* libvirt's /etc/libvirt/qemu.conf, every setting of every release. Not autoloaded: where libvirt's own lens is
   installed, that one reads the file (see fallback/). *)

module Vlhook_qemu =

let lns = Vlhook_lines.any
