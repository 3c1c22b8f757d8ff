/* ADD of int8 tensors of one shape through a table: one operand is scaled by exactly one half, a
 * shift; the other has 256 values, scaled once. About 11 instructions an element.
 */
#include "ek_dsp_quant.h"

int32_t ek_add_s8_table_dsp_scratch_bytes(const ek_add_dsp_params *p) {
  (void)p;
  return 256 * (int32_t)sizeof(int32_t);
}

/* scaled: the multiplied operand's share of the sum. */
EK_INLINE int8_t add_one(const ek_add_dsp_params *p, int8_t half, int32_t scaled, int32_t act_min,
                         int32_t act_max) {
  const int32_t sum = half * (1 << 19) + scaled;
  const int32_t y = ek_dsp_requant(sum, p->out_mult, p->out_round, p->out_exp);
  return (int8_t)ek_clamp(ek_ssat8(y), act_min, act_max);
}

EK_INLINE void add_all(const ek_add_dsp_params *given, const int8_t *half, const int8_t *mul,
                       int8_t *output, const int32_t *table, int32_t act_min, int32_t act_max) {
  const ek_add_dsp_params p = *given;
  const int8_t *const end = output + p.count;
  for (; end - output >= 4; half += 4, mul += 4, output += 4) {
    const uint32_t a = ek_load32(half); /* both words before the first store: output may be one */
    const uint32_t b = ek_load32(mul);
    output[0] = add_one(&p, (int8_t)(a & 255u), table[b & 255u], act_min, act_max);
    output[1] = add_one(&p, (int8_t)(a >> 8 & 255u), table[b >> 8 & 255u], act_min, act_max);
    output[2] = add_one(&p, (int8_t)(a >> 16 & 255u), table[b >> 16 & 255u], act_min, act_max);
    output[3] = add_one(&p, (int8_t)(a >> 24), table[b >> 24], act_min, act_max);
  }
  for (; output != end; ++half, ++mul, ++output) {
    *output = add_one(&p, *half, table[(uint8_t)*mul], act_min, act_max);
  }
}

void ek_add_s8_table_dsp(const ek_add_dsp_params *p, const int8_t *half, const int8_t *mul,
                         int8_t *output, void *scratch) {
  int32_t *table = (int32_t *)scratch;
  const int32_t mul_half = ek_shl(1, p->mul_exp - 1);
  for (int32_t b = -128; b < 128; ++b) {
    const int32_t y = b * (1 << 20) + p->mul_offset;
    const int32_t product = ek_smmlar(y, p->mul_mult, y + mul_half) + (y >> 31);
    table[b & 255] = (product >> p->mul_exp) + p->half_offset;
  }
  if (p->act_min == -128 && p->act_max == 127) {
    add_all(p, half, mul, output, table, -128, 127);
  } else {
    add_all(p, half, mul, output, table, p->act_min, p->act_max);
  }
}
