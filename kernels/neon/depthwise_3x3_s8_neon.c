/* A row of depthwise outputs, 3x3 without dilation: two products of int8 a 16-bit lane before they are
 * widened, which holds since no weight is -128. The nine weights of sixteen channels stay in
 * registers; two pixels a pass, so that what they share is loaded once. */
#include "ek_neon_depthwise.h"

EK_INLINE void pair(int32x4_t sum[4], int8x16_t x, int8x16_t w, int8x16_t y, int8x16_t v) {
  int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
  int16x8_t high = vmull_high_s8(x, w);
  low = vmlal_s8(low, vget_low_s8(y), vget_low_s8(v));
  high = vmlal_high_s8(high, y, v);
  sum[0] = vaddw_s16(sum[0], vget_low_s16(low));
  sum[1] = vaddw_high_s16(sum[1], low);
  sum[2] = vaddw_s16(sum[2], vget_low_s16(high));
  sum[3] = vaddw_high_s16(sum[3], high);
}

EK_INLINE void last(int32x4_t sum[4], int8x16_t x, int8x16_t w) {
  const int16x8_t low = vmull_s8(vget_low_s8(x), vget_low_s8(w)), high = vmull_high_s8(x, w);
  sum[0] = vaddw_s16(sum[0], vget_low_s16(low));
  sum[1] = vaddw_high_s16(sum[1], low);
  sum[2] = vaddw_s16(sum[2], vget_low_s16(high));
  sum[3] = vaddw_high_s16(sum[3], high);
}

/* Columns of one kernel position: three rows each. */
#define COLUMN(name, at)                                                                         \
  const int8x16_t name##0 = vld1q_s8(r0 + (at)), name##1 = vld1q_s8(r1 + (at)), \
                  name##2 = vld1q_s8(r2 + (at));

#define PIXEL(to, p, q, r)                                                                     \
  {                                                                                            \
    const int32x4x4_t bias = vld1q_s32_x4(b->bias);                                            \
    int32x4_t sum[4] = {bias.val[0], bias.val[1], bias.val[2], bias.val[3]};                   \
    pair(sum, p##0, w0, p##1, w3);                                                             \
    pair(sum, p##2, w6, q##0, w1);                                                             \
    pair(sum, q##1, w4, q##2, w7);                                                             \
    pair(sum, r##0, w2, r##1, w5);                                                             \
    last(sum, r##2, w8);                                                                       \
    ek_neon_depthwise_end(to, sum, b, out, finish, n);                                        \
  }

EK_INLINE void block(const ek_neon_depthwise_row *t, const ek_neon_channels *b, int8_t *output,
                     const ek_neon_out *out, int32_t finish, int32_t n) {
  const int8_t *r0 = t->rows[0] + b->first, *r1 = t->rows[1] + b->first;
  const int8_t *r2 = t->rows[2] + b->first;
  const int64_t c = t->dilation, step = t->step;
  const int8_t *w = b->weights;
  const int8x16_t w0 = vld1q_s8(w), w1 = vld1q_s8(w + 16), w2 = vld1q_s8(w + 32);
  const int8x16_t w3 = vld1q_s8(w + 48), w4 = vld1q_s8(w + 64), w5 = vld1q_s8(w + 80);
  const int8x16_t w6 = vld1q_s8(w + 96), w7 = vld1q_s8(w + 112), w8 = vld1q_s8(w + 128);
  int32_t pixels = t->pixels;
  for (; pixels >= 2; pixels -= 2) {
    COLUMN(e, 0)
    COLUMN(f, c)
    COLUMN(g, 2 * c)
    PIXEL(output, e, f, g)
    output += t->channels;
    COLUMN(i, step + 2 * c)
    if (step == c) {
      PIXEL(output, f, g, i)
    } else {
      COLUMN(h, step + c)
      if (step == 2 * c) {
        PIXEL(output, g, h, i)
      } else {
        COLUMN(j, step)
        PIXEL(output, j, h, i)
      }
    }
    output += t->channels;
    r0 += 2 * step;
    r1 += 2 * step;
    r2 += 2 * step;
  }
  if (pixels) {
    COLUMN(e, 0)
    COLUMN(f, c)
    COLUMN(g, 2 * c)
    PIXEL(output, e, f, g)
  }
}

EK_NEON_DEPTHWISE_ROW(ek_neon_depthwise_3x3, block, 144)
