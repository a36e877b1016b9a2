/* SPDX-License-Identifier: LGPL-2.1-or-later
 *
 * A guest in one boot sector.  It needs no operating system: SeaBIOS loads it
 * from the first disk and it does, for ever, what the flags ask for:
 *
 *   bit 0  ACPI    power off when the ACPI power button is pressed
 *   bit 1  OFF     power itself off after SECS seconds
 *   bit 2  RESET   reset itself after SECS seconds
 *   bit 3  DIRTY   keep dirtying 512 KiB of memory (a migration that is held
 *                  to a small bandwidth then never converges)
 *   bit 4  WRITE   keep writing a counter to sector 8 of the boot disk
 *   bit 5  PANIC   tell the pvpanic device "guest panicked" after SECS seconds
 *
 * A 'B' goes to COM1 at each boot and a '.' about once a second.
 *
 * guest.bin is this, assembled:
 *   as --32 -o guest.o guest.S
 *   ld -m elf_i386 -Ttext 0x7c00 -e _start --oformat binary -o guest.bin guest.o
 */
        .code16
        .text
        .globl _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti
        cld
        movb    %dl, drive
        movw    $0x602, %dx             /* PM1_EN: power button */
        movw    $0x0100, %ax
        outw    %ax, %dx
        movb    $'B', %al
        call    putc
        movl    0x46c, %eax             /* BIOS ticks, 18.2 a second */
        movl    %eax, t0
        movl    %eax, tlast
loop:
        testb   $1, flags
        jz      1f
        movw    $0x600, %dx
        inw     %dx, %ax
        testw   $0x0100, %ax
        jz      1f
        outw    %ax, %dx
        jmp     poweroff
1:
        movl    0x46c, %eax
        movl    %eax, %ebx
        subl    tlast, %ebx
        cmpl    $18, %ebx
        jb      2f
        movl    %eax, tlast
        movb    $'.', %al
        call    putc
2:
        movl    0x46c, %eax
        subl    t0, %eax
        movzwl  ticks, %ebx
        cmpl    %ebx, %eax
        jb      3f
        testb   $2, flags
        jnz     poweroff
        testb   $4, flags
        jnz     reset
        testb   $32, flags
        jz      3f
        movw    $0x505, %dx
        movb    $1, %al
        outb    %al, %dx
3:
        testb   $8, flags
        jz      5f
        movw    $0x1000, %bx            /* segments 0x1000 .. 0x8fff */
4:      movw    %bx, %es
        xorw    %di, %di
        movw    $0x8000, %cx
        movw    0x46c, %ax
        rep stosw
        addw    $0x1000, %bx
        cmpw    $0x9000, %bx
        jb      4b
5:
        testb   $16, flags
        jz      6f
        incl    counter
        movw    $dap, %si
        movb    $0x43, %ah
        xorb    %al, %al
        movb    drive, %dl
        int     $0x13
6:
        testb   $8, flags
        jnz     loop
        sti
        hlt
        jmp     loop
poweroff:
        movw    $0x604, %dx             /* PM1_CNT: SLP_EN, type 0 = S5 */
        movw    $0x2000, %ax
        outw    %ax, %dx
        hlt
        jmp     poweroff
reset:
        movw    $0xcf9, %dx
        movb    $0x06, %al
        outb    %al, %dx
        movb    $0xfe, %al
        outb    %al, $0x64
        hlt
        jmp     reset
putc:
        movw    $0x3f8, %dx
        outb    %al, %dx
        ret
        .balign 4
t0:     .long   0
tlast:  .long   0
drive:  .byte   0
        .balign 4
dap:    .byte   16, 0
        .word   1
        .word   0x8000, 0               /* buffer 0000:8000 */
        .quad   8
        .set    counter, 0x8000
        .org    0x1a0
flags:  .byte   1
        .byte   0
ticks:  .word   0xffff
        .org    0x1fe
        .byte   0x55, 0xaa
