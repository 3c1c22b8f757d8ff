/* Loads a word from an odd address; without .type directives, as assembly by hand often is. */
    .syntax unified
    .thumb
    .section .vectors, "a"
    .word 0x20040000, Reset + 1

    .text
    .globl Reset
Reset:
    ldr r0, =0x20000001
    ldr r1, [r0]
    movs r0, #0x18
    ldr r1, =0x20026
    bkpt 0xab
    b .
    .ltorg
