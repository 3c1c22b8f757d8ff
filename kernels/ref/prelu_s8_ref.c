/* int8 PRELU: x where x >= 0, else alpha * x; alpha broadcasts. */
#include "ek_broadcast.h"

EK_INLINE int8_t element(int32_t x, int32_t y, const void *params) {
  const ek_prelu_params *p = params;
  const int32_t v = x + p->offset1;
  const int32_t out = v >= 0 ? ek_requant(v, p->pos_mult, p->pos_shift)
                             : ek_requant(v * (y + p->offset2), p->neg_mult, p->neg_shift);
  return ek_finish_s8(out, p->out_zp, -128, 127);
}

void ek_prelu_s8_ref(const ek_prelu_params *p, const int8_t *input, const int8_t *alpha,
                     int8_t *output) {
  const ek_prelu_params local = *p; /* a byte store may alias *p, but not a local */
  ek_broadcast_s8(&p->shape, input, alpha, output, element, &local);
}
