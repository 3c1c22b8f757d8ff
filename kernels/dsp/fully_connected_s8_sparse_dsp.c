/* Fully connected, block-sparse weights (ek_sparse.h): 7 instructions a stored block of four. */
#include "ek_dsp_quant.h"
#include "ek_sparse.h"

int32_t ek_fully_connected_s8_sparse_dsp_scratch_bytes(const ek_fc_params *p) {
  return (p->in_c + 3) / 4 * 8;
}

/* What follows the last input meets zero weights. */
static void widen(const int8_t *x, int32_t n, uint32_t *words) {
  for (; n > 0; n -= 4, x += 4, words += 2) {
    uint32_t in = 0;
    if (n >= 4) {
      in = ek_load32(x);
    } else {
      for (int32_t i = 0; i < n; ++i) in |= (uint32_t)(uint8_t)x[i] << (8 * i);
    }
    words[0] = ek_sxtb16_ror8(in);
    words[1] = ek_rev16(in) ^ 0x007f007fu;
  }
}

void ek_fully_connected_s8_sparse_dsp(const ek_fc_params *p, const int8_t *input,
                                      const ek_sparse *w, const ek_dsp_quant *quant,
                                      int8_t *output, void *scratch) {
  uint32_t *const words = (uint32_t *)scratch;
  for (int32_t row = 0; row < p->rows; ++row, input += p->in_c) {
    const uint8_t *gap = w->gaps;
    const uint32_t *v = (const uint32_t *)(const void *)w->weights;
    widen(input, p->in_c, words);
    for (int32_t o = 0; o < p->out_c; ++o) {
      const uint32_t *x = words;
      int32_t acc = quant[o].bias;
      for (int32_t k = w->counts[o]; k > 0; --k) {
        const uint32_t four = *v++;
        x += 2 * *gap++;
        acc = ek_smlad(four, x[0], acc);
        acc = ek_smlad(ek_sxtb16(four), x[1], acc);
      }
      ek_dsp_store(&acc, 1, 8, quant + o, p->out_zp, p->act_min, p->act_max, output++, 1);
    }
  }
}
