/* The loops of depthwise_rows_s8_*: two output rows of some channels, from columns of vertical pairs.
 *
 * A column holds the pairs (v0, v1) and (v2, v3) of four input rows; for the two output rows the three
 * taps of a column are w0 v0 + w1 v1 + w2 v2 and w0 v1 + w1 v2 + w2 v3: SMLAD and one halfword product
 * each. Two pixels a turn: 46 instructions for 36 multiplications and four outputs. Where the outermost
 * columns are padding, the first and last two pixels leave them out.
 */
#ifndef EK_DSP_DEPTHWISE_ROWS_H
#define EK_DSP_DEPTHWISE_ROWS_H

#include "ek_dsp_depthwise.h"

#if EK_SIMD_ASM

/* r0-r5 weights {w0 w1}, {w1 w2} of three columns, r6 r7 sums of the first pixel, r8 r9 of the second,
 * r10 r11 a column, r12 columns, lr output.
 * On the stack: 0 m, 4 c, 8 bias, 12 bias, 16 bytes to the next row, 20 to the next pixel, 24 channel,
 * 28 end of channels, 32 from the last pixel to the next channel, 36 bytes of the turns, 40 end of the
 * turns, 44 k; where to go 48 from the constants, 52 from the first two pixels, 56 from the single
 * pixel, 60 from the turns. */
#define COLUMN(address) "  ldrd r10, r11, " address "\n"
#define TAPS(p, q, y0, y1) \
  "  smlad " y0 ", " p ", r10, " y0 "\n" \
  "  smlabt " y1 ", " p ", r10, " y1 "\n" \
  "  smlatb " y0 ", " q ", r11, " y0 "\n" \
  "  smlad " y1 ", " q ", r11, " y1 "\n"
#define LEFT_TAPS(y0, y1) TAPS("r0", "r1", y0, y1)
#define MIDDLE_TAPS(y0, y1) TAPS("r2", "r3", y0, y1)
#define RIGHT_TAPS(y0, y1) TAPS("r4", "r5", y0, y1)
#define BIAS2 \
  "  ldrd r6, r7, [sp, #8]\n" \
  "  ldrd r8, r9, [sp, #8]\n"
#define STORE1 \
  "  strb r7, [lr, r10]\n" /* first, for the last row writes here twice */ \
  "  strb r6, [lr]\n" \
  "  add lr, lr, r11\n"
#define STORE2 \
  STORE1 \
  "  strb r9, [lr, r10]\n" \
  "  strb r8, [lr]\n" \
  "  add lr, lr, r11\n"
#define LINE(acc) "  smmla " acc ", " acc ", r10, r11\n"
#define SHORT(acc) "  ssat " acc ", #8, " acc ", asr #12\n"
#define SHIFT(acc) "  asr " acc ", " acc ", r10\n"
#define CLAMP(acc) "  ssat " acc ", #8, " acc "\n"
#define OUT1_SHORT \
  "  ldrd r10, r11, [sp]\n" \
  LINE("r6") LINE("r7") SHORT("r6") SHORT("r7") \
  "  ldrd r10, r11, [sp, #16]\n" \
  STORE1
#define OUT2_SHORT \
  "  ldrd r10, r11, [sp]\n" \
  LINE("r6") LINE("r7") LINE("r8") LINE("r9") SHORT("r6") SHORT("r7") SHORT("r8") SHORT("r9") \
  "  ldrd r10, r11, [sp, #16]\n" \
  STORE2
#define OUT1_LONG \
  "  ldrd r10, r11, [sp]\n" \
  LINE("r6") LINE("r7") \
  "  ldr r10, [sp, #44]\n" \
  SHIFT("r6") SHIFT("r7") CLAMP("r6") CLAMP("r7") \
  "  ldrd r10, r11, [sp, #16]\n" \
  STORE1
#define OUT2_LONG \
  "  ldrd r10, r11, [sp]\n" \
  LINE("r6") LINE("r7") LINE("r8") LINE("r9") \
  "  ldr r10, [sp, #44]\n" \
  SHIFT("r6") SHIFT("r7") SHIFT("r8") SHIFT("r9") CLAMP("r6") CLAMP("r7") CLAMP("r8") CLAMP("r9") \
  "  ldrd r10, r11, [sp, #16]\n" \
  STORE2
#define PIXEL2(OUT2) \
  BIAS2 \
  COLUMN("[r12, #12]") MIDDLE_TAPS("r6", "r7") LEFT_TAPS("r8", "r9") \
  COLUMN("[r12, #24]") RIGHT_TAPS("r6", "r7") MIDDLE_TAPS("r8", "r9") \
  COLUMN("[r12, #36]") RIGHT_TAPS("r8", "r9") \
  COLUMN("[r12], #24") LEFT_TAPS("r6", "r7") \
  OUT2

