/* Input transform of Winograd F(4x4,3x3) (ek_dsp_tiles.h): by columns, then by rows.
 *
 * Two channels share a word, and a word is treated as one number H * 2^16 + L: adding, subtracting and
 * shifting such numbers works on both halves at once as long as nothing asks for L alone. Inputs are
 * raised by 128, so that they are not negative and bytes become such numbers as they are; the bias
 * makes up for it. In the last step the columns four and five are raised by 13,312, which raises all
 * six results by it: L is then never negative, and the number is the two halfwords as it stands. To the
 * outputs this is four raised inputs in the tile's far corner, which the biases of the four outputs that
 * see them make up for (ek_tile_quant's corner). The lean kernel, which has no flash for those, raises
 * by 2^15 and turns L + 2^15 back into the halfword L by exclusive or.
 * -12,750 <= L, H <= 17,340 before. Matrix: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015),
 * points 0, 1, -1, 2, -2 and infinity.
 */
#include "ek_dsp_winograd_f4.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r6 .. r11 into r6, r7, r10, r9, r12, r11. */
#define TRANSFORM \
  "  sub r6, r6, r8\n" \
  "  sub r12, r10, r8\n" \
  "  add r6, r12, r6, lsl #2\n" \
  "  sub r10, r10, r8, lsl #2\n" \
  "  sub r8, r7, r9\n" \
  "  sub r11, r11, r9\n" \
  "  add r11, r11, r8, lsl #2\n" \
  "  sub r9, r9, r7, lsl #2\n" \
  "  add r7, r10, r9\n" \
  "  sub r10, r10, r9\n" \
  "  sub r9, r12, r8, lsl #1\n" \
  "  add r12, r12, r8, lsl #1\n"

/* On the stack: 0 row pointers, 24 offset, 28 step, 32 v, 36 its end. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_winograd_f4_columns_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_winograd_f4_columns_dsp\n"
    ".type ek_winograd_f4_columns_dsp, %function\n"
    ".thumb_func\n"
    "ek_winograd_f4_columns_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #44\n"
    "  ldmia r0, {r0-r4}\n" /* rows, offset, step, columns, v */
    "  add r3, r4, r3, lsl #2\n"
    "  strd r1, r2, [sp, #24]\n"
    "  strd r4, r3, [sp, #32]\n"
    "  ldmia r0, {r0-r5}\n"
    "  stmia sp, {r0-r5}\n"
    "1:\n"
    "  ldr lr, [sp, #24]\n"
    "  ldmia sp, {r0-r5}\n"
    "  ldr r6, [sp, #28]\n"
    "  ldr r0, [r0, lr]\n"
    "  ldr r1, [r1, lr]\n"
    "  ldr r2, [r2, lr]\n"
    "  ldr r3, [r3, lr]\n"
    "  ldr r4, [r4, lr]\n"
    "  ldr r5, [r5, lr]\n"
    "  add lr, lr, r6\n"
    "  str lr, [sp, #24]\n"
    "  mov.w lr, #0x00800080\n"
    "  sxtab16 r6, lr, r0\n"
    "  sxtab16 r7, lr, r1\n"
    "  sxtab16 r8, lr, r2\n"
    "  sxtab16 r9, lr, r3\n"
    "  sxtab16 r10, lr, r4\n"
    "  sxtab16 r11, lr, r5\n"
    TRANSFORM
    "  ldr lr, [sp, #32]\n"
    "  str r6, [lr]\n"
    "  str r7, [lr, #72]\n"
    "  str r10, [lr, #144]\n"
    "  str r9, [lr, #216]\n"
    "  str r12, [lr, #288]\n"
    "  str r11, [lr, #360]\n"
    "  mov.w r12, #0x00800080\n"
    "  sxtab16 r6, r12, r0, ror #8\n"
    "  sxtab16 r7, r12, r1, ror #8\n"
    "  sxtab16 r8, r12, r2, ror #8\n"
    "  sxtab16 r9, r12, r3, ror #8\n"
    "  sxtab16 r10, r12, r4, ror #8\n"
    "  sxtab16 r11, r12, r5, ror #8\n"
    TRANSFORM
    "  ldr r0, [sp, #36]\n"
    "  str r6, [lr, #432]\n"
    "  str r7, [lr, #504]\n"
    "  str r10, [lr, #576]\n"
    "  str r9, [lr, #648]\n"
    "  str r12, [lr, #720]\n"
    "  str r11, [lr, #792]\n"
    "  add lr, lr, #4\n"
    "  str lr, [sp, #32]\n"
    "  cmp lr, r0\n"
    "  bne 1b\n"
    "  add sp, sp, #44\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_winograd_f4_columns_dsp, .-ek_winograd_f4_columns_dsp\n"
    ".text\n");

/* r0 to stream 0 of a row, r1 bytes between streams, r2 three times, r3 five times that, r4 v,
 * r5 tiles left, lr to the next row's. On the stack: 0 v, 4 x, 8 tiles, 12 pairs left. */
