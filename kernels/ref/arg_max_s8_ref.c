/* Index of the largest 8-bit value along an axis. */
#include "ek_reduce.h"

void ek_arg_max_s8_ref(const ek_arg_max_params *p, const void *input, void *output) {
  const int32_t inner = p->inner, axis = p->axis, flip = p->flip, out_bytes = p->out_bytes;
  uint8_t *out = output;
  for (int32_t o = 0; o < p->outer; ++o) {
    for (int32_t i = 0; i < inner; ++i) {
      const uint8_t *x = (const uint8_t *)input + o * axis * inner + i;
      int32_t best = -129, at = 0;
      for (int32_t k = 0; k < axis; ++k, x += inner) {
        const int32_t v = (int8_t)(*x ^ flip);
        if (v > best) {
          best = v;
          at = k;
        }
      }
      if (out_bytes == 8) {
        const int64_t wide = at;
        memcpy(out, &wide, 8);
      } else {
        memcpy(out, &at, 4);
      }
      out += out_bytes;
    }
  }
}
