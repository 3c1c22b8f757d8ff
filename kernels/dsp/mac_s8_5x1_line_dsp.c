/* 5 outputs x 1 column, halfword form: 17 instructions for 20 multiplications (ek_dsp_fc5.h). */
#include "ek_dsp_fc5.h"
#include "ek_simd.h"

#if EK_SIMD_ASM

/* r0 stream, r1 x, r2 r3 inputs, r4-r8 sums, r9-lr weights. */
#define BLOCK \
  "  ldrd r2, r3, [r1], #8\n" \
  "  ldm.w r0!, {r9-r12, lr}\n" \
  "  smlad r4, r9, r2, r4\n" \
  "  smlad r5, r10, r2, r5\n" \
  "  smlad r6, r11, r2, r6\n" \
  "  smlad r7, r12, r2, r7\n" \
  "  smlad r8, lr, r2, r8\n" \
  "  sxtb16 r9, r9\n" \
  "  sxtb16 r10, r10\n" \
  "  sxtb16 r11, r11\n" \
  "  sxtb16 r12, r12\n" \
  "  sxtb16 lr, lr\n" \
  "  smlad r4, r9, r3, r4\n" \
  "  smlad r5, r10, r3, r5\n" \
  "  smlad r6, r11, r3, r6\n" \
  "  smlad r7, r12, r3, r7\n" \
  "  smlad r8, lr, r3, r8\n"

#define OUTPUT(acc) \
  "  and r2, r11, " acc ", asr #31\n" \
  "  add r2, r2, r10\n" \
  "  smmla " acc ", " acc ", r9, r2\n" \
  "  asr " acc ", " acc ", r12\n" \
  "  ssat " acc ", #8, " acc "\n" \
  "  strb " acc ", [r3], #1\n"

/* On the stack: 0 m, 4 c, 8 d, 12 k, 16 out, 20 passes, 24 x, 28 first instruction, 32 end of x. */
__asm__(
    ".syntax unified\n"
    ".thumb\n"
    ".section .text.ek_fc5_passes_s8_dsp,\"ax\",%progbits\n"
    ".balign 4\n"
    ".global ek_fc5_passes_s8_dsp\n"
    ".type ek_fc5_passes_s8_dsp, %function\n"
    ".thumb_func\n"
    "ek_fc5_passes_s8_dsp:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, sp, #36\n"
    "  ldm r0, {r1-r9}\n"
    "  stm sp, {r1-r4}\n"
    "  mov r0, r5\n"
    "  strd r6, r9, [sp, #16]\n"
    "  add r10, r7, r8, lsl #3\n"
    "  str r10, [sp, #32]\n"
    "  rsb r11, r8, #0\n"
    "  and r11, r11, #7\n"
    "  add r11, r11, r11, lsl #4\n" /* 17 instructions of 4 bytes a block */
    "  adr.w r12, 2f\n"
    "  add r12, r12, r11, lsl #2\n"
    "  orr r12, r12, #1\n"
    "  strd r7, r12, [sp, #24]\n"
    "1:\n"
    "  ldr r1, [sp, #24]\n"
    "  ldm.w r0!, {r4-r8}\n"
    "  ldr.w pc, [sp, #28]\n"
    ".balign 4\n"
    "2:\n"
    ".rept 8\n"
    BLOCK
    ".endr\n"
    "  ldr r2, [sp, #32]\n"
    "  cmp r1, r2\n"
    "  bne 2b\n"
    "  ldm sp, {r9-r12}\n"
    "  ldrd r3, lr, [sp, #16]\n"
    OUTPUT("r4")
    OUTPUT("r5")
    OUTPUT("r6")
    OUTPUT("r7")
    OUTPUT("r8")
    "  subs lr, lr, #1\n"
    "  strd r3, lr, [sp, #16]\n"
    "  bne 1b\n"
    "  add sp, sp, #36\n"
    "  pop {r4-r11, pc}\n"
    ".size ek_fc5_passes_s8_dsp, .-ek_fc5_passes_s8_dsp\n"
    ".text\n");

#else

const int8_t *ek_fc5_passes_s8_dsp(const ek_fc5_passes *p) {
  const int8_t *s = p->stream;
  int8_t *out = p->out;
  for (int32_t n = 0; n < p->passes; ++n) {
    int32_t acc[5];
    __builtin_memcpy(acc, s, sizeof acc);
    s += sizeof acc;
    for (int32_t b = 0; b < p->blocks; ++b, s += 20) {
      for (int i = 0; i < 5; ++i) {
        const uint32_t w = ek_load32(s + 4 * i);
        acc[i] = ek_smlad(w, p->x[2 * b], acc[i]);
        acc[i] = ek_smlad(ek_sxtb16(w), p->x[2 * b + 1], acc[i]);
      }
    }
    for (int i = 0; i < 5; ++i) {
      const int32_t t = ek_smmla(acc[i], p->m, p->c + (p->d & (acc[i] >> 31)));
      *out++ = (int8_t)ek_ssat8(t >> p->k);
    }
  }
  return s;
}

#endif
