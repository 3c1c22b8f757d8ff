/* int8 MEAN and SUM over rows of channels, sixteen channels at a time. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

int32_t ek_sum_s8_neon_scratch_bytes(const ek_neon_sum_params *p) {
  (void)p;
  return 0;
}

void ek_sum_s8_neon(const ek_neon_sum_params *p, const int8_t *input, int8_t *output) {
  const int64_t channels = p->channels;
  const ek_neon_out out = ek_neon_output(p->out_zp, -128, 127);
  const int32x4_t zero = vdupq_n_s32(p->zero_sum), m = vdupq_n_s32(p->mult);
  const int32x4_t s = vdupq_n_s32(p->shift);
  int64_t c = 0;
  while (c < channels) {
    if (c + 16 > channels) c = channels - 16; /* over channels that are done */
    int16x8_t low = vdupq_n_s16(0), high = low;
    const int8_t *in = input + c;
    for (int32_t n = p->rows; n > 0; --n, in += channels) {
      const int8x16_t v = vld1q_s8(in);
      low = vaddw_s8(low, vget_low_s8(v));
      high = vaddw_high_s8(high, v);
    }
    const int32x4_t a = vsubq_s32(vmovl_s16(vget_low_s16(low)), zero);
    const int32x4_t b = vsubq_s32(vmovl_high_s16(low), zero);
    const int32x4_t d = vsubq_s32(vmovl_s16(vget_low_s16(high)), zero);
    const int32x4_t e = vsubq_s32(vmovl_high_s16(high), zero);
    vst1q_s8(output + c, ek_neon_narrow(ek_neon_requant(a, m, s), ek_neon_requant(b, m, s),
                                        ek_neon_requant(d, m, s), ek_neon_requant(e, m, s), &out));
    c += 16;
  }
}
