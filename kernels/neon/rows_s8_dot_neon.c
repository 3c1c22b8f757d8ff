/* A row of convolution outputs by SDOT: tiles of 4, 2 or 1 pixels by 16, 8 or 4 channels. A weight
 * vector holds four channels, a lane of an input vector four bytes of one pixel. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

#ifndef __ARM_FEATURE_DOTPROD
#error "rows_s8_dot_neon.c needs a core with dot products (-mcpu=cortex-a55, -march=armv8.2-a+dotprod)"
#endif

typedef int32x4_t v4;

/* One block of channels; the parameters from its first channel on. */
typedef struct {
  const int8_t *weights;
  const int32_t *bias, *mult, *shift;
  int32_t channels; /* that exist, at most 16 */
} block;

#define EACH_4(F, ...) F(0, __VA_ARGS__) F(1, __VA_ARGS__) F(2, __VA_ARGS__) F(3, __VA_ARGS__)
#define EACH_2(F, ...) F(0, __VA_ARGS__) F(1, __VA_ARGS__)
#define EACH_1(F, ...) F(0, __VA_ARGS__)

/* Of pixel i: its sums, its input, its results. */
#define SUMS_16(i, _) v4 a##i = b0, b##i##b = b1, c##i = b2, d##i = b3;
#define SUMS_8(i, _) v4 a##i = b0, b##i##b = b1;
#define SUMS_4(i, _) v4 a##i = b0;
#define BASE(i, _) const int8_t *const p##i = input + i * t->step;
#define LOAD(i, _) const int8x16_t x##i = vld1q_s8(p##i + at);
#define LOAD_HALF(i, _) const int8x16_t x##i = vcombine_s8(vld1_s8(p##i + at), vdup_n_s8(0));
#define LOAD_WORD(i, _) \
  const int8x16_t x##i = vreinterpretq_s8_s32(vld1q_dup_s32((const void *)(p##i + at)));

#define MAC_16(i, w, l)                               \
  a##i = vdotq_laneq_s32(a##i, w.val[0], x##i, l);       \
  b##i##b = vdotq_laneq_s32(b##i##b, w.val[1], x##i, l); \
  c##i = vdotq_laneq_s32(c##i, w.val[2], x##i, l);       \
  d##i = vdotq_laneq_s32(d##i, w.val[3], x##i, l);
#define MAC_8(i, w, l, u, v)                         \
  a##i = vdotq_laneq_s32(a##i, w.val[u], x##i, l);   \
  b##i##b = vdotq_laneq_s32(b##i##b, w.val[v], x##i, l);
#define MAC_4(i, w, l, u) a##i = vdotq_laneq_s32(a##i, w.val[u], x##i, l);

/* Four bytes of the depth, at lane l of the inputs. */
#define STEP_16(EACH, l)                          \
  {                                               \
    const int8x16x4_t w = vld1q_s8_x4(weights);   \
    weights += 64;                                \
    EK_OPAQUE(weights);                           \
    EACH(MAC_16, w, l)                            \
  }
#define STEP_8(EACH, l)                           \
  {                                               \
    const int8x16x2_t w = vld1q_s8_x2(weights);   \
    weights += 32;                                \
    EACH(MAC_8, w, l, 0, 1)                       \
  }
#define STEP_4(EACH, l)                           \
  {                                               \
    const int8x16x2_t w = {{vld1q_s8(weights)}};  \
    weights += 16;                                \
    EACH(MAC_4, w, l, 0)                          \
  }

/* The same of sixteen bytes with fewer, wider loads. */
#define BLOCK_16(EACH) STEP_16(EACH, 0) STEP_16(EACH, 1) STEP_16(EACH, 2) STEP_16(EACH, 3)
#define BLOCK_8(EACH)                                                           \
  {                                                                             \
    const int8x16x4_t w = vld1q_s8_x4(weights);                                 \
    weights += 64;                                                              \
    EK_OPAQUE(weights);                                                         \
    const int8x16x4_t u = vld1q_s8_x4(weights);                                 \
    weights += 64;                                                              \
    EACH(MAC_8, w, 0, 0, 1) EACH(MAC_8, w, 1, 2, 3)                             \
    EACH(MAC_8, u, 2, 0, 1) EACH(MAC_8, u, 3, 2, 3)                             \
  }
#define BLOCK_4(EACH)                                                           \
  {                                                                             \
    const int8x16x4_t w = vld1q_s8_x4(weights);                                 \
    weights += 64;                                                              \
    EACH(MAC_4, w, 0, 0) EACH(MAC_4, w, 1, 1) EACH(MAC_4, w, 2, 2) EACH(MAC_4, w, 3, 3) \
  }

#define BIAS_16                             \
  const int32x4x4_t bias = vld1q_s32_x4(b->bias); \
  const v4 b0 = bias.val[0], b1 = bias.val[1], b2 = bias.val[2], b3 = bias.val[3];
#define BIAS_8                              \
  const int32x4x2_t bias = vld1q_s32_x2(b->bias); \
  const v4 b0 = bias.val[0], b1 = bias.val[1];
#define BIAS_4 const v4 b0 = vld1q_s32(b->bias);

#define QUANT_16                                   \
  const int32x4x4_t m = vld1q_s32_x4(b->mult);     \
  const int32x4x4_t s = vld1q_s32_x4(b->shift);
#define QUANT_8                                    \
  const int32x4x2_t m = vld1q_s32_x2(b->mult);     \
  const int32x4x2_t s = vld1q_s32_x2(b->shift);
#define QUANT_4                                    \
  const int32x4x2_t m = {{vld1q_s32(b->mult)}};    \
  const int32x4x2_t s = {{vld1q_s32(b->shift)}};

