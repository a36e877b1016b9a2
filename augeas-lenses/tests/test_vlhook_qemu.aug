(* SPDX-License-Identifier: LGPL-2.1-or-later *)

module Test_vlhook_qemu =

test Vlhook_qemu.lns put "#lock_manager = \"lockd\"\nmax_queued = 0\n" after set "/lock_manager" "sanlock" =
"#lock_manager = \"lockd\"
max_queued = 0
lock_manager = \"sanlock\"
"
test Vlhook_qemu.lns put "lock_manager = \"sanlock\"\n" after set "/lock_manager" "nop" = "lock_manager = \"nop\"\n"
test Vlhook_qemu.lns put "lock_manager = \"sanlock\"\n" after rm "/lock_manager" = ""
test Vlhook_qemu.lns get "a_setting_of_the_future = [ \"x\" ]\n" = { "a_setting_of_the_future" { "1" = "x" } }
