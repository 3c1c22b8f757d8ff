/* int16 maximum pooling. */
#include "ek_s16.h"

void ek_max_pool_s16_ref(const ek_pool_params *p, const int16_t *input, int16_t *output) {
  const int32_t channels = p->channels, row = p->in_w * channels;
  const int32_t lo = p->act_min, hi = p->act_max;
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    const int32_t y0 = ek_max(y, 0), y1 = ek_min(y + p->filter_h, p->in_h);
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w) {
      const int32_t x0 = ek_max(x, 0), x1 = ek_min(x + p->filter_w, p->in_w);
      const int16_t *corner = input + y0 * row + x0 * channels;
      for (int32_t c = 0; c < channels; ++c, ++corner) {
        int32_t best = -32768;
        const int16_t *line = corner;
        for (int32_t iy = y0; iy < y1; ++iy, line += row) {
          const int16_t *in = line;
          for (int32_t ix = x0; ix < x1; ++ix, in += channels) best = ek_max(best, *in);
        }
        *output++ = (int16_t)ek_clamp(best, lo, hi);
      }
    }
  }
}
