/* A row of convolution outputs on any 64-bit Arm core: tiles of 4 or 1 pixels by 4 channels. Two
 * products of int8 are added in 16-bit lanes (no weight is -128), then pairwise to 32-bit lanes; each
 * output has a vector of partial sums. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

typedef int32x4_t v4;

typedef struct {
  const int8_t *weights;
  const int32_t *bias, *mult, *shift;
  int32_t channels; /* that exist, at most 4 */
} block;

/* Four vectors of partial sums as one of sums. */
EK_INLINE v4 total(v4 a, v4 b, v4 c, v4 d, v4 bias) {
  return vaddq_s32(vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d)), bias);
}

/* The first n bytes of a 32-bit lane. */
EK_INLINE void store_lane(int8_t *to, int32_t four, int32_t n) {
  if (n == 4) {
    memcpy(to, &four, 4);
  } else {
    for (int32_t i = 0; i < n; ++i) to[i] = (int8_t)((uint32_t)four >> (8 * i));
  }
}

/* Requantized sums of four pixels, four channels each. */
EK_INLINE int8x16_t finish(v4 a, v4 b, v4 c, v4 d, const block *k, int32_t plain,
                           const ek_neon_out *out) {
  const v4 m = vld1q_s32(k->mult), s = vld1q_s32(k->shift);
  if (plain == EK_NEON_PLAIN) {
    return ek_neon_narrow_plain(ek_neon_requant_plain(a, m, s), ek_neon_requant_plain(b, m, s),
                                ek_neon_requant_plain(c, m, s), ek_neon_requant_plain(d, m, s));
  }
  return ek_neon_clamp(ek_neon_narrow(ek_neon_requant(a, m, s), ek_neon_requant(b, m, s),
                                      ek_neon_requant(c, m, s), ek_neon_requant(d, m, s), out),
                       out);
}

EK_INLINE void store_4(const ek_neon_rows *t, const block *b, int8_t *output, int8x16_t y) {
  const int32x4_t lanes = vreinterpretq_s32_s8(y);
  const int32_t n = b->channels;
  if (n == 4) {
    int8_t *const next = output + t->out_c, *const third = next + t->out_c;
    vst1q_lane_s32((void *)output, lanes, 0);
    vst1q_lane_s32((void *)next, lanes, 1);
    vst1q_lane_s32((void *)third, lanes, 2);
    vst1q_lane_s32((void *)(third + t->out_c), lanes, 3);
    return;
  }
  store_lane(output, vgetq_lane_s32(lanes, 0), n);
  store_lane(output + t->out_c, vgetq_lane_s32(lanes, 1), n);
  store_lane(output + 2 * t->out_c, vgetq_lane_s32(lanes, 2), n);
  store_lane(output + 3 * t->out_c, vgetq_lane_s32(lanes, 3), n);
}

EK_INLINE v4 mac16(v4 sum, int8x16_t x, int8x16_t w) {
  return vpadalq_s16(sum, vmlal_high_s8(vmull_s8(vget_low_s8(x), vget_low_s8(w)), x, w));
}

EK_INLINE v4 mac8(v4 sum, int8x8_t x, int8x8_t w) { return vpadalq_s16(sum, vmull_s8(x, w)); }

EK_INLINE int8x8_t word(const int8_t *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return vreinterpret_s8_s32(vset_lane_s32(four, vdup_n_s32(0), 0));
}

