/* 3x3 convolution of stride 1 by exact Winograd F(4x4,3x3), int8 weights that are transformed by the
 * kernel, two output channels at a time (ek_dsp_tiles.h). */
#include "ek_dsp_winograd_f4.h"
#include "ek_simd.h"

/* Six of three, by the points 0, 1, -1, 2, -2, infinity: 6a, -4(a + b + c), -4(a - b + c),
 * a + 2b + 4c, a - 2b + 4c, 12c. By halfword: nothing leaves 16 bits. */
EK_INLINE void transform(uint32_t a, uint32_t b, uint32_t c, uint32_t *y, int32_t step) {
  const uint32_t a2 = ek_sadd16(a, a);
  const uint32_t a4 = ek_sadd16(a2, a2);
  y[0] = ek_sadd16(a4, a2);
  const uint32_t c2 = ek_sadd16(c, c);
  const uint32_t c4 = ek_sadd16(c2, c2);
  y[5 * step] = ek_sadd16(c4, ek_sadd16(c4, c4));
  const uint32_t b2 = ek_sadd16(b, b);
  const uint32_t t = ek_sadd16(a, c4);
  y[3 * step] = ek_sadd16(t, b2);
  y[4 * step] = ek_ssub16(t, b2);
  const uint32_t b4 = ek_sadd16(b2, b2);
  const uint32_t s4 = ek_sadd16(a4, c4);
  y[step] = ek_ssub16(0, ek_sadd16(s4, b4));
  y[2 * step] = ek_ssub16(b4, s4);
}

static __attribute__((noinline)) void transform_pair(const uint32_t *x, uint32_t *dst,
                                                     int32_t step) {
  uint32_t t[18];
  for (int j = 0; j < 3; ++j) transform(x[j], x[3 + j], x[6 + j], t + j, 3);
  for (int i = 0; i < 6; ++i, dst += 6 * step) {
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

int32_t ek_conv2d_s8_winograd_f4_lean_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_F4_SIZE, EK_F4_STREAMS, EK_F4_STREAMS, 1);
}

void ek_conv2d_s8_winograd_f4_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                       const int8_t *weights, const ek_dsp_quant *quant,
                                       int8_t *output, void *scratch) {
  static const ek_tile_scheme scheme = EK_F4_SCHEME(transform_weights);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 1);
}
