/* Requantization in the dsp kernels: five instructions where the generator proved them exact. */
#ifndef EK_DSP_QUANT_H
#define EK_DSP_QUANT_H

#include "ek_dsp.h"
#include "ek_simd.h"

/* Double rounding with a right shift e = 1 .. 22 in five instructions, output offset included.
 * SMMLAR with mult = 2 m - 2^32 adds acc and so gives floor((acc * m + 2^30) / 2^31), gemmlowp's
 * high multiplication; the second rounding adds half, less one for negative values. The sign of acc
 * may stand for that of the product: where they differ the product is 0, and half - 1 >= 0.
 * round = (2 * out_zp + 1) << (e - 1): half, and the offset. Sums must not leave 32 bits. */
EK_INLINE int32_t ek_dsp_requant(int32_t acc, int32_t mult, int32_t round, int32_t e) {
  const int32_t high = ek_smmlar(acc, mult, ek_add_wrap(acc, round));
  return ek_add_wrap(high, acc >> 31) >> e;
}

/* Any multiplier and shift. */
EK_INLINE int32_t ek_dsp_requant_general(int32_t acc, const ek_dsp_quant *q, int32_t out_zp) {
  return ek_add_wrap(ek_requant(acc, q->mult, (int)(q->exp - EK_DSP_GENERAL)), out_zp);
}

/* Requantize n accumulators of one channel: out[0], out[step], ... acc is divided by 2^acc_shift
 * first (8 in the halfword form, exactly; else 0). */
EK_INLINE void ek_dsp_store(const int32_t *acc, int n, int acc_shift, const ek_dsp_quant *q,
                            int32_t out_zp, int32_t act_min, int32_t act_max, int8_t *out,
                            int32_t step) {
  const int32_t e = q->exp;
  const int32_t mult = q->mult;
  if (e <= EK_DSP_MAX_EXP) {
    const int32_t round = q->round;
    if (act_min == -128 && act_max == 127 && n == 4) {
      out[0] = (int8_t)ek_ssat8(ek_dsp_requant(acc[0] >> acc_shift, mult, round, e));
      out[step] = (int8_t)ek_ssat8(ek_dsp_requant(acc[1] >> acc_shift, mult, round, e));
      out += 2 * step;
      out[0] = (int8_t)ek_ssat8(ek_dsp_requant(acc[2] >> acc_shift, mult, round, e));
      out[step] = (int8_t)ek_ssat8(ek_dsp_requant(acc[3] >> acc_shift, mult, round, e));
      return;
    }
    for (int i = 0; i < n; ++i) {
      const int32_t y = ek_dsp_requant(acc[i] >> acc_shift, mult, round, e);
      out[i * step] = (int8_t)ek_clamp(y, act_min, act_max);
    }
    return;
  }
  for (int i = 0; i < n; ++i) {
    const int32_t y = ek_dsp_requant_general(acc[i] >> acc_shift, q, out_zp);
    out[i * step] = (int8_t)ek_clamp(y, act_min, act_max);
  }
}

#endif