static void tile_1(const ek_neon_rows *t, const block *b, const int8_t *input, int8_t *output,
                   const ek_neon_out *out) {
  const int8_t *w = b->weights;
  const int32_t *offset = t->offsets;
  v4 s0 = vdupq_n_s32(0), s1 = s0, s2 = s0, s3 = s0;
  for (int32_t n = t->segments; n > 0; --n) {
    const int8_t *x = input + *offset++;
    for (int32_t k = t->depth >> 4; k > 0; --k, x += 16, w += 64) {
      const int8x16_t in = vld1q_s8(x);
      const int8x16x4_t by = vld1q_s8_x4(w);
      s0 = mac16(s0, in, by.val[0]);
      s1 = mac16(s1, in, by.val[1]);
      s2 = mac16(s2, in, by.val[2]);
      s3 = mac16(s3, in, by.val[3]);
    }
    if (t->depth & 8) {
      const int8x8_t in = vld1_s8(x);
      const int8x8x4_t by = vld1_s8_x4(w);
      s0 = mac8(s0, in, by.val[0]);
      s1 = mac8(s1, in, by.val[1]);
      s2 = mac8(s2, in, by.val[2]);
      s3 = mac8(s3, in, by.val[3]);
      x += 8;
      w += 32;
    }
    if (t->depth & 4) {
      const int8x8_t in = word(x);
      s0 = mac8(s0, in, word(w));
      s1 = mac8(s1, in, word(w + 4));
      s2 = mac8(s2, in, word(w + 8));
      s3 = mac8(s3, in, word(w + 12));
      w += 16;
    }
  }
  const v4 r = total(s0, s1, s2, s3, vld1q_s32(b->bias));
  const int8x16_t y = finish(r, r, r, r, b, t->finish, out);
  store_lane(output, vgetq_lane_s32(vreinterpretq_s32_s8(y), 0), b->channels);
}

/* One weight vector w with four input vectors; the sums of its channel are a, b, c, d. */
#define MUL(w)                                                              \
  "smull v8.8h, v0.8b, v" #w ".8b\n smull v9.8h, v1.8b, v" #w ".8b\n"       \
  "smull v10.8h, v2.8b, v" #w ".8b\n smull v11.8h, v3.8b, v" #w ".8b\n"
#define MUL_HIGH(w)                                                             \
  "smlal2 v8.8h, v0.16b, v" #w ".16b\n smlal2 v9.8h, v1.16b, v" #w ".16b\n"     \
  "smlal2 v10.8h, v2.16b, v" #w ".16b\n smlal2 v11.8h, v3.16b, v" #w ".16b\n"
#define ADD(a, b, c, d)                                                     \
  "sadalp v" #a ".4s, v8.8h\n sadalp v" #b ".4s, v9.8h\n"                   \
  "sadalp v" #c ".4s, v10.8h\n sadalp v" #d ".4s, v11.8h\n"
#define LOAD_4(r)                                                           \
  "ldr " #r "0, [%[p0], %[at]]\n ldr " #r "1, [%[p1], %[at]]\n"             \
  "ldr " #r "2, [%[p2], %[at]]\n ldr " #r "3, [%[p3], %[at]]\n"
#define CLEAR(r) "movi v" #r ".4s, #0\n"

