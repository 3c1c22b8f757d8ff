/* int16 addition with broadcasting. */
#include "ek_broadcast.h"
#include "ek_s16.h"

EK_INLINE int16_t element(int32_t x, int32_t y, const void *params) {
  const ek_add_params *p = params;
  const int32_t a = ek_shl(x + p->offset1, p->left_shift);
  const int32_t b = ek_shl(y + p->offset2, p->left_shift);
  const int32_t sum =
      ek_requant_right(a, p->mult1, p->shift1) + ek_requant_right(b, p->mult2, p->shift2);
  const int32_t out = ek_requant_right(sum, p->out_mult, p->out_shift) + p->out_zp;
  return (int16_t)ek_clamp(out, p->act_min, p->act_max);
}

void ek_add_s16_ref(const ek_add_params *p, const int16_t *in1, const int16_t *in2, int16_t *output) {
  const ek_add_params local = *p; /* a store may alias *p, but not a local */
  ek_broadcast_s16(&p->shape, in1, in2, output, element, &local);
}
