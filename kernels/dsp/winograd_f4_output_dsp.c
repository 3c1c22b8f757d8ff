/* Output transform of Winograd F(4x4,3x3) with requantization (ek_dsp_tiles.h).
 *
 * Weights carry 24 * 24 = 64 * 9: a multiplication by the inverse of 9 modulo 2^32 leaves 64 times the
 * accumulator, exactly, where the accumulator is below 2^25. SMMLA of it with the multiplier m is
 * floor(acc * m / 2^26), 32 times gemmlowp's high multiplication but for the rounding: round holds the
 * 16 for that, and 32-fold the half of the second rounding and the output offset; negative values get
 * 32 less. Where the output offset is -128 they need not: what is not above zero clamps to it.
 */
#include "ek_dsp_winograd_f4.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r4 .. r9 into r4, r8, r3, r5. */
#define TRANSFORM \
  "  add r3, r5, r6\n" \
  "  sub r5, r5, r6\n" \
  "  add r6, r7, r8\n" \
  "  sub r7, r7, r8\n" \
  "  add r4, r4, r3\n" \
  "  add r4, r4, r6\n" \
  "  add r3, r3, r6, lsl #2\n" \
  "  add r8, r5, r7, lsl #1\n" \
  "  add r5, r5, r7, lsl #3\n" \
  "  add r5, r5, r9, lsl #1\n"

#define COLUMN(m, t) \
  "  ldr r4, [r0, #" #m "]\n" \
  "  ldr r5, [r0, #" #m "+192]\n" \
  "  ldr r6, [r0, #" #m "+384]\n" \
  "  ldr r7, [r0, #" #m "+576]\n" \
  "  ldr r8, [r0, #" #m "+768]\n" \
  "  ldr r9, [r0, #" #m "+960]\n" \
  TRANSFORM \
  "  str r4, [sp, #" #t "]\n" \
  "  str r8, [sp, #" #t "+24]\n" \
  "  str r3, [sp, #" #t "+48]\n" \
  "  str r5, [sp, #" #t "+72]\n"

#define ADJUST(y) \
  "  asr " y ", " y ", #31\n" \
  "  add r6, r6, " y ", lsl #5\n"
#define NOTHING(y)

#define OUTPUT(y, address, sign, bias) \
  "  mla " y ", " y ", r0, " bias "\n" \
  "  smmla r6, " y ", r10, r11\n" \
  sign(y) \
  "  asr r6, r6, r12\n" \
  "  ssat r6, #8, r6\n" \
  "  strb r6, [" address "]\n"

#define ROW_START(t) \
  "  add r3, sp, #" #t "\n" \
  "  ldmia r3, {r4-r9}\n" \
  TRANSFORM \
  "  add r7, r1, r2\n" \
  "  ldr r9, [sp, #108]\n"

#define ROW(t, sign) \
  ROW_START(t) \
  OUTPUT("r4", "r1", sign, "lr") \
  OUTPUT("r8", "r7", sign, "lr") \
  OUTPUT("r3", "r1, r2, lsl #1", sign, "lr") \
  OUTPUT("r5", "r7, r2, lsl #1", sign, "lr") \
  "  add r1, r1, r9\n"

/* A row whose last two outputs have biases of their own. */
#define CORNER_ROW(t, sign, bias) \
  ROW_START(t) \
  OUTPUT("r4", "r1", sign, "lr") \
  OUTPUT("r8", "r7", sign, "lr") \
  "  ldrd r4, r8, [sp, #" #bias "]\n" \
  OUTPUT("r3", "r1, r2, lsl #1", sign, "r4") \
  OUTPUT("r5", "r7, r2, lsl #1", sign, "r8") \
  "  add r1, r1, r9\n"

