/* int8 convolution over copied windows: two output pixels by two output channels at a time. */
#include "ek_conv.h"
#include "ek_dot.h"

/* Every window is one pixel inside the input: nothing to copy. */
static int pointwise(const ek_conv_params *p) {
  return p->kernel_h == 1 && p->kernel_w == 1 && p->groups == 1 && p->pad_top == 0 &&
         p->pad_left == 0 && (p->out_h - 1) * p->stride_h < p->in_h &&
         (p->out_w - 1) * p->stride_w < p->in_w;
}

static int32_t window_bytes(const ek_conv_params *p) {
  return p->kernel_h * p->kernel_w * (p->in_c / p->groups);
}

int32_t ek_conv2d_s8_im2col_ref_scratch_bytes(const ek_conv_params *p) {
  return pointwise(p) ? 0 : 2 * window_bytes(p);
}

/* The window whose first tap is (y, x), channels from input[0] on, into column. */
static void gather(const ek_conv_params *p, const int8_t *input, int32_t y, int32_t x,
                   int32_t group_in, int8_t *column) {
  const int32_t row = p->kernel_w * group_in;
  const int contiguous = p->dilation_w == 1 && p->groups == 1;
  const int32_t left = ek_clamp(-x, 0, p->kernel_w);
  const int32_t right = ek_clamp(p->in_w - x, left, p->kernel_w); /* taps before it are inside */
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, y += p->dilation_h) {
    if (y < 0 || y >= p->in_h) {
      memset(column, p->in_zp, (size_t)row);
      column += row;
      continue;
    }
    const int8_t *line = input + y * p->in_w * p->in_c;
    if (contiguous) {
      memset(column, p->in_zp, (size_t)(left * group_in));
      column += left * group_in;
      if (right > left) {
        memcpy(column, line + (x + left) * group_in, (size_t)((right - left) * group_in));
        column += (right - left) * group_in;
      }
      memset(column, p->in_zp, (size_t)((p->kernel_w - right) * group_in));
      column += (p->kernel_w - right) * group_in;
      continue;
    }
    int32_t ix = x;
    for (int32_t kx = 0; kx < p->kernel_w; ++kx, ix += p->dilation_w, column += group_in) {
      if (ix >= 0 && ix < p->in_w) {
        memcpy(column, line + ix * p->in_c, (size_t)group_in);
      } else {
        memset(column, p->in_zp, (size_t)group_in);
      }
    }
  }
}

/* One group's channels of two pixels (or of one, where count is 1; x1 and out1 are unused then). */
static void channels(const ek_conv_params *p, const int8_t *x0, const int8_t *x1, int count,
                     const int8_t *w, const int32_t *bias, const int32_t *mult,
                     const int8_t *shift, int32_t n, int32_t group_out, int8_t *out0,
                     int8_t *out1) {
  const int32_t zp = p->out_zp, lo = p->act_min, hi = p->act_max;
  int32_t o = 0;
  for (; o + 1 < group_out; o += 2, w += 2 * n) {
    const uint32_t b0 = (uint32_t)bias[o], b1 = (uint32_t)bias[o + 1];
    uint32_t acc[4] = {b0, b1, b0, b1};
    if (count == 2) {
      ek_dot2x2_s8(acc, x0, x1, w, w + n, n);
      out1[o] = ek_output_s8(acc[2], mult[o], shift[o], zp, lo, hi);
      out1[o + 1] = ek_output_s8(acc[3], mult[o + 1], shift[o + 1], zp, lo, hi);
    } else {
      ek_dot2_s8(acc, x0, w, w + n, n);
    }
    out0[o] = ek_output_s8(acc[0], mult[o], shift[o], zp, lo, hi);
    out0[o + 1] = ek_output_s8(acc[1], mult[o + 1], shift[o + 1], zp, lo, hi);
  }
  if (o < group_out) {
    const uint32_t acc = ek_dot_s8((uint32_t)bias[o], x0, w, n);
    out0[o] = ek_output_s8(acc, mult[o], shift[o], zp, lo, hi);
    if (count == 2) {
      const uint32_t next = ek_dot_s8((uint32_t)bias[o], x1, w, n);
      out1[o] = ek_output_s8(next, mult[o], shift[o], zp, lo, hi);
    }
  }
}

void ek_conv2d_s8_im2col_ref(const ek_conv_params *p, const int8_t *input, const int8_t *weights,
                             const int32_t *bias, const int32_t *mult, const int8_t *shift,
                             int8_t *output, void *scratch) {
  const int32_t group_in = p->in_c / p->groups, group_out = p->out_c / p->groups;
  const int32_t n = window_bytes(p), pixels = p->out_h * p->out_w;
  const int direct = pointwise(p);
  int8_t *const columns = scratch;
  int32_t oy = 0, ox = 0;
  for (int32_t pixel = 0; pixel < pixels; pixel += 2) {
    const int count = pixel + 1 < pixels ? 2 : 1;
    int32_t y[2] = {0, 0}, x[2] = {0, 0};
    for (int i = 0; i < count; ++i) {
      y[i] = oy * p->stride_h - p->pad_top;
      x[i] = ox * p->stride_w - p->pad_left;
      if (++ox == p->out_w) {
        ox = 0;
        ++oy;
      }
    }
    for (int32_t g = 0; g < p->groups; ++g) {
      const int32_t first = g * group_out;
      const int8_t *column[2] = {0, 0};
      for (int i = 0; i < count; ++i) {
        if (direct) {
          column[i] = input + (y[i] * p->in_w + x[i]) * p->in_c;
        } else {
          gather(p, input + g * group_in, y[i], x[i], group_in, columns + i * n);
          column[i] = columns + i * n;
        }
      }
      channels(p, column[0], column[1], count, weights + first * n, bias + first, mult + first,
               shift + first, n, group_out, output + first, output + p->out_c + first);
    }
    output += 2 * p->out_c;
  }
}
