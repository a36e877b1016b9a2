(* SPDX-License-Identifier: LGPL-2.1-or-later *)
(* The lines of libvirt's configuration files, for the lenses of vlhook.

   `any` is a whole file of whatever settings: with it a file can be read and put right that a lens with ranges
   refuses. Node names are those of libvirt's own lenses (#comment, #empty, a list's elements in order); beyond
   theirs it takes comments with blanks before them or after a value, single quotes and lists that end with a
   comma. What it does not take: texts in triple quotes and settings separated by semicolons.

   A setting that is new in the file is written as libvirt wants it: numbers bare, texts in double quotes. *)

module Vlhook_lines =

let blank = del /[ \t]*/ ""
let equals = del /[ \t]*=[ \t]*/ " = "

let remark = store ( /[^ \t\n][^\n]*/? ) . del "\n" "\n"
let comment = [ label "#comment" . del /[ \t]*#[ \t]*/ "# " . remark ]
let empty = [ label "#empty" . del /[ \t]*\n/ "\n" ]
let line_end = del /[ \t]*\n/ "\n" | [ label "#comment" . del /[ \t]*#[ \t]*/ " # " . remark ]

let entry (name:regexp) (value:lens) = [ blank . key name . equals . value . line_end ]

(* Quotes, the same on both sides. *)
let double (body:lens) = square (del "\"" "\"") body (del "\"" "\"")
let single (body:lens) = square (del "'" "'") body (del "'" "'")
let quoted (body:lens) = square (del /["']/ "\"") body (del /["']/ "\"")
let quoted_or_not (body:lens) = square (del /["']?/ "\"") body (del /["']?/ "\"")
let bare_or_quoted (body:lens) = square (del /["']?/ "") body (del /["']?/ "")

(* One setting, as libvirt reads it ... *)
let number (name:regexp) (value:regexp) = entry name (store value)
let text (name:regexp) (value:regexp) = entry name (quoted (store value))
(* ... and with or without quotes. *)
let free_number (name:regexp) (value:regexp) = entry name (bare_or_quoted (store value))
let free_text (name:regexp) (value:regexp) = entry name (quoted_or_not (store value))

(* Any setting. The kinds of values do not overlap: by the value alone it is known how it is to be written. A
   setting without a value is an empty text or an empty list, whichever it was before. *)
let name = /[A-Za-z][A-Za-z0-9_]*/
let text_name = /lock_manager|disk_lease_dir|user|group/

let digits = /[+-]?[0-9]+/
let word = /[A-Za-z0-9_.:+\/-]+/
let odd = /[^"'\n]+/ - word
let with_single = /[^"\n]*'[^"\n]*/
let with_double = /[^'\n]*"[^'\n]*/
let odd_text (name:regexp) =
      text name odd
    | entry name (double (store with_single))
    | entry name (single (store with_double))

let space = del /[ \t\n]*/ ""
let comma = del /,[ \t\n]*/ ", "
let element = [ seq "element" . double (store /[^"\n]*/) ] . space
let list = counter "element" . del /\[[ \t\n]*/ "[ "
         . element . ( comma . element )* . del /(,[ \t\n]*)?/ "" . del "]" "]"
let no_text = del /""|''/ "\"\""
let nothing = del /""|''|\[[ \t\n]*\]/ "\"\""

let any_entry = free_text text_name word
              | odd_text text_name
              | entry text_name no_text
              | free_number (name - text_name) digits
              | free_text (name - text_name) (word - digits)
              | odd_text (name - text_name)
              | entry (name - text_name) (list | nothing)

let any = ( any_entry | comment | empty )*
