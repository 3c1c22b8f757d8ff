/* The multiply-accumulate loop of ek_conv_triples_*: 17 instructions for 24 multiplications.
 *
 * Registers: r0 stream, r1 columns, r2 r3 weights, r4-r6 inputs, r7-r9 and r10-r12 the sums of three
 * columns, lr end of the columns. Some blocks a turn; the first turn starts at the block that leaves
 * whole turns. The kernels differ in BIAS, how the sums begin, and EMIT, what is done with them.
 * On the stack: 0 out, 4 step, 8 columns, 12 end of the columns, 16 first instruction, 20 end of the
 * stream.
 */
#ifndef EK_DSP_TRIPLES_H
#define EK_DSP_TRIPLES_H

#include "ek_dsp_line.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

#define EK_TRIPLE_BLOCK \
  "  ldrd r2, r3, [r0], #8\n" \
  "  ldm.w r1!, {r4, r5, r6}\n" \
  "  smlad r7, r2, r4, r7\n" \
  "  smlad r8, r2, r5, r8\n" \
  "  smlad r9, r2, r6, r9\n" \
  "  smlad r10, r3, r4, r10\n" \
  "  smlad r11, r3, r5, r11\n" \
  "  smlad r12, r3, r6, r12\n" \
  "  sxtb16 r2, r2\n" \
  "  sxtb16 r3, r3\n" \
  "  ldm.w r1!, {r4, r5, r6}\n" \
  "  smlad r7, r2, r4, r7\n" \
  "  smlad r8, r2, r5, r8\n" \
  "  smlad r9, r2, r6, r9\n" \
  "  smlad r10, r3, r4, r10\n" \
  "  smlad r11, r3, r5, r11\n" \
  "  smlad r12, r3, r6, r12\n"

/* Blocks a turn. */
#ifdef __OPTIMIZE_SIZE__
#define EK_TRIPLE_TURN "2"
#else
#define EK_TRIPLE_TURN "8"
#endif

#define EK_TRIPLES(name, BIAS, EMIT) \
  __asm__(".syntax unified\n" \
          ".thumb\n" \
          ".section .text." name ",\"ax\",%progbits\n" \
          ".balign 4\n" \
          ".global " name "\n" \
          ".type " name ", %function\n" \
          ".thumb_func\n" \
          name ":\n" \
          "  push {r4-r11, lr}\n" \
          "  sub sp, sp, #28\n" \
          "  ldm r0, {r4-r9}\n" \
          "  add r10, r9, r9, lsl #1\n" \
          "  add r10, r7, r10, lsl #3\n" \
          "  rsb r11, r9, #0\n" \
          "  and r11, r11, #" EK_TRIPLE_TURN " - 1\n" \
          "  add r11, r11, r11, lsl #4\n" /* 17 instructions of 4 bytes a block */ \
          "  adr.w r12, 2f\n" \
          "  add r12, r12, r11, lsl #2\n" \
          "  orr r12, r12, #1\n" \
          "  strd r6, r8, [sp]\n" \
          "  strd r7, r10, [sp, #8]\n" \
          "  strd r12, r5, [sp, #16]\n" \
          "  mov r0, r4\n" \
          "1:\n" \
          "  ldrd r1, lr, [sp, #8]\n" \
          BIAS \
          "  ldr.w pc, [sp, #16]\n" \
          ".balign 4\n" \
          "2:\n" \
          ".rept " EK_TRIPLE_TURN "\n" \
          EK_TRIPLE_BLOCK \
          ".endr\n" \
          "  cmp r1, lr\n" \
          "  bne 2b\n" \
          EMIT \
          "  ldr r2, [sp, #20]\n" \
          "  str r6, [sp]\n" \
          "  cmp r0, r2\n" \
          "  bne 1b\n" \
          "  add sp, sp, #28\n" \
          "  pop {r4-r11, pc}\n" \
          ".size " name ", .-" name "\n" \
          ".text\n")

#else

/* Six sums of one pair of channels, [2][3], of which the stream has 2 or 6 biases; returns where it
 * continues. */
EK_INLINE const int8_t *ek_triple_sums(const ek_conv_triples *p, const int8_t *stream, int32_t *acc,
                                       int biases) {
  const uint32_t *x = p->cols;
  for (int i = 0; i < 6; ++i) acc[i] = (int32_t)ek_load32(stream + 4 * (i * biases / 6));
  stream += 4 * biases;
  for (int32_t b = 0; b < p->blocks; ++b, stream += 8, x += 6) {
    for (int i = 0; i < 6; ++i) {
      const uint32_t w = ek_load32(stream + 4 * (i / 3));
      acc[i] = ek_smlad(w, x[i % 3], acc[i]);
      acc[i] = ek_smlad(ek_sxtb16(w), x[3 + i % 3], acc[i]);
    }
  }
  return stream;
}

#endif

#endif
