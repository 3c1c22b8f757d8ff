/* A row of convolution outputs by SMMLA: tiles of 4 or 2 pixels by 16, 8 or 4 channels. A vector holds
 * eight bytes of two pixels, or of two channels; a sum vector two channels of a pixel, then of its
 * neighbour. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

#ifndef __ARM_FEATURE_MATMUL_INT8
#error "rows_s8_mmla_neon.c needs a core with i8mm (-march=armv8.2-a+i8mm)"
#endif

typedef int32x4_t v4;

typedef struct {
  const int8_t *weights;
  const int32_t *bias, *mult, *shift;
  int32_t channels; /* that exist, at most 16 */
} block;

EK_INLINE v4 first(v4 a, v4 b) {
  return vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}
EK_INLINE v4 second(v4 a, v4 b) {
  return vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)));
}

/* n channels of one pixel from up to four vectors of sums. */
EK_INLINE void finish(const ek_neon_rows *t, const block *k, v4 a, v4 b, v4 c, v4 d, int32_t n,
                      int8_t *to, const ek_neon_out *out) {
  const int32x4x4_t m = vld1q_s32_x4(k->mult), s = vld1q_s32_x4(k->shift);
  int8x16_t y;
  if (t->finish == EK_NEON_PLAIN) {
    y = ek_neon_narrow_plain(ek_neon_requant_plain(a, m.val[0], s.val[0]),
                             ek_neon_requant_plain(b, m.val[1], s.val[1]),
                             ek_neon_requant_plain(c, m.val[2], s.val[2]),
                             ek_neon_requant_plain(d, m.val[3], s.val[3]));
  } else {
    y = ek_neon_clamp(ek_neon_narrow(ek_neon_requant(a, m.val[0], s.val[0]),
                                     ek_neon_requant(b, m.val[1], s.val[1]),
                                     ek_neon_requant(c, m.val[2], s.val[2]),
                                     ek_neon_requant(d, m.val[3], s.val[3]), out),
                      out);
  }
  ek_neon_store(to, y, n);
}

EK_INLINE int8x16_t eights(const int8_t *p, const int8_t *q) {
  return vcombine_s8(vld1_s8(p), vld1_s8(q));
}

/* Two pixels, the second of which may be the first again (pixels = 1), by `quads` times 4 channels. */
EK_INLINE void tile_2(const ek_neon_rows *t, const block *b, const int8_t *input, int32_t pixels,
                      int quads, int8_t *output, const ek_neon_out *out) {
  const int8_t *const p0 = input, *const p1 = input + (pixels > 1 ? t->step : 0);
  const int8_t *w = b->weights;
  const int32_t *offset = t->offsets;
  v4 sum[8];
  for (int i = 0; i < 2 * quads; ++i) {
    sum[i] = vcombine_s32(vld1_s32(b->bias + 2 * i), vld1_s32(b->bias + 2 * i));
  }
  for (int32_t n = t->segments; n > 0; --n) {
    int64_t at = *offset++;
    for (int32_t k = t->depth >> 3; k > 0; --k, at += 8, w += 32 * quads) {
      const int8x16_t x = eights(p0 + at, p1 + at);
      for (int i = 0; i < 2 * quads; ++i) sum[i] = vmmlaq_s32(sum[i], x, vld1q_s8(w + 16 * i));
    }
  }
  const int32_t n = b->channels;
  v4 y[4], z[4];
  for (int i = 0; i < 4; ++i) {
    const int from = i < quads ? 2 * i : 0;
    y[i] = first(sum[from], sum[from + 1]);
    z[i] = second(sum[from], sum[from + 1]);
  }
  finish(t, b, y[0], y[1], y[2], y[3], n, output, out);
  if (pixels > 1) finish(t, b, z[0], z[1], z[2], z[3], n, output + t->out_c, out);
}

/* Sixteen channels, eight bytes of four pixels. */
#define ROUND(x0, x1)                                                             \
  "ld1 {v8.16b-v11.16b}, [%[weights]], #64\n"                                     \
  "ld1 {v12.16b-v15.16b}, [%[weights]], #64\n"                                    \
  "smmla v16.4s, v" #x0 ".16b, v8.16b\n smmla v24.4s, v" #x1 ".16b, v8.16b\n"     \
  "smmla v17.4s, v" #x0 ".16b, v9.16b\n smmla v25.4s, v" #x1 ".16b, v9.16b\n"     \
  "smmla v18.4s, v" #x0 ".16b, v10.16b\n smmla v26.4s, v" #x1 ".16b, v10.16b\n"   \
  "smmla v19.4s, v" #x0 ".16b, v11.16b\n smmla v27.4s, v" #x1 ".16b, v11.16b\n"   \
  "smmla v20.4s, v" #x0 ".16b, v12.16b\n smmla v28.4s, v" #x1 ".16b, v12.16b\n"   \
  "smmla v21.4s, v" #x0 ".16b, v13.16b\n smmla v29.4s, v" #x1 ".16b, v13.16b\n"   \
  "smmla v22.4s, v" #x0 ".16b, v14.16b\n smmla v30.4s, v" #x1 ".16b, v14.16b\n"   \
  "smmla v23.4s, v" #x0 ".16b, v15.16b\n smmla v31.4s, v" #x1 ".16b, v15.16b\n"
#define BIAS(r) "ld1r {v" #r ".2d}, [%[at]], #8\n"

