/* All channels of one output pixel of a depthwise convolution: the inner loops of
 * depthwise_s8_pairs_dsp.c.
 *
 * Two words of four channels become, by PKHBT/PKHTB and SXTB16, four pairs (tap, next tap) of one
 * channel each: 15 instructions for 8 multiplications; 7 instructions requantize and store a
 * channel.
 */
#include "ek_dsp_quant.h"

#if EK_SIMD_ASM

#define TWO_TAPS \
  "  ldrd r8, r9, [r1], #8\n" \
  "  ldr r8, [r8, r3]\n" \
  "  ldr r9, [r9, r3]\n" \
  "  pkhbt r10, r8, r9, lsl #16\n" \
  "  pkhtb r11, r9, r8, asr #16\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  sxtb16 r8, r10\n" \
  "  sxtb16 r9, r10, ror #8\n" \
  "  smlad r4, r8, r12, r4\n" \
  "  smlad r5, r9, lr, r5\n" \
  "  ldrd r12, lr, [r2], #8\n" \
  "  sxtb16 r8, r11\n" \
  "  sxtb16 r9, r11, ror #8\n" \
  "  smlad r6, r8, r12, r6\n" \
  "  smlad r7, r9, lr, r7\n"

#define REQUANTIZE(acc) \
  "  ldmia lr!, {r8-r11}\n" \
  "  add r9, r9, " acc "\n" \
  "  smmlar r9, " acc ", r8, r9\n" \
  "  add r9, r9, " acc ", asr #31\n" \
  "  asr r9, r9, r10\n" \
  "  ssat r9, #8, r9\n" \
  "  strb r9, [r12], #1\n"

/* r0: the argument, its fields at 0 tap, 4 end, 8 weights, 12 quant, 16 out, 20 groups.
 * On the stack: 0 tap, 4 end, 8 end of the groups of five pairs, 12 quant, 16 out, 20 end of c. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_depthwise_pixel_s8_pairs_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_depthwise_pixel_s8_pairs_dsp\n"
    ".type ek_depthwise_pixel_s8_pairs_dsp, %function\n"
    ".thumb_func\n"
    "ek_depthwise_pixel_s8_pairs_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  ldmia r0, {r4-r9}\n"
    "  sub sp, sp, #28\n"
    "  sub r10, r5, r4\n" /* 8 bytes a pair */
    "  mov r11, r4\n"
    "5:\n"
    "  cmp r10, #40\n"
    "  itt hs\n"
    "  addhs r11, r11, #40\n"
    "  subhs r10, r10, #40\n"
    "  bhs 5b\n"
    "  str r4, [sp]\n"
    "  str r5, [sp, #4]\n"
    "  str r11, [sp, #8]\n"
    "  str r7, [sp, #12]\n"
    "  str r8, [sp, #16]\n"
    "  lsl r9, r9, #2\n"
    "  str r9, [sp, #20]\n"
    "  mov r2, r6\n" /* weights */
    "  mov r3, #0\n" /* channel */
    "1:\n"
    "  ldr lr, [sp, #12]\n"
    "  ldr r1, [sp]\n"
    "  ldr r0, [sp, #8]\n"
    "  ldr r4, [lr, #12]\n"
    "  ldr r5, [lr, #28]\n"
    "  ldr r6, [lr, #44]\n"
    "  ldr r7, [lr, #60]\n"
    "  cmp r1, r0\n"
    "  beq 3f\n"
    "2:\n"
    ".rept 5\n"
    TWO_TAPS
    ".endr\n"
    "  cmp r1, r0\n"
    "  bne 2b\n"
    "3:\n"
    "  ldr r0, [sp, #4]\n"
    "  cmp r1, r0\n"
    "  beq 4f\n"
    TWO_TAPS
    "  b 3b\n"
    "4:\n"
    "  ldrd lr, r12, [sp, #12]\n"
    REQUANTIZE("r4")
    REQUANTIZE("r5")
    REQUANTIZE("r6")
    REQUANTIZE("r7")
    "  strd lr, r12, [sp, #12]\n"
    "  ldr r0, [sp, #20]\n"
    "  add r3, r3, #4\n"
    "  cmp r3, r0\n"
    "  bne 1b\n"
    "  add sp, sp, #28\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_depthwise_pixel_s8_pairs_dsp, .-ek_depthwise_pixel_s8_pairs_dsp\n"
    ".text\n");

#else

void ek_depthwise_pixel_s8_pairs_dsp(const ek_depthwise_pixel *p) {
  const uint32_t *w = p->weights;
  const ek_dsp_quant *q = p->quant;
  for (int32_t c = 0; c < 4 * p->groups; c += 4, q += 4) {
    int32_t acc[4] = {q[0].bias, q[1].bias, q[2].bias, q[3].bias};
    for (const int8_t *const *tap = p->tap; tap != p->end; tap += 2, w += 4) {
      const uint32_t x = ek_load32(tap[0] + c);
      const uint32_t y = ek_load32(tap[1] + c);
      const uint32_t low = ek_pkhbt_lsl16(x, y);
      const uint32_t high = ek_pkhtb_asr16(y, x);
      acc[0] = ek_smlad(ek_sxtb16(low), w[0], acc[0]);
      acc[1] = ek_smlad(ek_sxtb16_ror8(low), w[1], acc[1]);
      acc[2] = ek_smlad(ek_sxtb16(high), w[2], acc[2]);
      acc[3] = ek_smlad(ek_sxtb16_ror8(high), w[3], acc[3]);
    }
    for (int i = 0; i < 4; ++i) {
      const int32_t y = ek_dsp_requant(acc[i], q[i].mult, q[i].round, q[i].exp);
      p->out[c + i] = (int8_t)ek_ssat8(y);
    }
  }
}

#endif
