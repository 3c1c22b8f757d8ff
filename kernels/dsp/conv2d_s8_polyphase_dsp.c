/* 3x3 convolution of stride 2 by phases, int16 weights (ek_dsp_tiles.h). */
#include "ek_dsp_polyphase.h"

int32_t ek_conv2d_s8_polyphase_dsp_scratch_bytes(const ek_tiles_params *p) {
  return ek_tiles_scratch_bytes(p, EK_POLYPHASE_SIZE, EK_POLYPHASE_STREAMS, EK_POLYPHASE_POSITIONS,
                                0);
}

void ek_conv2d_s8_polyphase_dsp(const ek_tiles_params *p, const int8_t *input,
                                const int16_t *weights, const ek_dsp_quant *quant, int8_t *output,
                                void *scratch) {
  static const ek_tile_scheme scheme = EK_POLYPHASE_SCHEME(NULL);
  ek_tiles_conv(p, &scheme, input, weights, quant, output, scratch, 0);
}
