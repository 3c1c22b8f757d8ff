/* 1x1 convolution: pixels are read where they lie. */
#include "ek_mve_conv.h"

int32_t ek_conv2d_s8_pointwise_mve_scratch_bytes(const ek_mve_conv_params *p) {
  (void)p;
  return 0;
}

void ek_conv2d_s8_pointwise_mve(const ek_mve_conv_params *p, const int8_t *input, const int32_t *w,
                                int8_t *output, void *scratch) {
  (void)scratch;
  const int all = p->stride_w == 1 && p->stride_h == 1 && p->out_w == p->in_w;
  const int32_t n = all ? p->out_h * p->out_w : p->out_w;
  for (int32_t y = 0; y < (all ? 1 : p->out_h); ++y) {
    ek_mve_mac a = {.w = w, .quads = p->out_c >> 2, .blocks = p->in_c >> 4};
    a.x = input + y * p->stride_h * p->in_w * p->in_c;
    a.out = output + y * p->out_w * p->out_c;
    ek_mve_line(p->mac, &a, n, p->stride_w * p->in_c, p->out_c, 0);
  }
}
