/* Input rows of a depthwise convolution as vertical pairs (ek_dsp_depthwise.h): 15 or 19 instructions for
 * eight bytes.
 */
#include "ek_dsp_depthwise.h"

#if EK_SIMD_ASM

/* r0 r1 rows, r2 offset in them, r3 step, r6-r9 planes, r12 zp, lr end of the offset. */
#define PAIRS \
  "  ldr r4, [r0, r2]\n" \
  "  ldr r5, [r1, r2]\n" \
  "  add r2, r2, r3\n" \
  "  pkhbt r10, r4, r5, lsl #16\n" \
  "  pkhtb r11, r5, r4, asr #16\n" \
  "  sxtab16 r4, r12, r10\n" \
  "  sxtab16 r5, r12, r10, ror #8\n" \
  "  sxtab16 r10, r12, r11\n" \
  "  sxtab16 r11, r12, r11, ror #8\n"

__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_depthwise_pairs_s8_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_depthwise_pairs_s8_dsp\n"
    ".type ek_depthwise_pairs_s8_dsp, %function\n"
    ".thumb_func\n"
    "ek_depthwise_pairs_s8_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #20\n" /* 0 plane, 4 from the end of a plane to the next, 8 also, 12 groups */
    "  ldm r0!, {r6-r12}\n"
    "  ldrd r4, r5, [r0]\n"
    "  mul lr, r9, r10\n"
    "  add r10, r10, r10, lsl #1\n"
    "  sub r10, r11, r10, lsl #2\n"
    "  strd r11, r10, [sp]\n"
    "  strd r4, r5, [sp, #8]\n"
    "  mov r0, r7\n"
    "  mov r1, r8\n"
    "  mov r3, r9\n"
    "4:\n"
    "  ldr r5, [sp]\n"
    "  ldr r4, [sp, #8]\n"
    "  mov r2, #0\n"
    "  add r7, r6, r5\n"
    "  add r8, r7, r5\n"
    "  add r9, r8, r5\n"
    "  cmp r4, #0\n"
    "  beq 2f\n"
    ".balign 4\n"
    "1:\n"
    PAIRS
    "  str r4, [r6, #-8]\n"
    "  str r5, [r7, #-8]\n"
    "  str r10, [r8, #-8]\n"
    "  str r11, [r9, #-8]\n"
    "  cmp r2, lr\n"
    "  str r4, [r6], #12\n"
    "  str r5, [r7], #12\n"
    "  str r10, [r8], #12\n"
    "  str r11, [r9], #12\n"
    "  bne 1b\n"
    "  b 3f\n"
    ".balign 4\n"
    "2:\n"
    PAIRS
    "  cmp r2, lr\n"
    "  str r4, [r6], #12\n"
    "  str r5, [r7], #12\n"
    "  str r10, [r8], #12\n"
    "  str r11, [r9], #12\n"
    "  bne 2b\n"
    "3:\n"
    "  ldr r4, [sp, #4]\n"
    "  ldr r5, [sp, #12]\n"
    "  add r0, r0, #4\n"
    "  add r1, r1, #4\n"
    "  add r6, r9, r4\n"
    "  subs r5, r5, #1\n"
    "  str r5, [sp, #12]\n"
    "  bne 4b\n"
    "  add sp, sp, #20\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_depthwise_pairs_s8_dsp, .-ek_depthwise_pairs_s8_dsp\n"
    ".text\n");

#else

void ek_depthwise_pairs_s8_dsp(const ek_depthwise_pairs *p) {
  for (int32_t n = 0; n < p->groups * p->pixels; ++n) {
    const int32_t group = n / p->pixels, x = n % p->pixels;
    const uint32_t a = ek_load32(p->row0 + 4 * group + x * p->step);
    const uint32_t b = ek_load32(p->row1 + 4 * group + x * p->step);
    const uint32_t low = ek_pkhbt_lsl16(a, b);
    const uint32_t high = ek_pkhtb_asr16(b, a);
    const uint32_t pairs[4] = {ek_sxtab16(p->zp, low), ek_sxtab16_ror8(p->zp, low),
                               ek_sxtab16(p->zp, high), ek_sxtab16_ror8(p->zp, high)};
    for (int i = 0; i < 4; ++i) {
      uint32_t *dst = p->dst + (4 * group + i) * (p->plane / 4) + 3 * x;
      dst[0] = pairs[i];
      if (p->also != 0) dst[-2] = pairs[i];
    }
  }
}

#endif
