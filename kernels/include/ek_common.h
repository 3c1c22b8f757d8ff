/* Types and integer arithmetic that every kernel shares. C11, no libc but memcpy/memset.
 *
 * The arithmetic is gemmlowp's (fixedpoint.h) as TensorFlow Lite Micro's reference kernels use it:
 * double rounding, ties away from zero in the second rounding. Right shifts of negative values are
 * arithmetic, as gcc and clang define them.
 */
#ifndef EK_COMMON_H
#define EK_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
#error "edgekit kernels are C11"
#endif

#define EK_INLINE static inline __attribute__((always_inline, unused))
#define EK_RESTRICT restrict

/* No value is larger than 5-dimensional (TFLite's own limit for most operators is 4 to 6). */
#define EK_MAX_DIMS 5

EK_INLINE int32_t ek_min(int32_t a, int32_t b) { return a < b ? a : b; }
EK_INLINE int32_t ek_max(int32_t a, int32_t b) { return a > b ? a : b; }
EK_INLINE int32_t ek_clamp(int32_t x, int32_t lo, int32_t hi) { return ek_min(ek_max(x, lo), hi); }
EK_INLINE int8_t ek_sat_s8(int32_t x) { return (int8_t)ek_clamp(x, -128, 127); }

/* x * 2^n modulo 2^32. */
EK_INLINE int32_t ek_shl(int32_t x, int n) { return (int32_t)((uint32_t)x << n); }

/* Armv6-M and Armv8-M Baseline have no 32 x 32 -> 64 multiplication: four of 16 x 16 there. */
#ifndef EK_SPLIT_MULTIPLY
#if defined(__ARM_ARCH_6M__) || defined(__ARM_ARCH_8M_BASE__)
#define EK_SPLIT_MULTIPLY 1
#else
#define EK_SPLIT_MULTIPLY 0
#endif
#endif

/* SaturatingRoundingDoublingHighMul without its one saturating case (both INT32_MIN, which a
 * multiplier never is). gemmlowp's sign-dependent nudge and truncating division are together
 * floor((a * b + 2^30) / 2^31). */
EK_INLINE int32_t ek_srdhm(int32_t a, int32_t b) {
#if EK_SPLIT_MULTIPLY
  const int32_t ah = a >> 16, al = a & 0xffff, bh = b >> 16, bl = b & 0xffff;
  const uint32_t low = (uint32_t)al * (uint32_t)bl;
  const int32_t middle = ah * bl + (int32_t)(low >> 16); /* none of these leaves 32 bits */
  const int32_t other = al * bh + (middle & 0xffff);
  const uint32_t high = (uint32_t)(ah * bh + (middle >> 16) + (other >> 16));
  const uint32_t rest = ((uint32_t)other << 16) | (low & 0xffff); /* a * b = high * 2^32 + rest */
  const uint32_t rounded = rest + ((uint32_t)1 << 30);
  return (int32_t)(((high + (rounded < rest)) << 1) | (rounded >> 31));
#else
  return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
#endif
}

/* SaturatingRoundingDoublingHighMul, all cases. */
EK_INLINE int32_t ek_srdhm_sat(int32_t a, int32_t b) {
  return (a == INT32_MIN && b == INT32_MIN) ? INT32_MAX : ek_srdhm(a, b);
}

/* RoundingDivideByPOT: x / 2^e, ties away from zero; 0 <= e <= 31. */
EK_INLINE int32_t ek_rdpot(int32_t x, int e) {
  const int32_t mask = (int32_t)(((uint32_t)1 << e) - 1u);
  const int32_t threshold = (mask >> 1) + (x < 0);
  return (x >> e) + ((x & mask) > threshold);
}

/* MultiplyByQuantizedMultiplierSmallerThanOneExp: x * mult * 2^(shift - 31), double rounding.
 * mult: 0 or 2^30 .. 2^31 - 1. shift: -31 .. 0.
 * The second rounding is ek_rdpot in fewer steps: with y = floor((x - (x < 0)) / 2^(e - 1)) it is
 * floor((y + 1) / 2). Nothing overflows, since a product with such a multiplier is within
 * -(2^31 - 1) .. 2^31 - 2. */
EK_INLINE int32_t ek_requant_right(int32_t x, int32_t mult, int shift) {
  const int32_t high = ek_srdhm(x, mult);
  if (shift == 0) return high;
  return (((high + (high >> 31)) >> (-shift - 1)) + 1) >> 1;
}

/* MultiplyByQuantizedMultiplier: as above; shift > 0 is to the left (up to 30) and comes first,
 * modulo 2^32. */
EK_INLINE int32_t ek_requant(int32_t x, int32_t mult, int shift) {
  if (shift > 0) return ek_srdhm(ek_shl(x, shift), mult);
  return ek_requant_right(x, mult, shift);
}

/* clamp(x + zp, lo, hi) for every x: the sum cannot overflow. */
EK_INLINE int8_t ek_finish_s8(int32_t x, int32_t zp, int32_t lo, int32_t hi) {
  return (int8_t)(ek_clamp(x, lo - zp, hi - zp) + zp);
}

#endif
