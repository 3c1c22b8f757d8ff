/* Fully connected, five outputs a pass, the input widened once (ek_dsp_fc5.h). */
#include "ek_dsp_fc5.h"
#include "ek_simd.h"

int32_t ek_fully_connected_s8_fives_dsp_scratch_bytes(const ek_fc5_params *p) {
  return (p->fc.in_c + 3) / 4 * 8;
}

/* What follows the last input meets zero weights. */
static void widen(const int8_t *x, int32_t n, uint32_t *words) {
  for (; n >= 4; n -= 4, x += 4, words += 2) {
    const uint32_t in = ek_load32(x);
    words[0] = ek_sxtb16_ror8(in);
    words[1] = ek_rev16(in) ^ 0x007f007fu;
  }
  if (n > 0) {
    uint32_t in = 0;
    for (int32_t i = 0; i < n; ++i) in |= (uint32_t)(uint8_t)x[i] << (8 * i);
    words[0] = ek_sxtb16_ror8(in);
    words[1] = ek_rev16(in) ^ 0x007f007fu;
  }
}

void ek_fully_connected_s8_fives_dsp(const ek_fc5_params *p, const int8_t *input,
                                     const int8_t *stream, int8_t *output, void *scratch) {
  const int32_t out_c = p->fc.out_c;
  uint32_t *x = (uint32_t *)scratch;
  ek_fc5_passes f = {p->m, p->c, p->d, p->k, stream, output, x, (p->fc.in_c + 3) / 4, 1};
  for (int32_t row = 0; row < p->fc.rows; ++row, input += p->fc.in_c, output += out_c) {
    widen(input, p->fc.in_c, x);
    f.stream = stream;
    f.out = output;
    f.passes = out_c / 5;
    f.stream = ek_fc5_passes_s8_dsp(&f);
    if (out_c % 5 != 0) {
      f.passes = 1;
      f.out = output + out_c - 5;
      (void)ek_fc5_passes_s8_dsp(&f);
    }
  }
}
