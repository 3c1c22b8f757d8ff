/* int16 depthwise convolution with int8 weights: any multiplier, dilation and padding. */
#include "ek_s16.h"

/* First and one past the last of taps start, start + dilation, ... within 0 .. size - 1. */
static void inside(int32_t start, int32_t size, int32_t taps, int32_t dilation, int32_t *first,
                   int32_t *last) {
  int32_t f = 0, n = taps;
  for (int32_t i = start; i < 0 && f < taps; i += dilation) ++f;
  for (int32_t i = start + (taps - 1) * dilation; i >= size && n > f; i -= dilation) --n;
  *first = f;
  *last = n;
}

void ek_depthwise_s16_ref(const ek_depthwise_params *p, const int16_t *input, const int8_t *weights,
                          const int64_t *bias, const int32_t *mult, const int8_t *shift,
                          int16_t *output) {
  const int32_t row = p->in_w * p->in_c;
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    int32_t top, bottom;
    inside(y, p->in_h, p->kernel_h, p->dilation_h, &top, &bottom);
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w) {
      int32_t left, right, c = 0, j = 0; /* o = c * multiplier + j */
      inside(x, p->in_w, p->kernel_w, p->dilation_w, &left, &right);
      for (int32_t o = 0; o < p->out_c; ++o) {
        int64_t acc = bias[o];
        for (int32_t ky = top; ky < bottom; ++ky) {
          const int32_t line = (y + ky * p->dilation_h) * row + c;
          const int8_t *w = weights + ky * p->kernel_w * p->out_c + o;
          for (int32_t kx = left; kx < right; ++kx) {
            acc += (int32_t)w[kx * p->out_c] * input[line + (x + kx * p->dilation_w) * p->in_c];
          }
        }
        *output++ = ek_output_s16(acc, mult[o], shift[o], p->act_min, p->act_max);
        if (++j == p->multiplier) {
          j = 0;
          ++c;
        }
      }
    }
  }
}
