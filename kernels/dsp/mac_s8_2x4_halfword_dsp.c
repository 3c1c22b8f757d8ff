/* 2 output channels x 4 columns, int8 weights used by halfwords (ek_dsp.h explains the form).
 *
 * 23 instructions for 32 multiplications: one load of two weight words, four loads of two column
 * words, 16 SMLAD, two SXTB16. With 8 accumulators compilers spill, so the loop is assembly; the
 * C form is its definition.
 */
#include "ek_dsp.h"
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
  "  smlad r11, r3, lr, r11\n" \
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
  "  smlad r11, r3, lr, r11\n"

__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_mac_s8_2x4_halfword_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_mac_s8_2x4_halfword_dsp\n"
    ".type ek_mac_s8_2x4_halfword_dsp, %function\n"
    ".thumb_func\n"
    "ek_mac_s8_2x4_halfword_dsp:\n"
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
    ".size ek_mac_s8_2x4_halfword_dsp, .-ek_mac_s8_2x4_halfword_dsp\n"
    ".text\n");

#else

void ek_mac_s8_2x4_halfword_dsp(int32_t *acc, const int8_t *w, const uint32_t *cols, uint32_t blocks) {
  for (; blocks > 0; --blocks, w += 8, cols += 8) {
    for (int c = 0; c < 2; ++c) {
      const uint32_t word = ek_load32(w + 4 * c);
      const uint32_t first = word;
      const uint32_t second = ek_sxtb16(word);
      for (int i = 0; i < 4; ++i) {
        acc[4 * c + i] = ek_smlad(first, cols[i], acc[4 * c + i]);
        acc[4 * c + i] = ek_smlad(second, cols[4 + i], acc[4 * c + i]);
      }
    }
  }
}

#endif
