/* The body of the dsp fully connected kernels. */
#ifndef EK_DSP_FC_H
#define EK_DSP_FC_H

#include "ek_dsp_quant.h"

typedef void (*ek_dsp_mac_8x1)(int32_t *acc, const int8_t *w, const int8_t *x, uint32_t blocks);

/* acc_shift (8 in the halfword form, else 0) and mac are constants of the caller. */
EK_INLINE void ek_dsp_fc(const ek_fc_dsp_params *p, const int8_t *input, const int8_t *weights,
                         const int32_t *bias, const ek_dsp_quant *quant, int8_t *output,
                         int acc_shift, ek_dsp_mac_8x1 mac) {
  const int32_t in_c = p->fc.in_c;
  const int32_t out_c = p->fc.out_c;
  const int32_t whole = in_c / 4;
  int8_t last[4] = {0, 0, 0, 0}; /* what follows the last input meets zero weights */
  for (int32_t row = 0; row < p->fc.rows; ++row, input += in_c) {
    const int8_t *w = weights;
    const ek_dsp_quant *q = quant;
    for (int32_t i = 4 * whole; i < in_c; ++i) last[i - 4 * whole] = input[i];
    for (int32_t o = 0; o < out_c; o += 8) {
      int32_t acc[8];
      for (int i = 0; i < 8; ++i) acc[i] = bias[o + i];
      mac(acc, w, input, (uint32_t)whole);
      w += 32 * whole;
      if (4 * whole < in_c) {
        mac(acc, w, last, 1);
        w += 32;
      }
      const int n = (int)ek_min(8, out_c - o);
      if (p->quant_step == 0) {
        ek_dsp_store(acc, n, acc_shift, q, p->fc.out_zp, p->fc.act_min, p->fc.act_max, output, 1);
      } else {
        for (int i = 0; i < n; ++i, ++q) {
          ek_dsp_store(acc + i, 1, acc_shift, q, p->fc.out_zp, p->fc.act_min, p->fc.act_max,
                       output + i, 1);
        }
      }
      output += n;
    }
  }
}

#endif