#define ROWS(name, raise, finish) \
    ".syntax unified\n" \
    ".thumb\n" \
    ".section .text." name ",\"ax\",%progbits\n" \
    ".balign 4\n" \
    ".global " name "\n" \
    ".type " name ", %function\n" \
    ".thumb_func\n" \
    "" name ":\n" \
    "  push {r4-r11, lr}\n" \
    "  sub sp, sp, #20\n" \
    "  ldmia r0, {r4-r7}\n" \
    "  mov r1, r6\n" \
    "  add r2, r1, r1, lsl #1\n" \
    "  add r3, r1, r1, lsl #2\n" \
    "  mov r0, r5\n" \
    "  mov r5, r7\n" \
    "  mov r8, #1\n" \
    "  strd r4, r0, [sp]\n" \
    "  strd r5, r8, [sp, #8]\n" \
    "1:\n" \
    ".rept 6\n" \
    "  ldmia r4, {r6-r11}\n" \
    "  add r4, r4, #72\n" \
    "  add r10, r10, #" raise "\n" \
    "  add r11, r11, #" raise "\n" \
    TRANSFORM \
    finish \
    "  str r6, [r0]\n" \
    "  str r7, [r0, r1]\n" \
    "  str r10, [r0, r1, lsl #1]\n" \
    "  str r9, [r0, r2]\n" \
    "  str r12, [r0, r1, lsl #2]\n" \
    "  str r11, [r0, r3]\n" \
    "  add r0, r0, r2, lsl #1\n" \
    ".endr\n" \
    "  sub r0, r0, r1, lsl #5\n" \
    "  sub r0, r0, r1, lsl #2\n" \
    "  add r0, r0, #4\n" \
    "  sub r4, r4, #416\n" \
    "  subs r5, r5, #1\n" \
    "  bne 1b\n" \
    "  ldrd r4, r0, [sp]\n" \
    "  ldrd r5, r8, [sp, #8]\n" \
    "  add r4, r4, #432\n" \
    "  add r0, r0, #16\n" \
    "  subs r8, r8, #1\n" \
    "  str r8, [sp, #12]\n" \
    "  beq 1b\n" \
    "  add sp, sp, #20\n" \
    "  pop {r4-r11, pc}\n" \
    ".size " name ", .-" name "\n" \
    ".text\n"

#define KEEP
#define RESTORE \
  "  eor r6, r6, #0x8000\n" \
  "  eor r7, r7, #0x8000\n" \
  "  eor r10, r10, #0x8000\n" \
  "  eor r9, r9, #0x8000\n" \
  "  eor r12, r12, #0x8000\n" \
  "  eor r11, r11, #0x8000\n"

__asm__(ROWS("ek_winograd_f4_rows_dsp", "0x3400", KEEP));
__asm__(ROWS("ek_winograd_f4_rows_lean_dsp", "0x8000", RESTORE));

#else

EK_INLINE void transform(const uint32_t *x, uint32_t *y) {
  const uint32_t a = x[4] - 4 * x[2];
  const uint32_t b = x[3] - 4 * x[1];
  const uint32_t c = x[4] - x[2];
  const uint32_t d = x[1] - x[3];
  y[0] = c + 4 * (x[0] - x[2]);
  y[1] = a + b;
  y[2] = a - b;
  y[3] = c - 2 * d;
  y[4] = c + 2 * d;
  y[5] = x[5] - x[3] + 4 * d;
}

void ek_winograd_f4_columns_dsp(const ek_tile_columns *p) {
  for (int32_t i = 0; i < p->columns; ++i) {
    for (int k = 0; k < 2; ++k) {
      uint32_t x[6], y[6];
      for (int r = 0; r < 6; ++r) {
        const uint32_t word = ek_load32(p->rows[r] + p->offset + i * p->step);
        x[r] = k == 0 ? ek_sxtab16(0x00800080u, word) : ek_sxtab16_ror8(0x00800080u, word);
      }
      transform(x, y);
      for (int r = 0; r < 6; ++r) p->v[(6 * k + r) * EK_TILE_COLUMNS + i] = y[r];
    }
  }
}

EK_INLINE void rows(const ek_tile_rows *p, uint32_t raise, uint32_t restore) {
  const int32_t stride = p->stride / 4;
  for (int32_t i = 0; i < p->tiles; ++i) {
    for (int k = 0; k < 2; ++k) {
      for (int r = 0; r < 6; ++r) {
        uint32_t x[6], y[6];
        for (int j = 0; j < 6; ++j) x[j] = p->v[(6 * k + r) * EK_TILE_COLUMNS + 4 * i + j];
        x[4] += raise;
        x[5] += raise;
        transform(x, y);
        for (int j = 0; j < 6; ++j) p->x[(6 * r + j) * stride + 4 * k + i] = y[j] ^ restore;
      }
    }
  }
}

void ek_winograd_f4_rows_dsp(const ek_tile_rows *p) { rows(p, 0x3400u, 0); }
void ek_winograd_f4_rows_lean_dsp(const ek_tile_rows *p) { rows(p, 0x8000u, 0x8000u); }

#endif
