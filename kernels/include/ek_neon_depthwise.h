/* What the depthwise row kernels share: the end of a pixel's sixteen channels. */
#ifndef EK_NEON_DEPTHWISE_H
#define EK_NEON_DEPTHWISE_H

#include "ek_neon.h"
#include "ek_neon_simd.h"

/* A block of sixteen channels; its parameters from the first channel on. n: channels that exist. */
typedef struct {
  const int8_t *weights;
  const int32_t *bias, *mult, *shift;
  int32_t first, n;
} ek_neon_channels;

EK_INLINE void ek_neon_depthwise_end(int8_t *to, const int32x4_t sum[4], const ek_neon_channels *b,
                                     const ek_neon_out *out, int32_t finish, int32_t n) {
  const int32x4x4_t m = vld1q_s32_x4(b->mult), s = vld1q_s32_x4(b->shift);
  if (finish == EK_NEON_PLAIN) {
    ek_neon_store(to, ek_neon_narrow_plain(ek_neon_requant_plain(sum[0], m.val[0], s.val[0]),
                                           ek_neon_requant_plain(sum[1], m.val[1], s.val[1]),
                                           ek_neon_requant_plain(sum[2], m.val[2], s.val[2]),
                                           ek_neon_requant_plain(sum[3], m.val[3], s.val[3])), n);
    return;
  }
  const int8x16_t y = ek_neon_narrow(
      ek_neon_requant(sum[0], m.val[0], s.val[0]), ek_neon_requant(sum[1], m.val[1], s.val[1]),
      ek_neon_requant(sum[2], m.val[2], s.val[2]), ek_neon_requant(sum[3], m.val[3], s.val[3]),
      out);
  ek_neon_store(to, ek_neon_clamp(y, out), n);
}

/* Defines the row kernel `name` over `block(t, b, output, out, finish, n)`, which computes all pixels
 * of a block; whole blocks and both finishes are known to the compiler. */
#define EK_NEON_DEPTHWISE_ROW(name, block, bytes)                                             \
  void name(const ek_neon_depthwise_row *row, int8_t *output) {                               \
    const ek_neon_depthwise_row local = *row, *const t = &local;                              \
    const ek_neon_out out = ek_neon_output(t->out_zp, t->act_min, t->act_max);                \
    ek_neon_channels b = {t->weights, t->bias, t->mult, t->shift, 0, 16};                     \
    for (; b.first < t->channels; b.first += 16) {                                            \
      b.n = ek_min(16, t->channels - b.first);                                                \
      if (t->finish == EK_NEON_PLAIN && b.n == 16) {                                          \
        block(t, &b, output + b.first, &out, EK_NEON_PLAIN, 16);                              \
      } else {                                                                                \
        block(t, &b, output + b.first, &out, t->finish, b.n);                                 \
      }                                                                                       \
      b.weights += (bytes);                                                                   \
      b.bias += 16;                                                                           \
      b.mult += 16;                                                                           \
      b.shift += 16;                                                                          \
    }                                                                                         \
  }

#endif
