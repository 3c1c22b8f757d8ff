/* What the NEON kernels share: requantization, narrowing, copies. Only for 64-bit Arm. */
#ifndef EK_NEON_SIMD_H
#define EK_NEON_SIMD_H

#include <arm_neon.h>

#include "ek_common.h"

/* Keeps an offset a variable of its own: a compiler that sees through it gives each of the pointers
 * that it is added to a counter, which costs an instruction each. */
#define EK_OPAQUE(x) __asm__ volatile("" : "+r"(x))

/* Zero point and clamp of a layer's outputs. */
typedef struct {
  int16x8_t zp;
  int8x16_t lo, hi;
} ek_neon_out;

EK_INLINE ek_neon_out ek_neon_output(int32_t zp, int32_t lo, int32_t hi) {
  const ek_neon_out out = {vdupq_n_s16((int16_t)zp), vdupq_n_s8((int8_t)lo),
                           vdupq_n_s8((int8_t)hi)};
  return out;
}

/* x * mult * 2^(shift - 31), the reference's double rounding; shift: -31 .. -1 a lane. Adding the sign
 * cannot overflow: a product with such a multiplier is above -2^31. */
EK_INLINE int32x4_t ek_neon_requant(int32x4_t x, int32x4_t mult, int32x4_t shift) {
  const int32x4_t high = vqrdmulhq_s32(x, mult);
  return vrshlq_s32(vsraq_n_s32(high, high, 31), shift);
}

/* Sixteen requantized sums as output bytes. Saturating to 16 and 8 bits is a clamp that the output's
 * own implies. */
EK_INLINE int8x16_t ek_neon_narrow(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d,
                                   const ek_neon_out *out) {
  const int16x8_t low = vqmovn_high_s32(vqmovn_s32(a), b);
  const int16x8_t high = vqmovn_high_s32(vqmovn_s32(c), d);
  const int8x8_t first = vqmovn_s16(vqaddq_s16(low, out->zp));
  return vqmovn_high_s16(first, vqaddq_s16(high, out->zp));
}

EK_INLINE int8x8_t ek_neon_narrow8(int32x4_t a, int32x4_t b, const ek_neon_out *out) {
  return vqmovn_s16(vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), out->zp));
}

/* The same for layers whose zero point is -128, whose clamp is that of int8, and whose results surely
 * fit 16 bits (EK_NEON_PLAIN). A negative result is -128 however its tie was rounded. */
EK_INLINE int32x4_t ek_neon_requant_plain(int32x4_t x, int32x4_t mult, int32x4_t shift) {
  return vrshlq_s32(vqrdmulhq_s32(x, mult), shift);
}

EK_INLINE int16x8_t ek_neon_halves(int32x4_t a, int32x4_t b) {
  return vuzp1q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
}

EK_INLINE int8x16_t ek_neon_narrow_plain(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  const uint8x8_t first = vqmovun_s16(ek_neon_halves(a, b));
  const uint8x16_t all = vqmovun_high_s16(first, ek_neon_halves(c, d));
  return vreinterpretq_s8_u8(veorq_u8(all, vdupq_n_u8(128)));
}

EK_INLINE int8x16_t ek_neon_clamp(int8x16_t x, const ek_neon_out *out) {
  return vminq_s8(vmaxq_s8(x, out->lo), out->hi);
}

/* The first n bytes of a vector, n = 1 .. 16. */
EK_INLINE void ek_neon_store(int8_t *to, int8x16_t x, int32_t n) {
  if (n & 16) {
    vst1q_s8(to, x);
    return;
  }
  if (n & 8) {
    vst1_s8(to, vget_low_s8(x));
    to += 8;
    x = vextq_s8(x, x, 8);
  }
  if (n & 4) {
    const int32_t four = vgetq_lane_s32(vreinterpretq_s32_s8(x), 0);
    memcpy(to, &four, sizeof four);
    to += 4;
    x = vextq_s8(x, x, 4);
  }
  if (n & 2) {
    const int16_t two = vgetq_lane_s16(vreinterpretq_s16_s8(x), 0);
    memcpy(to, &two, sizeof two);
    to += 2;
    x = vextq_s8(x, x, 2);
  }
  if (n & 1) *to = vgetq_lane_s8(x, 0);
}

/* n bytes; source and target do not overlap. */
EK_INLINE void ek_neon_copy(int8_t *to, const int8_t *from, int32_t n) {
  for (; n >= 64; n -= 64, to += 64, from += 64) vst1q_s8_x4(to, vld1q_s8_x4(from));
  for (; n >= 16; n -= 16, to += 16, from += 16) vst1q_s8(to, vld1q_s8(from));
  for (; n > 0; --n) *to++ = *from++;
}

EK_INLINE void ek_neon_fill(int8_t *to, int32_t value, int32_t n) {
  const int8x16_t x = vdupq_n_s8((int8_t)value);
  for (; n >= 16; n -= 16, to += 16) vst1q_s8(to, x);
  for (; n > 0; --n) *to++ = (int8_t)value;
}

#endif
