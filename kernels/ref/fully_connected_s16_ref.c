/* int16 fully connected layer with int8 weights. */
#include "ek_s16.h"

void ek_fully_connected_s16_ref(const ek_fc_params *p, const int16_t *input, const int8_t *weights,
                                const int64_t *bias, const int32_t *mult, const int8_t *shift,
                                int16_t *output) {
  const int32_t n = p->in_c;
  for (int32_t row = 0; row < p->rows; ++row, input += n) {
    for (int32_t o = 0; o < p->out_c; ++o) {
      const int64_t acc = ek_dot_s16(bias[o], input, weights + o * n, n);
      *output++ = ek_output_s16(acc, mult[o], shift[o], p->act_min, p->act_max);
    }
  }
}
