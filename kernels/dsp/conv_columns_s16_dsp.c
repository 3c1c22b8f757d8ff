/* All pairs of output channels of four columns, int16 weights, with requantization (ek_dsp.h).
 *
 * 11 instructions for 16 multiplications (see mac_s16_2x4_dsp.c), entered where the number of blocks
 * asks for. Weights and biases are doubled: SMMLAR of a doubled accumulator with the multiplier is
 * gemmlowp's high multiplication, and adds half of the second rounding and the output offset.
 */
#include "ek_dsp_quant.h"

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

#define ADJUST(acc) "  add r1, r1, " acc ", asr #31\n"
#define NOTHING(acc)

#define OUTPUT(acc, address, sign) \
  "  smmlar r1, " acc ", r0, r2\n" \
  sign(acc) \
  "  asr r1, r1, r3\n" \
  "  ssat r1, #8, r1\n" \
  "  strb r1, [" address "]\n"

/* Both channels: r12 out, lr step, r0, r2, r3 of the first; the table's are doubled multipliers. */
#define OUTPUTS(sign) \
  OUTPUT("r4", "r12", sign) \
  OUTPUT("r5", "r12, lr", sign) \
  OUTPUT("r6", "r12, lr, lsl #1", sign) \
  "  add r12, r12, lr\n" \
  OUTPUT("r7", "r12, lr, lsl #1", sign) \
  "  ldr r4, [sp, #12]\n" \
  "  add r4, r4, #16\n" \
  "  ldmia r4, {r0, r2, r3}\n" \
  "  add r4, r4, #16\n" \
  "  str r4, [sp, #12]\n" \
  "  lsr r0, r0, #1\n" \
  "  add r12, r12, #1\n" \
  OUTPUT("r9", "r12", sign) \
  OUTPUT("r10", "r12, lr", sign) \
  OUTPUT("r11", "r12, lr, lsl #1", sign) \
  "  sub r12, r12, lr\n" \
  OUTPUT("r8", "r12", sign) \
  "  add r12, r12, #1\n" \
  "  ldr r0, [sp, #20]\n" \
  "  ldr r1, [sp, #28]\n" \
  "  subs r0, r0, #1\n" \
  "  strd r12, r0, [sp, #16]\n" \
  "  bne 1b\n" \
  "  add sp, sp, #36\n" \
  "  pop {r4-r11, pc}\n"

/* r0: the argument, its fields in order: weights, quant, out, cols, pairs, step, blocks, linear.
 * On the stack: 0 end of the columns, 4 where to enter, 8 cols, 12 quant, 16 out, 20 pairs left,
 * 24 step, 28 weights, 32 linear. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_conv_columns_s16_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_conv_columns_s16_dsp\n"
    ".type ek_conv_columns_s16_dsp, %function\n"
    ".thumb_func\n"
    "ek_conv_columns_s16_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #36\n"
    "  ldmia r0, {r4-r11}\n"
    "  mov r1, r4\n"
    "  add r12, r7, r10, lsl #5\n"
    "  ands r10, r10, #3\n"
    "  adr.w r2, 2f\n"
    "  beq 9f\n"
    "  mov r3, #88\n" /* bytes of the instructions of four inputs */
    "  mul r10, r10, r3\n"
    "  adr.w r2, 3f\n"
    "  sub r2, r2, r10\n"
    "9:\n"
    "  orr r2, r2, #1\n"
    "  strd r12, r2, [sp]\n"
    "  strd r7, r5, [sp, #8]\n"
    "  strd r6, r8, [sp, #16]\n"
    "  str r9, [sp, #24]\n"
    "  str r11, [sp, #32]\n"
    "1:\n"
    "  ldrd r2, r3, [sp, #8]\n"
    "  ldr r4, [r3, #12]\n" /* biases */
    "  ldr r8, [r3, #28]\n"
    "  ldr r0, [sp, #4]\n"
    "  mov r5, r4\n"
    "  mov r6, r4\n"
    "  mov r7, r4\n"
    "  mov r9, r8\n"
    "  mov r10, r8\n"
    "  mov r11, r8\n"
    "  bx r0\n"
    "2:\n"
    ".rept 8\n"
    BLOCK
    ".endr\n"
    "3:\n"
    "  ldr r0, [sp]\n"
    "  cmp r2, r0\n"
    "  bne 2b\n"
    "  str r1, [sp, #28]\n"
    "  ldrd r1, r12, [sp, #12]\n"
    "  ldr lr, [sp, #24]\n"
    "  ldmia r1, {r0, r2, r3}\n" /* mult, round, exp */
    "  ldr r1, [sp, #32]\n"
    "  lsr r0, r0, #1\n"
    "  cmp r1, #0\n"
    "  bne 5f\n"
    OUTPUTS(NOTHING)
    "5:\n"
    OUTPUTS(ADJUST)
    ".size ek_conv_columns_s16_dsp, .-ek_conv_columns_s16_dsp\n"
    ".text\n");

#else

void ek_conv_columns_s16_dsp(const ek_conv_columns *p) {
  const uint32_t *w = (const uint32_t *)(const void *)p->weights;
  const ek_dsp_quant *q = p->quant;
  for (int32_t c = 0; c < 2 * p->pairs; c += 2, q += 2) {
    int32_t acc[8];
    const uint32_t *x = p->cols;
    for (int i = 0; i < 8; ++i) acc[i] = q[i / 4].bias;
    for (int32_t k = 0; k < 2 * p->blocks; ++k, w += 2, x += 4) {
      for (int i = 0; i < 8; ++i) acc[i] = ek_smlad(w[i / 4], x[i % 4], acc[i]);
    }
    for (int i = 0; i < 2; ++i) {
      ek_dsp_store(acc + 4 * i, 4, 1, q + i, 0, -128, 127, p->out + c + i, p->step);
    }
  }
}

#endif
