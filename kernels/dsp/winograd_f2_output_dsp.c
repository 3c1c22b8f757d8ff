/* Output transform of Winograd F(2x2,3x3) with requantization (ek_dsp_tiles.h).
 *
 * Weights carry 2 * 2: SMMLA of four times the accumulator with the multiplier m is
 * floor(acc * m / 2^30), twice gemmlowp's high multiplication but for the rounding: round holds the 1
 * for that, and the doubled half of the second rounding and output offset; negative values get 2 less.
 */
#include "ek_dsp_winograd_f2.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* One column of sums: m0 + (m1 + m2) into r1, (m1 - m2) - m3 into r2. */
#define COLUMN(m) \
  "  ldr r1, [r0, #" #m "]\n" \
  "  ldr r2, [r0, #" #m "+128]\n" \
  "  ldr r3, [r0, #" #m "+256]\n" \
  "  ldr r8, [r0, #" #m "+384]\n" \
  "  add r1, r1, r2\n" \
  "  add r1, r1, r3\n" \
  "  sub r2, r2, r3\n" \
  "  sub r2, r2, r8\n"

#define ADJUST(y) \
  "  asr " y ", " y ", #31\n" \
  "  add r8, r8, " y ", lsl #1\n"
#define NOTHING(y)

#define OUTPUT(y, address, sign) \
  "  smmla r8, " y ", r9, r10\n" \
  sign(y) \
  "  asr r8, r8, r11\n" \
  "  ssat r8, #8, r8\n" \
  "  strb r8, [" address "]\n"

#define OUTPUTS(sign) \
  OUTPUT("r4", "r1", sign) \
  OUTPUT("r5", "r1, r2", sign) \
  "  add r1, r1, r3\n" \
  OUTPUT("r6", "r1", sign) \
  OUTPUT("r7", "r1, r2", sign) \
  "  ldr r1, [sp]\n" \
  "  add r0, r0, #4\n" \
  "  subs r1, r1, #1\n" \
  "  str r1, [sp]\n" \
  "  bne 1b\n" \
  "  add sp, sp, #12\n" \
  "  pop {r4-r11, pc}\n"

/* r0 sums, r1 out, r2 pixel step, r3 row step, r4 .. r7 outputs, r9 mult, r10 round, r11 exp, r12 bias,
 * lr place. On the stack: 0 tiles left, 4 linear, 8 channel. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_winograd_f2_output_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_winograd_f2_output_dsp\n"
    ".type ek_winograd_f2_output_dsp, %function\n"
    ".thumb_func\n"
    "ek_winograd_f2_output_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #12\n"
    "  ldmia r0, {r0-r5}\n" /* m, quant, place, tiles, channel, linear */
    "  mov lr, r2\n"
    "  strd r3, r5, [sp]\n"
    "  str r4, [sp, #8]\n"
    "  ldmia r1, {r9-r12}\n"
    "1:\n"
    COLUMN(0)
    "  mov r4, r1\n"
    "  mov r6, r2\n"
    COLUMN(32)
    "  add r5, r1, r12\n"
    "  add r7, r2, r12\n"
    "  add r4, r4, r5\n"
    "  add r6, r6, r7\n"
    COLUMN(64)
    "  add r4, r4, r1\n"
    "  add r6, r6, r2\n"
    "  sub r5, r5, r1\n"
    "  sub r7, r7, r2\n"
    COLUMN(96)
    "  sub r5, r5, r1\n"
    "  sub r7, r7, r2\n"
    "  ldmia lr!, {r1-r3}\n"
    "  ldr r8, [sp, #8]\n"
    "  add r1, r1, r8\n"
    "  ldr r8, [sp, #4]\n"
    "  cmp r8, #0\n"
    "  bne 2f\n"
    OUTPUTS(NOTHING)
    "2:\n"
    OUTPUTS(ADJUST)
    ".size ek_winograd_f2_output_dsp, .-ek_winograd_f2_output_dsp\n"
    ".text\n");

#endif

void ek_winograd_f2_inverse(const int32_t *m, int32_t *out) {
  uint32_t t[2][4];
  for (int j = 0; j < 4; ++j) {
    const uint32_t m0 = (uint32_t)m[8 * j], m1 = (uint32_t)m[8 * (4 + j)];
    const uint32_t m2 = (uint32_t)m[8 * (8 + j)], m3 = (uint32_t)m[8 * (12 + j)];
    t[0][j] = m0 + m1 + m2;
    t[1][j] = m1 - m2 - m3;
  }
  for (int i = 0; i < 2; ++i) {
    out[2 * i] = (int32_t)(t[i][0] + t[i][1] + t[i][2]);
    out[2 * i + 1] = (int32_t)(t[i][1] - t[i][2] - t[i][3]);
  }
}

#if !EK_SIMD_ASM

void ek_winograd_f2_output_dsp(const ek_tile_output *p) {
  const ek_dsp_quant *q = p->quant;
  for (int32_t i = 0; i < p->tiles; ++i) {
    const ek_tile_place *at = p->place + i;
    int32_t y[4];
    ek_winograd_f2_inverse(p->m + i, y);
    for (int32_t k = 0; k < 4; ++k) {
      const int32_t acc = ek_add_wrap(y[k], q->bias);
      int32_t r = ek_smmla(acc, q->mult, q->round);
      if (p->linear) r = ek_add_wrap(r, 2 * (acc >> 31));
      at->out[k / 2 * at->row_step + k % 2 * at->pixel_step + p->channel] =
          (int8_t)ek_ssat8(r >> q->exp);
    }
  }
}

#endif
