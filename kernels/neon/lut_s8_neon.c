/* Look-up of bytes in a table of 256, which stays in sixteen registers. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

EK_INLINE int8x16_t look_up(int8x16_t x, const int8x16x4_t t[4]) {
  const uint8x16_t i = veorq_u8(vreinterpretq_u8_s8(x), vdupq_n_u8(128));
  int8x16_t y = vqtbl4q_s8(t[0], i); /* an index outside gives 0, and leaves y below */
  y = vqtbx4q_s8(y, t[1], vsubq_u8(i, vdupq_n_u8(64)));
  y = vqtbx4q_s8(y, t[2], vsubq_u8(i, vdupq_n_u8(128)));
  return vqtbx4q_s8(y, t[3], vsubq_u8(i, vdupq_n_u8(192)));
}

void ek_lut_s8_neon(const int8_t *input, const int8_t *table, int8_t *output, int32_t n) {
  const int8x16x4_t t[4] = {vld1q_s8_x4(table), vld1q_s8_x4(table + 64), vld1q_s8_x4(table + 128),
                            vld1q_s8_x4(table + 192)};
  for (; n >= 16; n -= 16, input += 16, output += 16) {
    vst1q_s8(output, look_up(vld1q_s8(input), t));
  }
  if (n > 0) {
    int8_t rest[16] = {0};
    memcpy(rest, input, (size_t)n);
    vst1q_s8(rest, look_up(vld1q_s8(rest), t));
    memcpy(output, rest, (size_t)n);
  }
}
