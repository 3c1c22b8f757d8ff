/* int8 depthwise convolution: any multiplier, dilation and padding. Four channels at a time where
 * the multiplier is 1, so that the accumulators stay in registers. */
#include "ek_conv.h"
#include "ek_dot.h"

int32_t ek_depthwise_s8_direct_ref_scratch_bytes(const ek_depthwise_params *p) {
  (void)p;
  return 0;
}

/* The taps of a window that lie in the input. */
typedef struct {
  int32_t rows, columns;
  const int8_t *x; /* the input's first channel under the first of them */
  const int8_t *w; /* its weights */
  int32_t x_row, x_step, w_row, w_step;
  int32_t zp; /* what to subtract from x: 0 where all taps are inside and the bias is folded */
} window;

/* First and one past the last of taps start, start + dilation, ... within 0 .. size - 1. */
EK_INLINE void axis(int32_t start, int32_t size, int32_t taps, int32_t dilation, int32_t *first,
                    int32_t *last) {
  int32_t f = 0, n = taps;
  for (int32_t i = start; i < 0 && f < taps; i += dilation) ++f;
  for (int32_t i = start + (taps - 1) * dilation; i >= size && n > f; i -= dilation) --n;
  *first = f;
  *last = n;
}

/* Channels c .. c + 3 of one pixel, multiplier 1; zp is v->zp, or 0 known to the compiler. */
EK_INLINE void quad(const window *v, int32_t zp, int32_t c, uint32_t acc[4]) {
  const int32_t x_step = v->x_step, w_step = v->w_step, columns = v->columns;
  const int8_t *x_row = v->x + c, *w_row = v->w + c;
  uint32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
  for (int32_t ky = v->rows; ky > 0; --ky, x_row += v->x_row, w_row += v->w_row) {
    const int8_t *x = x_row, *w = w_row;
    for (int32_t kx = columns; kx > 0; --kx, x += x_step, w += w_step) {
      a0 += (uint32_t)(w[0] * (x[0] - zp));
      a1 += (uint32_t)(w[1] * (x[1] - zp));
      a2 += (uint32_t)(w[2] * (x[2] - zp));
      a3 += (uint32_t)(w[3] * (x[3] - zp));
    }
  }
  acc[0] = a0;
  acc[1] = a1;
  acc[2] = a2;
  acc[3] = a3;
}

/* Output channel o, which reads input channel c, of one pixel. */
static uint32_t single(const window *v, uint32_t acc, int32_t c, int32_t o) {
  const int8_t *x_row = v->x + c, *w_row = v->w + o;
  for (int32_t ky = v->rows; ky > 0; --ky, x_row += v->x_row, w_row += v->w_row) {
    const int8_t *x = x_row, *w = w_row;
    for (int32_t kx = v->columns; kx > 0; --kx, x += v->x_step, w += v->w_step) {
      acc += (uint32_t)(*w * (*x - v->zp));
    }
  }
  return acc;
}

static void pixel(const ek_depthwise_params *p, const window *v, const int32_t *bias,
                  const int32_t *mult, const int8_t *shift, int8_t *out) {
  const int32_t zp = p->out_zp, lo = p->act_min, hi = p->act_max, out_c = p->out_c;
  const int32_t quads = p->multiplier == 1 ? out_c & ~3 : 0;
  int32_t o = 0;
  for (; o < quads; o += 4) {
    uint32_t acc[4] = {(uint32_t)bias[o], (uint32_t)bias[o + 1], (uint32_t)bias[o + 2],
                       (uint32_t)bias[o + 3]};
    if (v->zp) {
      quad(v, v->zp, o, acc);
    } else {
      quad(v, 0, o, acc);
    }
    for (int i = 0; i < 4; ++i) {
      out[o + i] = ek_output_s8(acc[i], mult[o + i], shift[o + i], zp, lo, hi);
    }
  }
  int32_t c = quads, j = 0; /* o = c * multiplier + j */
  for (; o < out_c; ++o) {
    const uint32_t acc = single(v, (uint32_t)bias[o], c, o);
    out[o] = ek_output_s8(acc, mult[o], shift[o], zp, lo, hi);
    if (++j == p->multiplier) {
      j = 0;
      ++c;
    }
  }
}

void ek_depthwise_s8_direct_ref(const ek_depthwise_params *p, const int8_t *input,
                                const int8_t *weights, const int32_t *bias,
                                const int32_t *border_bias, const int32_t *mult,
                                const int8_t *shift, int8_t *output, void *scratch) {
  (void)scratch;
  const int32_t row = p->in_w * p->in_c;
  window v;
  v.x_row = p->dilation_h * row;
  v.x_step = p->dilation_w * p->in_c;
  v.w_row = p->kernel_w * p->out_c;
  v.w_step = p->out_c;
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    int32_t top, bottom;
    axis(y, p->in_h, p->kernel_h, p->dilation_h, &top, &bottom);
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w, output += p->out_c) {
      int32_t left, right;
      axis(x, p->in_w, p->kernel_w, p->dilation_w, &left, &right);
      v.rows = bottom - top;
      v.columns = right - left;
      const int inside = v.rows == p->kernel_h && v.columns == p->kernel_w;
      v.zp = inside ? 0 : p->in_zp;
      if (v.rows == 0 || v.columns == 0) { /* no tap inside: point at nothing beyond the ends */
        v.rows = 0;
        v.x = input;
        v.w = weights;
      } else {
        v.x = input + (y + top * p->dilation_h) * row + (x + left * p->dilation_w) * p->in_c;
        v.w = weights + top * v.w_row + left * v.w_step;
      }
      pixel(p, &v, inside ? bias : border_bias, mult, shift, output);
    }
  }
}
