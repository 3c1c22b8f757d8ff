/* int8 depthwise convolution: any multiplier, dilation and padding. Four channels at a time where
 * the multiplier is 1, so that the accumulators stay in registers. */
#include "ek_conv.h"
#include "ek_dot.h"

int32_t ek_depthwise_s8_direct_ref_scratch_bytes(const ek_depthwise_params *p) {
  (void)p;
  return 0;
}

/* The taps of a window that lie in the input, [first, last) along both axes, and the window's first
 * tap (y, x). Taps outside read the zero point. */
typedef struct {
  int32_t y, x;
  int32_t ky_first, ky_last, kx_first, kx_last;
  int inside;
} window;

EK_INLINE void axis(int32_t start, int32_t size, int32_t taps, int32_t dilation, int32_t *first,
                    int32_t *last) {
  int32_t f = 0, n = taps;
  for (int32_t i = start; i < 0 && f < taps; i += dilation) ++f;
  for (int32_t i = start + (taps - 1) * dilation; i >= size && n > f; i -= dilation) --n;
  *first = f;
  *last = n;
}

/* Channels c .. c+3 of one pixel, multiplier 1. */
static void quad(const ek_depthwise_params *p, const int8_t *input, const window *v,
                 const int8_t *weights, const int32_t *bias, uint32_t acc[4], int32_t c) {
  const int32_t channels = p->out_c, zp = p->in_zp;
  uint32_t a0 = (uint32_t)bias[c], a1 = (uint32_t)bias[c + 1];
  uint32_t a2 = (uint32_t)bias[c + 2], a3 = (uint32_t)bias[c + 3];
  if (!v->inside) {
    const int8_t *w = weights + c;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
      const int row_inside = ky >= v->ky_first && ky < v->ky_last;
      for (int32_t kx = 0; kx < p->kernel_w; ++kx, w += channels) {
        if (row_inside && kx >= v->kx_first && kx < v->kx_last) continue;
        a0 += (uint32_t)(w[0] * zp);
        a1 += (uint32_t)(w[1] * zp);
        a2 += (uint32_t)(w[2] * zp);
        a3 += (uint32_t)(w[3] * zp);
      }
    }
  }
  const int32_t step = p->dilation_w * channels;
  for (int32_t ky = v->ky_first; ky < v->ky_last; ++ky) {
    const int8_t *x =
        input + ((v->y + ky * p->dilation_h) * p->in_w + v->x + v->kx_first * p->dilation_w) *
                    channels + c;
    const int8_t *w = weights + (ky * p->kernel_w + v->kx_first) * channels + c;
    for (int32_t kx = v->kx_first; kx < v->kx_last; ++kx, x += step, w += channels) {
      a0 += (uint32_t)(w[0] * x[0]);
      a1 += (uint32_t)(w[1] * x[1]);
      a2 += (uint32_t)(w[2] * x[2]);
      a3 += (uint32_t)(w[3] * x[3]);
    }
  }
  acc[0] = a0;
  acc[1] = a1;
  acc[2] = a2;
  acc[3] = a3;
}

/* Output channel o of one pixel, which reads input channel c. */
static uint32_t single(const ek_depthwise_params *p, const int8_t *input, const window *v,
                       const int8_t *weights, int32_t bias, int32_t c, int32_t o) {
  uint32_t acc = (uint32_t)bias;
  const int8_t *w = weights + o;
  int32_t iy = v->y;
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, iy += p->dilation_h) {
    const int row_inside = ky >= v->ky_first && ky < v->ky_last;
    int32_t ix = v->x;
    for (int32_t kx = 0; kx < p->kernel_w; ++kx, ix += p->dilation_w, w += p->out_c) {
      const int in = row_inside && kx >= v->kx_first && kx < v->kx_last;
      const int32_t x = in ? input[(iy * p->in_w + ix) * p->in_c + c] : p->in_zp;
      acc += (uint32_t)(*w * x);
    }
  }
  return acc;
}

void ek_depthwise_s8_direct_ref(const ek_depthwise_params *p, const int8_t *input,
                                const int8_t *weights, const int32_t *bias, const int32_t *mult,
                                const int8_t *shift, int8_t *output, void *scratch) {
  (void)scratch;
  const int32_t zp = p->out_zp, lo = p->act_min, hi = p->act_max;
  const int32_t quads = p->multiplier == 1 ? p->out_c & ~3 : 0;
  window v;
  v.y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, v.y += p->stride_h) {
    axis(v.y, p->in_h, p->kernel_h, p->dilation_h, &v.ky_first, &v.ky_last);
    v.x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, v.x += p->stride_w) {
      axis(v.x, p->in_w, p->kernel_w, p->dilation_w, &v.kx_first, &v.kx_last);
      v.inside = v.ky_first == 0 && v.ky_last == p->kernel_h && v.kx_first == 0 &&
                 v.kx_last == p->kernel_w;
      int32_t o = 0;
      for (; o < quads; o += 4) {
        uint32_t acc[4];
        quad(p, input, &v, weights, bias, acc, o);
        for (int32_t i = 0; i < 4; ++i) {
          *output++ = ek_output_s8(acc[i], mult[o + i], shift[o + i], zp, lo, hi);
        }
      }
      int32_t c = quads, j = 0; /* o = c * multiplier + j */
      for (; o < p->out_c; ++o) {
        const uint32_t acc = single(p, input, &v, weights, bias[o], c, o);
        *output++ = ek_output_s8(acc, mult[o], shift[o], zp, lo, hi);
        if (++j == p->multiplier) {
          j = 0;
          ++c;
        }
      }
    }
  }
}
