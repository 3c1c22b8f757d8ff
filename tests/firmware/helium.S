/* A Helium dot-product loop with a low-overhead branch: 64 turns of ten instructions. */
    .syntax unified
    .thumb
    .section .vectors, "a"
    .word 0x20040000, Reset

    .text
    .globl Reset
    .type Reset, %function
Reset:
    ldr r0, =0xE000ED88
    ldr r1, [r0]
    orr r1, r1, #0xF00000
    str r1, [r0]
    dsb
    isb
    bl kernel
    movs r0, #0x18
    ldr r1, =0x20026
    bkpt 0xab
    b .
    .size Reset, .-Reset

    .type kernel, %function
kernel:
    push {r4-r8, lr}
    ldr r0, =0x20000000
    add r1, r0, #1024
    movs r2, #0
    movs r4, #0
    movs r6, #0
    mov r8, #0
    mov lr, #64
    dls lr, lr
1:  vldrb.8 q0, [r0], #16
    vldrb.8 q1, [r1], #16
    vmladava.s8 r2, q0, q1
    vldrb.8 q2, [r1]
    vmladava.s8 r4, q0, q2
    vldrb.8 q3, [r1, #16]
    vmladava.s8 r6, q0, q3
    vldrb.8 q4, [r1, #32]
    vmladava.s8 r8, q0, q4
    le lr, 1b
    pop {r4-r8, pc}
    .size kernel, .-kernel
    .ltorg
