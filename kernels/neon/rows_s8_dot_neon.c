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
#define SUMS_16(i, _) v4 a##i = i0, b##i = i1, c##i = i2, d##i = i3;
#define SUMS_8(i, _) v4 a##i = i0, b##i = i1;
#define SUMS_4(i, _) v4 a##i = i0;
#define BASE(i, _) const int8_t *const p##i = input + i * t->step;
#define LOAD(i, _) const int8x16_t x##i = vld1q_s8(p##i + at);
#define LOAD_HALF(i, _) const int8x16_t x##i = vcombine_s8(vld1_s8(p##i + at), vdup_n_s8(0));
#define LOAD_WORD(i, _) \
  const int8x16_t x##i = vreinterpretq_s8_s32(vld1q_dup_s32((const void *)(p##i + at)));

#define MAC_16(i, w, l)                               \
  a##i = vdotq_laneq_s32(a##i, w.val[0], x##i, l);       \
  b##i = vdotq_laneq_s32(b##i, w.val[1], x##i, l); \
  c##i = vdotq_laneq_s32(c##i, w.val[2], x##i, l);       \
  d##i = vdotq_laneq_s32(d##i, w.val[3], x##i, l);
#define MAC_8(i, w, l, u, v)                         \
  a##i = vdotq_laneq_s32(a##i, w.val[u], x##i, l);   \
  b##i = vdotq_laneq_s32(b##i, w.val[v], x##i, l);
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

#define BIAS_16                                   \
  const int32x4x4_t bias = vld1q_s32_x4(b->bias); \
  const v4 i0 = bias.val[0], i1 = bias.val[1], i2 = bias.val[2], i3 = bias.val[3];
#define BIAS_8                                    \
  const int32x4x2_t bias = vld1q_s32_x2(b->bias); \
  const v4 i0 = bias.val[0], i1 = bias.val[1];
