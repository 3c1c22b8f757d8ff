/* 2 output channels x 3 columns, halfword form, the short line for requantization (ek_dsp_line.h). */
#include "ek_dsp_triples.h"

#if EK_SIMD_ASM

#define OUTPUT(acc, m, c, address) \
  "  smmla " acc ", " acc ", " m ", " c "\n" \
  "  ssat " acc ", #8, " acc ", asr #12\n" \
  "  strb " acc ", " address "\n"

EK_TRIPLES("ek_conv_triples_s8_short_dsp", "  ldm.w r0!, {r7-r12}\n",
           "  ldm.w r0!, {r2-r5}\n"
           "  ldrd r6, lr, [sp]\n"
           OUTPUT("r8", "r2", "r3", "[r6, lr]")
           OUTPUT("r9", "r2", "r3", "[r6, lr, lsl #1]")
           OUTPUT("r7", "r2", "r3", "[r6], #1")
           OUTPUT("r11", "r4", "r5", "[r6, lr]")
           OUTPUT("r12", "r4", "r5", "[r6, lr, lsl #1]")
           OUTPUT("r10", "r4", "r5", "[r6], #1"));

#else

void ek_conv_triples_s8_short_dsp(const ek_conv_triples *p) {
  const int8_t *s = p->stream;
  for (int8_t *out = p->out; s != p->end; out += 2) {
    int32_t acc[6];
    s = ek_triple_sums(p, s, acc, 6);
    for (int i = 0; i < 6; ++i) {
      const int8_t *q = s + 8 * (i / 3);
      const int32_t t = ek_smmla(acc[i], (int32_t)ek_load32(q), (int32_t)ek_load32(q + 4));
      out[i / 3 + i % 3 * p->step] = (int8_t)ek_ssat8(t >> EK_LINE_SHIFT);
    }
    s += 16;
  }
}

#endif
