/* Three windows of input bytes as columns of the halfword form (ek_dsp_line.h): 15 instructions a word
 * of each, loads and stores included.
 */
#include "ek_dsp_line.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r0 columns, r1-r3 sources, r10 offset in them. */
#define WORD \
  "  ldr r4, [r1, r10]\n" \
  "  ldr r5, [r2, r10]\n" \
  "  ldr r6, [r3, r10]\n" \
  "  rev16 r7, r4\n" \
  "  rev16 r8, r5\n" \
  "  rev16 r9, r6\n" \
  "  sxtb16 r4, r4, ror #8\n" \
  "  sxtb16 r5, r5, ror #8\n" \
  "  sxtb16 r6, r6, ror #8\n" \
  "  eor r7, r7, #0x007f007f\n" \
  "  eor r8, r8, #0x007f007f\n" \
  "  eor r9, r9, #0x007f007f\n" \
  "  stm r0!, {r4-r9}\n" \
  "  add r10, r10, #4\n"

/* r11 end of the run, r12 words in bytes, lr pitch; on the stack: end of the last run. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_triple_columns_s8_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_triple_columns_s8_dsp\n"
    ".type ek_triple_columns_s8_dsp, %function\n"
    ".thumb_func\n"
    "ek_triple_columns_s8_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  ldm r0, {r0-r6}\n"
    "  lsl r12, r4, #2\n"
    "  mov lr, r6\n"
    "  mul r5, r5, r6\n"
    "  push {r5}\n" /* where the offset is after the last run, less its words */
    "  mov r10, #0\n"
    "1:\n"
    "  add r11, r10, r12\n"
    "  tst r12, #4\n"
    "  beq 2f\n"
    WORD
    "  cmp r10, r11\n"
    "  beq 3f\n"
    ".balign 4\n"
    "2:\n"
    WORD
    WORD
    "  cmp r10, r11\n"
    "  bne 2b\n"
    "3:\n"
    "  ldr r4, [sp]\n"
    "  sub r10, r10, r12\n"
    "  add r10, r10, lr\n"
    "  cmp r10, r4\n"
    "  bne 1b\n"
    "  pop {r4}\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_triple_columns_s8_dsp, .-ek_triple_columns_s8_dsp\n"
    ".text\n");

#else

void ek_triple_columns_s8_dsp(const ek_triple_columns *p) {
  uint32_t *dst = p->dst;
  for (int32_t r = 0; r < p->rows; ++r) {
    for (int32_t i = 0; i < p->words; ++i, dst += 6) {
      for (int j = 0; j < 3; ++j) {
        const uint32_t in = ek_load32(p->src[j] + r * p->pitch + 4 * i);
        dst[j] = ek_sxtb16_ror8(in);
        dst[3 + j] = ek_rev16(in) ^ 0x007f007fu;
      }
    }
  }
}

#endif
