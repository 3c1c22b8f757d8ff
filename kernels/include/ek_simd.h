/* The Armv7E-M / Armv8-M DSP instructions that the dsp kernels use, one function each.
 *
 * On a core with the extension they are one instruction; elsewhere (the host, where the kernels are
 * tested under sanitizers) portable C with the same result for every argument. Sums wrap modulo
 * 2^32, as the instructions' do. Source: Armv7-M Architecture Reference Manual, chapter A7.
 */
#ifndef EK_SIMD_H
#define EK_SIMD_H

#include "ek_common.h"

#if defined(__ARM_FEATURE_DSP) && defined(__thumb2__) && !defined(EK_NO_ASM)
#define EK_SIMD_ASM 1
#else
#define EK_SIMD_ASM 0
#endif

/* Unaligned 32-bit access; one LDR or STR on these cores (the builtin also where the compiler is told
 * that there is no libc). */
EK_INLINE uint32_t ek_load32(const void *p) {
  uint32_t w;
  __builtin_memcpy(&w, p, sizeof w);
  return w;
}
EK_INLINE void ek_store32(void *p, uint32_t w) { __builtin_memcpy(p, &w, sizeof w); }

/* Signed halfwords of a word, and two halfwords as a word. */
EK_INLINE int32_t ek_lo16(uint32_t x) { return (int16_t)(x & 0xffffu); }
EK_INLINE int32_t ek_hi16(uint32_t x) { return (int16_t)(x >> 16); }
EK_INLINE uint32_t ek_pair16(int32_t lo, int32_t hi) {
  return ((uint32_t)lo & 0xffffu) | ((uint32_t)hi << 16);
}

#if EK_SIMD_ASM

#define EK_SIMD_1(name, text)                            \
  EK_INLINE uint32_t name(uint32_t a) {                  \
    uint32_t r;                                          \
    __asm__(text : "=r"(r) : "r"(a));                    \
    return r;                                            \
  }
#define EK_SIMD_2(name, text)                            \
  EK_INLINE uint32_t name(uint32_t a, uint32_t b) {      \
    uint32_t r;                                          \
    __asm__(text : "=r"(r) : "r"(a), "r"(b));            \
    return r;                                            \
  }

EK_SIMD_1(ek_sxtb16, "sxtb16 %0, %1")
EK_SIMD_1(ek_sxtb16_ror8, "sxtb16 %0, %1, ror #8")
EK_SIMD_1(ek_rev16, "rev16 %0, %1")
EK_SIMD_2(ek_sxtab16, "sxtab16 %0, %1, %2")
EK_SIMD_2(ek_sxtab16_ror8, "sxtab16 %0, %1, %2, ror #8")
EK_SIMD_2(ek_pkhbt_lsl16, "pkhbt %0, %1, %2, lsl #16")
EK_SIMD_2(ek_pkhtb_asr16, "pkhtb %0, %1, %2, asr #16")

#undef EK_SIMD_1
#undef EK_SIMD_2

EK_INLINE int32_t ek_smlad(uint32_t a, uint32_t b, int32_t acc) {
  int32_t r;
  __asm__("smlad %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(acc));
  return r;
}
EK_INLINE int32_t ek_smmlar(int32_t a, int32_t b, int32_t c) {
  int32_t r;
  __asm__("smmlar %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
EK_INLINE int32_t ek_smmla(int32_t a, int32_t b, int32_t c) {
  int32_t r;
  __asm__("smmla %0, %1, %2, %3" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
EK_INLINE int32_t ek_ssat8(int32_t a) {
  int32_t r;
  __asm__("ssat %0, #8, %1" : "=r"(r) : "r"(a) : "cc");
  return r;
}

#else

/* Bytes 0 and 2, sign-extended into two halfwords. */
EK_INLINE uint32_t ek_sxtb16(uint32_t a) {
  return ek_pair16((int8_t)(a & 0xffu), (int8_t)((a >> 16) & 0xffu));
}
/* Bytes 1 and 3, sign-extended into two halfwords. */
EK_INLINE uint32_t ek_sxtb16_ror8(uint32_t a) { return ek_sxtb16(a >> 8); }
/* Bytes swapped within each halfword. */
EK_INLINE uint32_t ek_rev16(uint32_t a) {
  return ((a & 0x00ff00ffu) << 8) | ((a >> 8) & 0x00ff00ffu);
}
/* a + ek_sxtb16(b), by halfword. */
EK_INLINE uint32_t ek_sxtab16(uint32_t a, uint32_t b) {
  const uint32_t x = ek_sxtb16(b);
  return ek_pair16(ek_lo16(a) + ek_lo16(x), ek_hi16(a) + ek_hi16(x));
}
EK_INLINE uint32_t ek_sxtab16_ror8(uint32_t a, uint32_t b) { return ek_sxtab16(a, b >> 8); }
/* The low halfwords: a's below, b's above. */
EK_INLINE uint32_t ek_pkhbt_lsl16(uint32_t a, uint32_t b) { return (a & 0xffffu) | (b << 16); }
/* The high halfwords: b's below, a's above. */
EK_INLINE uint32_t ek_pkhtb_asr16(uint32_t a, uint32_t b) { return (a & 0xffff0000u) | (b >> 16); }
/* acc plus the two products of signed halfwords. */
EK_INLINE int32_t ek_smlad(uint32_t a, uint32_t b, int32_t acc) {
  const uint32_t lo = (uint32_t)(ek_lo16(a) * ek_lo16(b));
  const uint32_t hi = (uint32_t)(ek_hi16(a) * ek_hi16(b));
  return (int32_t)((uint32_t)acc + lo + hi);
}
/* c + a * b / 2^32, halves up. */
EK_INLINE int32_t ek_smmlar(int32_t a, int32_t b, int32_t c) {
  const uint64_t sum =
      ((uint64_t)(uint32_t)c << 32) + (uint64_t)((int64_t)a * b) + (uint64_t)0x80000000u;
  return (int32_t)(uint32_t)(sum >> 32);
}
/* c + a * b / 2^32, rounded down. */
EK_INLINE int32_t ek_smmla(int32_t a, int32_t b, int32_t c) {
  const uint64_t sum = ((uint64_t)(uint32_t)c << 32) + (uint64_t)((int64_t)a * b);
  return (int32_t)(uint32_t)(sum >> 32);
}
EK_INLINE int32_t ek_ssat8(int32_t a) { return ek_sat_s8(a); }

#endif

/* Sums modulo 2^32. */
EK_INLINE int32_t ek_add_wrap(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }

#endif
