/* Weight transform of Winograd F(4x4,3x3), one output channel (ek_dsp_winograd_f4.h).
 *
 * Six of three, by the points 0, 1, -1, 2, -2, infinity: 6a, -4(a + b + c), -4(a - b + c),
 * a + 2b + 4c, a - 2b + 4c, 12c: rows scaled by 24, the last by 12. Two input channels share a word, and
 * nothing leaves 16 bits: |w'| <= 12 * 12 * 128.
 */
#include "ek_dsp_winograd_f4.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r7, r8, r9 by way of r10, r11, lr; r2 is 0. */
#define TRANSFORM(put0, put1, put2, put3, put4, put5) \
  "  sadd16 r10, r7, r7\n" \
  "  sadd16 r11, r10, r10\n" \
  "  sadd16 r10, r11, r10\n" \
  "  str r10, " put0 "\n" \
  "  sadd16 lr, r9, r9\n" \
  "  sadd16 lr, lr, lr\n" \
  "  sadd16 r7, r7, lr\n" \
  "  sadd16 r11, r11, lr\n" \
  "  sadd16 r9, lr, lr\n" \
  "  sadd16 r9, r9, lr\n" \
  "  str r9, " put5 "\n" \
  "  sadd16 r8, r8, r8\n" \
  "  sadd16 lr, r7, r8\n" \
  "  ssub16 r7, r7, r8\n" \
  "  str lr, " put3 "\n" \
  "  str r7, " put4 "\n" \
  "  sadd16 r8, r8, r8\n" \
  "  ssub16 lr, r8, r11\n" \
  "  sadd16 r11, r11, r8\n" \
  "  ssub16 r11, r2, r11\n" \
  "  str lr, " put2 "\n" \
  "  str r11, " put1 "\n"

#define PUT(at) "[sp, #" #at "]"

/* One column of taps: its six values at [row][column] of the first pair, and of the second. */
#define COLUMN(j) \
  "  ldr r4, [r0]\n" \
  "  ldr r5, [r0, r12]\n" \
  "  ldr r6, [r0, r12, lsl #1]\n" \
  "  add r0, r0, r1\n" \
  "  sxtb16 r7, r4\n" \
  "  sxtb16 r8, r5\n" \
  "  sxtb16 r9, r6\n" \
  TRANSFORM(PUT(j), PUT(j+12), PUT(j+24), PUT(j+36), PUT(j+48), PUT(j+60)) \
  "  sxtb16 r7, r4, ror #8\n" \
  "  sxtb16 r8, r5, ror #8\n" \
  "  sxtb16 r9, r6, ror #8\n" \
  TRANSFORM(PUT(j+72), PUT(j+84), PUT(j+96), PUT(j+108), PUT(j+120), PUT(j+132))

/* r0 weights, then streams; r1 channels, then bytes between streams, r3 and r5 three and five times
 * that. On the stack: 0 columns' results [2 pairs][6][3], 144 weights, 148 channels, 152 streams,
 * 156 bytes between them, 160 end of the weights. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_winograd_f4_weights_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_winograd_f4_weights_dsp\n"
    ".type ek_winograd_f4_weights_dsp, %function\n"
    ".thumb_func\n"
    "ek_winograd_f4_weights_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #164\n"
    "  strd r0, r1, [sp, #144]\n"
    "  strd r2, r3, [sp, #152]\n"
    "  add r4, r0, r1\n"
    "  str r4, [sp, #160]\n"
    "  mov r2, #0\n"
    "1:\n"
    "  add r12, r1, r1, lsl #1\n"
    COLUMN(0)
    COLUMN(4)
    COLUMN(8)
    "  ldrd r0, r1, [sp, #152]\n"
    "  mov r4, sp\n"
    "  add r3, r1, r1, lsl #1\n"
    "  add r5, r1, r1, lsl #2\n"
    "  mov r12, #2\n"
    "2:\n"
    ".rept 6\n"
    "  ldmia r4!, {r7-r9}\n"
    TRANSFORM("[r0]", "[r0, r1]", "[r0, r1, lsl #1]", "[r0, r3]", "[r0, r1, lsl #2]", "[r0, r5]")
    "  add r0, r0, r3, lsl #1\n"
    ".endr\n"
    "  sub r0, r0, r1, lsl #5\n"
    "  sub r0, r0, r1, lsl #2\n"
    "  add r0, r0, #8\n"
    "  subs r12, r12, #1\n"
    "  bne 2b\n"
    "  str r0, [sp, #152]\n"
    "  ldrd r0, r1, [sp, #144]\n"
    "  ldr r3, [sp, #160]\n"
    "  add r0, r0, #4\n"
    "  str r0, [sp, #144]\n"
    "  cmp r0, r3\n"
    "  bne 1b\n"
    "  add sp, sp, #164\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_winograd_f4_weights_dsp, .-ek_winograd_f4_weights_dsp\n"
    ".text\n");

#else

static void transform(const uint32_t *x, uint32_t *y, int32_t step) {
  const uint32_t a2 = ek_sadd16(x[0], x[0]), a4 = ek_sadd16(a2, a2);
  const uint32_t b2 = ek_sadd16(x[1], x[1]), b4 = ek_sadd16(b2, b2);
  const uint32_t c2 = ek_sadd16(x[2], x[2]), c4 = ek_sadd16(c2, c2);
  const uint32_t t = ek_sadd16(x[0], c4), s4 = ek_sadd16(a4, c4);
  y[0] = ek_sadd16(a4, a2);
  y[step] = ek_ssub16(0, ek_sadd16(s4, b4));
  y[2 * step] = ek_ssub16(b4, s4);
  y[3 * step] = ek_sadd16(t, b2);
  y[4 * step] = ek_ssub16(t, b2);
  y[5 * step] = ek_sadd16(c4, ek_sadd16(c4, c4));
}

void ek_winograd_f4_weights_dsp(const int8_t *w, int32_t in_c, uint32_t *dst, int32_t step) {
  step /= 4;
  for (int32_t c = 0; c < in_c; c += 4) {
    for (int k = 0; k < 2; ++k, dst += 2) {
      uint32_t t[18];
      for (int j = 0; j < 3; ++j) {
        uint32_t x[3];
        for (int i = 0; i < 3; ++i) {
          const uint32_t word = ek_load32(w + (3 * i + j) * in_c + c);
          x[i] = k == 0 ? ek_sxtb16(word) : ek_sxtb16_ror8(word);
        }
        transform(x, t + j, 3);
      }
      for (int i = 0; i < 6; ++i) transform(t + 3 * i, dst + 6 * i * step, step);
    }
  }
}

#endif