#define BIAS_4 const v4 i0 = vld1q_s32(b->bias);

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
                                       ek_neon_requant(b##i, m.val[1], s.val[1]),       \
                                       ek_neon_requant(c##i, m.val[2], s.val[2]),       \
                                       ek_neon_requant(d##i, m.val[3], s.val[3]), out); \
    vst1q_s8(output + i * t->out_c, ek_neon_clamp(y, out));                             \
  }
#define STORE_8(i, _)                                                                   \
  {                                                                                     \
    const int8x8_t y = ek_neon_narrow8(ek_neon_requant(a##i, m.val[0], s.val[0]),       \
                                       ek_neon_requant(b##i, m.val[1], s.val[1]), out); \
    store_8(output + i * t->out_c, ek_neon_clamp(vcombine_s8(y, y), out), b->channels); \
  }
#define STORE_4(i, _)                                                                   \
  {                                                                                     \
    const v4 r = ek_neon_requant(a##i, m.val[0], s.val[0]);                             \
    const int8x8_t y = ek_neon_narrow8(r, r, out);                                      \
    store_8(output + i * t->out_c, ek_neon_clamp(vcombine_s8(y, y), out), b->channels); \
  }

#define PLAIN_16(i, _)                                                              \
  vst1q_s8(output + i * t->out_c,                                                   \
           ek_neon_narrow_plain(ek_neon_requant_plain(a##i, m.val[0], s.val[0]),    \
                                ek_neon_requant_plain(b##i, m.val[1], s.val[1]),    \
                                ek_neon_requant_plain(c##i, m.val[2], s.val[2]),    \
                                ek_neon_requant_plain(d##i, m.val[3], s.val[3])));
#define PLAIN_8(i, _)                                                               \
  {                                                                                 \
    const v4 r = ek_neon_requant_plain(a##i, m.val[0], s.val[0]);                   \
    const v4 q = ek_neon_requant_plain(b##i, m.val[1], s.val[1]);                   \
    store_8(output + i * t->out_c, ek_neon_narrow_plain(r, q, r, q), b->channels);  \
  }
#define PLAIN_4(i, _)                                                               \
  {                                                                                 \
    const v4 r = ek_neon_requant_plain(a##i, m.val[0], s.val[0]);                   \
    store_8(output + i * t->out_c, ek_neon_narrow_plain(r, r, r, r), b->channels);  \
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
                                int8_t *output, const ek_neon_out *out) {                 \
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
    if (t->finish == EK_NEON_PLAIN) {                                                     \
      EACH_##P(PLAIN_##Q, 0)                                                              \
    } else {                                                                              \
      EACH_##P(STORE_##Q, 0)                                                              \
    }                                                                                     \
  }

#ifndef EK_NO_ASM
/* The tile that most of the work is done in. Compilers copy accumulators between registers in it, and
 * give every pointer a counter. */
#define DOT4(lane, w0, w1, w2, w3)                                                        \
  "sdot v16.4s, v" #w0 ".16b, v0.4b[" #lane "]\n sdot v20.4s, v" #w0 ".16b, v1.4b[" #lane "]\n" \
  "sdot v24.4s, v" #w0 ".16b, v2.4b[" #lane "]\n sdot v28.4s, v" #w0 ".16b, v3.4b[" #lane "]\n" \
  "sdot v17.4s, v" #w1 ".16b, v0.4b[" #lane "]\n sdot v21.4s, v" #w1 ".16b, v1.4b[" #lane "]\n" \
  "sdot v25.4s, v" #w1 ".16b, v2.4b[" #lane "]\n sdot v29.4s, v" #w1 ".16b, v3.4b[" #lane "]\n" \
  "sdot v18.4s, v" #w2 ".16b, v0.4b[" #lane "]\n sdot v22.4s, v" #w2 ".16b, v1.4b[" #lane "]\n" \
  "sdot v26.4s, v" #w2 ".16b, v2.4b[" #lane "]\n sdot v30.4s, v" #w2 ".16b, v3.4b[" #lane "]\n" \
  "sdot v19.4s, v" #w3 ".16b, v0.4b[" #lane "]\n sdot v23.4s, v" #w3 ".16b, v1.4b[" #lane "]\n" \
  "sdot v27.4s, v" #w3 ".16b, v2.4b[" #lane "]\n sdot v31.4s, v" #w3 ".16b, v3.4b[" #lane "]\n"

EK_INLINE void tile_4x16(const ek_neon_rows *t, const block *b, const int8_t *input, int8_t *output,
                         const ek_neon_out *out) {
  register v4 a0 __asm__("v16"), b0 __asm__("v17"), c0 __asm__("v18"), d0 __asm__("v19");
  register v4 a1 __asm__("v20"), b1 __asm__("v21"), c1 __asm__("v22"), d1 __asm__("v23");
  register v4 a2 __asm__("v24"), b2 __asm__("v25"), c2 __asm__("v26"), d2 __asm__("v27");
  register v4 a3 __asm__("v28"), b3 __asm__("v29"), c3 __asm__("v30"), d3 __asm__("v31");
  EACH_4(BASE, 0)
  const int8_t *weights = b->weights;
  const int32_t *offset = t->offsets;
  int32_t segments = t->segments;
  int64_t at, steps;
  __asm__ volatile(
      "ld1 {v16.4s-v19.4s}, [%[bias]]\n"
      "ld1 {v20.4s-v23.4s}, [%[bias]]\n"
      "ld1 {v24.4s-v27.4s}, [%[bias]]\n"
      "ld1 {v28.4s-v31.4s}, [%[bias]]\n"
      "1: ldrsw %[at], [%[offset]], #4\n"
      "asr %w[steps], %w[depth], #4\n"
      "cbz %w[steps], 3f\n"
      "2: ldr q0, [%[p0], %[at]]\n"
      "ldr q1, [%[p1], %[at]]\n"
      "ld1 {v4.16b-v7.16b}, [%[weights]], #64\n"
      "ldr q2, [%[p2], %[at]]\n"
      "ldr q3, [%[p3], %[at]]\n"
      "add %[at], %[at], #16\n"
      "ld1 {v8.16b-v11.16b}, [%[weights]], #64\n"
      DOT4(0, 4, 5, 6, 7)
      "ld1 {v4.16b-v7.16b}, [%[weights]], #64\n"
      DOT4(1, 8, 9, 10, 11)
      "ld1 {v8.16b-v11.16b}, [%[weights]], #64\n"
      "subs %w[steps], %w[steps], #1\n"
      DOT4(2, 4, 5, 6, 7)
      DOT4(3, 8, 9, 10, 11)
      "b.ne 2b\n"
      "3: tbz %w[depth], #3, 4f\n"
      "ldr d0, [%[p0], %[at]]\n"
      "ldr d1, [%[p1], %[at]]\n"
      "ld1 {v4.16b-v7.16b}, [%[weights]], #64\n"
      "ldr d2, [%[p2], %[at]]\n"
      "ldr d3, [%[p3], %[at]]\n"
      "add %[at], %[at], #8\n"
      "ld1 {v8.16b-v11.16b}, [%[weights]], #64\n"
      DOT4(0, 4, 5, 6, 7)
      DOT4(1, 8, 9, 10, 11)
      "4: tbz %w[depth], #2, 5f\n"
      "ldr s0, [%[p0], %[at]]\n"
      "ldr s1, [%[p1], %[at]]\n"
      "ld1 {v4.16b-v7.16b}, [%[weights]], #64\n"
      "ldr s2, [%[p2], %[at]]\n"
      "ldr s3, [%[p3], %[at]]\n"
      DOT4(0, 4, 5, 6, 7)
      "5: subs %w[n], %w[n], #1\n"
      "b.ne 1b\n"
      : "=w"(a0), "=w"(b0), "=w"(c0), "=w"(d0), "=w"(a1), "=w"(b1), "=w"(c1), "=w"(d1), "=w"(a2),
        "=w"(b2), "=w"(c2), "=w"(d2), "=w"(a3), "=w"(b3), "=w"(c3), "=w"(d3),
        [weights] "+&r"(weights), [offset] "+&r"(offset), [n] "+&r"(segments), [at] "=&r"(at),
        [steps] "=&r"(steps)
      : [bias] "r"(b->bias), [depth] "r"(t->depth), [p0] "r"(p0), [p1] "r"(p1), [p2] "r"(p2),
        [p3] "r"(p3)
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "cc", "memory");
  QUANT_16
  if (t->finish == EK_NEON_PLAIN) {
    EACH_4(PLAIN_16, 0)
  } else {
    EACH_4(STORE_16, 0)
  }
}
#else
TILE(4, 16)
#endif
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
                         int32_t pixels, int8_t *output) {                                   \
    const ek_neon_out out = ek_neon_output(t->out_zp, t->act_min, t->act_max);               \
    for (; pixels >= 4; pixels -= 4, input += 4 * t->step, output += 4 * t->out_c) {         \
      tile_4x##Q(t, b, input, output, &out);                                                 \
    }                                                                                        \
    if (pixels & 2) {                                                                        \
      tile_2x##Q(t, b, input, output, &out);                                                 \
      input += 2 * t->step;                                                                  \
      output += 2 * t->out_c;                                                                \
    }                                                                                        \
    if (pixels & 1) tile_1x##Q(t, b, input, output, &out);                                   \
  }

PIXELS(16)
PIXELS(8)
PIXELS(4)

void ek_neon_rows_dot(const ek_neon_rows *rows, const int8_t *input, int32_t pixels,
                      int8_t *output) {
  const ek_neon_rows local = *rows, *const t = &local; /* a byte store may alias *rows */
  const int32_t depth = t->segments * t->depth;
  block b = {t->weights, t->bias, t->mult, t->shift, 16};
  int32_t left = t->out_c;
  while (left > 0) {
    const int32_t width = left >= 16 ? 16 : left > 4 ? 8 : 4;
    b.channels = ek_min(left, width);
    if (width == 16) {
      pixels_16(t, &b, input, pixels, output);
    } else if (width == 8) {
      pixels_8(t, &b, input, pixels, output);
    } else {
      pixels_4(t, &b, input, pixels, output);
    }
    b.weights += width * depth;
    b.bias += width;
    b.mult += width;
    b.shift += width;
    output += width;
    left -= width;
  }
}
