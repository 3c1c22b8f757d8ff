/* int8 fully connected layer: two outputs a pass. */
#include "ek_conv.h"
#include "ek_dot.h"

int32_t ek_fully_connected_s8_ref_scratch_bytes(const ek_fc_params *p) {
  (void)p;
  return 0;
}

void ek_fully_connected_s8_ref(const ek_fc_params *p, const int8_t *input, const int8_t *weights,
                               const int32_t *bias, const int32_t *mult, const int8_t *shift,
                               int8_t *output, void *scratch) {
  (void)scratch;
  const int32_t n = p->in_c, out_c = p->out_c;
  const int32_t zp = p->out_zp, lo = p->act_min, hi = p->act_max;
  for (int32_t row = 0; row < p->rows; ++row, input += n) {
    const int8_t *w = weights;
    int32_t o = 0;
    for (; o + 1 < out_c; o += 2, w += 2 * n) {
      uint32_t acc[2] = {(uint32_t)bias[o], (uint32_t)bias[o + 1]};
      ek_dot2_s8(acc, input, w, w + n, n);
      *output++ = ek_output_s8(acc[0], mult[o], shift[o], zp, lo, hi);
      *output++ = ek_output_s8(acc[1], mult[o + 1], shift[o + 1], zp, lo, hi);
    }
    if (o < out_c) {
      const uint32_t acc = ek_dot_s8((uint32_t)bias[o], input, w, n);
      *output++ = ek_output_s8(acc, mult[o], shift[o], zp, lo, hi);
    }
  }
}
