/* 3x3 convolution of stride 1 by exact Winograd F(4x4,3x3), int8 weights that are transformed by the
 * kernel, two output channels at a time (ek_dsp_tiles.h). */
#include "ek_dsp_winograd_f4.h"

/* Six of three, by the points 0, 1, -1, 2, -2, infinity; rows scaled by 24, the last by 12. */
EK_INLINE void transform(uint32_t a, uint32_t b, uint32_t c, uint32_t *y) {
  const uint32_t s = a + c;
  const uint32_t t = a + 4 * c;
  y[0] = 6 * a;
  y[1] = 0u - 4 * (s + b);
  y[2] = 4 * (b - s);
  y[3] = t + 2 * b;
  y[4] = t - 2 * b;
  y[5] = 12 * c;
}

/* Two channels' halfwords as one number H * 2^16 + L, see winograd_f4_input_dsp.c. */
EK_INLINE uint32_t number(uint32_t halves) { return halves - ((halves & 0x8000u) << 1); }

static void transform_weights(const int8_t *w, int32_t in_c, int32_t pairs, int32_t channel,
                              uint32_t *dst) {
  const int32_t step = 2 * pairs;
  dst += channel;
  for (int32_t k = 0; k < pairs; ++k, dst += 2) {
    const int8_t *src = w + k / 2 * 4;
    uint32_t t[3][6];
    for (int j = 0; j < 3; ++j) {
      uint32_t x[3];
      for (int i = 0; i < 3; ++i) {
        const uint32_t word = ek_load32(src + (3 * i + j) * in_c);
        x[i] = number(k % 2 == 0 ? ek_sxtb16(word) : ek_sxtb16_ror8(word));
      }
      transform(x[0], x[1], x[2], t[j]);
    }
    uint32_t *d = dst;
    for (int i = 0; i < 6; ++i) {
      uint32_t y[6];
      transform(t[0][i], t[1][i], t[2][i], y);
      for (int j = 0; j < 6; ++j, d += step) d[0] = (y[j] + 0x8000u) ^ 0x8000u;
    }
  }
}

int32_t ek_conv2d_s8_winograd_f4_lean_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_F4_SIZE, EK_F4_STREAMS, EK_F4_STREAMS, 1);
}

void ek_conv2d_s8_winograd_f4_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                       const int8_t *weights, const ek_dsp_quant *quant,
                                       int8_t *output, void *scratch) {
  static const ek_tile_scheme scheme = EK_F4_SCHEME(transform_weights);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 1);
}
