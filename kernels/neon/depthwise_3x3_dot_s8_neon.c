/* A row of depthwise outputs, 3x3 with stride 1, by SDOT: four columns are interleaved so that a 32-bit
 * lane holds one channel's four bytes of a row, which two neighbouring pixels share: one meets the
 * taps and a 0, the other a 0 and the taps. */
#include "ek_neon_depthwise.h"

#ifndef __ARM_FEATURE_DOTPROD
#error "depthwise_3x3_dot_s8_neon.c needs a core with dot products"
#endif

/* Sixteen channels of two columns: channels 0 .. 7 and 8 .. 15. */
typedef struct {
  int16x8_t low, high;
} columns;

EK_INLINE columns interleave(const int8_t *first, int64_t c) {
  const int8x16_t x = vld1q_s8(first), y = vld1q_s8(first + c);
  const columns out = {vreinterpretq_s16_s8(vzip1q_s8(x, y)),
                       vreinterpretq_s16_s8(vzip2q_s8(x, y))};
  return out;
}

EK_INLINE void row(int32x4_t sum[4], int32x4_t next[4], columns a, columns b, const int8_t *w) {
  const int8x16_t x[4] = {
      vreinterpretq_s8_s16(vzip1q_s16(a.low, b.low)), vreinterpretq_s8_s16(vzip2q_s16(a.low, b.low)),
      vreinterpretq_s8_s16(vzip1q_s16(a.high, b.high)),
      vreinterpretq_s8_s16(vzip2q_s16(a.high, b.high))};
  const int8x16x4_t taps = vld1q_s8_x4(w), late = vld1q_s8_x4(w + 192);
  sum[0] = vdotq_s32(sum[0], x[0], taps.val[0]);
  sum[1] = vdotq_s32(sum[1], x[1], taps.val[1]);
  sum[2] = vdotq_s32(sum[2], x[2], taps.val[2]);
  sum[3] = vdotq_s32(sum[3], x[3], taps.val[3]);
  next[0] = vdotq_s32(next[0], x[0], late.val[0]);
  next[1] = vdotq_s32(next[1], x[1], late.val[1]);
  next[2] = vdotq_s32(next[2], x[2], late.val[2]);
  next[3] = vdotq_s32(next[3], x[3], late.val[3]);
}

EK_INLINE void block(const ek_neon_depthwise_row *t, const ek_neon_channels *b, int8_t *output,
                     const ek_neon_out *out, int32_t finish, int32_t n) {
  const int64_t c = t->dilation;
  const int8_t *r0 = t->rows[0] + b->first, *r1 = t->rows[1] + b->first;
  const int8_t *r2 = t->rows[2] + b->first;
  columns e0 = interleave(r0, c), e1 = interleave(r1, c), e2 = interleave(r2, c);
  for (int32_t pixels = t->pixels; pixels > 0; pixels -= 2) {
    r0 += 2 * c;
    r1 += 2 * c;
    r2 += 2 * c;
    /* The last of an odd number of pixels has no fourth column: the third is there twice. */
    const int64_t far = pixels > 1 ? c : 0;
    const columns f0 = interleave(r0, far), f1 = interleave(r1, far), f2 = interleave(r2, far);
    const int32x4x4_t bias = vld1q_s32_x4(b->bias);
    int32x4_t sum[4] = {bias.val[0], bias.val[1], bias.val[2], bias.val[3]};
    int32x4_t next[4] = {bias.val[0], bias.val[1], bias.val[2], bias.val[3]};
    row(sum, next, e0, f0, b->weights);
    row(sum, next, e1, f1, b->weights + 64);
    row(sum, next, e2, f2, b->weights + 128);
    ek_neon_depthwise_end(output, sum, b, out, finish, n);
    output += t->channels;
    if (pixels > 1) ek_neon_depthwise_end(output, next, b, out, finish, n);
    output += t->channels;
    e0 = f0;
    e1 = f1;
    e2 = f2;
  }
}

EK_NEON_DEPTHWISE_ROW(ek_neon_depthwise_3x3_dot, block, 384)