EK_INLINE void tile_4x16(const ek_neon_rows *t, const block *b, const int8_t *input, int8_t *output,
                         const ek_neon_out *out) {
  register v4 a0 __asm__("v16"), a1 __asm__("v17"), a2 __asm__("v18"), a3 __asm__("v19");
  register v4 a4 __asm__("v20"), a5 __asm__("v21"), a6 __asm__("v22"), a7 __asm__("v23");
  register v4 b0 __asm__("v24"), b1 __asm__("v25"), b2 __asm__("v26"), b3 __asm__("v27");
  register v4 b4 __asm__("v28"), b5 __asm__("v29"), b6 __asm__("v30"), b7 __asm__("v31");
  const int8_t *const p0 = input, *const p1 = p0 + t->step;
  const int8_t *const p2 = p1 + t->step, *const p3 = p2 + t->step;
  const int8_t *weights = b->weights;
  const int32_t *offset = t->offsets;
  int32_t segments = t->segments;
  int64_t at, steps;
  __asm__ volatile(
      "mov %[at], %[bias]\n"
      BIAS(16) BIAS(17) BIAS(18) BIAS(19) BIAS(20) BIAS(21) BIAS(22) BIAS(23)
      "mov %[at], %[bias]\n"
      BIAS(24) BIAS(25) BIAS(26) BIAS(27) BIAS(28) BIAS(29) BIAS(30) BIAS(31)
      "1: ldrsw %[at], [%[offset]], #4\n"
      "asr %w[steps], %w[depth], #4\n"
      "cbz %w[steps], 3f\n"
      "2: ldr q0, [%[p0], %[at]]\n"
      "ldr q1, [%[p1], %[at]]\n"
      "ldr q2, [%[p2], %[at]]\n"
      "ldr q3, [%[p3], %[at]]\n"
      "add %[at], %[at], #16\n"
      "subs %w[steps], %w[steps], #1\n"
      "zip1 v4.2d, v0.2d, v1.2d\n"
      "zip1 v5.2d, v2.2d, v3.2d\n"
      "zip2 v6.2d, v0.2d, v1.2d\n"
      "zip2 v7.2d, v2.2d, v3.2d\n"
      ROUND(4, 5)
      ROUND(6, 7)
      "b.ne 2b\n"
      "3: tbz %w[depth], #3, 4f\n"
      "ldr d0, [%[p0], %[at]]\n"
      "ldr d1, [%[p1], %[at]]\n"
      "ldr d2, [%[p2], %[at]]\n"
      "ldr d3, [%[p3], %[at]]\n"
      "zip1 v4.2d, v0.2d, v1.2d\n"
      "zip1 v5.2d, v2.2d, v3.2d\n"
      ROUND(4, 5)
      "4: subs %w[n], %w[n], #1\n"
      "b.ne 1b\n"
      : "=w"(a0), "=w"(a1), "=w"(a2), "=w"(a3), "=w"(a4), "=w"(a5), "=w"(a6), "=w"(a7), "=w"(b0),
        "=w"(b1), "=w"(b2), "=w"(b3), "=w"(b4), "=w"(b5), "=w"(b6), "=w"(b7),
        [weights] "+&r"(weights), [offset] "+&r"(offset),
        [n] "+&r"(segments), [at] "=&r"(at), [steps] "=&r"(steps)
      : [bias] "r"(b->bias), [depth] "r"(t->depth), [p0] "r"(p0), [p1] "r"(p1), [p2] "r"(p2),
        [p3] "r"(p3)
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13",
        "v14", "v15", "cc", "memory");
  const int64_t c = t->out_c;
  finish(t, b, first(a0, a1), first(a2, a3), first(a4, a5), first(a6, a7), 16, output, out);
  finish(t, b, second(a0, a1), second(a2, a3), second(a4, a5), second(a6, a7), 16, output + c, out);
  output += 2 * c;
  finish(t, b, first(b0, b1), first(b2, b3), first(b4, b5), first(b6, b7), 16, output, out);
  finish(t, b, second(b0, b1), second(b2, b3), second(b4, b5), second(b6, b7), 16, output + c, out);
}

static void pixels_16(const ek_neon_rows *t, const block *b, const int8_t *input, int32_t pixels,
                      int8_t *output, const ek_neon_out *out) {
  for (; pixels >= 4; pixels -= 4, input += 4 * t->step, output += 4 * t->out_c) {
    tile_4x16(t, b, input, output, out);
  }
  for (; pixels > 0; pixels -= 2, input += 2 * t->step, output += 2 * t->out_c) {
    tile_2(t, b, input, pixels, 4, output, out);
  }
}

void ek_neon_rows_mmla(const ek_neon_rows *rows, const int8_t *input, int32_t pixels,
                       int8_t *output) {
  const ek_neon_rows local = *rows, *const t = &local; /* a byte store may alias *rows */
  const ek_neon_out out = ek_neon_output(t->out_zp, t->act_min, t->act_max);
  const int32_t depth = t->segments * t->depth;
  block b = {t->weights, t->bias, t->mult, t->shift, 16};
  int32_t left = t->out_c;
  while (left > 0) {
    const int32_t width = left >= 16 ? 16 : left > 4 ? 8 : 4;
    const int8_t *in = input;
    int8_t *to = output;
    b.channels = ek_min(left, width);
    if (width == 16) {
      pixels_16(t, &b, input, pixels, output, &out);
    } else if (width == 8) {
      for (int32_t n = pixels; n > 0; n -= 2, in += 2 * t->step, to += 2 * t->out_c) {
        tile_2(t, &b, in, n, 2, to, &out);
      }
    } else {
      for (int32_t n = pixels; n > 0; n -= 2, in += 2 * t->step, to += 2 * t->out_c) {
        tile_2(t, &b, in, n, 1, to, &out);
      }
    }
    b.weights += width * depth;
    b.bias += width;
    b.mult += width;
    b.shift += width;
    output += width;
    left -= width;
  }
}
