/* Output transform of the stride-2 convolution by phases, with requantization (ek_dsp_tiles.h).
 *
 * Weights are doubled: SMMLAR of the doubled accumulator with the multiplier is gemmlowp's high
 * multiplication, and adds half of the second rounding and the output offset in the same step.
 */
#include "ek_dsp_polyphase.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

#define ADJUST(y) "  add r8, r8, " y ", asr #31\n"
#define NOTHING(y)

#define OUTPUT(y, address, sign) \
  "  smmlar r8, " y ", r9, r10\n" \
  sign(y) \
  "  asr r8, r8, r11\n" \
  "  ssat r8, #8, r8\n" \
  "  strb r8, [" address "]\n"

/* Sums from r0 on, 32 bytes each: corners (0,0), (0,2), (2,0), (2,2), edges (0,1), (1,0), (1,2), (2,1),
 * the middle. */
#define TILE(sign) \
  "  ldr r4, [r0, #256]\n" \
  "  ldr r5, [r0, #128]\n" \
  "  ldr r6, [r0, #224]\n" \
  "  add r4, r4, r12\n" \
  "  add r5, r5, r4\n" \
  "  add r6, r6, r4\n" \
  "  ldr r4, [r0, #160]\n" \
  "  ldr r7, [r0]\n" \
  "  add r8, r4, r5\n" \
  "  add r7, r7, r8\n" \
  OUTPUT("r7", "r1", sign) \
  "  ldr r7, [r0, #64]\n" \
  "  add r4, r4, r6\n" \
  "  add r7, r7, r4\n" \
  OUTPUT("r7", "r1, r3", sign) \
  "  ldr r4, [r0, #192]\n" \
  "  ldr r7, [r0, #32]\n" \
  "  add r1, r1, r2\n" \
  "  add r5, r5, r4\n" \
  "  add r7, r7, r5\n" \
  OUTPUT("r7", "r1", sign) \
  "  ldr r7, [r0, #96]\n" \
  "  add r6, r6, r4\n" \
  "  add r7, r7, r6\n" \
  OUTPUT("r7", "r1, r3", sign) \
  "  add r0, r0, #4\n"

/* r0 sums, r1 out, r2 pixel step, r3 row step, r9 mult, r10 round, r11 exp, r12 bias, lr place.
 * On the stack: 0 tiles left, 4 linear, 8 channel. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_polyphase_output_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_polyphase_output_dsp\n"
    ".type ek_polyphase_output_dsp, %function\n"
    ".thumb_func\n"
    "ek_polyphase_output_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #12\n"
    "  ldmia r0, {r0-r5}\n" /* m, quant, place, tiles, channel, linear */
    "  mov lr, r2\n"
    "  strd r3, r5, [sp]\n"
    "  str r4, [sp, #8]\n"
    "  ldmia r1, {r9-r12}\n"
    "1:\n"
    "  ldmia lr!, {r1-r3}\n"
    "  ldrd r4, r5, [sp, #4]\n"
    "  add r1, r1, r5\n"
    "  cmp r4, #0\n"
    "  bne 2f\n"
    TILE(NOTHING)
    "  ldr r4, [sp]\n"
    "  subs r4, r4, #1\n"
    "  str r4, [sp]\n"
    "  bne 1b\n"
    "  add sp, sp, #12\n"
    "  pop {r4-r11, pc}\n"
    "2:\n"
    TILE(ADJUST)
    "  ldr r4, [sp]\n"
    "  subs r4, r4, #1\n"
    "  str r4, [sp]\n"
    "  bne 1b\n"
    "  add sp, sp, #12\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_polyphase_output_dsp, .-ek_polyphase_output_dsp\n"
    ".text\n");

#endif

/* y[row][column] from the sums of row i and column j of 3 x 3: those of rows r, r + 1 and columns c,
 * c + 1. */
void ek_polyphase_inverse(const int32_t *m, int32_t *out) {
  static const uint8_t at[3][3] = {{0, 4, 1}, {5, 8, 6}, {2, 7, 3}};
  for (int r = 0; r < 2; ++r) {
    for (int c = 0; c < 2; ++c) {
      uint32_t y = 0;
      for (int i = 0; i < 4; ++i) y += (uint32_t)m[8 * at[r + i / 2][c + i % 2]];
      out[2 * r + c] = (int32_t)y;
    }
  }
}

#if !EK_SIMD_ASM

void ek_polyphase_output_dsp(const ek_tile_output *p) {
  const ek_dsp_quant *q = p->quant;
  for (int32_t i = 0; i < p->tiles; ++i) {
    const ek_tile_place *at = p->place + i;
    int32_t y[4];
    ek_polyphase_inverse(p->m + i, y);
    for (int32_t k = 0; k < 4; ++k) {
      const int32_t acc = ek_add_wrap(y[k], q->bias);
      int32_t r = ek_smmlar(acc, q->mult, q->round);
      if (p->linear) r = ek_add_wrap(r, acc >> 31);
      at->out[k / 2 * at->row_step + k % 2 * at->pixel_step + p->channel] =
          (int8_t)ek_ssat8(r >> q->exp);
    }
  }
}

#endif
