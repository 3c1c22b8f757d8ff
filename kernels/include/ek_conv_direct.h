/* One pixel of an int8 convolution straight from the input: groups, dilation, any padding. out gets
 * group_out values. */
#ifndef EK_CONV_DIRECT_H
#define EK_CONV_DIRECT_H

#include "ek_conv.h"
#include "ek_dot.h"

/* One pixel of one group, window inside the input: every row of taps is one contiguous run (or,
 * with dilation or groups, kernel_w runs). */
static void ek_pixel_inside(const ek_conv_params *p, const int8_t *window, const int8_t *w,
                            const int32_t *bias, const int32_t *mult, const int8_t *shift,
                            int8_t *out, int32_t group_in, int32_t group_out) {
  const int32_t row_step = p->dilation_h * p->in_w * p->in_c;
  const int contiguous = p->dilation_w == 1 && p->groups == 1;
  const int32_t runs = contiguous ? 1 : p->kernel_w;
  const int32_t run = contiguous ? p->kernel_w * p->in_c : group_in;
  const int32_t run_step = p->dilation_w * p->in_c;
  const int32_t kernel_h = p->kernel_h;
  const int32_t filter = kernel_h * p->kernel_w * group_in;
  const int32_t zp = p->out_zp, lo = p->act_min, hi = p->act_max;
  int32_t o = 0;
  for (; o + 1 < group_out; o += 2) {
    uint32_t acc[2] = {(uint32_t)bias[o], (uint32_t)bias[o + 1]};
    const int8_t *row = window;
    for (int32_t ky = 0; ky < kernel_h; ++ky, row += row_step) {
      const int8_t *x = row;
      for (int32_t r = 0; r < runs; ++r, x += run_step, w += run) {
        ek_dot2_s8(acc, x, w, w + filter, run);
      }
    }
    w += filter;
    out[o] = ek_output_s8(acc[0], mult[o], shift[o], zp, lo, hi);
    out[o + 1] = ek_output_s8(acc[1], mult[o + 1], shift[o + 1], zp, lo, hi);
  }
  if (o < group_out) {
    uint32_t acc = (uint32_t)bias[o];
    const int8_t *row = window;
    for (int32_t ky = 0; ky < kernel_h; ++ky, row += row_step) {
      const int8_t *x = row;
      for (int32_t r = 0; r < runs; ++r, x += run_step, w += run) acc = ek_dot_s8(acc, x, w, run);
    }
    out[o] = ek_output_s8(acc, mult[o], shift[o], zp, lo, hi);
  }
}

/* One pixel of one group, some taps outside. (y, x): the window's first tap in the input. */
static void ek_pixel_border(const ek_conv_params *p, const int8_t *input, int32_t y, int32_t x,
                            const int8_t *w, const int32_t *bias, const int32_t *mult,
                            const int8_t *shift, int8_t *out, int32_t group_in,
                            int32_t group_out) {
  for (int32_t o = 0; o < group_out; ++o) {
    uint32_t acc = (uint32_t)bias[o];
    int32_t iy = y;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky, iy += p->dilation_h) {
      const int row_inside = iy >= 0 && iy < p->in_h;
      int32_t ix = x;
      for (int32_t kx = 0; kx < p->kernel_w; ++kx, ix += p->dilation_w, w += group_in) {
        if (row_inside && ix >= 0 && ix < p->in_w) {
          acc = ek_dot_s8(acc, input + (iy * p->in_w + ix) * p->in_c, w, group_in);
        } else {
          acc = ek_dot_splat_s8(acc, p->in_zp, w, group_in);
        }
      }
    }
    out[o] = ek_output_s8(acc, mult[o], shift[o], p->out_zp, p->act_min, p->act_max);
  }
}

#endif
