/* int8 depthwise convolution, multiplier 1: which bytes each output row is computed from; the sums are
 * in depthwise_*_s8_neon.c. */
#include "ek_neon.h"
#include "ek_neon_ring.h"

static int32_t columns(const ek_neon_depthwise_params *p) {
  return (p->out_w - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
}

static int32_t height(const ek_neon_depthwise_params *p) {
  return (p->kernel_h - 1) * p->dilation_h + 1;
}

int32_t ek_depthwise_s8_neon_scratch_bytes(const ek_neon_depthwise_params *p) {
  return p->copy ? height(p) * ek_neon_ring_row(columns(p), p->in_c) : 0;
}

void ek_depthwise_s8_neon(const ek_neon_depthwise_params *p, const int8_t *input,
                          const int8_t *weights, const int32_t *bias, const int32_t *mult,
                          const int32_t *shift, int8_t *output, void *scratch) {
  const int8_t *rows[EK_NEON_MAX_ROWS];
  const int32_t in_row = p->in_w * p->in_c;
  const ek_neon_depthwise_row t = {rows,        weights,
                                   bias,        mult,
                                   shift,       p->in_c,
                                   p->out_w,    p->stride_w * p->in_c,
                                   p->dilation_w * p->in_c, p->kernel_h,
                                   p->kernel_w, p->out_zp,
                                   p->act_min,  p->act_max, p->finish};
  ek_neon_ring ring = ek_neon_ring_start(input, scratch, p->in_h, p->in_w, p->in_c, height(p),
                                         columns(p), p->pad_left, p->in_zp);
  for (int32_t oy = 0; oy < p->out_h; ++oy, output += p->out_w * p->in_c) {
    int32_t y = oy * p->stride_h - p->pad_top;
    if (p->copy) ek_neon_ring_fill(&ring, y);
    for (int32_t ky = 0; ky < p->kernel_h; ++ky, y += p->dilation_h) {
      rows[ky] = p->copy ? ring.rows + ek_neon_ring_slot(&ring, y) * ring.row : input + y * in_row;
    }
    p->row(&t, output);
  }
}
