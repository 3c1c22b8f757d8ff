/* ADD of int8 tensors of one shape, with the bytes of TFLite's reference kernel: both operands are
 * shifted left by 20, scaled, added, and the sum requantized. Needs no scratch; add_s8_table_dsp.c is faster from a few hundred elements on.
 */
#include "ek_dsp_quant.h"

int32_t ek_add_s8_dsp_scratch_bytes(const ek_add_dsp_params *p) {
  (void)p;
  return 0;
}

/* What the product loses and rounds depends on (mul - mul_zp) << 20 only, whose sign is also the
 * sign of the product. */
EK_INLINE int8_t add_one(const ek_add_dsp_params *p, int8_t half, int8_t mul, int32_t mul_half,
                         int32_t act_min, int32_t act_max) {
  const int32_t x = half * (1 << 19) + p->half_offset;
  const int32_t y = mul * (1 << 20) + p->mul_offset;
  const int32_t product = ek_smmlar(y, p->mul_mult, y + mul_half) + (y >> 31);
  const int32_t sum = x + (product >> p->mul_exp);
  const int32_t z = ek_dsp_requant(sum, p->out_mult, p->out_round, p->out_exp);
  return (int8_t)ek_clamp(ek_ssat8(z), act_min, act_max);
}

EK_INLINE void add_all(const ek_add_dsp_params *given, const int8_t *half, const int8_t *mul,
                       int8_t *output, int32_t act_min, int32_t act_max) {
  const ek_add_dsp_params p = *given;
  const int32_t mul_half = ek_shl(1, p.mul_exp - 1);
  const int8_t *const end = output + p.count;
  for (; output != end; ++half, ++mul, ++output) {
    *output = add_one(&p, *half, *mul, mul_half, act_min, act_max);
  }
}

void ek_add_s8_dsp(const ek_add_dsp_params *p, const int8_t *half, const int8_t *mul,
                   int8_t *output) {
  if (p->act_min == -128 && p->act_max == 127) {
    add_all(p, half, mul, output, -128, 127);
  } else {
    add_all(p, half, mul, output, p->act_min, p->act_max);
  }
}
