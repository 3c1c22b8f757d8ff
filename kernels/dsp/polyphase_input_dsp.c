/* Input transform of the stride-2 convolution by phases (ek_dsp_tiles.h): by columns, then by rows.
 *
 * Two outputs along an axis are y0 = g0 x0 + g1 x1 + g2 x2 and y1 = g0 x2 + g1 x3 + g2 x4. Of the even
 * inputs this is Winograd's F(2,2), three multiplications instead of four:
 *   y0 = g0 (x0 - x2) + (g0 + g2) x2 + g1 x1,  y1 = g2 (x4 - x2) + (g0 + g2) x2 + g1 x3.
 * The odd tap joins the sum that is used by its output only: streams x0 - x2, x1 | x2 | x4 - x2, x3 give
 * three sums. In two dimensions 25 multiplications instead of 36, in nine sums.
 */
#include "ek_dsp_polyphase.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r10 offset, r11 v, r12 its end, lr step. On the stack: 0 row pointers. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_polyphase_columns_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_polyphase_columns_dsp\n"
    ".type ek_polyphase_columns_dsp, %function\n"
    ".thumb_func\n"
    "ek_polyphase_columns_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #20\n"
    "  ldmia r0, {r0-r4}\n" /* rows, offset, step, columns, v */
    "  mov r10, r1\n"
    "  mov lr, r2\n"
    "  mov r11, r4\n"
    "  add r12, r4, r3, lsl #2\n"
    "  ldmia r0, {r0-r4}\n"
    "  stmia sp, {r0-r4}\n"
    "1:\n"
    "  ldmia sp, {r0-r4}\n"
    "  ldr r0, [r0, r10]\n"
    "  ldr r1, [r1, r10]\n"
    "  ldr r2, [r2, r10]\n"
    "  ldr r3, [r3, r10]\n"
    "  ldr r4, [r4, r10]\n"
    "  add r10, r10, lr\n"
    "  sxtb16 r5, r0\n"
    "  sxtb16 r6, r1\n"
    "  sxtb16 r7, r2\n"
    "  sxtb16 r8, r3\n"
    "  sxtb16 r9, r4\n"
    "  ssub16 r5, r5, r7\n"
    "  ssub16 r9, r9, r7\n"
    "  str r5, [r11]\n"
    "  str r6, [r11, #72]\n"
    "  str r7, [r11, #144]\n"
    "  str r9, [r11, #216]\n"
    "  str r8, [r11, #288]\n"
    "  sxtb16 r5, r0, ror #8\n"
    "  sxtb16 r6, r1, ror #8\n"
    "  sxtb16 r7, r2, ror #8\n"
    "  sxtb16 r8, r3, ror #8\n"
    "  sxtb16 r9, r4, ror #8\n"
    "  ssub16 r5, r5, r7\n"
    "  ssub16 r9, r9, r7\n"
    "  str r5, [r11, #360]\n"
    "  str r6, [r11, #432]\n"
    "  str r7, [r11, #504]\n"
    "  str r9, [r11, #576]\n"
    "  str r8, [r11, #648]\n"
    "  add r11, r11, #4\n"
    "  cmp r11, r12\n"
    "  bne 1b\n"
    "  add sp, sp, #20\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_polyphase_columns_dsp, .-ek_polyphase_columns_dsp\n"
    ".text\n");

/* One row of a tile: x0 - x2, x1, x2, x4 - x2, x3 into r5, r6, r7, r9, r8. */
#define ROW \
  "  ldmia r4, {r5-r9}\n" \
  "  add r4, r4, #72\n" \
  "  ssub16 r5, r5, r7\n" \
  "  ssub16 r9, r9, r7\n"

/* Streams of an outer row: 0, 1, 4, 5 from r0 on, and the middle one at r12. */
#define OUTER \
  ROW \
  "  str r5, [r0]\n" \
  "  str r6, [r0, r1]\n" \
  "  str r9, [r0, r1, lsl #2]\n" \
  "  str r8, [r0, r3]\n" \
  "  str r7, [r12]\n"

