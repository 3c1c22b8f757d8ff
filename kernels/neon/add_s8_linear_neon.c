/* int8 addition of two tensors of one shape, as one linear form. */
#include "ek_neon.h"
#include "ek_neon_simd.h"

int32_t ek_add_s8_linear_neon_scratch_bytes(const ek_neon_add_params *p) {
  (void)p;
  return 0;
}

EK_INLINE int16x8_t eight(int8x8_t x, int8x8_t y, int32x4_t a, int32x4_t b, int32x4_t c) {
  const int16x8_t u = vmovl_s8(x), v = vmovl_s8(y);
  int32x4_t low = vmlaq_s32(c, vmovl_s16(vget_low_s16(u)), a);
  int32x4_t high = vmlaq_s32(c, vmovl_high_s16(u), a);
  low = vmlaq_s32(low, vmovl_s16(vget_low_s16(v)), b);
  high = vmlaq_s32(high, vmovl_high_s16(v), b);
  return vqrshrn_high_n_s32(vqrshrn_n_s32(low, 16), high, 16);
}

#define SIXTEENS(shift)                                                                        \
  static void sixteens_##shift(const ek_neon_add_params *p, const int8_t *in1,                 \
                               const int8_t *in2, int8_t *output, int32_t n) {                 \
    const int32x4_t a = vdupq_n_s32(p->a), b = vdupq_n_s32(p->b), c = vdupq_n_s32(p->c);       \
    for (int64_t at = 0; n > 0; --n, at += 16) {                                               \
      EK_OPAQUE(at);                                                                           \
      const int8x16_t x = vld1q_s8(in1 + at), y = vld1q_s8(in2 + at);                          \
      const int16x8_t low = eight(vget_low_s8(x), vget_low_s8(y), a, b, c);                    \
      const int16x8_t high = eight(vget_high_s8(x), vget_high_s8(y), a, b, c);                 \
      vst1q_s8(output + at, vqrshrn_high_n_s16(vqrshrn_n_s16(low, shift), high, shift));       \
    }                                                                                          \
  }

SIXTEENS(4)
SIXTEENS(5)
SIXTEENS(6)
SIXTEENS(7)

static void sixteens(const ek_neon_add_params *p, const int8_t *in1, const int8_t *in2,
                     int8_t *output, int32_t n) {
  switch (p->shift) {
    case 4: sixteens_4(p, in1, in2, output, n); break;
    case 5: sixteens_5(p, in1, in2, output, n); break;
    case 6: sixteens_6(p, in1, in2, output, n); break;
    default: sixteens_7(p, in1, in2, output, n); break;
  }
}

void ek_add_s8_linear_neon(const ek_neon_add_params *p, const int8_t *in1, const int8_t *in2,
                           int8_t *output) {
  const int32_t whole = p->count & ~15, left = p->count - whole;
  sixteens(p, in1, in2, output, whole >> 4);
  if (left) {
    int8_t x[16] = {0}, y[16] = {0};
    memcpy(x, in1 + whole, (size_t)left);
    memcpy(y, in2 + whole, (size_t)left);
    sixteens(p, x, y, x, 1);
    memcpy(output + whole, x, (size_t)left);
  }
}
