/* Rows of int8 values by ternary weights: sums and differences (ek_lowbit.h). */
#include "ek_dot.h"
#include "ek_lowbit.h"

void ek_rows_s8_ternary_ref(const ek_fc_params *p, const int8_t *input, const uint32_t *weights,
                            int32_t unit, const int32_t *bias, const int32_t *mult,
                            const int8_t *shift, int8_t *output) {
  const int32_t n = p->in_c;
  for (int32_t row = 0; row < p->rows; ++row, input += n) {
    const uint32_t *w = weights;
    for (int32_t o = 0; o < p->out_c; ++o) {
      int32_t sum = 0;
      for (int32_t i = 0; i < n; i += 16) {
        uint32_t codes = *w++;
        const int8_t *x = input + i;
        /* zeros end a word early: 0 for what is left of it */
        for (; codes != 0; codes >>= 2, ++x) {
          const int32_t taken = *x & -(int32_t)(codes & 1u);
          const int32_t negative = -(int32_t)((codes >> 1) & 1u);
          sum += (taken ^ negative) - negative;
        }
      }
      const uint32_t acc = (uint32_t)bias[o] + (uint32_t)unit * (uint32_t)sum;
      *output++ = ek_output_s8(acc, mult[o], shift[o], p->out_zp, p->act_min, p->act_max);
    }
  }
}
