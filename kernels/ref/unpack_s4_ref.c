/* 4-bit numbers to the weights that other kernels read. */
#include "ek_unpack.h"

void ek_unpack_s4_ref(const ek_unpack_params *p, const uint8_t *packed, void *out) {
  const int32_t codes = p->codes;
  uint8_t *to = (uint8_t *)out;
  for (int32_t r = 0; r < p->records; ++r) {
    ek_copy_words(to, packed, p->head);
    to += p->head;
    packed += p->head;
    if (p->form == EK_FORM_PAIRS) {
      for (int32_t i = 0; i < codes; i += 8, packed += 4) {
        const uint32_t w = ek_load32(packed);
        ek_store32(to + i, ek_halfwords(ek_extend_s4(w & 0x0f0f0f0fu)));
        ek_store32(to + i + 4, ek_halfwords(ek_extend_s4((w >> 4) & 0x0f0f0f0fu)));
      }
    } else {
      for (int32_t i = 0; i < codes; i += 8, packed += 4) {
        const uint32_t w = ek_load32(packed);
        ek_store32(to + i, ek_extend_s4(w & 0x0f0f0f0fu));
        ek_store32(to + i + 4, ek_extend_s4((w >> 4) & 0x0f0f0f0fu));
      }
    }
    to += codes;
    ek_copy_words(to, packed, p->tail);
    to += p->tail;
    packed += p->tail;
  }
}
