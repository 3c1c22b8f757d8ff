/* int8 squared difference with broadcasting. */
#include "ek_broadcast.h"

EK_INLINE int8_t element(int32_t x, int32_t y, const void *params) {
  const ek_add_params *p = params;
  const int32_t a = ek_shl(x + p->offset1, p->left_shift);
  const int32_t b = ek_shl(y + p->offset2, p->left_shift);
  const int32_t d =
      ek_requant_right(a, p->mult1, p->shift1) - ek_requant_right(b, p->mult2, p->shift2);
  /* |d| <= 2 * 255 << 7 / 2 */
  const int32_t out = ek_requant((int32_t)((uint32_t)d * (uint32_t)d), p->out_mult, p->out_shift);
  return ek_finish_s8(out, p->out_zp, p->act_min, p->act_max);
}

void ek_squared_difference_s8_ref(const ek_add_params *p, const int8_t *in1, const int8_t *in2,
                                  int8_t *output) {
  const ek_add_params local = *p; /* a byte store may alias *p, but not a local */
  ek_broadcast_s8(&p->shape, in1, in2, output, element, &local);
}
