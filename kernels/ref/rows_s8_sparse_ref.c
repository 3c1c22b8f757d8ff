/* Rows of int8 values by block-sparse weights (ek_sparse.h). */
#include "ek_dot.h"
#include "ek_sparse.h"

void ek_rows_s8_sparse_ref(const ek_fc_params *p, const int8_t *input, const ek_sparse *w,
                           const int32_t *bias, const int32_t *mult, const int8_t *shift,
                           int8_t *output) {
  const int32_t n = p->in_c;
  for (int32_t row = 0; row < p->rows; ++row, input += n) {
    const uint8_t *gap = w->gaps;
    const int8_t *v = w->weights;
    for (int32_t o = 0; o < p->out_c; ++o) {
      uint32_t acc = (uint32_t)bias[o];
      int32_t at = 0;
      for (int32_t k = w->counts[o]; k > 0; --k, v += 4) {
        at += 4 * *gap++;
        const int8_t *x = input + at;
        if (at + 4 <= n) {
          acc += (uint32_t)(v[0] * x[0]) + (uint32_t)(v[1] * x[1]) + (uint32_t)(v[2] * x[2]) +
                 (uint32_t)(v[3] * x[3]);
        } else {
          acc = ek_dot_s8(acc, x, v, n - at);
        }
      }
      *output++ = ek_output_s8(acc, mult[o], shift[o], p->out_zp, p->act_min, p->act_max);
    }
  }
}
