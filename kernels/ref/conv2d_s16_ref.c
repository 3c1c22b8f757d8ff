/* int16 convolution with int8 weights: groups, dilation, any padding. */
#include "ek_s16.h"

/* The sum of one output: only the taps inside the input. */
static int64_t window(const ek_conv_params *p, const int16_t *input, int32_t y, int32_t x,
                      const int8_t *w, int64_t acc, int32_t group_in) {
  const int32_t left = x < 0 ? (-x + p->dilation_w - 1) / p->dilation_w : 0;
  int32_t right = p->kernel_w;
  while (right > left && x + (right - 1) * p->dilation_w >= p->in_w) --right;
  const int contiguous = p->dilation_w == 1 && p->groups == 1;
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, y += p->dilation_h) {
    if (y < 0 || y >= p->in_h || left >= right) continue;
    const int8_t *taps = w + (ky * p->kernel_w + left) * group_in;
    const int16_t *in = input + (y * p->in_w + x + left * p->dilation_w) * p->in_c;
    if (contiguous) {
      acc = ek_dot_s16(acc, in, taps, (right - left) * group_in);
      continue;
    }
    for (int32_t kx = left; kx < right; ++kx, taps += group_in, in += p->dilation_w * p->in_c) {
      acc = ek_dot_s16(acc, in, taps, group_in);
    }
  }
  return acc;
}

void ek_conv2d_s16_ref(const ek_conv_params *p, const int16_t *input, const int8_t *weights,
                       const int64_t *bias, const int32_t *mult, const int8_t *shift,
                       int16_t *output, int wide) {
  const int32_t group_in = p->in_c / p->groups, group_out = p->out_c / p->groups;
  const int32_t filter = p->kernel_h * p->kernel_w * group_in;
  const int32_t lo = p->act_min, hi = p->act_max;
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w) {
      for (int32_t o = 0; o < p->out_c; ++o) {
        const int64_t acc = window(p, input + o / group_out * group_in, y, x, weights + o * filter,
                                   bias[o], group_in);
        if (wide) {
          *output++ = ek_output_s16(acc, mult[o], shift[o], lo, hi);
        } else {
          const int32_t sum = (int32_t)(uint32_t)(uint64_t)acc;
          *output++ = ek_finish_s16(ek_requant(sum, mult[o], shift[o]), lo, hi);
        }
      }
    }
  }
}