/* r0 and r12 to streams, r1 bytes between streams, r2 three times, r3 five times that, r4 v, lr tiles
 * left. On the stack: 0 v, 4 x, 8 tiles, 12 pairs left. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_polyphase_rows_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_polyphase_rows_dsp\n"
    ".type ek_polyphase_rows_dsp, %function\n"
    ".thumb_func\n"
    "ek_polyphase_rows_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #20\n"
    "  ldmia r0, {r4-r7}\n" /* v, x, stride, tiles */
    "  mov r1, r6\n"
    "  add r2, r1, r1, lsl #1\n"
    "  add r3, r1, r1, lsl #2\n"
    "  mov r0, r5\n"
    "  mov lr, r7\n"
    "  mov r8, #1\n"
    "  strd r4, r0, [sp]\n"
    "  strd lr, r8, [sp, #8]\n"
    "1:\n"
    "  add r12, r0, r1, lsl #4\n"
    OUTER
    "  add r0, r0, r1, lsl #1\n"
    "  add r12, r12, r1\n"
    OUTER
    "  add r0, r0, r2, lsl #1\n"
    "  add r12, r12, r1\n"
    ROW
    "  str r5, [r12]\n"
    "  str r6, [r12, r1]\n"
    "  str r9, [r12, r1, lsl #1]\n"
    "  str r8, [r12, r2]\n"
    "  add r12, r12, r1, lsl #2\n"
    "  str r7, [r12, r1, lsl #1]\n"
    OUTER
    "  add r0, r0, r1, lsl #1\n"
    "  add r12, r12, r1\n"
    OUTER
    "  sub r0, r0, r3, lsl #1\n"
    "  add r0, r0, #4\n"
    "  sub r4, r4, #344\n" /* five rows back, four columns on */
    "  subs lr, lr, #1\n"
    "  bne 1b\n"
    "  ldrd r4, r0, [sp]\n"
    "  ldrd lr, r8, [sp, #8]\n"
    "  add r4, r4, #360\n"
    "  add r0, r0, #16\n"
    "  subs r8, r8, #1\n"
    "  str r8, [sp, #12]\n"
    "  beq 1b\n"
    "  add sp, sp, #20\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_polyphase_rows_dsp, .-ek_polyphase_rows_dsp\n"
    ".text\n");

#else

EK_INLINE void transform(const uint32_t *x, uint32_t *y) {
  y[0] = ek_ssub16(x[0], x[2]);
  y[1] = x[1];
  y[2] = x[2];
  y[3] = ek_ssub16(x[4], x[2]);
  y[4] = x[3];
}

void ek_polyphase_columns_dsp(const ek_tile_columns *p) {
  for (int32_t i = 0; i < p->columns; ++i) {
    for (int k = 0; k < 2; ++k) {
      uint32_t x[5], y[5];
      for (int r = 0; r < 5; ++r) {
        const uint32_t word = ek_load32(p->rows[r] + p->offset + i * p->step);
        x[r] = k == 0 ? ek_sxtb16(word) : ek_sxtb16_ror8(word);
      }
      transform(x, y);
      for (int r = 0; r < 5; ++r) p->v[(5 * k + r) * EK_TILE_COLUMNS + i] = y[r];
    }
  }
}

void ek_polyphase_rows_dsp(const ek_tile_rows *p) {
  static const uint8_t order[5][5] = EK_POLYPHASE_ORDER;
  const int32_t stride = p->stride / 4;
  for (int32_t i = 0; i < p->tiles; ++i) {
    for (int k = 0; k < 2; ++k) {
      for (int r = 0; r < 5; ++r) {
        uint32_t y[5];
        transform(p->v + (5 * k + r) * EK_TILE_COLUMNS + 4 * i, y);
        for (int j = 0; j < 5; ++j) p->x[order[r][j] * stride + 4 * k + i] = y[j];
      }
    }
  }
}

#endif
