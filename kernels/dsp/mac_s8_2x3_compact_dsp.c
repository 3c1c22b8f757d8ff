/* 2 output channels x 3 columns, halfword form, the short line from eight bytes a channel
 * (ek_dsp_line.h): c follows from how many leading zeros m has.
 */
#include "ek_dsp_triples.h"

#if EK_SIMD_ASM

#define CONSTANT(c, m) \
  "  clz r1, " m "\n" \
  "  rsb r1, r1, #7\n" \
  "  lsl " c ", r5, r1\n" \
  "  sub " c ", " c ", #0x7f800\n" /* EK_LINE_BASE */
#define OUTPUT(acc, m, c, address) \
  "  smmla " acc ", " acc ", " m ", " c "\n" \
  "  ssat " acc ", #8, " acc ", asr #12\n" \
  "  strb " acc ", " address "\n"

EK_TRIPLES("ek_conv_triples_s8_compact_dsp",
           "  ldrd r7, r10, [r0], #8\n"
           "  mov r8, r7\n"
           "  mov r9, r7\n"
           "  mov r11, r10\n"
           "  mov r12, r10\n",
           "  ldrd r2, r4, [r0], #8\n"
           "  mov r5, #1\n"
           CONSTANT("r3", "r2")
           CONSTANT("r5", "r4")
           "  ldrd r6, lr, [sp]\n"
           OUTPUT("r8", "r2", "r3", "[r6, lr]")
           OUTPUT("r9", "r2", "r3", "[r6, lr, lsl #1]")
           OUTPUT("r7", "r2", "r3", "[r6], #1")
           OUTPUT("r11", "r4", "r5", "[r6, lr]")
           OUTPUT("r12", "r4", "r5", "[r6, lr, lsl #1]")
           OUTPUT("r10", "r4", "r5", "[r6], #1"));

#else

void ek_conv_triples_s8_compact_dsp(const ek_conv_triples *p) {
  const int8_t *s = p->stream;
  for (int8_t *out = p->out; s != p->end; out += 2) {
    int32_t acc[6];
    s = ek_triple_sums(p, s, acc, 2);
    for (int i = 0; i < 6; ++i) {
      const int32_t m = (int32_t)ek_load32(s + 4 * (i / 3));
      const int32_t t = ek_smmla(acc[i], m, ek_line_constant(m));
      out[i / 3 + i % 3 * p->step] = (int8_t)ek_ssat8(t >> EK_LINE_SHIFT);
    }
    s += 8;
  }
}

#endif
