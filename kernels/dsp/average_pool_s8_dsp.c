/* Average pooling, int8: sums of two channels in the halfwords of a word, sixteen channels at a time.
 * A window of at most 256 inputs keeps every sum inside 16 bits. Three instructions add a word.
 */
#include "ek_dsp.h"
#include "ek_simd.h"

int32_t ek_average_pool_s8_dsp_scratch_bytes(const ek_pool_params *p) {
  (void)p;
  return 0;
}

/* Halves away from zero. */
EK_INLINE int8_t mean(const ek_pool_params *p, int32_t sum, int32_t count) {
  const int32_t y = (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
  return (int8_t)ek_clamp(y, p->act_min, p->act_max);
}

/* Sums of 4 * words channels from x on, over a window of rows x columns. */
EK_INLINE void window(const int8_t *x, int words, int32_t rows, int32_t columns, int32_t step,
                      int32_t row_step, uint32_t *sums) {
  uint32_t sum[8] = {0};
  for (int32_t y = 0; y < rows; ++y, x += row_step) {
    const int8_t *in = x;
    for (int32_t n = columns; n > 0; --n, in += step) {
      for (int i = 0; i < words; ++i) {
        const uint32_t w = ek_load32(in + 4 * i);
        sum[2 * i] = ek_sxtab16(sum[2 * i], w);
        sum[2 * i + 1] = ek_sxtab16_ror8(sum[2 * i + 1], w);
      }
    }
  }
  for (int i = 0; i < 2 * words; ++i) sums[i] = sum[i];
}

#ifdef __OPTIMIZE_SIZE__
#define WORDS 1
#else
#define WORDS 4
#endif

void ek_average_pool_s8_dsp(const ek_pool_params *p, const int8_t *input, int8_t *output) {
  const int32_t channels = p->channels;
  for (int32_t oy = 0; oy < p->out_h; ++oy) {
    for (int32_t ox = 0; ox < p->out_w; ++ox) {
      const int32_t y0 = ek_max(oy * p->stride_h - p->pad_top, 0);
      const int32_t x0 = ek_max(ox * p->stride_w - p->pad_left, 0);
      const int32_t y1 = ek_min(oy * p->stride_h - p->pad_top + p->filter_h, p->in_h);
      const int32_t x1 = ek_min(ox * p->stride_w - p->pad_left + p->filter_w, p->in_w);
      const int32_t count = (y1 - y0) * (x1 - x0);
      const int8_t *corner = input + (y0 * p->in_w + x0) * channels;
      int32_t c = 0;
      for (; c + 4 <= channels;) {
        const int words = c + 4 * WORDS <= channels ? WORDS : 1;
        uint32_t sums[8];
        if (words == WORDS) {
          window(corner + c, WORDS, y1 - y0, x1 - x0, channels, p->in_w * channels, sums);
        } else {
          window(corner + c, 1, y1 - y0, x1 - x0, channels, p->in_w * channels, sums);
        }
        for (int i = 0; i < words; ++i, c += 4, output += 4) {
          output[0] = mean(p, ek_lo16(sums[2 * i]), count);
          output[1] = mean(p, ek_lo16(sums[2 * i + 1]), count);
          output[2] = mean(p, ek_hi16(sums[2 * i]), count);
          output[3] = mean(p, ek_hi16(sums[2 * i + 1]), count);
        }
      }
      for (; c < channels; ++c) {
        int32_t sum = 0;
        for (int32_t y = 0; y < y1 - y0; ++y) {
          const int8_t *row = corner + y * p->in_w * channels + c;
          for (int32_t n = 0; n < x1 - x0; ++n) sum += row[n * channels];
        }
        *output++ = mean(p, sum, count);
      }
    }
  }
}
