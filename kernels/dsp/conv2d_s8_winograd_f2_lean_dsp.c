/* 3x3 convolution of stride 1 by exact Winograd F(2x2,3x3), int8 weights that are transformed by the
 * kernel, two output channels at a time (ek_dsp_tiles.h). */
#include "ek_dsp_winograd_f2.h"
#include "ek_simd.h"

/* Four of three, by the points 0, 1, -1, infinity: 2a, a + b + c, a - b + c, 2c, by halfword. */
EK_INLINE void transform(uint32_t a, uint32_t b, uint32_t c, uint32_t *y, int32_t step) {
  const uint32_t s = ek_sadd16(a, c);
  y[0] = ek_sadd16(a, a);
  y[step] = ek_sadd16(s, b);
  y[2 * step] = ek_ssub16(s, b);
  y[3 * step] = ek_sadd16(c, c);
}

static __attribute__((noinline)) void transform_pair(const uint32_t *x, uint32_t *dst,
                                                     int32_t step) {
  uint32_t t[12];
  for (int j = 0; j < 3; ++j) transform(x[j], x[3 + j], x[6 + j], t + j, 3);
  for (int i = 0; i < 4; ++i, dst += 4 * step) {
    transform(t[3 * i], t[3 * i + 1], t[3 * i + 2], dst, step);
  }
}

static void transform_weights(const int8_t *w, int32_t in_c, int32_t pairs, int32_t channel,
                              uint32_t *dst) {
  dst += channel;
  for (int32_t k = 0; k < in_c; k += 4, dst += 4) {
    uint32_t first[9], second[9];
    const int8_t *src = w + k;
    for (int i = 0; i < 9; ++i, src += in_c) {
      const uint32_t word = ek_load32(src);
      first[i] = ek_sxtb16(word);
      second[i] = ek_sxtb16_ror8(word);
    }
    transform_pair(first, dst, 2 * pairs);
    transform_pair(second, dst + 2, 2 * pairs);
  }
}

int32_t ek_conv2d_s8_winograd_f2_lean_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_F2_SIZE, EK_F2_STREAMS, EK_F2_STREAMS, 1);
}

void ek_conv2d_s8_winograd_f2_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                       const int8_t *weights, const ek_dsp_quant *quant,
                                       int8_t *output, void *scratch) {
  static const ek_tile_scheme scheme = EK_F2_SCHEME(transform_weights);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 1);
}
