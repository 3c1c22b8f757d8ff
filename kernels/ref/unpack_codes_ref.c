/* Codes of 1, 2, 4 or 6 bits, through a table, to the weights that other kernels read. */
#include "ek_unpack.h"

static void put(uint8_t *out, const int8_t *table, uint32_t codes, int32_t form) {
  const uint32_t v = ek_look_up(table, codes);
  ek_store32(out, form == EK_FORM_PAIRS ? ek_halfwords(v) : v);
}

/* Codes of a record; returns where the next bytes are. */
static const uint8_t *whole_words(const uint8_t *in, const int8_t *table, int32_t bits,
                                  int32_t codes, int32_t form, uint8_t *out) {
  const uint32_t mask = ((1u << bits) - 1u) * 0x01010101u;
  while (codes > 0) {
    uint32_t w = ek_load32(in);
    for (int32_t k = 0; k < 8; k += bits, w >>= bits, out += 4) put(out, table, w & mask, form);
    in += 4;
    codes -= 32 / bits;
  }
  return in;
}

static const uint8_t *six_bits(const uint8_t *in, const int8_t *table, int32_t codes, int32_t form,
                               uint8_t *out) {
  for (; codes > 0; codes -= 16, in += 12) {
    uint32_t last = 0;
    for (int32_t k = 0; k < 3; ++k, out += 4) {
      const uint32_t w = ek_load32(in + 4 * k);
      put(out, table, w & 0x3f3f3f3fu, form);
      last |= ((w >> 6) & 0x03030303u) << (2 * k);
    }
    put(out, table, last, form);
    out += 4;
  }
  return in;
}

void ek_unpack_codes_ref(const ek_unpack_params *p, const uint8_t *packed, const int8_t *table,
                         void *out) {
  uint8_t *to = (uint8_t *)out;
  for (int32_t r = 0; r < p->records; ++r) {
    ek_copy_words(to, packed, p->head);
    to += p->head;
    packed += p->head;
    packed = p->bits == 6 ? six_bits(packed, table, p->codes, p->form, to)
                          : whole_words(packed, table, p->bits, p->codes, p->form, to);
    to += p->codes;
    ek_copy_words(to, packed, p->tail);
    to += p->tail;
    packed += p->tail;
  }
}
