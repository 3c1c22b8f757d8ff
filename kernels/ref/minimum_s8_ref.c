/* int8 minimum with broadcasting; no rescaling. */
#include "ek_broadcast.h"

EK_INLINE int8_t element(int32_t x, int32_t y, const void *params) {
  (void)params;
  return (int8_t)ek_min(x, y);
}

void ek_minimum_s8_ref(const ek_broadcast *p, const int8_t *in1, const int8_t *in2, int8_t *output) {
  ek_broadcast_s8(p, in1, in2, output, element, 0);
}
