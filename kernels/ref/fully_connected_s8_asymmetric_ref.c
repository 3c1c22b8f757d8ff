/* int8 fully connected layer whose weights have a zero point: sum (w - w_zp) * x. */
#include "ek_conv.h"
#include "ek_dot.h"

void ek_fully_connected_s8_asymmetric_ref(const ek_fc_params *p, const int8_t *input,
                                          const int8_t *weights, int32_t w_zp, const int32_t *bias,
                                          const int32_t *mult, const int8_t *shift,
                                          int8_t *output) {
  const int32_t n = p->in_c, out_c = p->out_c;
  for (int32_t row = 0; row < p->rows; ++row, input += n) {
    const uint32_t correction = ek_dot_splat_s8(0, -w_zp, input, n); /* -w_zp * sum x */
    const int8_t *w = weights;
    for (int32_t o = 0; o < out_c; ++o, w += n) {
      const uint32_t acc = ek_dot_s8((uint32_t)bias[o] + correction, input, w, n);
      *output++ = ek_output_s8(acc, mult[o], shift[o], p->out_zp, p->act_min, p->act_max);
    }
  }
}
