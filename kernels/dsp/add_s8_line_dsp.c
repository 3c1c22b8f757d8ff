/* ADD of int8 tensors of one shape as one linear form, sat8((x * a + y * b + c) >> 20): under six
 * instructions an element (ek_dsp_line.h). SMLAW takes the operands as halfwords, 256-fold.
 */
#include "ek_dsp_line.h"
#include "ek_simd.h"

int32_t ek_add_s8_line_dsp_scratch_bytes(const ek_add_line_params *p) {
  (void)p;
  return 0;
}

/* (a * (x << 8)) >> 16. */
EK_INLINE int32_t term(int32_t a, int8_t x) { return (int32_t)(((int64_t)a * (x * 256)) >> 16); }

#if EK_SIMD_ASM

void ek_add_fours_s8_line_dsp(const ek_add_line_params *p, const int8_t *x, const int8_t *y,
                              int8_t *output);

/* r0 x, r1 y, r2 output, r3 end, r4 a, r5 b, r6 c, r7 mask. Both words are read before the first store:
 * output may be one of the inputs. */
#define FOUR \
  "  ldr r8, [r0], #4\n" \
  "  ldr r9, [r1], #4\n" \
  "  and r10, r7, r8, lsl #8\n" \
  "  and r8, r8, r7\n" \
  "  and r11, r7, r9, lsl #8\n" \
  "  and r9, r9, r7\n" \
  "  smlawb r12, r4, r10, r6\n" \
  "  smlawb lr, r4, r8, r6\n" \
  "  smlawt r10, r4, r10, r6\n" \
  "  smlawt r8, r4, r8, r6\n" \
  "  smlawb r12, r5, r11, r12\n" \
  "  smlawb lr, r5, r9, lr\n" \
  "  smlawt r10, r5, r11, r10\n" \
  "  smlawt r8, r5, r9, r8\n" \
  "  ssat r12, #8, r12, asr #20\n" \
  "  ssat lr, #8, lr, asr #20\n" \
  "  ssat r10, #8, r10, asr #20\n" \
  "  ssat r8, #8, r8, asr #20\n" \
  "  strb r12, [r2], #4\n" \
  "  strb lr, [r2, #-3]\n" \
  "  strb r10, [r2, #-2]\n" \
  "  strb r8, [r2, #-1]\n"

__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_add_fours_s8_line_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_add_fours_s8_line_dsp\n"
    ".type ek_add_fours_s8_line_dsp, %function\n"
    ".thumb_func\n"
    "ek_add_fours_s8_line_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  mov r12, r0\n"
    "  mov r0, r1\n"
    "  mov r1, r2\n"
    "  mov r2, r3\n"
    "  ldm r12, {r3-r6}\n"
    "  mov r7, #0xff00ff00\n"
    "  bics r3, r3, #3\n"
    "  beq 3f\n"
    "  tst r3, #4\n"
    "  add r3, r3, r2\n"
    "  beq 1f\n"
    FOUR
    "  cmp r2, r3\n"
    "  beq 3f\n"
    ".balign 4\n"
    "1:\n"
    FOUR
    FOUR
    "  cmp r2, r3\n"
    "  bne 1b\n"
    "3:\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_add_fours_s8_line_dsp, .-ek_add_fours_s8_line_dsp\n"
    ".text\n");

void ek_add_s8_line_dsp(const ek_add_line_params *p, const int8_t *x, const int8_t *y,
                        int8_t *output) {
  ek_add_fours_s8_line_dsp(p, x, y, output);
  for (int32_t i = p->count & ~3; i < p->count; ++i) {
    output[i] = (int8_t)ek_ssat8((p->c + term(p->a, x[i]) + term(p->b, y[i])) >> 20);
  }
}

#else

void ek_add_s8_line_dsp(const ek_add_line_params *p, const int8_t *x, const int8_t *y,
                        int8_t *output) {
  for (int32_t i = 0; i < p->count; ++i) {
    output[i] = (int8_t)ek_ssat8((p->c + term(p->a, x[i]) + term(p->b, y[i])) >> 20);
  }
}

#endif
