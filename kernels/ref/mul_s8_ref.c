/* int8 multiplication with broadcasting. */
#include "ek_broadcast.h"

EK_INLINE int8_t element(int32_t x, int32_t y, const void *params) {
  const ek_mul_params *p = params;
  const int32_t product = (x + p->offset1) * (y + p->offset2);
  const int32_t out = ek_requant(product, p->out_mult, p->out_shift);
  return ek_finish_s8(out, p->out_zp, p->act_min, p->act_max);
}

void ek_mul_s8_ref(const ek_mul_params *p, const int8_t *in1, const int8_t *in2, int8_t *output) {
  const ek_mul_params local = *p; /* a byte store may alias *p, but not a local */
  ek_broadcast_s8(&p->shape, in1, in2, output, element, &local);
}
