/* Depthwise convolution, multiplier 1: taps in pairs for SMLAD, four channels a word.
 *
 * Every output pixel gets a table of pointers to its taps; taps outside the input point at a row of
 * padding, so the inner loops (depthwise_pixel_s8_pairs_dsp.c) know no borders.
 */
#include "ek_dsp_quant.h"

/* Channels, rounded up to whole words: the row of padding. */
EK_INLINE int32_t padded(int32_t channels) { return (channels + 3) & ~3; }

/* Tap pointers, one more when their number is odd. */
EK_INLINE int32_t table_size(const ek_depthwise_params *p) {
  return (p->kernel_h * p->kernel_w + 1) & ~1;
}

int32_t ek_depthwise_s8_pairs_dsp_scratch_bytes(const ek_depthwise_params *p) {
  return table_size(p) * 8 + padded(p->in_c); /* 8 bytes a pointer: one figure for every host */
}

/* Channels c .. channels - 1 of one pixel, byte by byte: those that do not fill a word, and those
 * that the fast requantization or its clamp does not fit. */
static void rest_of_pixel(const ek_depthwise_params *p, const int8_t *const *tap, int32_t c,
                          const uint32_t *weights, const ek_dsp_quant *quant, int8_t *output) {
  const int32_t pairs = table_size(p) / 2;
  for (; c < p->in_c; ++c) {
    const uint32_t *w = weights + (c / 4) * 4 * pairs + c % 4;
    int32_t acc = quant[c].bias;
    for (int32_t t = 0; t < pairs; ++t, w += 4) {
      acc = ek_smlad(ek_pair16(tap[2 * t][c], tap[2 * t + 1][c]), *w, acc);
    }
    ek_dsp_store(&acc, 1, 0, quant + c, p->out_zp, p->act_min, p->act_max, output + c, 1);
  }
}

/* The taps of one output pixel, whose window starts at (iy, ix). */
static void find_taps(const ek_depthwise_params *p, const int8_t *input, int32_t iy, int32_t ix,
                      const int8_t *padding, const int8_t **tap) {
  for (int32_t ky = 0; ky < p->kernel_h; ++ky, iy += p->dilation_h) {
    const int inside = iy >= 0 && iy < p->in_h;
    int32_t x = ix;
    for (int32_t kx = 0; kx < p->kernel_w; ++kx, x += p->dilation_w) {
      const int32_t at = (iy * p->in_w + x) * p->in_c;
      *tap++ = inside && x >= 0 && x < p->in_w ? input + at : padding;
    }
  }
}

void ek_depthwise_s8_pairs_dsp(const ek_depthwise_params *p, const int8_t *input,
                               const uint32_t *weights, const ek_dsp_quant *quant, int8_t *output,
                               void *scratch) {
  const int32_t channels = p->in_c;
  const int32_t table = table_size(p);
  const int32_t reach = (p->kernel_w - 1) * p->dilation_w;
  const int8_t **tap = (const int8_t **)scratch;
  int8_t *padding = (int8_t *)(tap + table);
  ek_depthwise_pixel pixel = {tap, tap + table, weights, quant, output, 0};
  memset(padding, p->in_zp, (size_t)padded(channels));
  tap[table - 1] = padding; /* the tap that makes their number even has zero weights */
  if (p->act_min == -128 && p->act_max == 127) {
    int32_t fast = 0;
    while (fast < channels && quant[fast].exp <= EK_DSP_MAX_EXP) ++fast;
    pixel.groups = fast / 4;
  }
  for (int32_t oy = 0; oy < p->out_h; ++oy) {
    const int32_t iy = oy * p->stride_h - p->pad_top;
    /* taps above the input, and from where on they lie below it: these stay padding in a row */
    const int32_t from = iy < 0 ? ek_min((-iy + p->dilation_h - 1) / p->dilation_h, p->kernel_h) : 0;
    int32_t to = from;
    while (to < p->kernel_h && iy + to * p->dilation_h < p->in_h) ++to;
    int moving = 0;
    for (int32_t ox = 0; ox < p->out_w; ++ox) {
      const int32_t ix = ox * p->stride_w - p->pad_left;
      const int between = ix >= 0 && ix + reach < p->in_w;
      if (between && moving) {
        const int8_t **const end = tap + to * p->kernel_w;
        const int32_t step = p->stride_w * channels;
        for (const int8_t **t = tap + from * p->kernel_w; t < end; ++t) *t += step;
      } else {
        find_taps(p, input, iy, ix, padding, tap);
      }
      moving = between;
      if (pixel.groups > 0) ek_depthwise_pixel_s8_pairs_dsp(&pixel);
      if (4 * pixel.groups < channels) {
        rest_of_pixel(p, tap, 4 * pixel.groups, weights, quant, pixel.out);
      }
      pixel.out += channels;
    }
  }
}
