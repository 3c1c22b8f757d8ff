/* Integer to integer requantization, types as parameters. Offsets wrap modulo 2^32. */
#include "ek_typed.h"

void ek_requantize_ref(const ek_requantize_params *p, const void *input, void *output) {
  const ek_requantize_params q = *p;
  for (int32_t i = 0; i < q.n; ++i) {
    const uint32_t x = (uint32_t)ek_load(input, i, q.in_type) - (uint32_t)q.in_zp;
    const uint32_t y = (uint32_t)ek_requant((int32_t)x, q.mult, q.shift) + (uint32_t)q.out_zp;
    ek_store(output, i, q.out_type, (int32_t)y);
  }
}
