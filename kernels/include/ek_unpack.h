/* Codes of few bits to bytes, four at a time (ek_lowbit.h). */
#ifndef EK_UNPACK_H
#define EK_UNPACK_H

#include "ek_lowbit.h"
#include "ek_simd.h"

/* Four 4-bit numbers, one a byte, to int8: no byte borrows from the next. */
EK_INLINE uint32_t ek_extend_s4(uint32_t v) {
  return (((v ^ 0x08080808u) | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
}

/* int8 values to the halfword form: the high byte gives up one where the low byte is negative. */
EK_INLINE uint32_t ek_halfwords(uint32_t v) {
  const uint32_t borrow = (v & 0x00800080u) << 1;
  return ((v | 0x80008000u) - borrow) ^ (~v & 0x80008000u);
}

/* Four codes, one a byte, to the values they stand for. */
EK_INLINE uint32_t ek_look_up(const int8_t *table, uint32_t v) {
  return (uint32_t)(uint8_t)table[v & 0xffu] | ((uint32_t)(uint8_t)table[(v >> 8) & 0xffu] << 8) |
         ((uint32_t)(uint8_t)table[(v >> 16) & 0xffu] << 16) |
         ((uint32_t)(uint8_t)table[v >> 24] << 24);
}

/* bytes is a multiple of 4. */
EK_INLINE void ek_copy_words(uint8_t *out, const uint8_t *in, int32_t bytes) {
  for (int32_t i = 0; i < bytes; i += 4) ek_store32(out + i, ek_load32(in + i));
}

#endif
