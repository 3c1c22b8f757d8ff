/* Fully connected, 4-bit weights, 6 outputs at a time, the input widened once (ek_dsp_lowbit.h). */
#include "ek_dsp_lowbit.h"

int32_t ek_fully_connected_s4_dsp_scratch_bytes(const ek_fc_dsp_params *p) {
  return (p->fc.in_c + 7) / 8 * 16;
}

/* The words of all inputs, zeros behind them; returns the sum of the odd ones. */
static int32_t widen(const int8_t *in, int32_t n, uint32_t *x) {
  int32_t sum = 0;
  for (; n >= 8; n -= 8, in += 8, x += 4) {
    sum = ek_s4_inputs(x, ek_load32(in), ek_load32(in + 4), sum);
  }
  if (n > 0) {
    uint32_t w[2] = {0, 0};
    for (int32_t i = 0; i < n; ++i) w[i / 4] |= (uint32_t)(uint8_t)in[i] << (8 * (i & 3));
    sum = ek_s4_inputs(x, w[0], w[1], sum);
  }
  return sum;
}

void ek_fully_connected_s4_dsp(const ek_fc_dsp_params *p, const int8_t *input,
                               const uint8_t *weights, const int32_t *bias,
                               const ek_dsp_quant *quant, int8_t *output, void *scratch) {
  const int32_t in_c = p->fc.in_c, out_c = p->fc.out_c, blocks = (in_c + 7) / 8;
  uint32_t *x = (uint32_t *)scratch;
  for (int32_t row = 0; row < p->fc.rows; ++row, input += in_c) {
    const int32_t odd = widen(input, in_c, x);
    const uint8_t *w = weights;
    const ek_dsp_quant *q = quant;
    for (int32_t o = 0; o < out_c; o += 6, w += 24 * blocks) {
      const int n = (int)ek_min(6, out_c - o);
      int32_t acc[6];
      ek_s4_start(acc, bias + o, n, odd);
      ek_mac_s4_6x1_dsp(acc, w, x, (uint32_t)blocks);
      q = ek_s4_finish(p, acc, n, q, output);
      output += n;
    }
  }
}
