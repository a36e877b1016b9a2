(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* Loads /etc/libvirt/qemu.conf where libvirt's own lens is not installed.

   It belongs in the last directory that Augeas searches, /usr/share/augeas/lenses/dist, and has the name of
   libvirt's lens, which is in the directory before: Augeas takes the first module of a name. So as soon as
   libvirt's is there this one is out of use, and there are never two lenses for the file. *)

module Libvirtd_qemu =
autoload xfm

let lns = Vlhook_qemu.lns
let filter = incl "/etc/libvirt/qemu.conf" . Util.stdexcl
let xfm = transform lns filter