#define KERNEL(name, OUT1, OUT2, MORE) \
  __asm__(".syntax unified\n" \
          ".thumb\n" \
          ".section .text." name ",\"ax\",%progbits\n" \
          ".balign 4\n" \
          ".global " name "\n" \
          ".type " name ", %function\n" \
          ".thumb_func\n" \
          name ":\n" \
          "  push {r4-r11, lr}\n" \
          "  sub sp, sp, #68\n" \
          "  ldm r0!, {r1-r8}\n" \
          "  mov r12, r1\n" \
          "  mov lr, r2\n" \
          "  ldr r0, [r0]\n" /* flags */ \
          "  add r1, sp, #16\n" \
          "  stm r1, {r3-r8}\n" \
          "  adr.w r1, 2f\n" /* first two pixels */ \
          "  adr.w r2, 3f\n" /* single pixel */ \
          "  adr.w r3, 4f\n" /* turns */ \
          "  adr.w r4, 6f\n" /* last two pixels */ \
          "  adr.w r5, 7f\n" /* next channel */ \
          "  tst r0, #2\n" \
          "  ite eq\n" \
          "  moveq r6, r5\n" \
          "  movne r6, r4\n" /* after the turns */ \
          "  cmp r8, #0\n" \
          "  it eq\n" \
          "  moveq r3, r6\n" /* no turns */ \
          "  tst r0, #1\n" \
          "  it eq\n" \
          "  moveq r2, r3\n" /* no single pixel */ \
          "  tst r0, #2\n" \
          "  it eq\n" \
          "  moveq r1, r2\n" /* no edges */ \
          "  orr r1, r1, #1\n" \
          "  orr r2, r2, #1\n" \
          "  orr r3, r3, #1\n" \
          "  orr r6, r6, #1\n" \
          "  strd r1, r2, [sp, #48]\n" \
          "  strd r3, r6, [sp, #56]\n" \
          "1:\n" \
          "  ldr r10, [sp, #24]\n" \
          "  ldm r10!, {r0-r9}\n" \
          "  stm sp, {r6-r9}\n" \
          MORE \
          "  str r10, [sp, #24]\n" \
          "  ldr.w pc, [sp, #48]\n" \
          ".balign 4\n" \
          "2:\n" \
          BIAS2 \
          COLUMN("[r12, #12]!") MIDDLE_TAPS("r6", "r7") LEFT_TAPS("r8", "r9") \
          COLUMN("[r12, #12]!") RIGHT_TAPS("r6", "r7") MIDDLE_TAPS("r8", "r9") \
          COLUMN("[r12, #12]") RIGHT_TAPS("r8", "r9") \
          OUT2 \
          "  ldr.w pc, [sp, #52]\n" \
          ".balign 4\n" \
          "3:\n" \
          "  ldrd r6, r7, [sp, #8]\n" \
          COLUMN("[r12, #12]") MIDDLE_TAPS("r6", "r7") \
          COLUMN("[r12, #24]") RIGHT_TAPS("r6", "r7") \
          COLUMN("[r12], #12") LEFT_TAPS("r6", "r7") \
          OUT1 \
          "  ldr.w pc, [sp, #56]\n" \
          ".balign 4\n" \
          "4:\n" \
          "  ldr r10, [sp, #36]\n" \
          "  add r10, r10, r12\n" \
          "  str r10, [sp, #40]\n" \
          "5:\n" \
          PIXEL2(OUT2) \
          "  ldr r10, [sp, #40]\n" \
          "  cmp r12, r10\n" \
          "  bne 5b\n" \
          "  ldr.w pc, [sp, #60]\n" \
          ".balign 4\n" \
          "6:\n" \
          BIAS2 \
          COLUMN("[r12, #12]") MIDDLE_TAPS("r6", "r7") LEFT_TAPS("r8", "r9") \
          COLUMN("[r12, #24]") RIGHT_TAPS("r6", "r7") MIDDLE_TAPS("r8", "r9") \
          COLUMN("[r12], #24") LEFT_TAPS("r6", "r7") \
          OUT2 \
          ".balign 4\n" \
          "7:\n" \
          "  ldr r11, [sp, #32]\n" \
          "  add r12, r12, #24\n" \
          "  add lr, lr, r11\n" \
          "  ldrd r10, r11, [sp, #24]\n" \
          "  cmp r10, r11\n" \
          "  bne 1b\n" \
          "  add sp, sp, #68\n" \
          "  pop {r4-r11, pc}\n" \
          ".size " name ", .-" name "\n" \
          ".text\n")

#endif

#endif
