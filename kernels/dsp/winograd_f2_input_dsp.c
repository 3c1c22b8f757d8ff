/* Input transform of Winograd F(2x2,3x3) (ek_dsp_tiles.h): by columns, then by rows; x0 - x2, x1 + x2,
 * x2 - x1, x1 - x3 by halfword. Lavin and Gray (2015), points 0, 1, -1 and infinity. */
#include "ek_dsp_winograd_f2.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r4 .. r7 into r4, r8, r6, r7. */
#define TRANSFORM \
  "  ssub16 r4, r4, r6\n" \
  "  sadd16 r8, r5, r6\n" \
  "  ssub16 r6, r6, r5\n" \
  "  ssub16 r7, r5, r7\n"

/* r9 offset, r10 v, r11 its end, r12 step. On the stack: 0 row pointers. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_winograd_f2_columns_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_winograd_f2_columns_dsp\n"
    ".type ek_winograd_f2_columns_dsp, %function\n"
    ".thumb_func\n"
    "ek_winograd_f2_columns_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #20\n"
    "  ldmia r0, {r0-r4}\n" /* rows, offset, step, columns, v */
    "  mov r9, r1\n"
    "  mov r12, r2\n"
    "  mov r10, r4\n"
    "  add r11, r4, r3, lsl #2\n"
    "  ldmia r0, {r0-r3}\n"
    "  stmia sp, {r0-r3}\n"
    "1:\n"
    "  ldmia sp, {r0-r3}\n"
    "  ldr r0, [r0, r9]\n"
    "  ldr r1, [r1, r9]\n"
    "  ldr r2, [r2, r9]\n"
    "  ldr r3, [r3, r9]\n"
    "  add r9, r9, r12\n"
    "  sxtb16 r4, r0\n"
    "  sxtb16 r5, r1\n"
    "  sxtb16 r6, r2\n"
    "  sxtb16 r7, r3\n"
    TRANSFORM
    "  str r4, [r10]\n"
    "  str r8, [r10, #72]\n"
    "  str r6, [r10, #144]\n"
    "  str r7, [r10, #216]\n"
    "  sxtb16 r4, r0, ror #8\n"
    "  sxtb16 r5, r1, ror #8\n"
    "  sxtb16 r6, r2, ror #8\n"
    "  sxtb16 r7, r3, ror #8\n"
    TRANSFORM
    "  str r4, [r10, #288]\n"
    "  str r8, [r10, #360]\n"
    "  str r6, [r10, #432]\n"
    "  str r7, [r10, #504]\n"
    "  add r10, r10, #4\n"
    "  cmp r10, r11\n"
    "  bne 1b\n"
    "  add sp, sp, #20\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_winograd_f2_columns_dsp, .-ek_winograd_f2_columns_dsp\n"
    ".text\n");

/* r0 to stream 0 of a row, r1 bytes between streams, r2 three times that, r3 v, r9 tiles left,
 * r10 pairs left, r11, r12, lr: v, x, tiles. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_winograd_f2_rows_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_winograd_f2_rows_dsp\n"
    ".type ek_winograd_f2_rows_dsp, %function\n"
    ".thumb_func\n"
    "ek_winograd_f2_rows_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  ldmia r0, {r4-r7}\n" /* v, x, stride, tiles */
    "  mov r1, r6\n"
    "  add r2, r1, r1, lsl #1\n"
    "  mov r11, r4\n"
    "  mov r12, r5\n"
    "  mov lr, r7\n"
    "  mov r10, #2\n"
    "1:\n"
    "  mov r3, r11\n"
    "  mov r0, r12\n"
    "  mov r9, lr\n"
    "2:\n"
    ".rept 4\n"
    "  ldmia r3, {r4-r7}\n"
    "  add r3, r3, #72\n"
    TRANSFORM
    "  str r4, [r0]\n"
    "  str r8, [r0, r1]\n"
    "  str r6, [r0, r1, lsl #1]\n"
    "  str r7, [r0, r2]\n"
    "  add r0, r0, r1, lsl #2\n"
    ".endr\n"
    "  sub r0, r0, r1, lsl #4\n"
    "  add r0, r0, #4\n"
    "  sub r3, r3, #280\n" /* four rows back, two columns on */
    "  subs r9, r9, #1\n"
    "  bne 2b\n"
    "  add r11, r11, #288\n"
    "  add r12, r12, #16\n"
    "  subs r10, r10, #1\n"
    "  bne 1b\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_winograd_f2_rows_dsp, .-ek_winograd_f2_rows_dsp\n"
    ".text\n");

#else

EK_INLINE void transform(const uint32_t *x, uint32_t *y) {
  y[0] = ek_ssub16(x[0], x[2]);
  y[1] = ek_sadd16(x[1], x[2]);
  y[2] = ek_ssub16(x[2], x[1]);
  y[3] = ek_ssub16(x[1], x[3]);
}

void ek_winograd_f2_columns_dsp(const ek_tile_columns *p) {
  for (int32_t i = 0; i < p->columns; ++i) {
    for (int k = 0; k < 2; ++k) {
      uint32_t x[4], y[4];
      for (int r = 0; r < 4; ++r) {
        const uint32_t word = ek_load32(p->rows[r] + p->offset + i * p->step);
        x[r] = k == 0 ? ek_sxtb16(word) : ek_sxtb16_ror8(word);
      }
      transform(x, y);
      for (int r = 0; r < 4; ++r) p->v[(4 * k + r) * EK_TILE_COLUMNS + i] = y[r];
    }
  }
}

void ek_winograd_f2_rows_dsp(const ek_tile_rows *p) {
  const int32_t stride = p->stride / 4;
  for (int32_t i = 0; i < p->tiles; ++i) {
    for (int k = 0; k < 2; ++k) {
      for (int r = 0; r < 4; ++r) {
        uint32_t y[4];
        transform(p->v + (4 * k + r) * EK_TILE_COLUMNS + 2 * i, y);
        for (int j = 0; j < 4; ++j) p->x[(4 * r + j) * stride + 4 * k + i] = y[j];
      }
    }
  }
}

#endif
