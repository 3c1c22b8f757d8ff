/* int8 transpose convolution, by output pixel: only the taps that meet an input pixel are visited
 * (every stride-th one), so that no accumulator image is needed. */
#include "ek_conv.h"
#include "ek_dot.h"

int32_t ek_transpose_conv_s8_gather_ref_scratch_bytes(const ek_conv_params *p) {
  (void)p;
  return 0;
}

void ek_transpose_conv_s8_gather_ref(const ek_conv_params *p, const int8_t *input,
                                     const int8_t *weights, const int32_t *bias,
                                     const int32_t *mult, const int8_t *shift, int8_t *output,
                                     void *scratch) {
  (void)scratch;
  const int32_t in_c = p->in_c;
  const int32_t filter = p->kernel_h * p->kernel_w * in_c;
  for (int32_t oy = 0; oy < p->out_h; ++oy) {
    /* Tap ky meets input row iy where iy * stride + ky = oy + pad. */
    const int32_t first_iy = (oy + p->pad_top) / p->stride_h;
    const int32_t first_ky = (oy + p->pad_top) - first_iy * p->stride_h;
    for (int32_t ox = 0; ox < p->out_w; ++ox) {
      const int32_t first_ix = (ox + p->pad_left) / p->stride_w;
      const int32_t first_kx = (ox + p->pad_left) - first_ix * p->stride_w;
      const int8_t *w = weights;
      for (int32_t o = 0; o < p->out_c; ++o, w += filter) {
        uint32_t acc = (uint32_t)bias[o];
        int32_t iy = first_iy;
        for (int32_t ky = first_ky; ky < p->kernel_h && iy >= 0; ky += p->stride_h, --iy) {
          if (iy >= p->in_h) continue;
          int32_t ix = first_ix;
          for (int32_t kx = first_kx; kx < p->kernel_w && ix >= 0; kx += p->stride_w, --ix) {
            if (ix >= p->in_w) continue;
            acc = ek_dot_zp_s8(acc, input + (iy * p->in_w + ix) * in_c, p->in_zp,
                               w + (ky * p->kernel_w + kx) * in_c, in_c);
          }
        }
        *output++ = ek_output_s8(acc, mult[o], shift[o], p->out_zp, p->act_min, p->act_max);
      }
    }
  }
}