/* r0: the argument; then: inverse of 9, r1 out, r2 pixel step, r10 mult, r11 round, r12 exp, lr bias.
 * On the stack: 0 the columns' results [4][6], 96 m, 100 place, 104 tiles left, 108 row step,
 * 112 channel, 116 linear, 120 corner. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_winograd_f4_output_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_winograd_f4_output_dsp\n"
    ".type ek_winograd_f4_output_dsp, %function\n"
    ".thumb_func\n"
    "ek_winograd_f4_output_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #140\n"
    "  ldmia r0, {r0-r6}\n" /* m, quant, place, tiles, channel, linear, corner */
    "  strd r4, r5, [sp, #112]\n"
    "  str r3, [sp, #104]\n"
    "  str r2, [sp, #100]\n"
    "  ldmia r1, {r10-r12, lr}\n"
    "  ldmia r6, {r4-r7}\n"
    "  strd r4, r5, [sp, #120]\n"
    "  strd r6, r7, [sp, #128]\n"
    "1:\n"
    COLUMN(0, 0)
    COLUMN(32, 4)
    COLUMN(64, 8)
    COLUMN(96, 12)
    COLUMN(128, 16)
    COLUMN(160, 20)
    "  add r0, r0, #4\n"
    "  ldr r3, [sp, #100]\n"
    "  ldr r4, [sp, #112]\n"
    "  ldr r1, [r3], #4\n"
    "  ldr r2, [r3], #4\n"
    "  ldr r5, [r3], #4\n"
    "  add r1, r1, r4\n"
    "  strd r0, r3, [sp, #96]\n"
    "  str r5, [sp, #108]\n"
    "  ldr r3, [sp, #116]\n"
    "  movw r0, #0x8e39\n"
    "  movt r0, #0x38e3\n"
    "  cmp r3, #0\n"
    "  bne 2f\n"
    ROW(0, NOTHING)
    ROW(24, NOTHING)
    CORNER_ROW(48, NOTHING, 120)
    CORNER_ROW(72, NOTHING, 128)
    "  ldr r3, [sp, #104]\n"
    "  ldr r0, [sp, #96]\n"
    "  subs r3, r3, #1\n"
    "  str r3, [sp, #104]\n"
    "  bne 1b\n"
    "  add sp, sp, #140\n"
    "  pop {r4-r11, pc}\n"
    "2:\n"
    ROW(0, ADJUST)
    ROW(24, ADJUST)
    CORNER_ROW(48, ADJUST, 120)
    CORNER_ROW(72, ADJUST, 128)
    "  ldr r3, [sp, #104]\n"
    "  ldr r0, [sp, #96]\n"
    "  subs r3, r3, #1\n"
    "  str r3, [sp, #104]\n"
    "  bne 1b\n"
    "  add sp, sp, #140\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_winograd_f4_output_dsp, .-ek_winograd_f4_output_dsp\n"
    ".text\n");

#endif

/* Four of six; the last of the six carries half the scale of the others. */
static __attribute__((noinline)) void transform(const uint32_t *m, uint32_t *y) {
  const uint32_t s12 = m[1] + m[2];
  const uint32_t d12 = m[1] - m[2];
  const uint32_t s34 = m[3] + m[4];
  const uint32_t d34 = m[3] - m[4];
  y[0] = m[0] + s12 + s34;
  y[1] = d12 + 2 * d34;
  y[2] = s12 + 4 * s34;
  y[3] = d12 + 8 * d34 + 2 * m[5];
}

void ek_winograd_f4_inverse(const int32_t *m, int32_t *out) {
  uint32_t t[4][6];
  for (int j = 0; j < 6; ++j) {
    uint32_t x[6], y[4];
    for (int i = 0; i < 6; ++i) x[i] = (uint32_t)m[8 * (6 * i + j)];
    transform(x, y);
    for (int i = 0; i < 4; ++i) t[i][j] = y[i];
  }
  for (int i = 0; i < 4; ++i) {
    uint32_t y[4];
    transform(t[i], y);
    for (int j = 0; j < 4; ++j) out[4 * i + j] = (int32_t)(y[j] * 0x38e38e39u);
  }
}

#if !EK_SIMD_ASM

void ek_winograd_f4_output_dsp(const ek_tile_output *p) {
  const ek_dsp_quant *q = p->quant;
  for (int32_t i = 0; i < p->tiles; ++i) {
    const ek_tile_place *at = p->place + i;
    int32_t y[16];
    ek_winograd_f4_inverse(p->m + i, y);
    for (int32_t k = 0; k < 16; ++k) {
      const int corner = k / 4 >= 2 && k % 4 >= 2;
      const int32_t acc = ek_add_wrap(y[k], corner ? p->corner[k / 4 * 2 + k % 4 - 6] : q->bias);
      int32_t r = ek_smmla(acc, q->mult, q->round);
      if (p->linear) r = ek_add_wrap(r, 32 * (acc >> 31));
      at->out[k / 4 * at->row_step + k % 4 * at->pixel_step + p->channel] =
          (int8_t)ek_ssat8(r >> q->exp);
    }
  }
}

#endif
