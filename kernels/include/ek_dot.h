/* Dot products of int8 runs, modulo 2^32. */
#ifndef EK_DOT_H
#define EK_DOT_H

#include "ek_common.h"

/* acc + sum w[i] * x[i]. */
EK_INLINE uint32_t ek_dot_s8(uint32_t acc, const int8_t *x, const int8_t *w, int32_t n) {
  for (int32_t i = 0; i < n; ++i) acc += (uint32_t)(w[i] * x[i]);
  return acc;
}

/* acc + sum w[i] * (x[i] - zp). */
EK_INLINE uint32_t ek_dot_zp_s8(uint32_t acc, const int8_t *x, int32_t zp, const int8_t *w,
                                int32_t n) {
  for (int32_t i = 0; i < n; ++i) acc += (uint32_t)(w[i] * (x[i] - zp));
  return acc;
}

/* acc + value * sum w[i]: a run of taps that all read the same value. */
EK_INLINE uint32_t ek_dot_splat_s8(uint32_t acc, int32_t value, const int8_t *w, int32_t n) {
  int32_t sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += w[i];
  return acc + (uint32_t)value * (uint32_t)sum;
}

/* Two rows of weights against one run: acc[0] += w0 . x, acc[1] += w1 . x. Halves the loads of x. */
EK_INLINE void ek_dot2_s8(uint32_t acc[2], const int8_t *x, const int8_t *w0, const int8_t *w1,
                          int32_t n) {
  uint32_t a = acc[0], b = acc[1];
  for (int32_t i = 0; i < n; ++i) {
    const int32_t v = x[i];
    a += (uint32_t)(w0[i] * v);
    b += (uint32_t)(w1[i] * v);
  }
  acc[0] = a;
  acc[1] = b;
}

/* Two rows of weights against two runs: acc[0..1] of x0, acc[2..3] of x1. Four loads, four products. */
EK_INLINE void ek_dot2x2_s8(uint32_t acc[4], const int8_t *x0, const int8_t *x1, const int8_t *w0,
                            const int8_t *w1, int32_t n) {
  uint32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
  for (int32_t i = 0; i < n; ++i) {
    const int32_t x = x0[i], y = x1[i], v = w0[i], w = w1[i];
    a += (uint32_t)(v * x);
    b += (uint32_t)(w * x);
    c += (uint32_t)(v * y);
    d += (uint32_t)(w * y);
  }
  acc[0] = a;
  acc[1] = b;
  acc[2] = c;
  acc[3] = d;
}

/* What an accumulator becomes: requantized, offset, clamped. */
EK_INLINE int8_t ek_output_s8(uint32_t acc, int32_t mult, int shift, int32_t out_zp, int32_t lo,
                              int32_t hi) {
  return ek_finish_s8(ek_requant((int32_t)acc, mult, shift), out_zp, lo, hi);
}

#endif