#define STORE_16(i, _)                                                                  \
  {                                                                                     \
    const int8x16_t y = ek_neon_narrow(ek_neon_requant(a##i, m.val[0], s.val[0]),       \
                                       ek_neon_requant(b##i##b, m.val[1], s.val[1]),    \
                                       ek_neon_requant(c##i, m.val[2], s.val[2]),       \
                                       ek_neon_requant(d##i, m.val[3], s.val[3]), out); \
    vst1q_s8(output + i * t->out_c, clamped ? ek_neon_clamp(y, out) : y);               \
  }
#define STORE_8(i, _)                                                                    \
  {                                                                                      \
    const int8x8_t y = ek_neon_narrow8(ek_neon_requant(a##i, m.val[0], s.val[0]),        \
                                       ek_neon_requant(b##i##b, m.val[1], s.val[1]), out); \
    const int8x16_t z = vcombine_s8(y, y);                                               \
    store_8(output + i * t->out_c, clamped ? ek_neon_clamp(z, out) : z, b->channels);    \
  }
#define STORE_4(i, _)                                                                    \
  {                                                                                      \
    const v4 r = ek_neon_requant(a##i, m.val[0], s.val[0]);                              \
    const int8x8_t y = ek_neon_narrow8(r, r, out);                                       \
    const int8x16_t z = vcombine_s8(y, y);                                               \
    store_8(output + i * t->out_c, clamped ? ek_neon_clamp(z, out) : z, b->channels);    \
  }

EK_INLINE void store_8(int8_t *to, int8x16_t x, int32_t n) {
  if (n >= 8) {
    vst1_s8(to, vget_low_s8(x));
  } else {
    ek_neon_store(to, x, n);
  }
}

#define TILE(P, Q)                                                                        \
  EK_INLINE void tile_##P##x##Q(const ek_neon_rows *t, const block *b, const int8_t *input, \
                                int8_t *output, const ek_neon_out *out, int clamped) {    \
    const int8_t *weights = b->weights;                                                   \
    EACH_##P(BASE, 0)                                                                     \
    BIAS_##Q                                                                              \
    EACH_##P(SUMS_##Q, 0)                                                                 \
    const int32_t *offset = t->offsets;                                                   \
    for (int32_t n = t->segments; n > 0; --n) {                                           \
      int64_t at = *offset++;                                                             \
      for (int32_t k = t->depth >> 4; k > 0; --k, at += 16) {                             \
        EK_OPAQUE(at);                                                                    \
        EACH_##P(LOAD, 0)                                                                 \
        BLOCK_##Q(EACH_##P)                                                               \
      }                                                                                   \
      if (t->depth & 8) {                                                                 \
        EK_OPAQUE(at);                                                                    \
        EACH_##P(LOAD_HALF, 0)                                                            \
        STEP_##Q(EACH_##P, 0)                                                             \
        STEP_##Q(EACH_##P, 1)                                                             \
        at += 8;                                                                          \
      }                                                                                   \
      if (t->depth & 4) {                                                                 \
        EK_OPAQUE(at);                                                                    \
        EACH_##P(LOAD_WORD, 0)                                                            \
        STEP_##Q(EACH_##P, 0)                                                             \
      }                                                                                   \
    }                                                                                     \
    QUANT_##Q                                                                             \
    EACH_##P(STORE_##Q, 0)                                                                \
  }

TILE(4, 16)
TILE(2, 16)
TILE(1, 16)
TILE(4, 8)
TILE(2, 8)
TILE(1, 8)
TILE(4, 4)
TILE(2, 4)
TILE(1, 4)

#define PIXELS(Q)                                                                            \
  EK_INLINE void pixels_##Q(const ek_neon_rows *t, const block *b, const int8_t *input,         \
                         int32_t pixels, int8_t *output, int clamped) {                      \
    const ek_neon_out out = ek_neon_output(t->out_zp, t->act_min, t->act_max);               \
    for (; pixels >= 4; pixels -= 4, input += 4 * t->step, output += 4 * t->out_c) {         \
      tile_4x##Q(t, b, input, output, &out, clamped);                                        \
    }                                                                                        \
    if (pixels & 2) {                                                                        \
      tile_2x##Q(t, b, input, output, &out, clamped);                                        \
      input += 2 * t->step;                                                                  \
      output += 2 * t->out_c;                                                                \
    }                                                                                        \
    if (pixels & 1) tile_1x##Q(t, b, input, output, &out, clamped);                          \
  }

PIXELS(16)
PIXELS(8)
PIXELS(4)

void ek_neon_rows_dot(const ek_neon_rows *rows, const int8_t *input, int32_t pixels,
                      int8_t *output) {
  const ek_neon_rows local = *rows, *const t = &local; /* a byte store may alias *rows */
  const int clamped = t->act_min > -128 || t->act_max < 127;
  const int32_t depth = t->segments * t->depth;
  block b = {t->weights, t->bias, t->mult, t->shift, 16};
  int32_t left = t->out_c;
  while (left > 0) {
    const int32_t width = left >= 16 ? 16 : left > 4 ? 8 : 4;
    b.channels = ek_min(left, width);
    if (width == 16) {
      pixels_16(t, &b, input, pixels, output, clamped);
    } else if (width == 8) {
      pixels_8(t, &b, input, pixels, output, clamped);
    } else {
      pixels_4(t, &b, input, pixels, output, clamped);
    }
    b.weights += width * depth;
    b.bias += width;
    b.mult += width;
    b.shift += width;
    output += width;
    left -= width;
  }
}
