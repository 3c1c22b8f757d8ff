/* A row of depthwise outputs, any kernel: sixteen channels of a pixel, tap by tap. */
#include "ek_neon_depthwise.h"

EK_INLINE void block(const ek_neon_depthwise_row *t, const ek_neon_channels *b, int8_t *output,
                     const ek_neon_out *out, int32_t finish, int32_t n) {
  int32_t first = b->first;
  for (int32_t pixel = 0; pixel < t->pixels; ++pixel, first += t->step, output += t->channels) {
    const int32x4x4_t bias = vld1q_s32_x4(b->bias);
    int32x4_t sum[4] = {bias.val[0], bias.val[1], bias.val[2], bias.val[3]};
    const int8_t *w = b->weights;
    for (int32_t ky = 0; ky < t->kernel_h; ++ky) {
      const int8_t *x = t->rows[ky] + first;
      for (int32_t kx = t->kernel_w; kx > 0; --kx, x += t->dilation, w += 16) {
        const int8x16_t in = vld1q_s8(x), by = vld1q_s8(w);
        const int16x8_t low = vmull_s8(vget_low_s8(in), vget_low_s8(by));
        const int16x8_t high = vmull_high_s8(in, by);
        sum[0] = vaddw_s16(sum[0], vget_low_s16(low));
        sum[1] = vaddw_high_s16(sum[1], low);
        sum[2] = vaddw_s16(sum[2], vget_low_s16(high));
        sum[3] = vaddw_high_s16(sum[3], high);
      }
    }
    ek_neon_depthwise_end(output, sum, b, out, finish, n);
  }
}

EK_NEON_DEPTHWISE_ROW(ek_neon_depthwise_any, block, 16 * t->kernel_h * t->kernel_w)
