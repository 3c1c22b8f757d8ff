/* 2 output channels x 4 columns, int16 weights (ek_dsp_mac.h).
 *
 * 11 instructions for 16 multiplications: one load of two weight words, two of two column words,
 * 8 SMLAD. Accumulators, operands and pointers fill all 14 registers, which no compiler does without
 * spilling; the C form is the definition. The first block of a position multiplies without adding, so
 * that nothing is cleared; the blocks that are left over from a multiple of eight are reached by a
 * jump into the unrolled loop.
 */
#include "ek_dsp_mac.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

#define BLOCK \
  "  ldrd r0, r3, [r1], #8\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  smlad r4, r0, r12, r4\n" \
  "  smlad r8, r3, r12, r8\n" \
  "  smlad r5, r0, lr, r5\n" \
  "  smlad r9, r3, lr, r9\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  smlad r6, r0, r12, r6\n" \
  "  smlad r10, r3, r12, r10\n" \
  "  smlad r7, r0, lr, r7\n" \
  "  smlad r11, r3, lr, r11\n"

#define FIRST \
  "  ldrd r0, r3, [r1], #8\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  smuad r4, r0, r12\n" \
  "  smuad r8, r3, r12\n" \
  "  smuad r5, r0, lr\n" \
  "  smuad r9, r3, lr\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  smuad r6, r0, r12\n" \
  "  smuad r10, r3, r12\n" \
  "  smuad r7, r0, lr\n" \
  "  smuad r11, r3, lr\n"

#define STORE \
  "  ldrd r0, r3, [sp, #12]\n" \
  "  stmia r0!, {r4-r11}\n" \
  "  str r0, [sp, #12]\n" \
  "  cmp r0, r3\n"

/* r0: the argument. On the stack: 0 bytes of columns after the first block, 4 where to enter the
 * unrolled blocks, 8 end of the position's columns, 12 sums, 16 their end, 20 next run. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_mac_s16_2x4_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s16_2x4_dsp\n"
    ".type ek_mac_s16_2x4_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s16_2x4_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #28\n"
    "  ldr r2, [r0], #4\n"
    "  ldr r1, [r0], #4\n"
    "  ldr r3, [r0], #4\n"
    "  str r3, [sp, #12]\n"
    "1:\n"
    "  ldr r4, [r0], #4\n" /* positions */
    "  cmp r4, #0\n"
    "  beq 9f\n"
    "  ldr r5, [r0], #4\n" /* blocks */
    "  str r0, [sp, #20]\n"
    "  ldr r0, [sp, #12]\n"
    "  add r0, r0, r4, lsl #5\n"
    "  str r0, [sp, #16]\n"
    "  subs r5, r5, #1\n"
    "  lsl r0, r5, #4\n"
    "  str r0, [sp]\n"
    "  and r6, r5, #7\n"
    "  mov r7, #44\n" /* bytes of a block's instructions */
    "  mul r6, r6, r7\n"
    "  cmp r5, #8\n"
    "  bge 5f\n"
    "  adr.w r0, 3f\n"
    "  sub r0, r0, r6\n"
    "  orr r0, r0, #1\n"
    "  str r0, [sp, #4]\n"
    "2:\n"
    FIRST
    "  ldr r0, [sp, #4]\n"
    "  bx r0\n"
    ".rept 7\n"
    BLOCK
    ".endr\n"
    "3:\n"
    STORE
    "  bne 2b\n"
    "  ldr r0, [sp, #20]\n"
    "  b 1b\n"
    "5:\n"
    "  adr.w r0, 8f\n"
    "  sub r0, r0, r6\n"
    "  orr r0, r0, #1\n"
    "  str r0, [sp, #4]\n"
    "6:\n"
    FIRST
    "  ldrd r0, r3, [sp]\n"
    "  add r0, r2, r0\n"
    "  str r0, [sp, #8]\n"
    "  bx r3\n"
    "7:\n"
    ".rept 8\n"
    BLOCK
    ".endr\n"
    "8:\n"
    "  ldr r0, [sp, #8]\n"
    "  cmp r2, r0\n"
    "  bne 7b\n"
    STORE
    "  bne 6b\n"
    "  ldr r0, [sp, #20]\n"
    "  b 1b\n"
    "9:\n"
    "  add sp, sp, #28\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_mac_s16_2x4_dsp, .-ek_mac_s16_2x4_dsp\n"
    ".text\n");

#else

void ek_mac_s16_2x4_dsp(const ek_mac_s16 *p) {
  const uint32_t *x = p->x;
  const uint32_t *w = p->w;
  int32_t *m = p->m;
  for (const ek_mac_run *run = p->runs; run->positions > 0; ++run) {
    for (int32_t i = 0; i < run->positions; ++i, m += 8) {
      memset(m, 0, 8 * sizeof *m);
      for (int32_t k = 0; k < run->blocks; ++k, x += 4, w += 2) {
        for (int j = 0; j < 8; ++j) m[j] = ek_smlad(w[j / 4], x[j % 4], m[j]);
      }
    }
  }
}

#endif
