/* 8 outputs x 1 column of raw input bytes, int8 weights used by halfwords (ek_dsp.h).
 *
 * 32 instructions for 32 multiplications, the input's widening included, so that no scratch is
 * needed for it.
 */
#include "ek_dsp.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

#define BLOCK \
  "  ldr r0, [r2], #4\n" \
  "  sxtb16 r3, r0, ror #8\n" \
  "  rev16 r0, r0\n" \
  "  eor r0, r0, #0x007f007f\n" \
  "  ldrd r12, lr, [r1], #8\n" \
  "  smlad r4, r12, r3, r4\n" \
  "  smlad r5, lr, r3, r5\n" \
  "  sxtb16 r12, r12\n" \
  "  sxtb16 lr, lr\n" \
  "  smlad r4, r12, r0, r4\n" \
  "  smlad r5, lr, r0, r5\n" \
  "  ldrd r12, lr, [r1], #8\n" \
  "  smlad r6, r12, r3, r6\n" \
  "  smlad r7, lr, r3, r7\n" \
  "  sxtb16 r12, r12\n" \
  "  sxtb16 lr, lr\n" \
  "  smlad r6, r12, r0, r6\n" \
  "  smlad r7, lr, r0, r7\n" \
  "  ldrd r12, lr, [r1], #8\n" \
  "  smlad r8, r12, r3, r8\n" \
  "  smlad r9, lr, r3, r9\n" \
  "  sxtb16 r12, r12\n" \
  "  sxtb16 lr, lr\n" \
  "  smlad r8, r12, r0, r8\n" \
  "  smlad r9, lr, r0, r9\n" \
  "  ldrd r12, lr, [r1], #8\n" \
  "  smlad r10, r12, r3, r10\n" \
  "  smlad r11, lr, r3, r11\n" \
  "  sxtb16 r12, r12\n" \
  "  sxtb16 lr, lr\n" \
  "  smlad r10, r12, r0, r10\n" \
  "  smlad r11, lr, r0, r11\n"

__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_mac_s8_8x1_halfword_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s8_8x1_halfword_dsp\n"
    ".type ek_mac_s8_8x1_halfword_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s8_8x1_halfword_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  add r12, r2, r3, lsl #2\n" /* end of the input */
    "  bic r3, r3, #3\n"
    "  add r3, r2, r3, lsl #2\n" /* end of the unrolled part */
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
    ".size ek_mac_s8_8x1_halfword_dsp, .-ek_mac_s8_8x1_halfword_dsp\n"
    ".text\n");

#else

void ek_mac_s8_8x1_halfword_dsp(int32_t *acc, const int8_t *w, const int8_t *x, uint32_t blocks) {
  for (; blocks > 0; --blocks, w += 32, x += 4) {
    const uint32_t in = ek_load32(x);
    const uint32_t x0 = ek_sxtb16_ror8(in);
    const uint32_t x1 = ek_rev16(in) ^ 0x007f007fu;
    for (int c = 0; c < 8; ++c) {
      const uint32_t word = ek_load32(w + 4 * c);
      acc[c] = ek_smlad(word, x0, acc[c]);
      acc[c] = ek_smlad(ek_sxtb16(word), x1, acc[c]);
    }
  }
}

#endif
