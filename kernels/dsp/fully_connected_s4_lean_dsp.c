/* Fully connected, 4-bit weights, 6 outputs at a time, no scratch (ek_dsp_lowbit.h). */
#include "ek_dsp_lowbit.h"

int32_t ek_fully_connected_s4_lean_dsp_scratch_bytes(const ek_fc_dsp_params *p) {
  (void)p;
  return 0;
}

void ek_fully_connected_s4_lean_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                                    const uint8_t *weights, const int32_t *bias,
                                    const ek_dsp_quant *quant, int8_t *output, void *scratch) {
  const int32_t in_c = p->fc.in_c, out_c = p->fc.out_c, whole = in_c / 8;
  int8_t last[8] = {0, 0, 0, 0, 0, 0, 0, 0}; /* what follows the last input meets zero weights */
  (void)scratch;
  for (int32_t row = 0; row < p->fc.rows; ++row, input += in_c) {
    int32_t odd = 0;
    for (int32_t i = 1; i < in_c; i += 2) odd += input[i];
    for (int32_t i = 8 * whole; i < in_c; ++i) last[i - 8 * whole] = input[i];
    const uint8_t *w = weights;
    const ek_dsp_quant *q = quant;
    for (int32_t o = 0; o < out_c; o += 6) {
      const int n = (int)ek_min(6, out_c - o);
      int32_t acc[6];
      ek_s4_start(acc, bias + o, n, odd);
      if (whole > 0) ek_mac_s4_6x1_bytes_dsp(acc, w, input, (uint32_t)whole);
      w += 24 * whole;
      if (8 * whole < in_c) {
        ek_mac_s4_6x1_bytes_dsp(acc, w, last, 1);
        w += 24;
      }
      q = ek_s4_finish(p, acc, n, q, output);
      output += n;
    }
  }
}
