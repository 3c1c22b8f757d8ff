/* int8 average pooling: sums of sixteen channels in 16-bit lanes, the mean by a division in float32.
 * That is exact: sums are below 2^16 and counts at most 2^8, so a quotient that is not a whole number
 * is further from one than its rounding. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

int32_t ek_average_pool_s8_neon_scratch_bytes(const ek_pool_params *p) {
  (void)p;
  return 0;
}

/* Halves away from zero. */
EK_INLINE int32x4_t mean(int32x4_t sum, int32x4_t half, float32x4_t count) {
  const int32x4_t sign = vshrq_n_s32(sum, 31);
  const int32x4_t moved = vaddq_s32(sum, vsubq_s32(veorq_s32(half, sign), sign));
  return vcvtq_s32_f32(vdivq_f32(vcvtq_f32_s32(moved), count));
}

void ek_average_pool_s8_neon(const ek_pool_params *p, const int8_t *input, int8_t *output) {
  const int32_t channels = p->channels, row = p->in_w * channels;
  const ek_neon_out out = ek_neon_output(0, p->act_min, p->act_max);
  int32_t y = -p->pad_top;
  for (int32_t oy = 0; oy < p->out_h; ++oy, y += p->stride_h) {
    const int32_t y0 = ek_max(y, 0), y1 = ek_min(y + p->filter_h, p->in_h);
    int32_t x = -p->pad_left;
    for (int32_t ox = 0; ox < p->out_w; ++ox, x += p->stride_w, output += channels) {
      const int32_t x0 = ek_max(x, 0), x1 = ek_min(x + p->filter_w, p->in_w);
      const int32_t n = (y1 - y0) * (x1 - x0);
      const int8_t *corner = input + y0 * row + x0 * channels;
      const int32x4_t half = vdupq_n_s32(n / 2);
      const float32x4_t count = vdupq_n_f32((float)n);
      int32_t c = 0;
      while (c < channels) {
        if (c + 16 > channels) c = channels - 16; /* over channels that are done */
        int16x8_t low = vdupq_n_s16(0), high = low;
        const int8_t *line = corner + c;
        for (int32_t iy = y0; iy < y1; ++iy, line += row) {
          const int8_t *in = line;
          for (int32_t ix = x0; ix < x1; ++ix, in += channels) {
            const int8x16_t v = vld1q_s8(in);
            low = vaddw_s8(low, vget_low_s8(v));
            high = vaddw_high_s8(high, v);
          }
        }
        const int32x4_t a = mean(vmovl_s16(vget_low_s16(low)), half, count);
        const int32x4_t b = mean(vmovl_high_s16(low), half, count);
        const int32x4_t d = mean(vmovl_s16(vget_low_s16(high)), half, count);
        const int32x4_t e = mean(vmovl_high_s16(high), half, count);
        vst1q_s8(output + c, ek_neon_clamp(ek_neon_narrow(a, b, d, e, &out), &out));
        c += 16;
      }
    }
  }
}