/* In assembly, because compilers spill: sixteen sums, four inputs, four weights, four products. */
EK_INLINE void tile_4(const ek_neon_rows *t, const block *b, const int8_t *input, int8_t *output,
                      const ek_neon_out *out) {
  register v4 a0 __asm__("v16"), b0 __asm__("v17"), c0 __asm__("v18"), d0 __asm__("v19");
  register v4 a1 __asm__("v20"), b1 __asm__("v21"), c1 __asm__("v22"), d1 __asm__("v23");
  register v4 a2 __asm__("v24"), b2 __asm__("v25"), c2 __asm__("v26"), d2 __asm__("v27");
  register v4 a3 __asm__("v28"), b3 __asm__("v29"), c3 __asm__("v30"), d3 __asm__("v31");
  const int8_t *const p0 = input, *const p1 = p0 + t->step;
  const int8_t *const p2 = p1 + t->step, *const p3 = p2 + t->step;
  const int8_t *weights = b->weights;
  const int32_t *offset = t->offsets;
  int32_t segments = t->segments;
  int64_t at, steps;
  __asm__ volatile(
      CLEAR(16) CLEAR(17) CLEAR(18) CLEAR(19) CLEAR(20) CLEAR(21) CLEAR(22) CLEAR(23)
      CLEAR(24) CLEAR(25) CLEAR(26) CLEAR(27) CLEAR(28) CLEAR(29) CLEAR(30) CLEAR(31)
      "1: ldrsw %[at], [%[offset]], #4\n"
      "asr %w[steps], %w[depth], #4\n"
      "cbz %w[steps], 3f\n"
      "2: " LOAD_4(q)
      "ld1 {v4.16b-v7.16b}, [%[weights]], #64\n"
      "add %[at], %[at], #16\n"
      "subs %w[steps], %w[steps], #1\n"
      MUL(4) MUL_HIGH(4) ADD(16, 20, 24, 28)
      MUL(5) MUL_HIGH(5) ADD(17, 21, 25, 29)
      MUL(6) MUL_HIGH(6) ADD(18, 22, 26, 30)
      MUL(7) MUL_HIGH(7) ADD(19, 23, 27, 31)
      "b.ne 2b\n"
      "3: tbz %w[depth], #3, 4f\n"
      LOAD_4(d)
      "ld1 {v4.8b-v7.8b}, [%[weights]], #32\n"
      "add %[at], %[at], #8\n"
      MUL(4) ADD(16, 20, 24, 28)
      MUL(5) ADD(17, 21, 25, 29)
      MUL(6) ADD(18, 22, 26, 30)
      MUL(7) ADD(19, 23, 27, 31)
      "4: tbz %w[depth], #2, 5f\n"
      LOAD_4(s)
      "ldp s4, s5, [%[weights]], #8\n"
      "ldp s6, s7, [%[weights]], #8\n"
      MUL(4) ADD(16, 20, 24, 28)
      MUL(5) ADD(17, 21, 25, 29)
      MUL(6) ADD(18, 22, 26, 30)
      MUL(7) ADD(19, 23, 27, 31)
      "5: subs %w[n], %w[n], #1\n"
      "b.ne 1b\n"
      : "=w"(a0), "=w"(b0), "=w"(c0), "=w"(d0), "=w"(a1), "=w"(b1), "=w"(c1), "=w"(d1), "=w"(a2),
        "=w"(b2), "=w"(c2), "=w"(d2), "=w"(a3), "=w"(b3), "=w"(c3), "=w"(d3),
        [weights] "+&r"(weights), [offset] "+&r"(offset), [n] "+&r"(segments), [at] "=&r"(at),
        [steps] "=&r"(steps)
      : [depth] "r"(t->depth), [p0] "r"(p0), [p1] "r"(p1), [p2] "r"(p2), [p3] "r"(p3)
      : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "cc", "memory");
  const v4 bias = vld1q_s32(b->bias);
  store_4(t, b, output,
          finish(total(a0, b0, c0, d0, bias), total(a1, b1, c1, d1, bias),
                 total(a2, b2, c2, d2, bias), total(a3, b3, c3, d3, bias), b, t->finish, out));
}

void ek_neon_rows_mlal(const ek_neon_rows *rows, const int8_t *input, int32_t pixels,
                       int8_t *output) {
  const ek_neon_rows local = *rows, *const t = &local; /* a byte store may alias *rows */
  const ek_neon_out out = ek_neon_output(t->out_zp, t->act_min, t->act_max);
  block b = {t->weights, t->bias, t->mult, t->shift, 4};
  for (int32_t c = 0; c < t->out_c; c += 4) {
    const int8_t *in = input;
    int8_t *to = output + c;
    b.channels = ek_min(4, t->out_c - c);
    int32_t left = pixels;
    for (; left >= 4; left -= 4, in += 4 * t->step, to += 4 * t->out_c) tile_4(t, &b, in, to, &out);
    for (; left > 0; --left, in += t->step, to += t->out_c) tile_1(t, &b, in, to, &out);
    b.weights += 4 * t->segments * t->depth;
    b.bias += 4;
    b.mult += 4;
    b.shift += 4;
  }
}
