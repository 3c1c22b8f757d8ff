/* int8 fully connected layer: the rows of a convolution whose windows are the input rows. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

int32_t ek_fully_connected_s8_neon_scratch_bytes(const ek_neon_fc_params *p) {
  return p->depth == p->in_c ? 0 : p->rows * p->depth;
}

void ek_fully_connected_s8_neon(const ek_neon_fc_params *p, const int8_t *input,
                                const int8_t *weights, const int32_t *bias, const int32_t *mult,
                                const int32_t *shift, int8_t *output, void *scratch) {
  static const int32_t none = 0;
  const ek_neon_rows t = {weights,  bias,      mult,       shift,     &none,      1,
                          p->depth, p->depth,  p->out_c,   p->out_zp, p->act_min, p->act_max, p->finish};
  if (p->depth != p->in_c) {
    int8_t *row = scratch;
    for (int32_t i = 0; i < p->rows; ++i, row += p->depth, input += p->in_c) {
      ek_neon_copy(row, input, p->in_c);
      ek_neon_fill(row + p->in_c, 0, p->depth - p->in_c);
    }
    input = scratch;
  }
  p->kernel(&t, input, p->rows, output);
}
