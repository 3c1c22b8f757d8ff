/* int8 max pooling, sixteen channels at a time. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

int32_t ek_max_pool_s8_neon_scratch_bytes(const ek_pool_params *p) {
  (void)p;
  return 0;
}

void ek_max_pool_s8_neon(const ek_pool_params *p, const int8_t *input, int8_t *output) {
  const int32_t channels = p->channels, row = p->in_w * channels;
  const ek_neon_out out = ek_neon_output(0, p->act_min, p->act_max);
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    const int32_t y0 = ek_max(y, 0), y1 = ek_min(y + p->filter_h, p->in_h);
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w, output += channels) {
      const int32_t x0 = ek_max(x, 0), x1 = ek_min(x + p->filter_w, p->in_w);
      const int8_t *corner = input + y0 * row + x0 * channels;
      int32_t c = 0;
      while (c < channels) {
        if (c + 16 > channels) c = channels - 16; /* over channels that are done */
        int8x16_t best = vdupq_n_s8(-128);
        const int8_t *line = corner + c;
        for (int32_t iy = y0; iy < y1; ++iy, line += row) {
          const int8_t *in = line;
          for (int32_t ix = x0; ix < x1; ++ix, in += channels) best = vmaxq_s8(best, vld1q_s8(in));
        }
        vst1q_s8(output + c, ek_neon_clamp(best, &out));
        c += 16;
      }
    }
  }
}
