/* int8 convolution: which bytes each output row is computed from; the sums are in rows_s8_*_neon.c.
 * A 1x1 convolution with stride 1 is one row of all pixels. */
#include "ek_neon.h"
#include "ek_neon_ring.h"

static int32_t columns(const ek_neon_conv_params *p) {
  return (p->out_w - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
}

static int32_t height(const ek_neon_conv_params *p) {
  return (p->kernel_h - 1) * p->dilation_h + 1;
}

int32_t ek_conv2d_s8_neon_scratch_bytes(const ek_neon_conv_params *p) {
  return p->copy ? height(p) * ek_neon_ring_row(columns(p), p->in_c) : 0;
}

void ek_conv2d_s8_neon(const ek_neon_conv_params *p, const int8_t *input, const int8_t *weights,
                       const int32_t *bias, const int32_t *mult, const int32_t *shift,
                       int8_t *output, void *scratch) {
  int32_t offsets[EK_NEON_MAX_SEGMENTS];
  const int32_t taps = p->dilation_w == 1 ? 1 : p->kernel_w; /* segments a kernel row */
  const int32_t in_row = p->in_w * p->in_c;
  ek_neon_rows t = {weights,   bias,  mult,
                    shift,     offsets, p->kernel_h * taps,
                    p->depth,  p->stride_w * p->in_c, p->out_c,
                    p->out_zp, p->act_min, p->act_max, p->finish};
  if (!p->copy && p->kernel_h == 1 && p->kernel_w == 1 && p->stride_h == 1 && p->stride_w == 1) {
    offsets[0] = 0;
    p->rows(&t, input, p->out_h * p->out_w, output);
    return;
  }
  ek_neon_ring ring = ek_neon_ring_start(input, scratch, p->in_h, p->in_w, p->in_c, height(p),
                                         columns(p), p->pad_left, p->in_zp);
  for (int32_t oy = 0; oy < p->out_h; ++oy, output += p->out_w * p->out_c) {
    const int32_t y = oy * p->stride_h - p->pad_top;
    const int8_t *first = input + y * in_row;
    int32_t *offset = offsets;
    if (p->copy) {
      ek_neon_ring_fill(&ring, y);
      first = ring.rows;
    }
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
      const int32_t down = ky * p->dilation_h;
      int32_t at = p->copy ? ek_neon_ring_slot(&ring, y + down) * ring.row : down * in_row;
      for (int32_t kx = 0; kx < taps; ++kx, at += p->dilation_w * p->in_c) *offset++ = at;
    }
    p->rows(&t, first, p->out_w, output);
  }
}
