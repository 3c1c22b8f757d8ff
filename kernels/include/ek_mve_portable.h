/* What the portable forms of the Helium inner loops share (ek_mve.h describes the stream). */
#ifndef EK_MVE_PORTABLE_H
#define EK_MVE_PORTABLE_H

#include "ek_mve.h"

/* Arguments (is_signed, clamped) of the finishes. */
#define EK_MVE_PLAIN 0, 0
#define EK_MVE_SIGNED 1, 0
#define EK_MVE_CLAMPED 1, 1

/* w: a pair's part of the stream. */
EK_INLINE void ek_mve_bias(const uint8_t *w, int32_t acc[2][4]) { memcpy(acc, w + 16, 32); }

/* Sixteen values of pixel px and both channels. */
EK_INLINE void ek_mve_step(const int8_t *x, const uint8_t *w, int step, int32_t acc[2][4],
                           int px) {
  for (int c = 0; c < 2; ++c) {
    const uint8_t *at = step + c ? w + 32 + 32 * step + 16 * c : w;
    int32_t sum = 0;
    for (int k = 0; k < 16; ++k) sum += x[k] * (int8_t)at[k];
    acc[c][px] = (int32_t)((uint32_t)acc[c][px] + (uint32_t)sum);
  }
}

/* Parameters of a pair; the stream behind them. */
EK_INLINE const uint8_t *ek_mve_params(const uint8_t *w, int32_t p[4]) {
  memcpy(p, w, 16);
  return w + 16;
}

/* Requantizes and stores four channels, as the two pairs of the stream; the stream behind the zero
 * point and bounds of the four. */
EK_INLINE const uint8_t *ek_mve_store(const ek_mve_mac *a, int group, int quad, const uint8_t *w,
                                      int32_t acc[2][2][4], int32_t p[2][4], int is_signed,
                                      int clamped) {
  int32_t end[3] = {0, -128, 127};
  const int bytes = clamped ? 12 : 4;
  memcpy(end, w, (size_t)bytes);
  int8_t *out = a->out + group * a->out_group + 4 * quad;
  for (int c = 0; c < 4; ++c) {
    const int32_t *q = &p[c & 1][c & 2];
    for (int px = 0; px < 4; ++px) {
      const int32_t y = ek_mve_requant(acc[c & 1][c >> 1][px], q[0], q[1], end[0], is_signed);
      out[px * a->out_step + c] = (int8_t)ek_clamp(ek_sat_s8(y), end[1], end[2]);
    }
  }
  return w + bytes;
}

#endif
