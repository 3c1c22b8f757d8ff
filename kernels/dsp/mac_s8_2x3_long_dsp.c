/* 2 output channels x 3 columns, halfword form, the long line for requantization (ek_dsp_line.h). */
#include "ek_dsp_triples.h"

#if EK_SIMD_ASM

#define OUTPUT(acc, address) \
  "  and r1, r4, " acc ", asr #31\n" \
  "  add r1, r1, r3\n" \
  "  smmla " acc ", " acc ", r2, r1\n" \
  "  asr " acc ", " acc ", r5\n" \
  "  ssat " acc ", #8, " acc "\n" \
  "  strb " acc ", " address "\n"

EK_TRIPLES("ek_conv_triples_s8_long_dsp", "  ldm.w r0!, {r7-r12}\n",
           "  ldm.w r0!, {r2-r5}\n"
           "  ldrd r6, lr, [sp]\n"
           OUTPUT("r8", "[r6, lr]")
           OUTPUT("r9", "[r6, lr, lsl #1]")
           OUTPUT("r7", "[r6], #1")
           "  ldm.w r0!, {r2-r5}\n"
           OUTPUT("r11", "[r6, lr]")
           OUTPUT("r12", "[r6, lr, lsl #1]")
           OUTPUT("r10", "[r6], #1"));

#else

void ek_conv_triples_s8_long_dsp(const ek_conv_triples *p) {
  const int8_t *s = p->stream;
  for (int8_t *out = p->out; s != p->end; out += 2) {
    int32_t acc[6];
    s = ek_triple_sums(p, s, acc, 6);
    for (int i = 0; i < 6; ++i) {
      int32_t q[4];
      __builtin_memcpy(q, s + 16 * (i / 3), sizeof q);
      const int32_t t = ek_smmla(acc[i], q[0], q[1] + (q[2] & (acc[i] >> 31)));
      out[i / 3 + i % 3 * p->step] = (int8_t)ek_ssat8(t >> q[3]);
    }
    s += 32;
  }
}

#endif
