/* 3x3 convolution of stride 2 by phases, int8 weights that are transformed by the kernel, two output
 * channels at a time (ek_dsp_tiles.h). */
#include "ek_dsp_polyphase.h"
#include "ek_simd.h"

static void transform_weights(const int8_t *w, int32_t in_c, int32_t pairs, int32_t channel,
                              uint32_t *dst) {
  static const uint8_t order[5][5] = EK_POLYPHASE_ORDER;
  const int32_t step = 2 * pairs;
  dst += channel;
  for (int32_t k = 0; k < pairs; ++k, dst += 2) {
    const int8_t *src = w + k / 2 * 4;
    uint32_t t[3][5];
    for (int j = 0; j < 3; ++j) {
      uint32_t x[3];
      for (int i = 0; i < 3; ++i) {
        const uint32_t word = ek_load32(src + (3 * i + j) * in_c);
        const uint32_t one = k % 2 == 0 ? ek_sxtb16(word) : ek_sxtb16_ror8(word);
        x[i] = ek_sadd16(one, one); /* for the requantization, see polyphase_output_dsp.c */
      }
      t[j][0] = x[0];
      t[j][1] = x[1];
      t[j][2] = ek_sadd16(x[0], x[2]);
      t[j][3] = x[2];
      t[j][4] = x[1];
    }
    for (int i = 0; i < 5; ++i) {
      dst[order[i][0] * step] = t[0][i];
      dst[order[i][1] * step] = t[1][i];
      dst[order[i][2] * step] = ek_sadd16(t[0][i], t[2][i]);
      dst[order[i][3] * step] = t[2][i];
      dst[order[i][4] * step] = t[1][i];
    }
  }
}

int32_t ek_conv2d_s8_polyphase_lean_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_POLYPHASE_SIZE, EK_POLYPHASE_STREAMS, EK_POLYPHASE_POSITIONS,
                                1);
}

void ek_conv2d_s8_polyphase_lean_dsp(const ek_tiles_params *p, const int8_t *input,
                                     const int8_t *weights, const ek_dsp_quant *quant,
                                     int8_t *output, void *scratch) {
  static const ek_tile_scheme scheme = EK_POLYPHASE_SCHEME(transform_weights);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 1);
}
