/* 2 output channels x 4 columns, int8 weights widened to pairs of halfwords (ek_dsp.h).
 *
 * 26 instructions for 32 multiplications: the two weight words are loaded twice, which is cheaper
 * than registers to keep them in. With 8 accumulators compilers spill, so the loop is assembly; the
 * C form is its definition. Two entries: the sums alone, and all channels of four pixels with the
 * fast requantization.
 */
#include "ek_dsp_quant.h"

#if EK_SIMD_ASM

#define BLOCK \
  "  ldrd r0, r3, [r1]\n" \
  "  sxtb16 r0, r0\n" \
  "  sxtb16 r3, r3\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  smlad r4, r0, r12, r4\n" \
  "  smlad r8, r3, r12, r8\n" \
  "  smlad r5, r0, lr, r5\n" \
  "  smlad r9, r3, lr, r9\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  smlad r6, r0, r12, r6\n" \
  "  smlad r10, r3, r12, r10\n" \
  "  smlad r7, r0, lr, r7\n" \
  "  smlad r11, r3, lr, r11\n" \
  "  ldrd r0, r3, [r1], #8\n" \
  "  sxtb16 r0, r0, ror #8\n" \
  "  sxtb16 r3, r3, ror #8\n" \
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

__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_mac_s8_2x4_pairs_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s8_2x4_pairs_dsp\n"
    ".type ek_mac_s8_2x4_pairs_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s8_2x4_pairs_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  add r12, r2, r3, lsl #5\n" /* end of the columns */
    "  bic r3, r3, #3\n"
    "  add r3, r2, r3, lsl #5\n" /* end of the unrolled part */
    "  push {r0, r3, r12}\n"
    "  ldmia r0, {r4-r11}\n"
    "  cmp r2, r3\n"
    "  beq 2f\n"
    "1:\n"
    ".rept 4\n"
    BLOCK
    ".endr\n"
    "  ldr r0, [sp, #4]\n"
    "  cmp r2, r0\n"
    "  bne 1b\n"
    "2:\n"
    "  ldr r0, [sp, #8]\n"
    "  cmp r2, r0\n"
    "  beq 3f\n"
    BLOCK
    "  b 2b\n"
    "3:\n"
    "  ldr r0, [sp], #12\n"
    "  stmia r0, {r4-r11}\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_mac_s8_2x4_pairs_dsp, .-ek_mac_s8_2x4_pairs_dsp\n"
    ".text\n");

#define OUTPUT(acc, address) \
  "  add r1, " acc ", r2\n" \
  "  smmlar r1, " acc ", r0, r1\n" \
  "  add r1, r1, " acc ", asr #31\n" \
  "  asr r1, r1, r3\n" \
  "  ssat r1, #8, r1\n" \
  "  strb r1, [" address "]\n"

/* r0: the argument, its fields in order: weights, quant, out, cols, pairs, step, blocks.
 * On the stack: 0 end of the unrolled part, 4 end of the columns, 8 cols, 12 quant, 16 out,
 * 20 pairs left, 24 step, 28 weights. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_conv_columns_s8_pairs_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_conv_columns_s8_pairs_dsp\n"
    ".type ek_conv_columns_s8_pairs_dsp, %function\n"
    ".thumb_func\n"
    "ek_conv_columns_s8_pairs_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #32\n"
    "  ldmia r0, {r4-r10}\n"
    "  mov r1, r4\n"
    "  add r12, r7, r10, lsl #5\n"
    "  bic r10, r10, #3\n"
    "  add r11, r7, r10, lsl #5\n"
    "  strd r11, r12, [sp]\n"
    "  strd r7, r5, [sp, #8]\n"
    "  strd r6, r8, [sp, #16]\n"
    "  str r9, [sp, #24]\n"
    "1:\n"
    "  ldrd r2, r3, [sp, #8]\n"
    "  ldr r4, [r3, #12]\n" /* biases */
    "  ldr r8, [r3, #28]\n"
    "  mov r5, r4\n"
    "  mov r6, r4\n"
    "  mov r7, r4\n"
    "  mov r9, r8\n"
    "  mov r10, r8\n"
    "  mov r11, r8\n"
    "  ldr r0, [sp]\n"
    "  cmp r2, r0\n"
    "  beq 3f\n"
    "2:\n"
    ".rept 4\n"
    BLOCK
    ".endr\n"
    "  ldr r0, [sp]\n"
    "  cmp r2, r0\n"
    "  bne 2b\n"
    "3:\n"
    "  ldr r0, [sp, #4]\n"
    "  cmp r2, r0\n"
    "  beq 4f\n"
    BLOCK
    "  b 3b\n"
    "4:\n"
    "  str r1, [sp, #28]\n"
    "  ldrd r1, r12, [sp, #12]\n"
    "  ldr lr, [sp, #24]\n"
    "  ldmia r1, {r0, r2, r3}\n" /* mult, round, exp */
    OUTPUT("r4", "r12")
    OUTPUT("r5", "r12, lr")
    OUTPUT("r6", "r12, lr, lsl #1")
    "  add r12, r12, lr\n"
    OUTPUT("r7", "r12, lr, lsl #1")
    "  ldr r4, [sp, #12]\n"
    "  add r4, r4, #16\n"
    "  ldmia r4, {r0, r2, r3}\n"
    "  add r4, r4, #16\n"
    "  str r4, [sp, #12]\n"
    "  add r12, r12, #1\n"
    OUTPUT("r9", "r12")
    OUTPUT("r10", "r12, lr")
    OUTPUT("r11", "r12, lr, lsl #1")
    "  sub r12, r12, lr\n"
    OUTPUT("r8", "r12")
    "  add r12, r12, #1\n"
    "  ldr r0, [sp, #20]\n"
    "  ldr r1, [sp, #28]\n"
    "  subs r0, r0, #1\n"
    "  strd r12, r0, [sp, #16]\n"
    "  bne 1b\n"
    "  add sp, sp, #32\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_conv_columns_s8_pairs_dsp, .-ek_conv_columns_s8_pairs_dsp\n"
    ".text\n");

#else

void ek_mac_s8_2x4_pairs_dsp(int32_t *acc, const int8_t *w, const uint32_t *cols, uint32_t blocks) {
  for (; blocks > 0; --blocks, w += 8, cols += 8) {
    for (int c = 0; c < 2; ++c) {
      const uint32_t word = ek_load32(w + 4 * c);
      const uint32_t first = ek_sxtb16(word);
      const uint32_t second = ek_sxtb16_ror8(word);
      for (int i = 0; i < 4; ++i) {
        acc[4 * c + i] = ek_smlad(first, cols[i], acc[4 * c + i]);
        acc[4 * c + i] = ek_smlad(second, cols[4 + i], acc[4 * c + i]);
      }
    }
  }
}

void ek_conv_columns_s8_pairs_dsp(const ek_conv_columns *p) {
  const int8_t *w = p->weights;
  const ek_dsp_quant *q = p->quant;
  for (int32_t c = 0; c < 2 * p->pairs; c += 2, q += 2, w += 8 * p->blocks) {
    int32_t acc[8];
    for (int i = 0; i < 8; ++i) acc[i] = q[i / 4].bias;
    ek_mac_s8_2x4_pairs_dsp(acc, w, p->cols, (uint32_t)p->blocks);
    for (int i = 0; i < 2; ++i) {
      ek_dsp_store(acc + 4 * i, 4, 0, q + i, 0, -128, 127, p->out + c + i, p->step);
    }
  }
}

#endif
